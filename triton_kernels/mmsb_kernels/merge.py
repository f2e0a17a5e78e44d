"""Merge one delta into a tensor: by dense mask, by rows, by elements.

Each function changes `base` in place on the current stream of its device and returns without
waiting for it. They need contiguous tensors, at any address that torch itself would give. `values`
may be `base` itself but must not overlap it otherwise. They do not read indices on the host: what an
index out of range does is said below, where the reference raises.

In the kernels, pointers are to signed integer words of 1, 2, 4 or 8 bytes (masks: bytes); an element of
16 bytes is `WORDS = 2` words of 8 bytes. A tensor may have more than 2**31 elements, so a tile begins
at an int64 offset; offsets within the tile are int32, which saves registers. Only builtins of
`triton.language` are called: `tl.sum`, `tl.cdiv` and their like are compiled functions, which the
interpreter cannot enter.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from mmsb_kernels import tiles
from mmsb_kernels.checks import check_dense, check_elements, check_rows
from mmsb_kernels.dual import kernel
from mmsb_kernels.tiles import ADD


@kernel(do_not_specialize=("numel",))
def merge_dense(base, values, mask, numel, TILE: tl.constexpr, WORDS: tl.constexpr):
    """Copy the elements of one tile whose mask byte is not zero."""
    start = tl.program_id(0).to(tl.int64) * TILE
    to = base + start * WORDS
    source = values + start * WORDS
    lanes = tl.arange(0, TILE)
    # A bound check is a predicate on each byte, and predicates kill vector loads: only the last,
    # partial tile pays it. Lanes past the end count as false, so that tile is never "all true".
    if start + TILE <= numel:
        chosen = tl.load(mask + start + lanes) != 0
    else:
        chosen = tl.load(mask + start + lanes, mask=start + lanes < numel, other=0) != 0
    count = tl.reduce(chosen.to(tl.int32), 0, ADD)
    if count == TILE:
        # Two dimensions: with one, the compiler would give the load the order in which the threads
        # hold the mask, the store another, and send all through shared memory between them.
        VECTOR: tl.constexpr = 128 // base.dtype.element_ty.primitive_bitwidth
        vector = tl.arange(0, TILE * WORDS // VECTOR)
        words = vector[:, None] * VECTOR + tl.arange(0, VECTOR)[None, :]
        tl.store(to + words, tl.load(source + words))
    elif count > 0:
        for word in tl.static_range(WORDS):
            at = lanes * WORDS + word
            tl.store(to + at, tl.load(source + at, mask=chosen), mask=chosen)


@kernel(do_not_specialize=("count", "base_rows"))
def merge_rows(
    base,
    values,
    rows,
    count,
    base_rows,
    row_words,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """Copy one tile of `ROWS` rows by `COLS` words; rows out of range are skipped."""
    program = tl.program_id(0).to(tl.int64)
    # The grid is one-dimensional because its other dimensions end at 65535.
    across = (row_words + COLS - 1) // COLS
    row = program // across * ROWS + tl.arange(0, ROWS)
    col = program % across * COLS + tl.arange(0, COLS)
    live = row < count
    target = tl.load(rows + row, mask=live, other=0)
    live = live & (target >= 0) & (target < base_rows)
    keep = live[:, None] & (col < row_words)[None, :]
    moved = tl.load(values + (row[:, None] * row_words + col[None, :]), mask=keep)
    tl.store(base + (target[:, None] * row_words + col[None, :]), moved, mask=keep)


@kernel(do_not_specialize=("count", "numel"))
def merge_elements(base, values, indices, count, numel, TILE: tl.constexpr, WORDS: tl.constexpr):
    """Scatter one tile of values; indices out of range are skipped."""
    lanes = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    live = lanes < count
    target = tl.load(indices + lanes, mask=live, other=0)
    live = live & (target >= 0) & (target < numel)
    for word in tl.static_range(WORDS):
        moved = tl.load(values + (lanes * WORDS + word), mask=live)
        tl.store(base + (target * WORDS + word), moved, mask=live)


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
    tiles.check_launch("delta_merge", base=base, values=values, mask=mask)
    numel = base.numel()
    if numel == 0:
        return
    word, words, tile = tiles.layout(base)
    merge_dense.launch(
        base.device,
        triton.cdiv(numel, tile),
        triton.reinterpret(base, word),
        triton.reinterpret(values, word),
        triton.reinterpret(mask, tl.int8),
        numel,
        TILE=tile,
        WORDS=words,
        num_warps=tiles.NUM_WARPS,
    )
    tiles.bump(base)


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
    tiles.check_launch("delta_merge_rows", base=base, values=values, rows=rows)
    if base.numel() == 0 or values.numel() == 0:
        return
    row_bytes = values.numel() // rows.numel() * base.element_size()
    width = tiles.row_word(row_bytes, base.data_ptr(), values.data_ptr())
    row_words = row_bytes // width
    tile_rows, tile_cols = tiles.row_tile(row_words, width)
    merge_rows.launch(
        base.device,
        triton.cdiv(rows.numel(), tile_rows) * triton.cdiv(row_words, tile_cols),
        triton.reinterpret(base, tiles.WORD[width]),
        triton.reinterpret(values, tiles.WORD[width]),
        rows,
        rows.numel(),
        base.shape[0],
        row_words,
        ROWS=tile_rows,
        COLS=tile_cols,
        num_warps=tiles.NUM_WARPS,
    )
    tiles.bump(base)


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
    tiles.check_launch("delta_merge_elements", base=base, values=values, indices=indices)
    if base.numel() == 0 or indices.numel() == 0:
        return
    word, words, _ = tiles.layout(base)
    merge_elements.launch(
        base.device,
        triton.cdiv(indices.numel(), tiles.SCATTER_TILE),
        triton.reinterpret(base, word),
        triton.reinterpret(values, word),
        indices,
        indices.numel(),
        base.numel(),
        TILE=tiles.SCATTER_TILE,
        WORDS=words,
        num_warps=tiles.NUM_WARPS,
    )
    tiles.bump(base)
