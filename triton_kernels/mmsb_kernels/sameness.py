"""Whether two tensors have the same bits, told on the device: nobody waits for the answer here."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmsb_kernels import tiles
from mmsb_kernels.checks import check_alike
from mmsb_kernels.dual import kernel
from mmsb_kernels.tiles import ADD


@kernel(do_not_specialize=("size",))
def find_difference(a, b, same, size, TILE: tl.constexpr):
    """Store 0 to `same` if one tile differs; reads nothing once somebody has found a difference."""
    if tl.load(same, volatile=True) != 0:
        start = tl.program_id(0).to(tl.int64) * TILE
        lanes = tl.arange(0, TILE)
        if start + TILE <= size:
            differs = tl.load(a + start + lanes) != tl.load(b + start + lanes)
        else:
            live = start + lanes < size
            left = tl.load(a + start + lanes, mask=live, other=0)
            differs = left != tl.load(b + start + lanes, mask=live, other=0)
        if tl.reduce(differs.to(tl.int32), 0, ADD) > 0:
            tl.store(same, 0)  # all who store, store the same


def same_bits(a: Tensor, b: Tensor) -> Tensor:
    """Return whether two tensors have the same bits: a NaN equals the same NaN, 0.0 is not -0.0.

    Args:
        a: any shape and dtype, contiguous.
        b: shape, dtype and device of `a`, contiguous.

    Returns:
        A new 0-dim bool tensor on the device.

    Raises:
        ValueError: a shape or a device differs, a tensor is not contiguous, or the device is no GPU.
        TypeError: a dtype differs.
    """
    check_alike("same_bits", a, b=b)
    tiles.check_launch("same_bits", a=a, b=b)
    same = torch.ones((), dtype=torch.bool, device=a.device)
    if a.numel():
        width, words = tiles.mover(a, b)
        tile, size = tiles.MOVE_TILE[width], a.nbytes // width
        find_difference.launch(
            a.device,
            triton.cdiv(size, tile),
            *words,
            triton.reinterpret(same, tl.int8),
            size,
            TILE=tile,
            num_warps=tiles.NUM_WARPS,
        )
    return same
