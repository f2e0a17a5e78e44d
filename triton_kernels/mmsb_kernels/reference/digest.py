"""A digest of each block of a tensor, so that a change is known without looking at the values again.

The bytes are words of 8, the last block filled up with zeros. Word number i, counted from the beginning of the
tensor, is joined with its number, `x = word ^ ((i + 1) * KEY)`, and mixed in two ways, each a bijection of
64 bits (multiply, fold the upper half into the lower, multiply, fold: the pattern of MurmurHash3's
finalizer, fmix64). The two numbers of a block are the sums of these, modulo 2**64. So

- whatever one word changes to, both numbers of its block change, with certainty;
- other changes are missed with a chance of about 2**-128, as long as nobody builds them on purpose: this
  is no cryptographic hash;
- sums come out the same in any order, and the digest of a tensor is the sum of those of its blocks.

Shape, dtype and number of bytes are not part of it: compare them beside.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK_WORDS = 2048
"""Words in a block: 16 KiB."""

KEY = -0x61C8864680B583EB  # 2**64 / golden ratio, odd, as of splitmix64
MIXES = (
    (-0x00AE502812AA7333, -0x3B314601E57A13AD),  # of fmix64
    (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15),  # of splitmix64
)


def block_digest(tensor: Tensor) -> Tensor:
    """Return the digest of each block of 16 KiB.

    Args:
        tensor: any shape and dtype; its bytes in C order count.

    Returns:
        A new int64 `[blocks, 2]` on the device; `.sum(0)` of it is the digest of the tensor.
    """
    source = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    blocks = -(-source.numel() // (8 * BLOCK_WORDS))
    whole = torch.zeros(blocks * 8 * BLOCK_WORDS, dtype=torch.uint8, device=tensor.device)
    whole[: source.numel()] = source
    x = whole.view(torch.int64)
    x = x ^ ((torch.arange(len(x), device=tensor.device) + 1) * KEY)
    mixed = [_fold(_fold(x * first) * second) for first, second in MIXES]
    return torch.stack(mixed, dim=-1).reshape(blocks, BLOCK_WORDS, 2).sum(1)


def _fold(x: Tensor) -> Tensor:
    return x ^ ((x >> 32) & 0xFFFFFFFF)
