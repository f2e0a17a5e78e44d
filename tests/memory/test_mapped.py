"""Readers whose tensors lie in the checkpoint's files."""

import shutil

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.device import same_bits
from mmsb_torch.testing import DTYPES, random_bits


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.mmsb"


def made(path):
    wanted = {}
    with mmsb.open(path) as mem:
        for number, dtype in enumerate(DTYPES):
            for shape in ((), (0, 3), (5, 7), (1000,)):
                name = f"{dtype} {shape}"
                wanted[name] = random_bits(shape, dtype, number)
                mem.page(name, wanted[name])
        mem.page("big", torch.arange(300_000.0))
        wanted["big"] = torch.arange(300_000.0)
    return wanted


def files(path):
    return {p: p.read_bytes() for p in (path / "checkpoints").rglob("*") if p.is_file()}


@pytest.mark.parametrize("mode", ["r", "follow", "memo"])
def test_every_value_is_there(path, mode):
    wanted = made(path)
    before = files(path)
    with mmsb.open(path, mode=mode, mapped=True) as mem:
        assert all(same_bits(mem[name].tensor, wanted[name]) for name in wanted)
        twice = mem.derive(lambda big: big * 2, "big", name="twice")
        assert twice.tensor[3] == 6
        mem["big"].tensor[0] = 7.0  # a foreign write: told, and put right
        with pytest.raises(mmsb.PageMutatedError):
            _ = mem["big"].tensor
        assert mem["big"].tensor[0] == 0
    assert files(path) == before


def test_a_follower_goes_on_from_it(path):
    made(path)
    with mmsb.open(path) as writer, mmsb.open(path, mode="follow", mapped=True) as reader:
        held = reader["big"].tensor
        before = files(path)
        writer.update("big", -1.0, rows=[5])
        while reader.tx < writer.tx:
            pass
        assert reader["big"].tensor[5] == -1
        assert held[5] == 5
        assert torch.equal(reader["big"].tensor, writer["big"].tensor)
        assert files(path) == before


def test_files_may_go_under_our_feet(path):
    wanted = made(path)
    with mmsb.open(path, mode="r", mapped=True) as mem:
        shutil.rmtree(path)
        assert all(same_bits(mem[name].tensor, wanted[name]) for name in wanted)


def test_what_is_damaged_is_not_mapped(path):
    made(path)
    shard = max((path / "checkpoints").rglob("*.safetensors"), key=lambda p: p.stat().st_size)
    raw = bytearray(shard.read_bytes())
    for at in (0, 20, len(raw) // 2, len(raw) - 1):
        raw[at] ^= 4
        shard.write_bytes(raw)
        with pytest.raises(mmsb.CorruptStoreError, match="damaged"):
            mmsb.open(path, mode="r", mapped=True)
        raw[at] ^= 4
    for short in (b"", bytes(raw[:-1])):
        shard.write_bytes(short)
        with pytest.raises(mmsb.CorruptStoreError):
            mmsb.open(path, mode="r", mapped=True)


def test_it_is_for_readers(path):
    with pytest.raises(mmsb.UnsupportedError, match="for readers"):
        mmsb.open(path, mapped=True)
    assert not path.exists()
