"""A digest of each block of a tensor, made on the device: a change is known without a trip to the host.

`reference.digest` says what it is.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmsb_kernels import tiles
from mmsb_kernels.dual import kernel
from mmsb_kernels.reference import digest as law
from mmsb_kernels.tiles import ADD

KEY = tl.constexpr(law.KEY)
ONE_A, ONE_B, TWO_A, TWO_B = (tl.constexpr(number) for pair in law.MIXES for number in pair)


@kernel(do_not_specialize=("size",))
def digest_block(words, digests, size, TILE: tl.constexpr, PARTS: tl.constexpr):
    """Store the digest of one block of `TILE` words, each of `PARTS` words of memory."""
    program = tl.program_id(0).to(tl.int64)
    start = program * TILE
    lanes = tl.arange(0, TILE)
    from_here = words + start * PARTS
    word = tl.full([TILE], 0, dtype=tl.int64)
    if (start + TILE) * PARTS <= size:
        if PARTS == 1:
            word = tl.load(from_here + lanes).to(tl.int64)
        else:
            for part in tl.static_range(PARTS):
                piece = tl.load(from_here + (lanes * PARTS + part)).to(tl.int64)
                word = word | ((piece & ((1 << (64 // PARTS)) - 1)) << (part * (64 // PARTS)))
    else:
        for part in tl.static_range(PARTS):
            at = lanes * PARTS + part
            piece = tl.load(from_here + at, mask=start * PARTS + at < size, other=0).to(tl.int64)
            if PARTS > 1:
                piece = piece & ((1 << (64 // PARTS)) - 1)
            word = word | (piece << (part * (64 // PARTS)))
    x = word ^ ((start + lanes + 1) * KEY)
    one = x * ONE_A
    one = (one ^ ((one >> 32) & 0xFFFFFFFF)) * ONE_B
    one = one ^ ((one >> 32) & 0xFFFFFFFF)
    two = x * TWO_A
    two = (two ^ ((two >> 32) & 0xFFFFFFFF)) * TWO_B
    two = two ^ ((two >> 32) & 0xFFFFFFFF)
    to = digests + program * 2
    tl.store(to, tl.reduce(one, 0, ADD))
    tl.store(to + 1, tl.reduce(two, 0, ADD))


def block_digest(tensor: Tensor) -> Tensor:
    """Return the digest of each block of 16 KiB.

    Args:
        tensor: any shape and dtype, contiguous.

    Returns:
        A new int64 `[blocks, 2]` on the device; `.sum(0)` of it is the digest of the tensor.

    Raises:
        ValueError: it is not contiguous, or the device is no GPU.
    """
    tiles.check_launch("block_digest", tensor=tensor)
    blocks = triton.cdiv(tensor.nbytes, 8 * law.BLOCK_WORDS)
    digests = torch.empty((blocks, 2), dtype=torch.int64, device=tensor.device)
    if blocks:
        width, words = tiles.mover(tensor)
        digest_block.launch(
            tensor.device,
            blocks,
            *words,
            digests,
            tensor.nbytes // width,
            TILE=law.BLOCK_WORDS,
            PARTS=8 // width,
            num_warps=tiles.NUM_WARPS,
        )
    return digests
