"""Every kernel compiles for GPUs that are not here, to the instructions it was written for."""

import functools
import os
import re
import subprocess
import time

import pytest
import torch
import triton

import mmsb_kernels
from mmsb_kernels import offline, reference
from mmsb_kernels.tiles import TILE

WIDTHS = (8, 16, 32, 64, 128)
# Of a second target, what nothing below looks at is compiled with MMSB_GATE=1 only.
LEFT_OUT = re.compile(r"pick|elements|count_bits|digest/b(8|16|32)$|(rows|many)/.*unaligned")


@functools.cache
def compile_once(target):
    """PTX by variant name, and the seconds it took (few if Triton's cache on disk knew them)."""
    began = time.perf_counter()
    if target == "sm_90" or os.environ.get("MMSB_GATE"):
        texts = mmsb_kernels.compile_all(target)
    else:
        texts = {
            name: offline.compile_variant(variant, target).asm["ptx"]
            for name, variant in offline.variants().items()
            if not LEFT_OUT.search(name)
        }
    return texts, time.perf_counter() - began


@pytest.fixture(scope="module", params=["sm_80", "sm_90"])
def ptx(request, record_testsuite_property):
    """PTX by variant name."""
    texts, seconds = compile_once(request.param)
    record_testsuite_property(f"compile_all {request.param} [s]", round(seconds, 2))
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
    assert len(ptx) > 40
    assert set(compile_once("sm_90")[0]) == set(offline.variants())
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
        bits
        for predicated, kind, bits in moves(ptx[f"delta_merge/b{width}"])
        if predicated and kind == "st"
    }
    assert stores == {min(width, 64)}


@pytest.mark.parametrize("width", WIDTHS)
def test_unaligned_tensors_are_not_accessed_in_vectors(ptx, width):
    widest = max(bits for _, _, bits in moves(ptx[f"delta_merge/b{width}/unaligned"]))
    assert widest == min(width, 64)


def test_long_rows_move_in_vectors(ptx):
    found = moves(ptx["delta_merge_rows/b64"])
    assert {bits for _, kind, bits in found if kind == "st"} == {128}


