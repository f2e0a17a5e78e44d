"""R2: every state that a kill or a power cut may leave, writes that come in another order among them."""

import random
import shutil

import pytest

import mmsb_torch as mmsb
from mmsb_torch.runtime.store import durable, logwriter
from mmsb_torch.testing import (
    RecordingDisk,
    abandon,
    crash_states,
    open_on,
    opened,
    same_values,
    values,
    work,
)


class Run:
    """A run on a recording disk: its states, and what was acknowledged after how many changes."""

    def __init__(self, root, durability, monkeypatch):
        self.disk, self.states = RecordingDisk(), {0: {}}
        memory = open_on(self.disk, root, durability=durability)
        self.marks = [(len(self.disk.changes), 0)]
        original = memory._router.log.append

        def append(transaction, kept):
            original(transaction, kept)
            self.marks.append((len(self.disk.changes), transaction.tx))

        monkeypatch.setattr(memory._router.log, "append", append)
        self._work(memory)
        abandon(memory)

    def _work(self, memory):
        work(memory, 8, self.states)
        memory.checkpoint()
        for turn in range(3):
            memory.update("b", turn, indices=[turn])  # "a" stays: its file is shared
            self.states[memory.tx] = values(memory)
            memory.checkpoint(keep=2)
        work(memory, 14, self.states)
        memory.sync()
        memory.checkpoint(keep=1)
        work(memory, 20, self.states)

    def acknowledged(self, crash):
        whole = crash.after - (crash.how == "torn")
        return max(tx for at, tx in self.marks if at <= whole)


@pytest.mark.parametrize("durability", ["process", "full"])
def test_every_state_that_a_crash_may_leave(tmp_path, durability, monkeypatch, gate):
    monkeypatch.setattr(durable, "INLINE_BYTES", 700)  # some payloads in files of their own
    monkeypatch.setattr(logwriter, "SYNC_SECONDS", 3600.0)
    root = tmp_path / "run.mmsb"
    run = Run(root, durability, monkeypatch)
    assert any(change.what == "link" for change in run.disk.changes)
    counts = {"same": 0, "older": 0, "refused": 0}
    ways = dict.fromkeys(["killed", "torn", "unsynced lost", "some lost"], 0)
    lost = silent = 0
    share = gate.choose(test=0.3, gate=1.0, soak=1.0)
    draws = gate.trials("R2", test=1, gate=12, soak=600)
    states = crash_states(run.disk, root, tmp_path / "states", random.Random(2), share, draws=draws)
    for crash in states:
        if crash.after < run.marks[0][0]:  # there was no store yet to lose anything
            continue
        ways[crash.how] += 1
        acknowledged, found = run.acknowledged(crash), opened(crash.path)
        shutil.rmtree(crash.path)
        safe = durability == "full" or crash.how in {"killed", "torn"}
        if isinstance(found, mmsb.MMSBError):
            assert not safe, (crash, found)
            assert crash.how == "some lost", (crash, found)
            counts["refused"] += 1
            continue
        tx, state, _ = found
        silent += not same_values(state, run.states[tx])
        assert tx <= acknowledged + 1, crash
        lost += safe and tx < acknowledged
        counts["same" if tx >= acknowledged else "older"] += 1
    counts |= {"lost": lost, "silent": silent, "acknowledged": len(run.states) - 1}
    gate.report("R2", sum(ways.values()), **counts, **ways)
    assert ways["some lost"] >= ways["killed"] > 20
    assert counts["same"] > 50
    assert (counts["older"] > 0) == (durability == "process")
