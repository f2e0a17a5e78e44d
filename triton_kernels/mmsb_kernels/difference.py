"""What differs between two tensors: a packed mask, how many elements, and their new values."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmsb_kernels import tiles
from mmsb_kernels.checks import check_alike, packed_size
from mmsb_kernels.dual import kernel
from mmsb_kernels.tiles import ADD


@kernel(do_not_specialize=("numel",))
def mark_changes(old, new, bits, counts, numel, TILE: tl.constexpr, WORDS: tl.constexpr):
    """Store a bit for each element of one tile whose words differ, and how many do."""
    program = tl.program_id(0).to(tl.int64)
    start = program * TILE
    byte = tl.arange(0, TILE // 8)
    shift = tl.arange(0, 8)[None, :]
    lanes = byte[:, None] * 8 + shift
    before, after = old + start * WORDS, new + start * WORDS
    differs = tl.full([TILE // 8, 8], 0, dtype=tl.int32)
    if start + TILE <= numel:
        for word in tl.static_range(WORDS):
            at = lanes * WORDS + word
            differs = differs | (tl.load(before + at) != tl.load(after + at)).to(tl.int32)
    else:
        live = start + lanes < numel
        for word in tl.static_range(WORDS):
            at = lanes * WORDS + word
            one = tl.load(before + at, mask=live, other=0)
            two = tl.load(after + at, mask=live, other=0)
            differs = differs | (one != two).to(tl.int32)
    packed = tl.reduce(differs << shift, 1, ADD)
    tl.store(bits + start // 8 + byte, packed.to(tl.uint8), mask=start + byte * 8 < numel)
    # The bits of a byte counted as in count_bits.
    pairs = packed - ((packed >> 1) & 0x55)
    fours = (pairs & 0x33) + ((pairs >> 2) & 0x33)
    found = (fours + (fours >> 4)) & 0x0F
    tl.store(counts + program, tl.reduce(found, 0, ADD).to(tl.int64))


@kernel(do_not_specialize=("room", "numel"))
def pick_bits(
    source,
    values,
    bits,
    counts,
    ends,
    room,
    numel,
    TILE: tl.constexpr,
    WORDS: tl.constexpr,
):
    """Copy the elements of one tile whose bit is set behind those of the tiles before; see merge_bits.

    No more than `room` elements are written.
    """
    program = tl.program_id(0).to(tl.int64)
    start = program * TILE
    found = tl.load(counts + program)
    first = tl.load(ends + program) - found
    from_here = source + start * WORDS
    to = values + first * WORDS
    if (found == TILE) & (first + TILE <= room):
        words = tl.arange(0, TILE * WORDS)
        tl.store(to + words, tl.load(from_here + words))
    elif found > 0:
        lanes = tl.arange(0, TILE)
        packed = tl.load(bits + start // 8 + lanes // 8, mask=start + lanes < numel, other=0)
        bit = (packed.to(tl.int32) >> (lanes % 8)) & 1
        rank = tl.associative_scan(bit, 0, ADD) - bit
        live = (bit != 0) & (first + rank < room)
        for word in tl.static_range(WORDS):
            moved = tl.load(from_here + (lanes * WORDS + word), mask=live)
            tl.store(to + (rank * WORDS + word), moved, mask=live)


def page_diff(old: Tensor, new: Tensor, room: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return what makes `new` of `old`: `delta_merge_bits(old, values, bits)` does.

    Args:
        old: any shape and dtype, contiguous.
        new: shape, dtype and device of `old`, contiguous.
        room: elements that `values` shall have, whatever their number: then nobody waits for the
            device. Those past the count are anything; of more than `room` changes the last are left
            out, which the count tells. If left out, the host waits once, for the count.

    Returns:
        bits: uint8 `[ceil(old.numel() / 8)]`, a bit for each element whose bits differ.
        values: `[count]` or `[room]`, dtype of `old`: those elements of `new`, in C order.
        count: 0-dim int64 on the device.

    Raises:
        ValueError: a shape or a device differs, a tensor is not contiguous, or the device is no GPU.
        TypeError: a dtype differs.
    """
    check_alike("page_diff", old, new=new)
    tiles.check_launch("page_diff", old=old, new=new)
    numel, device = old.numel(), old.device
    word, words, tile = tiles.layout(old)
    programs = triton.cdiv(numel, tile)
    bits = torch.empty(packed_size(numel), dtype=torch.uint8, device=device)
    counts = torch.empty(programs, dtype=torch.int64, device=device)
    before, after = triton.reinterpret(old, word), triton.reinterpret(new, word)
    fixed = {"TILE": tile, "WORDS": words, "num_warps": tiles.NUM_WARPS}
    if numel:
        mark_changes.launch(device, programs, before, after, bits, counts, numel, **fixed)
    ends = counts.cumsum(0)
    count = ends[-1].clone() if numel else ends.sum()
    room = int(count) if room is None else room
    values = torch.empty(room, dtype=old.dtype, device=device)
    if numel and room:
        moved = triton.reinterpret(values, word)
        pick_bits.launch(device, programs, after, moved, bits, counts, ends, room, numel, **fixed)
    return bits, values, count
