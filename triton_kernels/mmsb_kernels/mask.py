"""Masks: packed to bits and unpacked, joined, counted. Element i is bit i % 8 of byte i // 8."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmsb_kernels import tiles
from mmsb_kernels.bits import count_bits
from mmsb_kernels.checks import check_alike, check_bool, check_packed, packed_size
from mmsb_kernels.dual import kernel
from mmsb_kernels.tiles import ADD

_COUNT_TILE = 2048  # elements: a warp with 8 bytes a thread


@kernel(do_not_specialize=("numel",))
def pack_bytes(mask, bits, numel, TILE: tl.constexpr):
    """Store one tile of `TILE` bytes, each of 8 mask bytes; what lies past the end is zero."""
    start = tl.program_id(0).to(tl.int64) * TILE
    byte = tl.arange(0, TILE)
    lanes = byte[:, None] * 8 + tl.arange(0, 8)[None, :]
    from_here = mask + start * 8
    if (start + TILE) * 8 <= numel:
        chosen = tl.load(from_here + lanes) != 0
    else:
        chosen = tl.load(from_here + lanes, mask=start * 8 + lanes < numel, other=0) != 0
    packed = tl.reduce(chosen.to(tl.int32) << tl.arange(0, 8)[None, :], 1, ADD)
    tl.store(bits + start + byte, packed.to(tl.uint8), mask=(start + byte) * 8 < numel)


@kernel(do_not_specialize=("numel",))
def unpack_bytes(bits, mask, numel, TILE: tl.constexpr):
    """Store the `TILE * 8` mask bytes of one tile of `TILE` bytes."""
    start = tl.program_id(0).to(tl.int64) * TILE
    byte = tl.arange(0, TILE)[:, None]
    shift = tl.arange(0, 8)[None, :]
    packed = tl.load(bits + start + byte, mask=(start + byte) * 8 < numel, other=0).to(tl.int32)
    lanes = byte * 8 + shift
    to = mask + start * 8
    if (start + TILE) * 8 <= numel:
        tl.store(to + lanes, ((packed >> shift) & 1).to(tl.int8))
    else:
        live = start * 8 + lanes < numel
        tl.store(to + lanes, ((packed >> shift) & 1).to(tl.int8), mask=live)


@kernel(do_not_specialize=("size",))
def join_words(a, b, joined, size, TILE: tl.constexpr, UNION: tl.constexpr):
    """Store one tile of words of `a | b` or `a & b`."""
    start = tl.program_id(0).to(tl.int64) * TILE
    lanes = tl.arange(0, TILE)
    if start + TILE <= size:
        one, two = tl.load(a + start + lanes), tl.load(b + start + lanes)
        tl.store(joined + start + lanes, one | two if UNION else one & two)
    else:
        live = start + lanes < size
        one = tl.load(a + start + lanes, mask=live)
        two = tl.load(b + start + lanes, mask=live)
        tl.store(joined + start + lanes, one | two if UNION else one & two, mask=live)


def pack_mask(mask: Tensor) -> Tensor:
    """Return `mask` as bits.

    Args:
        mask: bool, any shape, contiguous.

    Returns:
        A new uint8 `[ceil(mask.numel() / 8)]` on the device; the bits past the end are zero.

    Raises:
        TypeError: `mask` is not bool.
        ValueError: it is not contiguous, or the device is no GPU.
    """
    check_bool("pack_mask", mask)
    tiles.check_launch("pack_mask", mask=mask)
    size = packed_size(mask.numel())
    bits = torch.empty(size, dtype=torch.uint8, device=mask.device)
    if size:
        pack_bytes.launch(
            mask.device,
            triton.cdiv(size, tiles.PACK_TILE),
            triton.reinterpret(mask, tl.int8),
            bits,
            mask.numel(),
            TILE=tiles.PACK_TILE,
            num_warps=tiles.NUM_WARPS,
        )
    return bits


def unpack_mask(bits: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the bool mask of `shape` that `pack_mask` packed into `bits`.

    Args:
        bits: uint8 `[ceil(n / 8)]`, with `n` the number of elements of `shape`, contiguous.
        shape: shape of the mask.

    Returns:
        A new bool tensor of `shape` on the device.

    Raises:
        ValueError: `bits` has another shape, is not contiguous, or the device is no GPU.
        TypeError: `bits` is not uint8.
    """
    mask = torch.empty(shape, dtype=torch.bool, device=bits.device)
    check_packed("unpack_mask", bits, mask.numel())
    tiles.check_launch("unpack_mask", bits=bits)
    if mask.numel():
        unpack_bytes.launch(
            bits.device,
            triton.cdiv(bits.numel(), tiles.PACK_TILE),
            bits,
            triton.reinterpret(mask, tl.int8),
            mask.numel(),
            TILE=tiles.PACK_TILE,
            num_warps=tiles.NUM_WARPS,
        )
    return mask


def and_masks(a: Tensor, b: Tensor) -> Tensor:
    """Return what is set in both masks, of any integer dtype or bool, packed or not.

    Args:
        a: contiguous.
        b: shape, dtype and device of `a`, contiguous.

    Returns:
        A new tensor like `a`.

    Raises:
        ValueError: a shape or a device differs, a tensor is not contiguous, or the device is no GPU.
        TypeError: a dtype differs.
    """
    return _joined("and_masks", a, b, union=False)


def or_masks(a: Tensor, b: Tensor) -> Tensor:
    """Return what is set in any of two masks; arguments, result and errors as of `and_masks`."""
    return _joined("or_masks", a, b, union=True)


def count_mask(bits: Tensor, numel: int) -> Tensor:
    """Return the number of bits set in a packed mask of `numel` elements.

    Args:
        bits: uint8 `[ceil(numel / 8)]`, contiguous; the bits past the last element do not matter.
        numel: elements of the mask.

    Returns:
        A new 0-dim int64 tensor on the device.

    Raises:
        ValueError: `bits` has another shape, is not contiguous, or the device is no GPU.
        TypeError: `bits` is not uint8.
    """
    check_packed("count_mask", bits, numel)
    tiles.check_launch("count_mask", bits=bits)
    counts = torch.empty(triton.cdiv(numel, _COUNT_TILE), dtype=torch.int64, device=bits.device)
    if numel:
        count_bits.launch(
            bits.device, counts.numel(), bits, counts, numel, TILE=_COUNT_TILE, num_warps=1
        )
    return counts.sum()


def _joined(where: str, a: Tensor, b: Tensor, *, union: bool) -> Tensor:
    check_alike(where, a, b=b)
    tiles.check_launch(where, a=a, b=b)
    joined = torch.empty_like(a)
    if a.numel():
        width, words = tiles.mover(a, b, joined)
        tile, size = tiles.MOVE_TILE[width], a.nbytes // width
        join_words.launch(
            a.device,
            triton.cdiv(size, tile),
            *words,
            size,
            TILE=tile,
            UNION=union,
            num_warps=tiles.NUM_WARPS,
        )
    return joined
