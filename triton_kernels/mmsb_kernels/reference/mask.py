"""Masks: packed to bits and unpacked, joined, counted. Element i is bit i % 8 of byte i // 8."""

from __future__ import annotations

import torch
from torch import Tensor

from mmsb_kernels.checks import check_alike, check_bool, check_packed, packed_size


def pack_mask(mask: Tensor) -> Tensor:
    """Return `mask` as bits: element `i` in C order is bit `i % 8` of byte `i // 8`.

    Args:
        mask: bool, any shape.

    Returns:
        A new uint8 `[ceil(mask.numel() / 8)]` on the same device; the bits past the end are zero.

    Raises:
        TypeError: `mask` is not bool.
    """
    check_bool("pack_mask", mask)
    size = packed_size(mask.numel())
    lanes = torch.zeros(size * 8, dtype=torch.uint8, device=mask.device)
    lanes[: mask.numel()] = mask.reshape(-1)
    weights = 2 ** torch.arange(8, dtype=torch.uint8, device=mask.device)
    return (lanes.reshape(size, 8) * weights).sum(dim=1, dtype=torch.uint8)


def unpack_mask(bits: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the bool mask of `shape` that `pack_mask` packed into `bits`.

    Args:
        bits: uint8 `[ceil(n / 8)]`, with `n` the number of elements of `shape`.
        shape: shape of the mask.

    Returns:
        A new bool tensor of `shape` on the same device.

    Raises:
        ValueError: `bits` has another shape.
        TypeError: `bits` is not uint8.
    """
    numel = torch.Size(shape).numel()
    check_packed("unpack_mask", bits, numel)
    shifts = torch.arange(8, dtype=torch.uint8, device=bits.device)
    lanes = (bits.reshape(-1, 1) >> shifts) & 1
    return lanes.reshape(-1)[:numel].to(torch.bool).reshape(shape)


def and_masks(a: Tensor, b: Tensor) -> Tensor:
    """Return what is set in both masks, of any integer dtype or bool, packed or not.

    Raises:
        ValueError: a shape or a device differs.
        TypeError: a dtype differs.
    """
    check_alike("and_masks", a, b=b)
    return a & b


def or_masks(a: Tensor, b: Tensor) -> Tensor:
    """Return what is set in any of two masks; as `and_masks`."""
    check_alike("or_masks", a, b=b)
    return a | b


def count_mask(bits: Tensor, numel: int) -> Tensor:
    """Return the number of bits set in a packed mask of `numel` elements, as a 0-dim int64 tensor.

    Raises:
        ValueError: `bits` has not the size of such a mask.
        TypeError: `bits` is not uint8.
    """
    check_packed("count_mask", bits, numel)
    return unpack_mask(bits, (numel,)).sum()
