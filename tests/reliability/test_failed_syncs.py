"""R6: what a failed fsync was to make durable is never acknowledged, and it is never tried again."""

import contextlib
import errno
import os
import random
import shutil
import time

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.runtime.store import durable, logwriter
from mmsb_torch.testing import (
    FailingDisk,
    RecordingDisk,
    abandon,
    crash_states,
    open_on,
    opened,
    same_values,
    values,
    work,
)


class ForgetfulDisk(RecordingDisk):
    """A recording disk whose nth sync (from 0) fails: what it was to keep is not kept."""

    def __init__(self, nth=None):
        super().__init__()
        self.syncs, self._nth, self.failed = [], nth, None

    def fsync(self, fd):
        self.syncs.append(self._paths[fd])
        if len(self.syncs) - 1 == self._nth:
            self.failed, self.at = self._paths[fd], len(self.changes)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().fsync(fd)

    def gone(self):
        """Whether the file that was not synced was removed: a new one has nothing to lose."""
        later = self.changes[self.at :]
        return any(change.what == "unlink" and change.path == self.failed for change in later)


class Run:
    """Work on a disk one of whose syncs fails; `states` has every state that was acknowledged."""

    def __init__(self, disk, root, durability):
        self.disk, self.states, self.error, self.told = disk, {0: {}}, None, True
        self.memory = memory = open_on(disk, root, durability=durability)
        self.born = len(disk.syncs)
        self._try(lambda: work(memory, 7, self.states))
        self._try(memory.checkpoint)
        self._try(lambda: work(memory, 9, self.states))
        self._try(memory.sync)
        self._try(lambda: work(memory, 11, self.states))
        self._try(lambda: memory.checkpoint(keep=1))
        self._try(lambda: work(memory, 12, self.states))

    def _try(self, act):
        try:
            act()
        except mmsb.StoreError as error:
            self.error = error
            self.told &= error.errno == errno.EIO or "takes no more records" in str(error)

    @property
    def safe(self):
        """The last transaction that a power cut must not take."""
        return self.memory.tx if self.memory._router.log.writer.durability == "full" else 0


@pytest.mark.parametrize("durability", ["process", "full"])
def test_any_sync_that_fails(tmp_path, durability, monkeypatch, gate):
    monkeypatch.setattr(durable, "INLINE_BYTES", 700)  # some payloads in files of their own
    monkeypatch.setattr(logwriter, "SYNC_SECONDS", 3600.0)
    whole = Run(ForgetfulDisk(), tmp_path / "count.mmsb", durability)
    assert whole.error is None
    abandon(whole.memory)
    numbers, draws = random.Random(6), gate.choose(test=1, gate=8, soak=100)
    trials = lost = silent = poisoned = acknowledged = 0
    for nth in range(whole.born, len(whole.disk.syncs), gate.choose(test=3, gate=1, soak=1)):
        root, disk = tmp_path / f"{nth}.mmsb", ForgetfulDisk(nth)
        run = Run(disk, root, durability)
        assert run.error is not None, disk.failed
        poisoned += _check_poisoned(run, root)
        tx, state, safe = run.memory.tx, values(run.memory), run.safe
        assert same_values(state, run.states[tx])
        with contextlib.suppress(mmsb.MMSBError):
            abandon(run.memory)
        acknowledged += tx
        for crash in crash_states(
            disk, root, tmp_path / "states", numbers, draws=draws, since=len(disk.changes)
        ):
            trials += 1
            found = opened(crash.path)
            if isinstance(found, mmsb.MMSBError):
                assert (crash.how, durability) == ("some lost", "process"), (crash, found)
                continue
            # what was refused may be there all the same, and nothing after it
            assert found[0] <= tx + 1
            lost += found[0] < (tx if crash.how == "killed" else safe)
            silent += found[0] in run.states and not same_values(found[1], run.states[found[0]])
        shutil.rmtree(tmp_path / "states")
        shutil.rmtree(root)
    counts = {"lost": lost, "silent": silent, "acknowledged": acknowledged, "poisoned": poisoned}
    gate.report("R6", trials, **counts, syncs=len(whole.disk.syncs) - whole.born)
    assert poisoned > 1


def _check_poisoned(run, root):
    """Whether the log takes no more: so it must be if what it holds was not synced."""
    writer, disk = run.memory._router.log.writer, run.disk
    log = disk.failed.suffix == ".tlog" or disk.failed.parent == root / "deltas"
    assert writer.poisoned or not log or disk.gone(), disk.failed
    if not writer.poisoned:
        return 0
    before = len(disk.syncs), run.memory.tx
    for act in (lambda: run.memory.page("new", torch.zeros(1)), run.memory.sync):
        with pytest.raises(mmsb.StoreError, match="no more records"):
            act()
    assert (len(disk.syncs), run.memory.tx) == before
    return 1


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
    with contextlib.suppress(mmsb.MMSBError, OSError):
        abandon(memory)
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
