"""R3: a file cut anywhere is a prefix, if it is the log, and an error if it is any other."""

import random

import mmsb_torch as mmsb
from mmsb_torch.runtime.store.frame import RecordHeader
from mmsb_torch.testing import opened, same_values


def test_a_log_cut_at_every_byte_is_a_prefix(path, gate, kit):
    states = kit.made_small(path, gate.choose(test=14, gate=16, soak=70))
    [log] = kit.logs(path)
    whole, before, torn = log.read_bytes(), len(states), 0
    every = len(whole)
    cuts = min(gate.trials("R3", test=every // 7, gate=every, soak=every), every)
    ends = [0, *random.Random(3).sample(range(1, every), cuts - 1)]
    for end in sorted(ends, reverse=True):
        log.write_bytes(whole[:end])
        tx, found, tail = opened(path)
        assert tx <= before
        before = tx
        assert same_values(found, states[tx])
        assert (tail is None) == _is_boundary(whole, end)
        torn += tail is not None
    gate.report("R3", len(ends), torn=torn, of=every, silent=0)
    assert before == 0


def _is_boundary(whole, end):
    offset = 64
    while offset < end:
        offset += RecordHeader.unpack(whole[offset : offset + 64]).span
    return offset == end


def test_segments_and_checkpoints_cut_anywhere_are_damage(path, gate, kit):
    kit.made_whole(path)
    assert opened(path)[0] == 16
    newest = max((path / "checkpoints").iterdir())
    used = [file for file in (path / "deltas").iterdir() if int(file.name[:20]) > int(newest.name)]
    assert used
    numbers, trials = random.Random(3), 0
    for file in [*newest.iterdir(), *used, path / "MMSB.json"]:
        whole = file.read_bytes()
        header = 8 + int.from_bytes(whole[:8], "little") if file.suffix == ".safetensors" else 1000
        ends = {*range(min(header, len(whole))), *range(len(whole) - 100, len(whole))}
        ends |= {numbers.randrange(len(whole)) for _ in range(1000)}
        ends = sorted(end for end in ends if end >= 0)
        for end in numbers.sample(ends, min(len(ends), gate.choose(test=25, gate=4000, soak=4000))):
            file.unlink()  # the checkpoints share it
            file.write_bytes(whole[:end])
            found = opened(path)
            assert isinstance(found, mmsb.CorruptStoreError | mmsb.CorruptLogError), (file, end)
            assert file.name in str(found)
            trials += 1
        file.write_bytes(whole)
    gate.report("R3", trials, silent=0)
    assert opened(path)[0] == 16
