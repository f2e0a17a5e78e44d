"""Compile every kernel for a GPU that is not there.

Triton's compiler needs no device: it takes a target. This shows on any machine that the kernels
build, and what they build to (vector widths, registers, spills).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mmsb_kernels import batch, bits, difference, digest, gather, mask, merge, page, sameness, tiles
from mmsb_kernels.dual import LANGUAGE_LOCK, Kernel
from mmsb_kernels.reference.digest import BLOCK_WORDS

_ALIGNMENT = 16  # what Triton looks for in the addresses and sizes of a launch, in bytes or units


@dataclass(frozen=True)
class Variant:
    """One kernel with its types and constants fixed, as one launch would fix them.

    Args:
        kernel: the kernel.
        types: Triton's name of the type of each argument before the constants, in order.
        constants: the constants by name.
        aligned: whether the addresses, and the sizes that count, are multiples of 16.
        num_warps: warps in one program.
    """

    kernel: Kernel
    types: tuple[str, ...]
    constants: dict[str, int]
    aligned: bool = True
    num_warps: int = tiles.NUM_WARPS

    def source(self) -> ASTSource:
        """Return what Triton's compiler takes."""
        function = self.kernel.compiled
        names = function.arg_names
        signature = dict(zip(names, self.types, strict=False))
        signature.update(dict.fromkeys(self.constants, "constexpr"))
        hints = {
            (at,): [["tt.divisibility", _ALIGNMENT]]
            for at, (name, kind) in enumerate(zip(names, self.types, strict=False))
            if self.aligned and (kind.startswith("*") or name == "row_words")
        }
        return ASTSource(function, signature, dict(self.constants), hints)


def variants() -> dict[str, Variant]:
    """Return every variant that `compile_all` compiles, by name.

    A name is the launcher's, the width that moves in bits, and `unaligned` where the addresses are
    not multiples of 16 bytes: `delta_merge/b32/unaligned`. Sizes are int64 in all of them.

    Returns:
        A new dict.
    """
    return dict(_variants())


def compile_variant(variant: Variant, target: str = "sm_90") -> Any:
    """Compile one variant; Triton's cache on disk answers if it has been compiled before.

    Args:
        variant: one of `variants()`.
        target: as for `compile_all`.

    Returns:
        Triton's compiled kernel; its `asm` holds the text of each stage and the binary.

    Raises:
        ValueError: the target is not of a known form.
        RuntimeError: `TRITON_INTERPRET=1` was set when Triton was imported.
    """
    gpu, _ = _target(target)
    functions = (variant.kernel.compiled, tiles.ADD)
    if not all(isinstance(function, triton.runtime.JITFunction) for function in functions):
        raise RuntimeError(
            "compile_all: expected Triton in its compiling mode, found TRITON_INTERPRET=1, which "
            "replaces Triton's own functions for the whole process. Unset it: "
            "mmsb_kernels.interpreted() needs no environment variable."
        )
    with LANGUAGE_LOCK:
        return triton.compile(
            variant.source(), target=gpu, options={"num_warps": variant.num_warps}
        )


def compile_all(target: str = "sm_90") -> dict[str, str]:
    """Compile every kernel variant for `target`, with no GPU.

    `TRITON_INTERPRET` must not be set; inside `interpreted()` it works all the same.

    Args:
        target: `sm_80`, `sm_90` and their like for NVIDIA, `gfx942` and its like for AMD.

    Returns:
        The assembly text by variant name: PTX for NVIDIA, AMDGCN for AMD.

    Raises:
        ValueError: the target is not of a known form.
        RuntimeError: `TRITON_INTERPRET=1` was set when Triton was imported.
    """
    _, stage = _target(target)
    return {
        name: compile_variant(variant, target).asm[stage] for name, variant in variants().items()
    }


def _variants() -> Iterator[tuple[str, Variant]]:
    yield from _of_elements()
    yield from _of_rows()
    yield from _of_words()
    yield from _of_masks()


