"""Many small deltas merged into many tensors by one launch."""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from mmsb_kernels import tiles
from mmsb_kernels.checks import check_pieces
from mmsb_kernels.dual import kernel


@kernel(do_not_specialize=("count",))
def merge_pieces(
    values,
    pieces,
    count,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """Copy one tile of `ROWS` pieces of at most `COLS` words.

    A line of `pieces` is three numbers of words: how far the piece's place is from `values`, how far
    its words are, and how many there are. All are multiples of `VECTOR`.
    """
    piece = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    live = piece < count
    to = tl.load(pieces + piece * 3, mask=live, other=0)
    source = tl.load(pieces + (piece * 3 + 1), mask=live, other=0)
    size = tl.load(pieces + (piece * 3 + 2), mask=live, other=0)
    # Products of VECTOR, so that the compiler knows what divides them.
    col = tl.arange(0, COLS)
    keep = col[None, :] < (size * VECTOR)[:, None]
    moved = tl.load(values + ((source * VECTOR)[:, None] + col[None, :]), mask=keep)
    tl.store(values + ((to * VECTOR)[:, None] + col[None, :]), moved, mask=keep)


def delta_merge_many(bases: list[Tensor], values: Tensor, pieces: Tensor) -> None:
    """Copy pieces of `values` into `bases`, all by one launch.

    Args:
        bases: any shapes and dtypes, contiguous, on one device; changed in place.
        values: uint8 `[bytes]` on that device, contiguous: the pieces' bytes.
        pieces: int64 `[n, 4]` on the CPU, a line for each piece: which base, the byte in it where the
            piece begins, the byte in `values` where its values begin, and how many bytes it has. No
            two pieces may write the same byte: either may stay.

    Raises:
        ValueError: a shape or a device differs, a tensor is not contiguous, or the device is no GPU.
        TypeError: a dtype differs.
        IndexError: a piece is not inside of its base or of `values`; nothing was written.
    """
    check_pieces("delta_merge_many", bases, values, pieces)
    tiles.check_launch("delta_merge_many", values=values)
    for base in bases:
        tiles.check_launch("delta_merge_many", base=base)
    if not len(bases) or not len(pieces):
        return
    lines, width, vector, cols = plan(bases, values, pieces)
    if not len(lines):
        return
    rows = max(tiles.ROW_TILE[width] // cols, 1)
    table = lines.pin_memory() if values.is_cuda else lines
    merge_pieces.launch(
        values.device,
        triton.cdiv(len(lines), rows),
        triton.reinterpret(values, tiles.WORD[width]),
        table.to(values.device, non_blocking=True),
        len(lines),
        ROWS=rows,
        COLS=cols,
        VECTOR=vector,
        num_warps=tiles.NUM_WARPS,
    )
    for number in pieces[:, 0].unique().tolist():
        tiles.bump(bases[number])


def plan(bases: list[Tensor], values: Tensor, pieces: Tensor) -> tuple[Tensor, int, int, int]:
    """Return the lines that `merge_pieces` reads, made of checked pieces; no tensor is read.

    Returns:
        lines: int64 `[m, 3]`: to, from, size, in vectors, as seen from `values`.
        width: bytes of a word.
        vector: words in a vector: 16 bytes if everything is a multiple of that, else one word.
        cols: words that one line has at most; a power of two.
    """
    which, at, start, size = pieces[pieces[:, 3] > 0].unbind(1)
    if not len(size):
        return size.view(0, 3), 8, 1, 1
    begin = values.data_ptr()
    to = torch.tensor([base.data_ptr() - begin for base in bases], dtype=torch.int64)[which] + at
    # What divides all numbers divides what one gets by joining their bits, if it is a power of two.
    joined = int(np.bitwise_or.reduce(torch.cat([to, start, size]).numpy())) | begin
    unit = min(joined & -joined, 16)
    width = min(unit, 8)
    longest = int(size.max()) // width
    cols = max(min(triton.next_power_of_2(longest), tiles.ROW_TILE[width]), unit // width)
    most = cols * width
    parts = (size + most - 1) // most
    line = torch.repeat_interleave(torch.arange(len(size)), parts)
    skip = (torch.arange(len(line)) - (parts.cumsum(0) - parts)[line]) * most
    left = torch.clamp(size[line] - skip, max=most)
    lines = torch.stack([to[line] + skip, start[line] + skip, left], dim=1) // unit
    return lines, width, unit // width, cols
