"""A damaged store goes on from the newest state that is whole, and nothing is thrown away."""

import random
import shutil

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.runtime.store import durable
from mmsb_torch.testing import abandon, opened, same_values, values, work


@pytest.fixture
def made(path, monkeypatch):
    """A store with two checkpoints, three log files and payload files; its states."""
    monkeypatch.setattr(durable, "INLINE_BYTES", 700)
    memory = mmsb.open(path, compaction=False)
    states = work(memory, 7)
    memory.checkpoint()
    work(memory, 12, states)
    memory.checkpoint()
    work(memory, 22, states)
    abandon(memory)
    return states


def contents(path):
    """The bytes of all files, without their names."""
    return b"\0".join(sorted(f.read_bytes() for f in path.rglob("*") if f.is_file()))


def flip(file, at):
    raw = bytearray(file.read_bytes())
    raw[at] ^= 8
    file.unlink()  # checkpoints share files
    file.write_bytes(raw)


def newest(path, pattern):
    return max(path.glob(pattern))


def test_a_damaged_checkpoint_costs_nothing(path, made):
    file = next(newest(path, "checkpoints/*").glob("*.safetensors"))
    flip(file, file.stat().st_size // 2)
    with pytest.raises(mmsb.CorruptStoreError, match=r"verifies is 7: `mmsb\.repair\(path\)`"):
        mmsb.open(path)
    before = contents(path)
    planned = mmsb.repair(path, dry_run=True)
    assert contents(path) == before
    done = mmsb.repair(path)
    assert planned == done
    assert (done.tx, [ref.tx for ref in done.checkpoints], done.cut) == (22, [12], None)
    assert contents(path) == before
    with mmsb.open(path) as memory:
        assert same_values(values(memory), made[22])
        assert same_values(memory.at(10), made[10])
        assert memory.verify() == []
    assert mmsb.repair(path).empty


def test_damage_of_the_log_costs_what_comes_after(path, made):
    log = newest(path, "log/*.tlog")
    places = [
        m for m in range(64, log.stat().st_size, 64) if log.read_bytes()[m : m + 4] == b"MREC"
    ]
    at, before = places[5], log.read_bytes()
    flip(log, at + 70)
    with pytest.raises(mmsb.CorruptLogError, match=r"`mmsb\.repair\(path\)` goes on"):
        mmsb.open(path)
    done = mmsb.repair(path)
    assert done.cut is not None
    assert 12 < done.tx < 22
    [kept] = (path / "damaged").iterdir()
    assert len(kept.read_bytes()) == len(before) - at
    with mmsb.open(path) as memory:
        assert memory.tx == done.tx
        assert same_values(values(memory), made[done.tx])
        memory.update("b", 3, indices=[1])
    with mmsb.open(path) as memory:
        assert memory.tx == done.tx + 1
        assert memory["b"].tensor[1] == 3


def test_a_payload_that_is_gone_costs_what_comes_after(path, made):
    last = newest(path, "deltas/*")
    last.unlink()
    found = opened(path)
    done = mmsb.repair(path)
    if isinstance(found, mmsb.MMSBError):
        assert done.tx < int(last.name[:20])
    assert same_values(opened(path)[1], made[done.tx])


def test_a_whole_store_is_left_alone(path, made):
    before = contents(path)
    assert mmsb.repair(path).empty
    assert contents(path) == before
    assert "nothing to repair" in str(mmsb.repair(path))
    assert made


def test_nothing_to_go_on_from(path, made):
    for folder in (path / "checkpoints").iterdir():
        flip(folder / "MMSB_CHECKPOINT.json", 200)
    min((path / "log").iterdir()).unlink()
    before = contents(path)
    with pytest.raises(mmsb.CorruptStoreError, match="bring a copy back"):
        mmsb.repair(path)
    assert contents(path) == before
    assert made


def test_a_writer_is_not_disturbed(path, made):
    with mmsb.open(path), pytest.raises(mmsb.StoreLockedError):
        mmsb.repair(path)
    assert made


def test_any_damage(tmp_path, path, made, gate):
    """Flips, cuts and lost files anywhere: a state that was, the newest one if the log is whole."""
    numbers, trials = random.Random(7), gate.choose(test=40, gate=600, soak=3000)
    master, after = tmp_path / "master", {"same": 0, "older": 0, "refused": 0}
    path.rename(master)
    for _ in range(trials):
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(master, path)
        files = sorted(
            f for f in path.rglob("*") if f.is_file() and f.name not in {"LOCK", "MMSB.json"}
        )
        logs_hit = False
        for file in numbers.sample(files, numbers.choice([1, 1, 2, 3])):
            logs_hit |= file.parent.name in {"log", "deltas"}
            way, size = numbers.choice("fct"), file.stat().st_size
            if way == "f" and size:
                flip(file, numbers.randrange(size))
            elif way == "c":
                raw = file.read_bytes()
                file.unlink()
                file.write_bytes(raw[: numbers.randrange(size + 1)])
            else:
                file.unlink()
        before = opened(path)
        try:
            done = mmsb.repair(path)
        except mmsb.MMSBError:
            assert isinstance(before, mmsb.MMSBError)
            after["refused"] += 1
            continue
        tx, state, _ = opened(path)
        assert tx == done.tx
        assert same_values(state, made[tx])
        assert tx == 22 or logs_hit
        assert isinstance(before, mmsb.MMSBError) or before[0] == tx
        with mmsb.open(path) as memory:
            memory.page("new", torch.ones(2))
        with mmsb.open(path, mode="r") as memory:
            assert memory.tx == tx + 1
        after["same" if tx == 22 else "older"] += 1
    gate.report("R4", trials, **after, silent=0)
    assert min(after["same"], after["older"]) > 3
