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

from mmsb_kernels import kernels
from mmsb_kernels.dual import LANGUAGE_LOCK, Kernel
from mmsb_kernels.launch import row_tile

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
    num_warps: int = kernels.NUM_WARPS

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
    functions = (variant.kernel.compiled, kernels.ADD)
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
    for width, tile in kernels.TILE.items():
        name = f"b{8 * width}"
        word = f"*i{8 * min(width, 8)}"
        words = max(width // 8, 1)
        dense = (word, word, "*i8", "i64")
        fixed = {"TILE": tile, "WORDS": words}
        for suffix, aligned in (("", True), ("/unaligned", False)):
            variant = Variant(kernels.merge_dense, dense, fixed, aligned)
            yield f"delta_merge/{name}{suffix}", variant
        bits = (word, word, "*u8", "*i64", "*i64", "i64", "i64")
        yield f"delta_merge_bits/{name}", Variant(kernels.merge_bits, bits, fixed)
        elements = (word, word, "*i64", "i64", "i64")
        fixed = {"TILE": kernels.SCATTER_TILE, "WORDS": words}
        yield f"delta_merge_elements/{name}", Variant(kernels.merge_elements, elements, fixed)
    for width, size in kernels.ROW_TILE.items():
        # Rows as long as a tile where all is aligned, which only words of 8 can be; short rows
        # with nothing aligned for every word.
        for suffix, length in (("", size), ("/unaligned", 3)):
            if width < 8 and not suffix:
                continue
            tile_rows, tile_cols = row_tile(length, width)
            fixed = {"ROWS": tile_rows, "COLS": tile_cols}
            rows = (f"*i{8 * width}", f"*i{8 * width}", "*i64", "i64", "i64", "i64")
            variant = Variant(kernels.merge_rows, rows, fixed, aligned=not suffix)
            yield f"delta_merge_rows/b{8 * width}{suffix}", variant
    for tile in sorted(set(kernels.TILE.values())):
        variant = Variant(kernels.count_bits, ("*u8", "*i64", "i64"), {"TILE": tile}, num_warps=1)
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