def _of_elements() -> Iterator[tuple[str, Variant]]:
    """Those that look at elements: merges by mask and by number, differences."""
    for width, tile in tiles.TILE.items():
        name = f"b{8 * width}"
        word = f"*i{8 * min(width, 8)}"
        words = max(width // 8, 1)
        fixed = {"TILE": tile, "WORDS": words}
        dense = (word, word, "*i8", "i64")
        yield f"delta_merge/{name}", Variant(merge.merge_dense, dense, fixed)
        yield (
            f"delta_merge/{name}/unaligned",
            Variant(merge.merge_dense, dense, fixed, aligned=False),
        )
        packed = (word, word, "*u8", "*i64", "*i64", "i64", "i64")
        yield f"delta_merge_bits/{name}", Variant(bits.merge_bits, packed, fixed)
        yield f"page_diff/pick/{name}", Variant(difference.pick_bits, packed, fixed)
        marked = (word, word, "*u8", "*i64", "i64")
        yield f"page_diff/mark/{name}", Variant(difference.mark_changes, marked, fixed)
        scattered = {"TILE": tiles.SCATTER_TILE, "WORDS": words}
        elements = (word, word, "*i64", "i64", "i64")
        yield f"delta_merge_elements/{name}", Variant(merge.merge_elements, elements, scattered)


def _of_rows() -> Iterator[tuple[str, Variant]]:
    """Those that move rows and pieces: long ones where all is aligned, short ones where nothing is."""
    for width, size in tiles.ROW_TILE.items():
        # Only words of 8 can be aligned to 16 bytes: others are taken because an address is odd.
        lengths = {"": size, "/unaligned": 3} if width == 8 else {"/unaligned": 3}
        for suffix, length in lengths.items():
            name, word = f"b{8 * width}{suffix}", f"*i{8 * width}"
            rows, cols = tiles.row_tile(length, width)
            fixed = {"ROWS": rows, "COLS": cols}
            numbered = (word, word, "*i64", "i64", "i64", "i64")
            for kind, kernel in (("delta_merge", merge.merge_rows), ("gather", gather.gather)):
                yield f"{kind}_rows/{name}", Variant(kernel, numbered, fixed, aligned=not suffix)
            vector = 1 if suffix else 2
            fixed = {"ROWS": max(size // 128, 1), "COLS": 128, "VECTOR": vector}
            pieces = (word, "*i64", "i64")
            yield f"delta_merge_many/{name}", Variant(batch.merge_pieces, pieces, fixed)


def _of_words() -> Iterator[tuple[str, Variant]]:
    """Those that take whole tensors, as the widest words that their size and addresses allow."""
    for width, tile in tiles.MOVE_TILE.items():
        name, word = f"b{8 * width}", f"*i{8 * width}"
        fixed = {"TILE": tile}
        yield f"page_copy/{name}", Variant(page.copy_words, (word, word, "i64"), fixed)
        yield f"page_zero/{name}", Variant(page.zero_words, (word, "i64"), fixed)
        filled = {"PERIOD": 1, **fixed}
        yield f"page_fill/{name}", Variant(page.fill_words, (word, word, "i64"), filled)
        same = (word, word, "*i8", "i64")
        yield f"same_bits/{name}", Variant(sameness.find_difference, same, fixed)
        block = {"TILE": BLOCK_WORDS, "PARTS": 8 // width}
        yield f"block_digest/{name}", Variant(digest.digest_block, (word, "*i64", "i64"), block)
    filled = {"PERIOD": 2, "TILE": tiles.MOVE_TILE[8]}
    yield "page_fill/b128", Variant(page.fill_words, ("*i64", "*i64", "i64"), filled)


def _of_masks() -> Iterator[tuple[str, Variant]]:
    fixed = {"TILE": tiles.PACK_TILE}
    yield "pack_mask", Variant(mask.pack_bytes, ("*i8", "*u8", "i64"), fixed)
    yield "unpack_mask", Variant(mask.unpack_bytes, ("*u8", "*i8", "i64"), fixed)
    for name, union in (("and_masks", 0), ("or_masks", 1)):
        fixed = {"TILE": tiles.MOVE_TILE[8], "UNION": union}
        yield name, Variant(mask.join_words, ("*i64", "*i64", "*i64", "i64"), fixed)
    for tile in sorted(set(tiles.TILE.values())):
        variant = Variant(bits.count_bits, ("*u8", "*i64", "i64"), {"TILE": tile}, num_warps=1)
        yield f"count_bits/t{tile}", variant


def _target(target: str) -> tuple[GPUTarget, str]:
    """Return Triton's target and the stage that holds its assembly text."""
    maker, _, number = target.partition("sm_")
    if not maker and number.isdecimal():
        return GPUTarget("cuda", int(number), 32), "ptx"
    if target.startswith("gfx9"):  # the families with wavefronts of 64; the others have 32
        return GPUTarget("hip", target, 64), "amdgcn"
    raise ValueError(
        f"compile_all: target: expected a name such as 'sm_90' or 'gfx942', found {target!r}. "
        "Name the GPU's architecture."
    )