def test_bits_of_a_tile_that_is_all_true_are_stored_in_vectors(ptx):
    for width in WIDTHS:
        assert (False, "st", 128) in moves(ptx[f"delta_merge_bits/b{width}"])


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_but_the_mask_is_read_before_a_branch_on_how_much_of_it_is_true(ptx, width):
    lines = ptx[f"delta_merge/b{width}"].splitlines()
    joined = max(at for at, line in enumerate(lines) if "shfl.sync" in line)
    branch = next(
        at for at, line in enumerate(lines) if at > joined and re.search(r"@.*\bbra", line)
    )
    before = "\n".join(lines[:branch])
    tile = offline.variants()[f"delta_merge/b{width}"].constants["TILE"]
    # The mask of a whole tile in one load, or of the last tile byte by byte.
    assert {bits for _, _, bits in moves(before)} == {tile * 8 // 128, 8}
    assert {kind for _, kind, _ in moves(before)} == {"ld"}


@pytest.mark.parametrize("kind", ["page_copy", "page_zero", "page_fill", "same_bits"])
@pytest.mark.parametrize("width", WIDTHS[:4])
def test_whole_tensors_move_in_vectors(ptx, kind, width):
    free = {
        (way, bits) for predicated, way, bits in moves(ptx[f"{kind}/b{width}"]) if not predicated
    }
    assert ("ld" if kind == "same_bits" else "st", 128) in free
    if kind == "page_copy":
        assert free == {("ld", 128), ("st", 128)}


@pytest.mark.parametrize(
    "name", ["and_masks", "or_masks", "block_digest/b64", "page_diff/mark/b32"]
)
def test_what_is_looked_at_is_read_in_vectors(ptx, name):
    assert (False, "ld", 128) in moves(ptx[name])


@pytest.mark.parametrize(
    "name", ["gather_rows/b64", "delta_merge_many/b64", "delta_merge_rows/b64"]
)
def test_aligned_rows_and_pieces_move_in_vectors(ptx, name):
    assert {bits for _, kind, bits in moves(ptx[name]) if kind == "st"} == {128}


def test_no_float_is_ever_touched(ptx):
    for name, text in ptx.items():
        assert not re.search(r"\.(f16|bf16|f32|f64)\b", text), name


@functools.cache
def compiled():
    return {name: offline.compile_variant(variant) for name, variant in offline.variants().items()}


def test_a_pointer_moves_by_64_bits_before_it_moves_by_fewer():
    step = re.compile(
        r"(%\w+) = tt\.(addptr|splat|broadcast) (%\w+)[ ,].* (?:tensor<[\dx]*x)?(\S+)"
    )
    for name, kernel in compiled().items():
        far = set()  # pointers that were given an int64 offset
        steps = 0
        for line in kernel.asm["ttir"].splitlines():
            match = step.search(line.partition(" loc(")[0].rstrip(">"))
            if match is None:
                continue
            result, operation, source, offset = match.groups()
            if operation == "addptr":
                steps += 1
                if name == "page_fill/b128" and steps == 1:
                    continue  # the second word of the value, which has two
                assert offset == "i64" or source in far, f"{name}: {line}"
            if source in far or (operation == "addptr" and offset == "i64"):
                far.add(result)
        assert steps >= 2, name


class Absent:
    """A driver for an H100 that is not there: enough for Triton to compile for it."""

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return triton.backends.compiler.GPUTarget("cuda", 90, 32)


@pytest.fixture
def launches(monkeypatch):
    """Compile what the launchers would launch on an H100, and collect it, in place of running it."""
    from mmsb_kernels.dual import Kernel

    collected = []

    def compile_only(self, device, programs, *args, **options):
        fresh = triton.jit(self.body, do_not_specialize=list(self.do_not_specialize))
        compiled = fresh.run(*args, grid=(programs,), warmup=True, **options)
        collected.append((self.body.__name__, programs, compiled.asm["ptx"]))

    monkeypatch.setattr(triton.runtime.driver, "_active", Absent())
    monkeypatch.setattr(Kernel, "launch", compile_only)
    with mmsb_kernels.interpreted():
        yield collected


@pytest.mark.parametrize("skip", [0, 1], ids=["aligned", "unaligned"])
def test_what_the_launchers_pass_compiles(launches, random_cpu, dtype, skip):
    base = random_cpu.bits((33, 128), dtype, skip)
    delta = random_cpu.bits((33, 128), dtype, skip)
    mask = random_cpu.mask((33, 128), 0.5)
    mmsb_kernels.delta_merge(base, delta, mask)
    mmsb_kernels.delta_merge_rows(base, delta[:9], random_cpu.choice(33, 9))
    mmsb_kernels.delta_merge_elements(base, delta[0], random_cpu.choice(base.numel(), 128))
    mmsb_kernels.delta_merge_bits(base, delta[mask], reference.pack_mask(mask))
    names = [name for name, _, _ in launches]
    assert names == ["merge_dense", "merge_rows", "merge_elements", "count_bits", "merge_bits"]
    tiles = -(-base.numel() // TILE[dtype.itemsize])
    programs = [count for name, count, _ in launches if name != "merge_rows"]
    assert programs == [tiles, 1, tiles, tiles]
    vectors = skip == 0 or dtype.itemsize == 16
    assert ((False, "st", 128) in moves(launches[0][2])) is vectors
    # Rows of 128 elements are 16 words of 8 bytes or more, if the address allows it.
    widest = max(bits for _, kind, bits in moves(launches[1][2]) if kind == "st")
    assert widest == (128 if vectors else 8 * dtype.itemsize)


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


AMD = (
    "delta_merge/b32",
    "page_copy/b64",
    "block_digest/b64",
    "page_diff/mark/b32",
    "delta_merge_many/b64",
)


@pytest.mark.parametrize("name", offline.variants() if os.environ.get("MMSB_GATE") else AMD)
def test_amd(name):
    text = offline.compile_variant(offline.variants()[name], "gfx942").asm["amdgcn"]
    if name in ("delta_merge/b32", "page_copy/b64"):
        assert re.search("(global|buffer)_store_dwordx4", text)


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
