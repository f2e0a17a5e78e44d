"""R4: a byte flipped anywhere in a store is never silent; elsewhere it often is."""

import contextlib
import io
import random
import resource
import warnings

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.runtime.store import Store
from mmsb_torch.testing import opened, same_values


def test_a_flipped_byte_of_a_log_is_never_silent(path, gate, kit):
    states = kit.made_small(path)
    [log] = kit.logs(path)
    whole = log.read_bytes()
    last = max(n for n in range(0, len(whole), 64) if whole[n : n + 4] == b"MREC")
    outcomes = {"error": 0, "torn": 0, "padding": 0}
    places = range(0, len(whole), gate.choose(test=11, gate=1, soak=1))
    for at in places:
        flipped = bytearray(whole)
        flipped[at] ^= 0x40
        log.write_bytes(flipped)
        found = opened(path)
        if isinstance(found, mmsb.MMSBError):
            assert isinstance(found, mmsb.CorruptLogError | mmsb.UnsupportedError), found
            assert log.name in str(found)
            outcomes["error"] += 1
            continue
        tx, state, tail = found
        if tail is None:  # padding: no byte of it means anything
            assert (tx, same_values(state, states[14])) == (14, True)
            assert flipped[at] == 0x40
            outcomes["padding"] += 1
            continue
        assert at >= last  # the last record cannot be told from a torn write
        assert (tx, same_values(state, states[13])) == (13, True)
        outcomes["torn"] += 1
    gate.report("R4", len(places), **outcomes, silent=0)
    assert min(outcomes["error"], outcomes["torn"]) > 3


def test_a_flipped_byte_of_any_file_is_told(path, gate, kit):
    """By opening, or else (padding, the past) by `verify`; and what opens is the right state."""
    state = kit.made_whole(path)
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name != "LOCK")
    contents = {file: file.read_bytes() for file in files}
    places = [(file, at) for file in files for at in range(len(contents[file]))]
    trials = min(gate.trials("R4", test=250, gate=5000, soak=len(places)), len(places))
    numbers = random.Random(4)
    outcomes = {"error": 0, "verify": 0, "silent": 0}
    for file, at in numbers.sample(places, trials):
        raw = bytearray(contents[file])
        raw[at] ^= 1 << numbers.randrange(8)
        file.unlink()  # checkpoints share files
        file.write_bytes(raw)
        found = opened(path)
        if isinstance(found, mmsb.MMSBError):
            outcomes["error"] += 1
        else:
            told = same_values(found[1], state) or found[2] is not None
            told = told and any(file.name in str(damage) for damage in verified(path))
            outcomes["verify" if told else "silent"] += 1
            if not told:
                print("silent:", file, at)
        file.write_bytes(contents[file])
    gate.report("R4", trials, **outcomes, of=len(places))
    assert min(outcomes["error"], outcomes["verify"]) > 3


def verified(path):
    store = Store.open(path)
    try:
        return store.verify()
    finally:
        store.close()


# beside us: the same state, saved by others


def torch_save(folder, state):
    torch.save(state, folder / "state.pt")
    return lambda: torch.load(io.BytesIO((folder / "state.pt").read_bytes()), weights_only=True)


def safetensors(folder, state):
    from safetensors.torch import load, save_file

    save_file(state, folder / "state.safetensors")
    return lambda: load((folder / "state.safetensors").read_bytes())


def distributed_checkpoint(folder, state):
    import torch.distributed.checkpoint as dcp

    dcp.save(state, checkpoint_id=folder, no_dist=True)

    def load():
        found = {name: torch.zeros_like(value) for name, value in state.items()}
        dcp.load(found, checkpoint_id=folder, no_dist=True)
        return found

    return load


@pytest.mark.parametrize("save", [torch_save, safetensors, distributed_checkpoint])
def test_what_others_load_after_a_flip(tmp_path, save, gate):
    """No test of ours: a count that stands beside ours in the report."""
    state = {"a": torch.randn(4, 3), "b": torch.arange(8, dtype=torch.int16)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load = save(tmp_path, state)
        contents = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
        places = [(file, at) for file, raw in contents.items() for at in range(len(raw))]
        numbers = random.Random(4)
        places = numbers.sample(
            places, min(len(places), gate.choose(test=60, gate=2000, soak=5000))
        )
        outcomes = {"error": 0, "right": 0, "silently wrong": 0}
        with at_most(4 << 30):
            for file, at in places:
                raw = bytearray(contents[file])
                raw[at] ^= 1 << numbers.randrange(8)
                file.write_bytes(raw)
                outcomes[outcome(load, state)] += 1
                file.write_bytes(contents[file])
    gate.report("R4", len(places), **outcomes)
    assert outcomes["error"]


@contextlib.contextmanager
def at_most(nbytes):
    """Let this process take no more: a flipped length made one of them take 21 GB."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


def outcome(load, state):
    try:
        found = load()
        same = same_values(found, state)
    except BaseException:  # DCP raises nothing less
        return "error"
    return "right" if same else "silently wrong"
