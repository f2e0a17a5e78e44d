"""Readers that keep up with a live writer."""

import os
import time

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.runtime.store.follow import Follower
from mmsb_torch.testing import abandon


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.mmsb"


def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.002)


def test_a_follower_sees_each_transaction_in_order(path):
    with mmsb.open(path) as writer:
        writer.page("a", torch.zeros(8))
        writer.page("big", torch.zeros(300_000))
        with mmsb.open(path, mode="follow") as reader:
            heard = []
            reader.subscribe(
                lambda event: heard.append(event.fields["tx"]), [mmsb.EventType.DELTA_COMMITTED]
            )
            twice = reader.derive(lambda a: a * 2, "a", name="twice")
            assert twice.tensor.sum() == 0
            for step in range(1, 30):
                writer.update("a", float(step), rows=[step % 8])
                if step % 10 == 0:
                    writer.checkpoint(keep=1)
                    writer.update("big", torch.full((300_000,), float(step)))
                    writer.page(f"new {step}", torch.ones(step))
            until(lambda: reader.tx == writer.tx)
            assert heard == sorted(heard)
            assert len(heard) == len(set(heard)) == 29 + 2
            assert torch.equal(reader["a"].tensor, writer["a"].tensor)
            assert torch.equal(twice.tensor, writer["a"].tensor * 2)
            assert reader["big"].tensor[0] == 20
            assert reader["new 20"].shape == (20,)
            assert torch.equal(reader.at(12)["a"], writer.at(12)["a"])
            with pytest.raises(mmsb.ReadOnlyError):
                reader.update("a", 1.0)


def test_it_takes_less_than_a_tenth_of_a_second(path):
    with mmsb.open(path) as writer, _following(writer, path) as reader:
        delays = []
        for step in range(20):
            tx = writer.update("a", float(step))
            began = time.monotonic()
            until(lambda tx=tx: reader.tx >= tx)
            delays.append(time.monotonic() - began)
        assert sorted(delays)[len(delays) // 2] < 0.1


def _following(writer, path):
    writer.page("a", torch.zeros(8))
    return mmsb.open(path, mode="follow")


def test_it_outlives_its_writer(path):
    writer = mmsb.open(path)
    writer.page("a", torch.zeros(8))
    with mmsb.open(path, mode="follow") as reader:
        writer.update("a", 1.0)
        abandon(writer)
        with mmsb.open(path) as again:
            again.update("a", 2.0)
            until(lambda: reader.tx == 3)
            assert reader["a"].tensor[0] == 2


def test_a_store_that_is_damaged_meanwhile_ends_it(path):
    writer = mmsb.open(path)
    writer.page("a", torch.zeros(8))
    writer.update("a", 1.0)
    with mmsb.open(path, mode="follow") as reader:
        [log] = (path / "log").iterdir()
        until(lambda: reader.tx == 2)
        os.truncate(log, 100)
        time.sleep(0.1)
        with pytest.raises(mmsb.CorruptLogError, match="shorter"):
            _ = reader["a"].tensor
    abandon(writer)


@pytest.mark.parametrize("error", [MemoryError("no memory"), OSError(24, "too many open files")])
def test_whatever_ends_it_is_told(path, monkeypatch, error):
    """A follower never goes on showing an old state as if it were the newest."""

    def poll(_self):
        raise error

    with mmsb.open(path) as writer, _following(writer, path) as reader:
        monkeypatch.setattr(Follower, "poll", poll)
        until(lambda: reader.closed)
        with pytest.raises(mmsb.StoreError, match=str(error.args[-1])):
            _ = reader["a"].tensor
