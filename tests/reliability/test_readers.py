"""R12: what others make of a checkpoint: torch's distributed reader, and safetensors itself."""

import json
import warnings

import pytest
import torch
from safetensors.torch import load_file

import mmsb_torch as mmsb
from mmsb_torch.device import flat_words, same_bits
from mmsb_torch.testing import DTYPES, random_bits

STORED = {torch.complex32: torch.float16, torch.complex128: torch.float64}
"""What a dtype that safetensors lacks is stored as, elements in pairs."""


@pytest.fixture
def checkpoint(path):
    """A checkpoint's folder, of several files, and what is in it."""
    with mmsb.open(path) as memory:
        for number, dtype in enumerate(DTYPES):
            memory.page(f"layer.{number}.weight", random_bits((6, 5), dtype, number))
            memory.page(
                f"layer.{number}.bias", random_bits(((), (0, 2), (7,))[number % 3], dtype, 9)
            )
        memory.checkpoint()
        memory.update("layer.0.weight", random_bits((1, 5), DTYPES[0], 3), rows=[2])
        info = memory.checkpoint()
        state = {name: memory[name].read() for name in memory}
    return info.path, state


def same_as_stored(found, value):
    """Whether a tensor read by others has the bits of a page: dtypes they lack come as carriers."""
    if found.dtype is value.dtype:
        return same_bits(found.contiguous(), value)
    ours, theirs = flat_words(value), flat_words(found.contiguous())
    if value.dtype in STORED:
        assert (found.dtype, tuple(found.shape)) == (STORED[value.dtype], (*value.shape, 2))
    else:
        assert found.dtype in {torch.uint8, torch.uint16}
        assert found.shape == value.shape
    raw = [bits.contiguous().view(torch.uint8).flatten() for bits in (ours, theirs)]
    return torch.equal(*raw)


def test_safetensors_reads_a_checkpoint(checkpoint, gate):
    folder, state = checkpoint
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert set(index) == set(state)
    assert len(set(index.values())) > 1
    found = {}
    for file in sorted(set(index.values())):
        found |= load_file(folder / file)
    silent = sum(not same_as_stored(found[name], value) for name, value in state.items())
    gate.report("R12", len(state), silent=silent)


def test_torchs_distributed_reader_reads_a_checkpoint(checkpoint, gate):
    import torch.distributed.checkpoint as dcp

    folder, state = checkpoint
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        about = dcp.HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
        assert set(about) == set(state)
        found = {
            name: torch.empty(item.size, dtype=item.properties.dtype)
            for name, item in about.items()
        }
        reader = dcp.HuggingFaceStorageReader(str(folder))
        dcp.load(found, storage_reader=reader, no_dist=True)
    silent = sum(not same_as_stored(found[name], value) for name, value in state.items())
    gate.report("R12", len(state), silent=silent)
