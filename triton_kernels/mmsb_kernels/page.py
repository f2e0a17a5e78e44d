"""Copy a tensor, fill it, or fill it with zeros: bits move, at any address and in any dtype."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from mmsb_kernels import tiles
from mmsb_kernels.checks import check_alike, check_fill
from mmsb_kernels.dual import kernel


@kernel(do_not_specialize=("size",))
def copy_words(target, source, size, TILE: tl.constexpr):
    """Copy one tile of words."""
    start = tl.program_id(0).to(tl.int64) * TILE
    lanes = tl.arange(0, TILE)
    if start + TILE <= size:  # as in merge_dense: only the last tile pays for the end
        tl.store(target + start + lanes, tl.load(source + start + lanes))
    else:
        live = start + lanes < size
        tl.store(target + start + lanes, tl.load(source + start + lanes, mask=live), mask=live)


@kernel(do_not_specialize=("size",))
def fill_words(target, value, size, PERIOD: tl.constexpr, TILE: tl.constexpr):
    """Fill one tile with the `PERIOD` words of `value`, time and again."""
    start = tl.program_id(0).to(tl.int64) * TILE
    lanes = tl.arange(0, TILE)
    words = tl.load(value + lanes % PERIOD)  # TILE is a multiple of PERIOD
    if start + TILE <= size:
        tl.store(target + start + lanes, words)
    else:
        tl.store(target + start + lanes, words, mask=start + lanes < size)


@kernel(do_not_specialize=("size",))
def zero_words(target, size, TILE: tl.constexpr):
    """Fill one tile with zeros."""
    start = tl.program_id(0).to(tl.int64) * TILE
    lanes = tl.arange(0, TILE)
    words = tl.full([TILE], 0, dtype=target.dtype.element_ty)
    if start + TILE <= size:
        tl.store(target + start + lanes, words)
    else:
        tl.store(target + start + lanes, words, mask=start + lanes < size)


def page_copy(target: Tensor, source: Tensor) -> None:
    """Make `target` what `source` is.

    Args:
        target: any shape and dtype, contiguous; changed in place.
        source: shape, dtype and device of `target`, contiguous; no part of it is in `target`,
            unless it is `target` itself.

    Raises:
        ValueError: a shape or a device differs, a tensor is not contiguous, or the device is no GPU.
        TypeError: a dtype differs.
    """
    check_alike("page_copy", target, source=source)
    tiles.check_launch("page_copy", target=target, source=source)
    if target.numel() == 0:
        return
    width, words = tiles.mover(target, source)
    tile, size = tiles.MOVE_TILE[width], target.nbytes // width
    copy_words.launch(
        target.device, triton.cdiv(size, tile), *words, size, TILE=tile, num_warps=tiles.NUM_WARPS
    )
    tiles.bump(target)


def page_zero(target: Tensor) -> None:
    """Make every bit of `target` zero.

    Args:
        target: any shape and dtype, contiguous; changed in place.

    Raises:
        ValueError: it is not contiguous, or the device is no GPU.
    """
    tiles.check_launch("page_zero", target=target)
    if target.numel() == 0:
        return
    width, words = tiles.mover(target)
    tile, size = tiles.MOVE_TILE[width], target.nbytes // width
    zero_words.launch(
        target.device, triton.cdiv(size, tile), *words, size, TILE=tile, num_warps=tiles.NUM_WARPS
    )
    tiles.bump(target)


def page_fill(target: Tensor, value: Tensor) -> None:
    """Make every element of `target` the bits of `value`.

    Args:
        target: any shape and dtype, contiguous; changed in place.
        value: 0-dim, dtype and device of `target`: the host does not read it.

    Raises:
        ValueError: a shape or a device differs, `target` is not contiguous, or the device is no GPU.
        TypeError: the dtype differs.
    """
    check_fill("page_fill", target, value)
    tiles.check_launch("page_fill", target=target, value=value)
    if target.numel() == 0:
        return
    word, words, _ = tiles.layout(target)
    tile, size = tiles.MOVE_TILE[min(target.element_size(), 8)], target.numel() * words
    fill_words.launch(
        target.device,
        triton.cdiv(size, tile),
        triton.reinterpret(target, word),
        triton.reinterpret(value, word),
        size,
        PERIOD=words,
        TILE=tile,
        num_warps=tiles.NUM_WARPS,
    )
    tiles.bump(target)
