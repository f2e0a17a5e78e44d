"""R1: `kill -9` at a random instant loses nothing that was acknowledged."""

import contextlib
import os
import random
import signal
import struct
import time

import torch

import mmsb_torch as mmsb
from mmsb_torch.memory import compaction
from mmsb_torch.testing import abandon

MODES = ("process", "full", "async", "checkpoints", "thinned", "collected", "compacted")
TURNS = 50  # kills of one store: what is looked at grows with it


def test_kill_9_loses_nothing_acknowledged(tmp_path, gate, kit):
    instants, kills = random.Random(1), gate.trials("R1", test=25, gate=500, soak=20_000)
    acknowledged = everything = lost = torn = 0
    for turn in range(kills):
        path = tmp_path / f"{turn // TURNS}.mmsb"
        if turn % TURNS == 0:
            mmsb.open(path).close()
            acknowledged = 0
        mode = MODES[turn % len(MODES)]
        least = 3 * (turn % 2)  # every second one has surely begun
        last = _killed(path, mode, instants, kit, least)
        before, acknowledged = acknowledged, last or acknowledged
        everything += acknowledged - before
        with mmsb.open(path) as memory:
            torn += memory.tail is not None
            lost += memory.tx < acknowledged
            assert memory.tx - acknowledged in range(4 if mode == "async" else 2), mode
            if memory.tx > 2:
                _check(memory)
            acknowledged = memory.tx
            abandon(memory)
    gate.report("R1", kills, acknowledged=everything, lost=lost, torn=torn)
    assert everything > 20


def _killed(path, mode, instants, kit, least):
    """What a writer that was killed acknowledged last, if anything; it did so `least` times."""
    reader, writer = os.pipe()
    pid = kit.forked(lambda: _write_for_ever(path, writer, mode))
    os.close(writer)
    raw = b""
    while len(raw) < 8 * least and (piece := os.read(reader, 8 * least - len(raw))):
        raw += piece
    time.sleep(instants.uniform(0.002, 0.15))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raw += kit.drained(reader)
    return struct.unpack("<Q", raw[: len(raw) // 8 * 8][-8:])[0] if len(raw) >= 8 else 0


def _write_for_ever(path, pipe, mode):
    compaction.LEAST_BYTES, compaction.COMMIT_BYTES = 500_000, 1_000
    memory = mmsb.open(
        path,
        durability="full" if mode == "full" else "process",
        retention=mmsb.Retention(keep_last=2) if mode == "collected" else None,
        compaction=mode == "compacted",
    )
    page = memory.page("a", torch.zeros(50, 2000))
    grows = memory.page("grows", torch.zeros(0, 8))
    os.write(pipe, struct.pack("<Q", memory.tx))
    waiting = []
    while True:
        tx = memory.tx + 1
        with memory.commit(wait=mode != "async") as changes:
            changes.update(page, float(tx), rows=[tx % 50] if tx % 3 else None)  # 8 or 400 KB
            changes.append(grows, torch.full((1, 8), float(tx)))
        waiting.append((tx, changes))
        if mode != "async" or len(waiting) > 2:
            tx, changes = waiting.pop(0)
            changes.wait()
            os.write(pipe, struct.pack("<Q", tx))
        if mode in {"checkpoints", "thinned", "collected"} and tx % 9 == 0:
            memory.checkpoint(keep=2 if mode == "thinned" else None)


def _check(memory):
    tx, back = memory.tx, max(memory.tx - 7, 3)
    assert memory["a"].tensor[tx % 50].tolist() == [float(tx)] * 2000
    assert memory["a"].epoch == memory["grows"].epoch == tx - 2
    assert memory["grows"].tensor[:, 7].tolist() == list(range(3, tx + 1))
    with contextlib.suppress(mmsb.HistoryError):  # it was collected
        assert memory.at(back)["a"][back % 50, 0] == back
        assert memory.at(back)["grows"].shape == (back - 2, 8)
    assert not [item for item in memory.verify() if not item.torn]
