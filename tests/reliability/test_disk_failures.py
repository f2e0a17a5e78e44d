"""R5, R6: disks that are full, fail, do things by halves, or lose what they were to sync."""

import contextlib
import errno
import shutil
import time

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.runtime.store import logwriter
from mmsb_torch.testing import FailingDisk, ShortDisk, abandon, open_on, same_values, values, work


def faults(path, only=FailingDisk.METHODS):
    counter = FailingDisk(only=only)
    memory = open_on(counter, path / "count")
    before = len(counter.calls)
    work(memory, 10)
    memory.checkpoint()
    work(memory, 12)
    abandon(memory)
    return before, len(counter.calls)


@pytest.mark.parametrize("persistent", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_any_call_that_fails(tmp_path, code, persistent):
    begin, end = faults(tmp_path)
    for number in range(begin, end, 1 if SOAK else 5):
        path = tmp_path / f"{number}.mmsb"
        memory = open_on(FailingDisk(number, code, persistent=persistent), path)
        states, refused = {}, 0
        try:
            work(memory, 10, states)
            memory.checkpoint()
            work(memory, 12, states)
        except mmsb.StoreError as error:
            refused = 1
            told = error.errno == code or "takes no more records" in str(error)
            done = memory.tx
            assert told
            assert same_values(values(memory), states[done])
            if not persistent:  # the next attempt is right, or refused for good
                try:
                    memory.update("b", -1, indices=[0])
                    states[memory.tx] = values(memory)
                except mmsb.MMSBError:
                    pass
        done = memory.tx
        with_suppressed(lambda memory=memory: abandon(memory))
        again = open_on(FailingDisk(), path)
        assert again.tx in {done, done + 1}, number
        if again.tx == done:
            assert same_values(values(again), states[done])
        abandon(again)
        shutil.rmtree(path)
        assert refused or number >= end - 8


def with_suppressed(call):
    with contextlib.suppress(mmsb.MMSBError, OSError):
        call()


@pytest.mark.parametrize("durability", ["process", "full"])
def test_a_failed_fsync_is_never_retried(path, durability):
    disk = FailingDisk(only=("datasync",))
    memory = open_on(disk, path, durability=durability)
    states = work(memory, 6)
    calls = len(disk.calls)
    disk._nth, disk._code = calls, errno.EIO
    with pytest.raises(mmsb.StoreError):
        (memory.update("a", 99.0), memory.sync())
    for _ in range(2):
        with pytest.raises(mmsb.StoreError, match="no more records"):
            memory.update("b", 1)
        with pytest.raises(mmsb.StoreError, match="no more records"):
            memory.sync()
    assert len(disk.calls) == calls + 1
    assert memory.tx in {6, 7}
    assert same_values({"b": values(memory)["b"]}, {"b": states[6]["b"]})
    with_suppressed(lambda: abandon(memory))
    with mmsb.open(path) as memory:
        assert memory.tx in {6, 7}


def test_a_failed_fsync_of_a_large_commit_leaves_a_store_that_opens(path):
    disk = FailingDisk(only=("datasync",))
    memory = open_on(disk, path, durability="full")
    memory.page("big", torch.zeros(300_000))
    disk._nth, disk._code = len(disk.calls), errno.EIO
    with pytest.raises(mmsb.StoreError):
        memory.update("big", 1.0)
    abandon(memory)
    with mmsb.open(path) as memory:
        assert memory.tx in {1, 2}
        assert memory["big"].tensor[0] == memory.tx - 1


def test_a_disk_that_does_little_at_a_time(path):
    memory = open_on(ShortDisk(5), path)
    states = work(memory, 8)
    abandon(memory)
    with open_on(ShortDisk(3), path) as memory:
        assert same_values(values(memory), states[8])


def test_the_log_is_synced_by_itself(path, monkeypatch):
    monkeypatch.setattr(logwriter, "SYNC_SECONDS", 0.05)
    disk = FailingDisk(only=("datasync",))
    memory = open_on(disk, path)
    memory.page("a", torch.zeros(2))
    before = time.monotonic()
    while not disk.calls and time.monotonic() < before + 10:
        time.sleep(0.01)
    assert disk.calls
    count = len(disk.calls)
    time.sleep(0.2)
    assert len(disk.calls) == count  # nothing to do, nothing done
    memory.close()
