"""Masked merges in place: base[where] = values[where], bit for bit.

On the CPU each function picks the fastest form for the mask's density (measured against a plain
`copy_` of the page; the table is printed by `make bench`). On CUDA the Triton kernels of
`mmsb_kernels` do the work through the dispatcher (see `ops`). Arguments are trusted: shapes,
ranges and uniqueness were checked by who staged the delta.
"""

from __future__ import annotations

import ctypes

import numpy as np
import torch
from torch import Tensor

from mmsb_torch.device.packing import unpack_mask
from mmsb_torch.device.words import flat_words, words

# index_copy_ and where move the bits of these as they are; other dtypes go through their words
_INDEXABLE = frozenset(
    {
        torch.bool,
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
    }
)
_SMALL = 8_192  # elements below which one torch.where costs less than counting the mask first
_SPARSE = 0.005  # density up to which np.copyto wins
_MIXED = (0.08, 0.85)  # densities between which branch-free selection wins ...
_SELECT_FROM = 262_144  # ... on masks of at least this many elements
_FULL = 0.85  # density of bits from which numpy's look at each element beats a list of positions
_BLOCK = 65_536  # words selected at a time: three such blocks stay in a core's cache


def delta_merge(base: Tensor, values: Tensor, mask: Tensor) -> None:
    """Merge `values` into `base` where `mask` is True, in place.

    Args:
        base: contiguous, any dense dtype and shape.
        values: contiguous, base's dtype, shape and device.
        mask: contiguous bool of base's shape and device.
    """
    if base.is_cuda:
        torch.ops.mmsb.delta_merge(base, values, mask)
    else:
        merge_mask_cpu(base, values, mask)


def delta_merge_row(base: Tensor, values: Tensor, row: int) -> None:
    """Replace one row of `base`, in place; on the CPU, any dense dtype.

    Args:
        base: contiguous, at least one dimension, nobody else's memory: its version stays.
        values: contiguous [1, *base.shape[1:]] of base's dtype.
        row: in range.
    """
    nbytes = values.nbytes
    ctypes.memmove(base.data_ptr() + row * nbytes, values.data_ptr(), nbytes)


def delta_merge_rows(base: Tensor, values: Tensor, rows: Tensor) -> None:
    """Replace rows of `base`, in place.

    Args:
        base: contiguous, at least one dimension.
        values: [n, *base.shape[1:]] of base's dtype and device.
        rows: int64 [n], unique, in range, on base's device.
    """
    if base.is_cuda:
        torch.ops.mmsb.delta_merge_rows(base, values, rows)
    elif base.dtype in _INDEXABLE:  # as merge_rows_cpu, one call less on the hottest path
        base.index_copy_(0, rows, values)
    else:
        merge_rows_cpu(base, values, rows)


def delta_merge_elements(base: Tensor, values: Tensor, indices: Tensor) -> None:
    """Replace elements of `base` by flat index in C order, in place.

    Args:
        base: contiguous.
        values: [n] of base's dtype and device.
        indices: int64 [n], unique, in range, on base's device.
    """
    if base.is_cuda:
        torch.ops.mmsb.delta_merge_elements(base, values, indices)
    else:
        merge_elements_cpu(base, values, indices)


def delta_merge_bits(base: Tensor, values: Tensor, bits: Tensor) -> None:
    """Replace the elements of `base` whose bit is set, in place.

    Args:
        base: contiguous.
        values: [popcount], compact, in C order, of base's dtype and device.
        bits: uint8 [ceil(numel / 8)], packed as in `pack_mask`.
    """
    if base.is_cuda:
        torch.ops.mmsb.delta_merge_bits(base, values, bits)
    else:
        merge_bits_cpu(base, values, bits)


def merge_mask_cpu(base: Tensor, values: Tensor, mask: Tensor) -> None:
    """`delta_merge` on the CPU: the form is chosen by the mask's size and density."""
    total = mask.numel()
    if base.dtype in _INDEXABLE and total < _SMALL:
        torch.where(mask, values, base, out=base)
        return
    to, new = words(base), words(values)
    if to.dim() > mask.dim():  # 16-byte dtypes: two words an element
        mask = mask.unsqueeze(-1).expand_as(to).contiguous()
    if total < _SMALL:
        torch.where(mask, new, to, out=to)
        return
    where = mask.numpy()
    count = int(np.count_nonzero(where))
    density = count / where.size
    if count == 0:
        return
    if count == where.size:
        to.copy_(new)
    elif density <= _SPARSE:
        np.copyto(to.numpy(), new.numpy(), where=where)
    elif _MIXED[0] <= density <= _MIXED[1] and total >= _SELECT_FROM:
        _select(to.view(-1), new.view(-1), mask.view(-1))
    else:
        torch.where(mask, new, to, out=to)


def _select(base: Tensor, values: Tensor, mask: Tensor) -> None:
    """Branch-free selection, block by block: base ^= (base ^ values) * mask."""
    scratch = base.new_empty(_BLOCK)
    for start in range(0, base.numel(), _BLOCK):
        part = base[start : start + _BLOCK]
        flips = torch.bitwise_xor(part, values[start : start + _BLOCK], out=scratch[: part.numel()])
        part.bitwise_xor_(flips.mul_(mask[start : start + _BLOCK]))


def merge_rows_cpu(base: Tensor, values: Tensor, rows: Tensor) -> None:
    """`delta_merge_rows` on the CPU."""
    if base.dtype in _INDEXABLE:
        base.index_copy_(0, rows, values)
    else:
        words(base).index_copy_(0, rows, words(values))


def merge_elements_cpu(base: Tensor, values: Tensor, indices: Tensor) -> None:
    """`delta_merge_elements` on the CPU."""
    if base.dtype in _INDEXABLE:
        base.view(-1).index_copy_(0, indices, values)
    else:
        flat_words(base).index_copy_(0, indices, flat_words(values))


def merge_bits_cpu(base: Tensor, values: Tensor, bits: Tensor) -> None:
    """`delta_merge_bits` on the CPU: numpy's ways take a half to all of `masked_scatter_`'s time."""
    where = unpack_mask(bits, (base.numel(),)).numpy()
    to, new = flat_words(base).numpy(), flat_words(values).numpy()
    if len(new) > _FULL * len(where):
        to[where] = new
    else:
        to[np.flatnonzero(where)] = new
