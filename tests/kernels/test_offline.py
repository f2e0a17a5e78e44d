"""Every kernel compiles for GPUs that are not here, to the instructions it was written for."""

import re
import subprocess
import sys
import time

import pytest
import torch
import triton

import mmsb_kernels
from mmsb_kernels import offline

WIDTHS = (8, 16, 32, 64, 128)


@pytest.fixture(scope="module", params=["sm_80", "sm_90"])
def ptx(request, record_testsuite_property):
    """PTX by variant name."""
    began = time.perf_counter()
    texts = mmsb_kernels.compile_all(request.param)
    record_testsuite_property(
        f"compile_all {request.param} [s]", round(time.perf_counter() - began, 2)
    )
    return texts


def moves(text):
    """Return (predicated, "ld" or "st", bits) of each access to global memory in PTX."""
    found = []
    for line in text.splitlines():
        access = re.search(r"\b(ld|st)\.global(?:\.[a-z_:]+\w*)*?(?:\.v(\d))?\.b(\d+)\b", line)
        if access:
            count, bits = int(access[2] or 1), int(access[3])
            found.append((line.lstrip().startswith("@"), access[1], count * bits))
    return found


def test_every_variant_compiles(ptx):
    assert set(ptx) == set(offline.variants())
    for text in ptx.values():
        assert ".visible .entry" in text


@pytest.mark.parametrize("width", WIDTHS)
def test_a_tile_that_is_all_true_moves_vectors_without_predicates(ptx, width):
    found = moves(ptx[f"delta_merge/b{width}"])
    free = [(kind, bits) for predicated, kind, bits in found if not predicated]
    assert ("ld", 128) in free
    assert {bits for kind, bits in free if kind == "st"} == {128}
    # The mask of a whole tile is read in vectors too, one load for each thread.
    tile = offline.variants()[f"delta_merge/b{width}"].constants["TILE"]
    assert ("ld", tile * 8 // 128) in free


@pytest.mark.parametrize("width", WIDTHS)
def test_a_mixed_tile_writes_no_more_than_its_elements(ptx, width):
    stores = {
        bits for predicated, kind, bits in moves(ptx[f"delta_merge/b{width}"]) if predicated and kind == "st"
    }
    assert stores == {min(width, 64)}


@pytest.mark.parametrize("width", WIDTHS)
def test_unaligned_tensors_are_not_accessed_in_vectors(ptx, width):
    widest = max(bits for _, _, bits in moves(ptx[f"delta_merge/b{width}/unaligned"]))
    assert widest == min(width, 64)


@pytest.mark.parametrize("width", [8, 16, 32, 64])
def test_long_rows_move_in_vectors(ptx, width):
    found = moves(ptx[f"delta_merge_rows/b{width}"])
    assert {bits for _, kind, bits in found if kind == "st"} == {128}


def test_bits_of_a_tile_that_is_all_true_are_stored_in_vectors(ptx):
    for width in WIDTHS:
        assert (False, "st", 128) in moves(ptx[f"delta_merge_bits/b{width}"])


def test_no_float_is_ever_touched(ptx):
    for name, text in ptx.items():
        assert not re.search(r"\.(f16|bf16|f32|f64)\b", text), name


def compiled():
    return {name: offline.compile_variant(variant) for name, variant in offline.variants().items()}


def test_offsets_are_64_bit():
    for name, kernel in compiled().items():
        offsets = re.findall(r"tt\.addptr .* : .*, (?:tensor<[\dx]*x)?(i\d+)", kernel.asm["ttir"])
        assert offsets, name
        # A constant offset, as the index of the next word, may be narrower: it cannot overflow.
        assert "i64" in offsets, name
        assert set(offsets) <= {"i64"}, name


def test_nothing_spills(tmp_path):
    tool = triton.knobs.nvidia.cuobjdump.path
    for name, kernel in compiled().items():
        binary = tmp_path / "kernel.cubin"
        binary.write_bytes(kernel.asm["cubin"])
        usage = subprocess.run(
            [tool, "--dump-resource-usage", binary], capture_output=True, text=True, check=True
        ).stdout
        stack, local = re.search(r"STACK:(\d+)", usage), re.search(r"LOCAL:(\d+)", usage)
        assert stack is not None, usage
        assert int(stack[1]) == int(local[1]) == 0, f"{name}: {usage}"


def test_amd():
    text = offline.compile_variant(offline.variants()["delta_merge/b32"], "gfx942").asm["amdgcn"]
    assert "global_store_dwordx4" in text


def test_compiling_works_between_and_inside_interpreted_launches():
    base, values, mask = torch.zeros(5), torch.ones(5), torch.ones(5, dtype=torch.bool)
    variant = offline.variants()["count_bits/t512"]
    with mmsb_kernels.interpreted():
        mmsb_kernels.delta_merge(base, values, mask)
        assert "ptx" in offline.compile_variant(variant).asm
        mmsb_kernels.delta_merge(base, values, mask)
    assert base.tolist() == [1.0] * 5


@pytest.mark.parametrize("target", ["", "sm_", "sm_90x", "xsm_90", "cuda:90"])
def test_unknown_targets_are_refused(target):
    with pytest.raises(ValueError, match=r"target: expected a name such as 'sm_90' or 'gfx942'"):
        mmsb_kernels.compile_all(target)
