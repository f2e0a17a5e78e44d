"""Readers that keep up with a live writer."""

import os
import struct
import time
import warnings

import pytest
import torch

import mmsb_torch as mmsb
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


READERS, COMMITS = 3, 150


def test_many_processes_follow_one_writer(path):
    """Every reader sees every state once, whole and in order."""
    writer = mmsb.open(path)
    writer.page("a", torch.zeros(64))
    writer.page("b", torch.zeros(64))
    pipes, children = [], []
    for _ in range(READERS):
        out, into = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = _read(path, into)
            finally:
                os._exit(code)
        os.close(into)
        pipes.append(out)
        children.append(pid)
    with pytest.raises(mmsb.StoreLockedError):
        mmsb.open(path)
    for step in range(1, COMMITS + 1):
        with writer.commit(step=step) as tx:
            tx.update("a", float(step))
            tx.update("b", -float(step))
        if step % 40 == 0:
            writer.checkpoint(keep=1)
    for pipe, pid in zip(pipes, children, strict=True):
        raw = b""
        while piece := os.read(pipe, 1 << 16):
            raw += piece
        os.close(pipe)
        seen = [value for (value,) in struct.iter_unpack("<q", raw)]
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert seen == sorted(set(seen))
        assert seen[-1] == COMMITS
        assert len(seen) > COMMITS // 2
    writer.close()


def _read(path, pipe):
    reader = mmsb.open(path, mode="follow")
    done = []

    def hear(event):
        moment = reader.at(event.fields["tx"])
        if event.fields["page"] != "b":
            return
        a, b = moment["a"], moment["b"]
        good = torch.equal(a, -b) and bool((a == a[0]).all())
        os.write(pipe, struct.pack("<q", int(a[0]) if good else -1))
        if int(a[0]) == COMMITS:
            done.append(1)

    reader.subscribe(hear, [mmsb.EventType.DELTA_COMMITTED])
    end = time.monotonic() + 60
    while not done and time.monotonic() < end:
        time.sleep(0.01)
    return 0 if done else 2
