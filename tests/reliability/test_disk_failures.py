"""R5: disks that are full, fail, are interrupted, or do things by halves."""

import contextlib
import ctypes
import errno
import os
import shutil

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.testing import FailingDisk, ShortDisk, abandon, open_on, same_values, values, work

CODES = [errno.ENOSPC, errno.EIO, errno.EINTR]
NEEDED = ("write", "truncate", "fsync", "datasync", "rename", "mkdir")
MOVING = ("read", "pread", "write")
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 1 << 18


def calls(path, only=FailingDisk.METHODS):
    """The numbers of the calls of `attempt`, and of the first of them that makes it no store."""
    counter = FailingDisk(only=only)
    memory = open_on(counter, path)
    before = len(counter.calls)
    attempt(memory, {})
    abandon(memory)
    return before, len(counter.calls)


def attempt(memory, states):
    work(memory, 10, states)
    memory.checkpoint()
    work(memory, 11, states)
    memory.checkpoint(keep=1)
    work(memory, 13, states)


def tried(disk, path, *, retry):
    """The states after `attempt` on a failing disk, its last transaction, and the error."""
    memory, states, caught = open_on(disk, path), {}, None
    try:
        attempt(memory, states)
    except mmsb.StoreError as error:
        caught = error
        assert same_values(values(memory), states[memory.tx])
        if retry:  # the next attempt is right, or refused for good
            with contextlib.suppress(mmsb.MMSBError):
                memory.update("b", -1, indices=[0])
                states[memory.tx] = values(memory)
    done = memory.tx
    with contextlib.suppress(mmsb.MMSBError, OSError):
        abandon(memory)
    return states, done, caught


def check(path, states, done):
    """Nothing acknowledged is lost; at most what was not is there. Returns how many are lost."""
    with open_on(FailingDisk(), path) as again:
        assert again.tx <= done + 1
        if again.tx == done:
            assert same_values(values(again), states[done])
        assert again.verify() == []
        return max(done - again.tx, 0)


@pytest.mark.parametrize("persistent", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
def test_any_call_that_fails(tmp_path, code, persistent, gate):
    begin, end = calls(tmp_path / "count")
    numbers = range(begin, end, gate.choose(test=5, gate=1, soak=1))
    lost = acknowledged = refused = 0
    for number in numbers:
        path = tmp_path / f"{number}.mmsb"
        disk = FailingDisk(number, code, persistent=persistent)
        states, done, error = tried(disk, path, retry=not persistent)
        if error is not None:
            assert error.errno == code or "takes no more records" in str(error)
            refused += 1
        lost += check(path, states, done)
        acknowledged += done
        shutil.rmtree(path)
        # what does without a call that failed: sharing files, tidying up
        assert error is not None or disk.calls[number] not in NEEDED or number >= end - 8
    gate.report("R5", len(numbers), lost=lost, acknowledged=acknowledged, refused=refused)


@pytest.mark.parametrize("persistent", [False, True], ids=["once", "then full"])
def test_any_call_that_does_half(tmp_path, persistent, gate):
    begin, end = calls(tmp_path / "count", MOVING)
    numbers = range(begin, end, gate.choose(test=3, gate=1, soak=1))
    lost = acknowledged = refused = 0
    for number in numbers:
        path = tmp_path / f"{number}.mmsb"
        disk = FailingDisk(number, errno.ENOSPC, persistent=persistent, short=True, only=MOVING)
        states, done, error = tried(disk, path, retry=False)
        assert error is None or (persistent and error.errno == errno.ENOSPC)
        assert error is not None or done == 13
        lost += check(path, states, done)
        acknowledged += done
        refused += error is not None
        shutil.rmtree(path)
    gate.report("R5", len(numbers), lost=lost, acknowledged=acknowledged, refused=refused)


def test_a_disk_that_does_little_at_a_time(path):
    memory = open_on(ShortDisk(5), path)
    states = work(memory, 8)
    abandon(memory)
    with open_on(ShortDisk(3), path) as memory:
        assert same_values(values(memory), states[8])


class StuckDisk(FailingDisk):
    """A disk that writes nothing and says so, for ever."""

    stuck = False

    def write(self, fd, data):
        return 0 if self.stuck else super().write(fd, data)


def test_a_disk_that_writes_nothing_is_an_error_and_no_endless_loop(path):
    disk = StuckDisk()
    memory = open_on(disk, path)
    states = work(memory, 4)
    disk.stuck = True
    for attempt in (lambda: memory.update("b", 1), memory.checkpoint):
        with pytest.raises(mmsb.StoreError) as caught:
            attempt()
        assert caught.value.errno == errno.EIO
    disk.stuck = False
    memory.update("b", 2)
    memory.close()
    with mmsb.open(path) as memory:
        assert (memory.tx, memory["b"].tensor[0].item()) == (5, 2)
        assert same_values(dict(memory.at(4)), states[4])


# a real disk that is full


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")
def test_a_tmpfs_of_one_mebibyte(tmp_path, gate, kit):
    steps = gate.choose(test=50, gate=8, soak=2)
    out, into = os.pipe()

    def child():
        if not mounted(tmp_path):
            return 77
        trials, lost, acknowledged = filled(tmp_path, steps)
        os.write(into, f"{trials} {lost} {acknowledged}".encode())
        return 0

    pid = kit.forked(child)
    os.close(into)
    raw, code = kit.drained(out), kit.exit_code(pid)
    if code == 77:
        pytest.skip("mounting is not permitted here")
    assert code == 0
    trials, lost, acknowledged = map(int, raw.split())
    gate.report("R5", trials, lost=lost, acknowledged=acknowledged)


def mounted(folder):
    """Whether a tmpfs of 1 MiB is at `folder` now, for this process alone."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
        return False
    return libc.mount(b"none", os.fsencode(folder), b"tmpfs", 0, b"size=1m") == 0


def filled(folder, step):
    """Work on a store beside a ballast of every size; trials, lost and acknowledged transactions."""
    trials = lost = acknowledged = refused = 0
    for kilobytes in range(0, 1000, step):
        ballast, path = folder / "ballast", folder / "run.mmsb"
        memory = mmsb.open(path)
        memory.page("a", torch.zeros(20, 1000))
        with contextlib.suppress(OSError):  # as much of it as there is room
            ballast.write_bytes(bytes(1024 * kilobytes))
        try:
            for _ in range(40):
                memory.update("a", float(memory.tx + 1), rows=[memory.tx % 20])
            memory.checkpoint()
            memory.update("a", float(memory.tx + 1))
        except mmsb.StoreError as error:
            refused += told_full(error)
        done, state = memory.tx, memory["a"].read()
        abandon(memory)
        with mmsb.open(path, mode="r") as again:  # while it is full
            lost += done - again.tx
            assert torch.equal(again["a"].tensor, state)
        ballast.unlink()
        with mmsb.open(path) as again:
            assert again.tail is None or again.tail.kept
            assert torch.equal(again["a"].tensor, state)
            again.update("a", 0.0)
        shutil.rmtree(path)
        trials, acknowledged = trials + 1, acknowledged + done
    assert refused
    return trials, lost, acknowledged


def told_full(error):
    assert error.errno == errno.ENOSPC
    assert "Free some space" in str(error)
    return True
