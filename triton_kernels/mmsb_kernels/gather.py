"""Read rows by number; writing them by number is `merge.delta_merge_rows`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmsb_kernels import tiles
from mmsb_kernels.checks import check_gather
from mmsb_kernels.dual import kernel


@kernel(do_not_specialize=("count", "source_rows"))
def gather(
    source,
    gathered,
    rows,
    count,
    source_rows,
    row_words,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """Copy one tile of `ROWS` rows by `COLS` words; rows out of range become zeros."""
    program = tl.program_id(0).to(tl.int64)
    across = (row_words + COLS - 1) // COLS  # one-dimensional for the reason of merge_rows
    row = program // across * ROWS + tl.arange(0, ROWS)
    col = program % across * COLS + tl.arange(0, COLS)
    live = row < count
    number = tl.load(rows + row, mask=live, other=0)
    known = live & (number >= 0) & (number < source_rows)
    inside = (col < row_words)[None, :]
    at = number[:, None] * row_words + col[None, :]
    moved = tl.load(source + at, mask=known[:, None] & inside, other=0)
    to = gathered + (row[:, None] * row_words + col[None, :])
    tl.store(to, moved, mask=live[:, None] & inside)


def gather_rows(source: Tensor, rows: Tensor) -> Tensor:
    """Return the rows of `source` that `rows` names, in its order.

    Args:
        source: at least one dimension, any dtype, contiguous.
        rows: int64 `[n]`, contiguous; the same row may be named again. One outside
            `[0, source.shape[0])` gives zeros, and nobody is told: telling would make the host wait.

    Returns:
        A new `[n, *source.shape[1:]]` on the device.

    Raises:
        ValueError: `source` has no rows, `rows` does not fit it, a tensor is not contiguous, or the
            device is no GPU.
        TypeError: `rows` is not int64.
    """
    check_gather("gather_rows", source, rows)
    tiles.check_launch("gather_rows", source=source, rows=rows)
    gathered = torch.empty(
        (rows.numel(), *source.shape[1:]), dtype=source.dtype, device=source.device
    )
    if gathered.numel() == 0:
        return gathered
    row_bytes = gathered.nbytes // rows.numel()
    width = tiles.row_word(row_bytes, source.data_ptr(), gathered.data_ptr())
    row_words = row_bytes // width
    tile_rows, tile_cols = tiles.row_tile(row_words, width)
    gather.launch(
        source.device,
        triton.cdiv(rows.numel(), tile_rows) * triton.cdiv(row_words, tile_cols),
        triton.reinterpret(source, tiles.WORD[width]),
        triton.reinterpret(gathered, tiles.WORD[width]),
        rows,
        rows.numel(),
        source.shape[0],
        row_words,
        ROWS=tile_rows,
        COLS=tile_cols,
        num_warps=tiles.NUM_WARPS,
    )
    return gathered
