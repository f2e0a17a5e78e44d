"""Readers, followers and openings beside a collector: right, or told so."""

import threading

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.testing import same_values, values


def test_a_reader_that_was_overtaken_is_told_and_opens_again(path, kit):
    states = {}
    with mmsb.open(path) as writer:
        kit.run(writer, 12, states)
        reader, other = mmsb.open(path, mode="r"), mmsb.open(path, mode="r")
        assert same_values(dict(other.at(3)), states[3])
        kit.run(writer, 20, states)
        writer.collect(mmsb.Retention(keep_last=1))
        for tx in (7, 10, 11):
            with pytest.raises(mmsb.HistoryError):
                dict(reader.at(tx))
        for tx in (6, 7):  # it knew where to look
            with pytest.raises(mmsb.CollectedError, match="open it again"):
                dict(other.at(tx))
        assert same_values(values(reader), states[12])  # what it holds stays right
        reader.close()
        with mmsb.open(path, mode="r") as again:
            assert again.tx == 32
            assert same_values(dict(again.at(31)), states[31])


def test_a_reader_whose_checkpoint_went_goes_by_the_log(path, kit):
    states = {}
    with mmsb.open(path) as writer:
        kit.run(writer, 12, states)
        with mmsb.open(path, mode="r") as reader:
            writer.checkpoint(keep=1)  # the log stays
            for tx in (11, 12, 7, 3):
                assert same_values(dict(reader.at(tx)), states[tx])


def poll_for_ever(memory):
    while memory.tx:
        memory.propagate()


def test_a_follower_that_was_overtaken_is_told(path, kit):
    states = {}
    with mmsb.open(path) as writer:
        kit.run(writer, 3, states)
        stop = threading.Event()
        slow = mmsb.open(path, mode="follow")

        def dawdle(event):
            stop.wait(20)

        slow.subscribe(dawdle, [mmsb.EventType.DELTA_COMMITTED])
        writer.update("page 0", 1.0, rows=[1])  # it stops at this
        while slow.tx < 4:
            pass
        kit.run(writer, 30, states)
        writer.collect(mmsb.Retention(keep_last=1))
        stop.set()
        with pytest.raises(mmsb.CollectedError, match="open it again"):
            poll_for_ever(slow)
        slow.close()
        with mmsb.open(path, mode="follow") as again:
            assert again.tx == writer.tx
            assert same_values(values(again), values(writer))


def test_opening_beside_a_busy_collector(path):
    """Whatever the collector removes meanwhile, a reader gets a whole state or is told."""
    stop, failures = threading.Event(), []

    def read():
        while not stop.is_set():
            try:
                with mmsb.open(path, mode="r") as reader:
                    total = float(reader["a"].read().sum())
                    assert total == 4 * reader.tx, (total, reader.tx)
            except Exception as error:
                failures.append(error)
                return

    with mmsb.open(path) as writer:
        writer.page("a", torch.ones(4))
        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        for tx in range(2, 120):
            writer.update("a", float(tx))
            if tx % 3 == 0:
                writer.checkpoint()
                writer.collect(mmsb.Retention(keep_last=1))
        stop.set()
        for thread in threads:
            thread.join()
    # a reader overtaken three times in a row says so; nothing else may happen
    assert all(isinstance(error, mmsb.MMSBError) for error in failures), failures
    assert not any(isinstance(error, mmsb.CorruptStoreError) for error in failures), failures
