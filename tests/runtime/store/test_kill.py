"""A writer killed at any instant: every published checkpoint verifies, none acknowledged is lost."""

import os
import random
import signal
import struct
import time

import torch

from mmsb_torch.runtime.store import (
    Snapshot,
    Store,
    list_checkpoints,
    load_checkpoint,
    verify_checkpoint,
)

KILLS = 40


def state(tx, variant):
    tensors = {
        "big": torch.full((50_000,), float(tx)),
        "small": torch.tensor([tx, variant]),
        "third": torch.full((700,), variant, dtype=torch.uint8),
    }
    return Snapshot(tx, tensors, {"tx": tx})


def write_for_ever(root, first, pipe):
    with Store.open(root, writable=True) as store:
        for tx in range(first, first + 100_000):
            for variant in (0, 1):
                store.write_checkpoint(state(tx, variant), shard_bytes=100_000)
                os.write(pipe, struct.pack("<QB", tx, variant))
            store.retain(keep=3)


def drain(pipe):
    """Return what the writer acknowledged last, or None."""
    raw = b""
    while piece := os.read(pipe, 1 << 16):
        raw += piece
    return struct.unpack("<QB", raw[-9:]) if raw else None


def test_kill_9(root, kit):
    instants = random.Random(0)
    last = (0, 0)
    lost = 0
    for turn in range(20 * KILLS):
        if turn >= KILLS and last[0] > 3:  # a busy machine needs more turns to get anywhere
            break
        reader, writer = os.pipe()
        pid = kit.forked(lambda first=last[0] + 1, pipe=writer: write_for_ever(root, first, pipe))
        os.close(writer)
        time.sleep(instants.uniform(0.002, 0.12))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        last = drain(reader) or last
        os.close(reader)
        refs = list_checkpoints(root)
        for ref in refs:
            assert verify_checkpoint(ref.path) == []
        if last == (0, 0) and not refs:
            continue
        found = load_checkpoint(root)
        variant = int(found.tensors["small"][1])
        lost += (found.tx, variant) < last
        kit.assert_same(found.tensors, state(found.tx, variant).tensors)
        last = max(last, (found.tx, variant))
    assert lost == 0
    assert last[0] > 3
    with Store.open(root, writable=True) as store:
        store.write_checkpoint(state(last[0] + 1, 0))
        store.retain(keep=1)
    assert kit.names(root / "checkpoints") == [f"{last[0] + 1:020d}"]
