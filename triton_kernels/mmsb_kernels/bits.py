"""Merge compact values under a bit-packed mask, and count the bits of such a mask, tile by tile."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmsb_kernels import tiles
from mmsb_kernels.checks import check_bits
from mmsb_kernels.dual import kernel
from mmsb_kernels.tiles import ADD


@kernel(do_not_specialize=("numel",))
def count_bits(bits, counts, numel, TILE: tl.constexpr):
    """Store the number of bits set among the `TILE` elements of one tile."""
    program = tl.program_id(0).to(tl.int64)
    byte = program * (TILE // 8) + tl.arange(0, TILE // 8)
    # The last byte may have bits past the end.
    left = tl.maximum(tl.minimum(numel - byte * 8, 8), 0).to(tl.int32)
    pairs = tl.load(bits + byte, mask=left > 0, other=0).to(tl.int32) & ((1 << left) - 1)
    # Sums of 1, then 2, then 4 neighbouring bits, all of a byte at once.
    pairs = pairs - ((pairs >> 1) & 0x55)
    fours = (pairs & 0x33) + ((pairs >> 2) & 0x33)
    found = (fours + (fours >> 4)) & 0x0F
    tl.store(counts + program, tl.reduce(found, 0, ADD).to(tl.int64))


@kernel(do_not_specialize=("count", "numel"))
def merge_bits(
    base,
    values,
    bits,
    counts,
    ends,
    count,
    numel,
    TILE: tl.constexpr,
    WORDS: tl.constexpr,
):
    """Copy compact values to the elements of one tile whose bit is set.

    `counts` holds the bits set in each tile and `ends` their inclusive sums, so the values of this
    tile are those from `ends - counts` on. `count` is how many values there are: none is read past
    the end, whatever the bits say.
    """
    program = tl.program_id(0).to(tl.int64)
    start = program * TILE
    found = tl.load(counts + program)
    first = tl.load(ends + program) - found
    to = base + start * WORDS
    source = values + first * WORDS
    if (found == TILE) & (first + TILE <= count):
        words = tl.arange(0, TILE * WORDS)
        tl.store(to + words, tl.load(source + words))
    elif found > 0:
        lanes = tl.arange(0, TILE)
        # TILE is a multiple of 8, so a tile begins with a byte.
        packed = tl.load(bits + start // 8 + lanes // 8, mask=start + lanes < numel, other=0)
        bit = (packed.to(tl.int32) >> (lanes % 8)) & 1
        rank = tl.associative_scan(bit, 0, ADD) - bit
        live = (bit != 0) & (first + rank < count)
        for word in tl.static_range(WORDS):
            moved = tl.load(source + (rank * WORDS + word), mask=live)
            tl.store(to + (lanes * WORDS + word), moved, mask=live)


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
    tiles.check_launch("delta_merge_bits", base=base, values=values, bits=bits)
    numel = base.numel()
    if numel == 0 or values.numel() == 0:
        return
    word, words, tile = tiles.layout(base)
    programs = triton.cdiv(numel, tile)
    counts = torch.empty(programs, dtype=torch.int64, device=base.device)
    count_bits.launch(base.device, programs, bits, counts, numel, TILE=tile, num_warps=1)
    merge_bits.launch(
        base.device,
        programs,
        triton.reinterpret(base, word),
        triton.reinterpret(values, word),
        bits,
        counts,
        counts.cumsum(0),
        values.numel(),
        numel,
        TILE=tile,
        WORDS=words,
        num_warps=tiles.NUM_WARPS,
    )
    tiles.bump(base)
