"""The merges on a GPU: the functions of `reference`, by Triton kernels.

All four change `base` in place on the current stream of its device and return without waiting
for it. They need contiguous tensors, at any address that torch itself would give. `values` may be
`base` itself but must not overlap it otherwise. They do not read indices or bits on the host:
what an index out of range does is said below, where the reference raises.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmsb_kernels import kernels
from mmsb_kernels.checks import check_bits, check_dense, check_elements, check_plain, check_rows
from mmsb_kernels.dual import check_device

_WORD = {1: tl.int8, 2: tl.int16, 4: tl.int32, 8: tl.int64}


def delta_merge(base: Tensor, values: Tensor, mask: Tensor) -> None:
    """Write `values` into `base` where `mask` is true.

    Args:
        base: any shape and dtype, contiguous; changed in place.
        values: shape and dtype of `base`, contiguous; read only where `mask` is true.
        mask: bool, shape of `base`, contiguous.

    Raises:
        ValueError: a shape or a device differs from that of `base`, a tensor is not contiguous, or
            the device is no GPU.
        TypeError: a dtype differs.
    """
    check_dense("delta_merge", base, values, mask)
    _check_launch("delta_merge", base=base, values=values, mask=mask)
    numel = base.numel()
    if numel == 0:
        return
    word, words, tile = _layout(base)
    kernels.merge_dense.launch(
        base.device,
        triton.cdiv(numel, tile),
        triton.reinterpret(base, word),
        triton.reinterpret(values, word),
        triton.reinterpret(mask, tl.int8),
        numel,
        TILE=tile,
        WORDS=words,
        num_warps=kernels.NUM_WARPS,
    )
    _bump(base)


def delta_merge_rows(base: Tensor, values: Tensor, rows: Tensor) -> None:
    """Write `values[i]` into `base[rows[i]]`.

    Args:
        base: at least one dimension, any dtype, contiguous; changed in place.
        values: `[n, *base.shape[1:]]`, dtype of `base`, contiguous.
        rows: int64 `[n]`, contiguous, without duplicates: of duplicates, bytes of any may stay. A
            row outside `[0, base.shape[0])` is not written, and nobody is told: telling would
            make the host wait.

    Raises:
        ValueError: a shape or a device does not fit `base`, a tensor is not contiguous, or the
            device is no GPU.
        TypeError: a dtype does not fit.
    """
    check_rows("delta_merge_rows", base, values, rows)
    _check_launch("delta_merge_rows", base=base, values=values, rows=rows)
    if base.numel() == 0 or values.numel() == 0:
        return
    row_bytes = values.numel() // rows.numel() * base.element_size()
    width = row_word(row_bytes, base.data_ptr(), values.data_ptr())
    row_words = row_bytes // width
    tile_rows, tile_cols = row_tile(row_words, width)
    kernels.merge_rows.launch(
        base.device,
        triton.cdiv(rows.numel(), tile_rows) * triton.cdiv(row_words, tile_cols),
        triton.reinterpret(base, _WORD[width]),
        triton.reinterpret(values, _WORD[width]),
        rows,
        rows.numel(),
        base.shape[0],
        row_words,
        ROWS=tile_rows,
        COLS=tile_cols,
        num_warps=kernels.NUM_WARPS,
    )
    _bump(base)


def delta_merge_elements(base: Tensor, values: Tensor, indices: Tensor) -> None:
    """Write `values[i]` into the element of `base` that is number `indices[i]` in C order.

    Args:
        base: any shape and dtype, contiguous; changed in place.
        values: `[n]`, dtype of `base`, contiguous.
        indices: int64 `[n]`, contiguous, without duplicates: of duplicates, any may stay. An index
            outside `[0, base.numel())` is not written, and nobody is told: telling would make the
            host wait.

    Raises:
        ValueError: a shape or a device does not fit `base`, a tensor is not contiguous, or the
            device is no GPU.
        TypeError: a dtype does not fit.
    """
    check_elements("delta_merge_elements", base, values, indices)
    _check_launch("delta_merge_elements", base=base, values=values, indices=indices)
    if base.numel() == 0 or indices.numel() == 0:
        return
    word, words, _ = _layout(base)
    kernels.merge_elements.launch(
        base.device,
        triton.cdiv(indices.numel(), kernels.SCATTER_TILE),
        triton.reinterpret(base, word),
        triton.reinterpret(values, word),
        indices,
        indices.numel(),
        base.numel(),
        TILE=kernels.SCATTER_TILE,
        WORDS=words,
        num_warps=kernels.NUM_WARPS,
    )
    _bump(base)


def delta_merge_bits(base: Tensor, values: Tensor, bits: Tensor) -> None:
    """Write the compact `values`, in C order, into the elements of `base` whose bit is set.

    Three steps on the device: count the bits of each tile, sum the counts, merge. The two small
    tensors between them (int64, one number for each tile) come from torch's allocator.

    Args:
        base: any shape and dtype, contiguous; changed in place.
        values: `[k]`, dtype of `base`, contiguous, with `k` the number of bits set. Of too many
            values the last are not read; with too few, the last elements are not written; nobody
            is told: telling would make the host wait.
        bits: uint8 `[ceil(base.numel() / 8)]`, contiguous; element `i` is bit `i % 8` of byte
            `i // 8`. The bits past the last element do not matter.

    Raises:
        ValueError: a shape or a device does not fit `base`, a tensor is not contiguous, or the
            device is no GPU.
        TypeError: a dtype does not fit.
    """
    check_bits("delta_merge_bits", base, values, bits)
    _check_launch("delta_merge_bits", base=base, values=values, bits=bits)
    numel = base.numel()
    if numel == 0 or values.numel() == 0:
        return
    word, words, tile = _layout(base)
    tiles = triton.cdiv(numel, tile)
    counts = torch.empty(tiles, dtype=torch.int64, device=base.device)
    kernels.count_bits.launch(base.device, tiles, bits, counts, numel, TILE=tile, num_warps=1)
    kernels.merge_bits.launch(
        base.device,
        tiles,
        triton.reinterpret(base, word),
        triton.reinterpret(values, word),
        bits,
        counts,
        counts.cumsum(0),
        values.numel(),
        numel,
        TILE=tile,
        WORDS=words,
        num_warps=kernels.NUM_WARPS,
    )
    _bump(base)


def row_word(row_bytes: int, *addresses: int) -> int:
    """Return the widest word, in bytes, that rows can move in, whatever their dtype.

    Args:
        row_bytes: size of one row.
        *addresses: where the tensors begin.

    Returns:
        8, 4, 2 or 1: it divides the row and every address.
    """
    return next(
        width
        for width in (8, 4, 2, 1)
        if row_bytes % width == 0 and all(address % width == 0 for address in addresses)
    )


def row_tile(row_words: int, width: int) -> tuple[int, int]:
    """Return the rows and words of the tile of one program.

    Args:
        row_words: words in one row, at least 1.
        width: bytes in one word.

    Returns:
        Two powers of two whose product is always the same for one `width`: short rows share a
        tile, long rows are cut.
    """
    size = kernels.ROW_TILE[width]
    cols = min(triton.next_power_of_2(row_words), size)
    return size // cols, cols


def _layout(base: Tensor) -> tuple[Any, int, int]:
    """Return the word type, the words in an element, and the elements in a tile."""
    width = base.element_size()
    return _WORD[min(width, 8)], max(width // 8, 1), kernels.TILE[width]


def _check_launch(where: str, **tensors: Tensor) -> None:
    check_plain(where, **tensors)
    check_device(where, tensors["base"].device)


def _bump(base: Tensor) -> None:
    """Tell autograd that `base` changed, as every in-place operation of torch does."""
    if not base.is_inference():
        torch.autograd.graph.increment_version(base)
