"""A collector whose disk fails or stops at any moment leaves nothing wrong."""

import errno
import os
import random
import shutil

import pytest

import mmsb_torch as mmsb
from mmsb_torch.runtime.store import Files
from mmsb_torch.testing import (
    FailingDisk,
    RecordingDisk,
    abandon,
    crash_states,
    open_on,
    same_values,
)

GATE = os.environ.get("MMSB_GATE") == "1"
SHARE = 1.0 if GATE else 0.15
"""Of the moments at which a crash is tried."""


@pytest.mark.parametrize("persistent", [False, True])
def test_the_disk_fails_at_any_call(tmp_path, persistent, kit):
    model, states = tmp_path / "model.mmsb", {}
    memory = mmsb.open(model)
    kit.run(memory, 22, states)
    abandon(memory)
    number = 0
    while True:
        root = tmp_path / f"{number}.mmsb"
        shutil.copytree(model, root)
        disk = FailingDisk()
        memory = open_on(disk, root)
        begun = len(disk.calls)
        disk._nth, disk._code, disk._persistent = begun + number, errno.EIO, persistent
        error = None
        try:
            memory.collect(mmsb.Retention(keep_last=1, tags=("release-6",)))
        except mmsb.MMSBError as failure:
            error = failure
        done = len(disk.calls) - begun <= number
        disk._nth = None
        abandon(memory)
        with mmsb.open(root) as memory:
            found = kit.at_hand(memory)
            assert set(found) >= {20, 21, 22, 7}, (number, error)
            assert all(same_values(found[tx], states[tx]) for tx in found)
            assert not [item for item in memory.verify() if not item.torn], (number, error)
            memory.collect(mmsb.Retention(keep_last=1, tags=("release-6",)))
            assert set(kit.at_hand(memory)) == {5, 6, 7, 8, 9, 10, 20, 21, 22}
        shutil.rmtree(root)
        if done:
            assert error is None
            return
        number += 1 if GATE else 11


def test_a_crash_at_any_moment(tmp_path, kit):
    root, states = tmp_path / "run.mmsb", {0: {}}
    disk = RecordingDisk()
    memory = open_on(disk, root, durability="full")
    kit.run(memory, 12, states)
    begun = len(disk.changes)
    memory.collect(mmsb.Retention(keep_last=1, tags=("release-6",)))
    kit.run(memory, 6, states)
    memory.collect(mmsb.Retention(keep_last=1))
    last = memory.tx
    abandon(memory)
    seen = 0
    for crash in crash_states(disk, root, tmp_path / "states", random.Random(5), SHARE):
        if crash.after >= begun:
            with mmsb.open(crash.path) as memory:
                assert 12 <= memory.tx <= last
                found = kit.at_hand(memory)
                assert {memory.tx, kit.checkpoints(crash.path)[-1]} <= set(found)
                assert all(same_values(found[tx], states[tx]) for tx in found), crash
                assert not [item for item in memory.verify() if not item.torn], crash
                memory.collect(mmsb.Retention(keep_last=1))
                assert len(kit.checkpoints(crash.path)) == 1
            seen += 1
        shutil.rmtree(crash.path)
    assert seen > 10


def test_the_record_is_on_the_disk_before_anything_goes(path, kit):
    order = []

    class Watching(Files):
        def datasync(self, fd):
            order.append("sync")
            super().datasync(fd)

        def unlink(self, target):
            order.append("unlink")
            super().unlink(target)

    memory = open_on(Watching(), path)
    kit.run(memory, 12, {})
    order.clear()
    memory.collect(mmsb.Retention(keep_last=1))
    assert order[0] == "sync"
    assert "unlink" in order
    memory.close()
