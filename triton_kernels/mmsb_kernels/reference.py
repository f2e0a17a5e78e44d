"""What the merges mean, in plain torch: the kernels are compared with this, bit for bit.

Every function takes any dtype, any strides and any device, and moves bits through integer views,
so NaN payloads and -0.0 survive and no two values are ever compared as numbers. Speed is no aim.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmsb_kernels.checks import check_bits, check_dense, check_elements, check_rows, packed_size

_WORD = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def delta_merge(base: Tensor, values: Tensor, mask: Tensor) -> None:
    """Write `values` into `base` where `mask` is true.

    Args:
        base: any shape and dtype; changed in place.
        values: shape and dtype of `base`; what it holds where `mask` is false does not matter.
        mask: bool, shape of `base`.

    Raises:
        ValueError: a shape or a device differs from that of `base`.
        TypeError: a dtype differs.
    """
    check_dense("delta_merge", base, values, mask)
    target = _words(base)
    chosen = mask.reshape(mask.shape + (1,) * (target.dim() - base.dim()))
    target.copy_(torch.where(chosen, _words(values), target))


def delta_merge_rows(base: Tensor, values: Tensor, rows: Tensor) -> None:
    """Write `values[i]` into `base[rows[i]]`.

    Args:
        base: at least one dimension, any dtype; changed in place.
        values: `[n, *base.shape[1:]]`, dtype of `base`.
        rows: int64 `[n]`, each in `[0, base.shape[0])`, without duplicates.

    Raises:
        ValueError: a shape or a device does not fit `base`.
        TypeError: a dtype does not fit.
        IndexError: a row is out of range; `base` is unchanged.
    """
    check_rows("delta_merge_rows", base, values, rows)
    _check_range("delta_merge_rows", "rows", rows, base.shape[0])
    _words(base)[rows] = _words(values)


def delta_merge_elements(base: Tensor, values: Tensor, indices: Tensor) -> None:
    """Write `values[i]` into the element of `base` that is number `indices[i]` in C order.

    Args:
        base: any shape and dtype; changed in place.
        values: `[n]`, dtype of `base`.
        indices: int64 `[n]`, each in `[0, base.numel())`, without duplicates.

    Raises:
        ValueError: a shape or a device does not fit `base`.
        TypeError: a dtype does not fit.
        IndexError: an index is out of range; `base` is unchanged.
    """
    check_elements("delta_merge_elements", base, values, indices)
    _check_range("delta_merge_elements", "indices", indices, base.numel())
    target = _words(base)
    # A copy, because the elements of a strided base have no flat view.
    flat = target.clone().reshape(base.numel(), *target.shape[base.dim() :])
    flat[indices] = _words(values)
    target.copy_(flat.reshape(target.shape))


def delta_merge_bits(base: Tensor, values: Tensor, bits: Tensor) -> None:
    """Write the compact `values`, in C order, into the elements of `base` whose bit is set.

    Args:
        base: any shape and dtype; changed in place.
        values: `[k]`, dtype of `base`, with `k` the number of bits set.
        bits: uint8 `[ceil(base.numel() / 8)]`; element `i` is bit `i % 8` of byte `i // 8`. The
            bits past the last element do not matter.

    Raises:
        ValueError: a shape or a device does not fit `base`, or `k` is not the number of bits set.
        TypeError: a dtype does not fit.
    """
    check_bits("delta_merge_bits", base, values, bits)
    indices = unpack_mask(bits, (base.numel(),)).nonzero().reshape(-1)
    if indices.numel() != values.numel():
        raise ValueError(
            f"delta_merge_bits: values: expected {indices.numel()} values, one for each bit set, "
            f"found {values.numel()}. Pass base-like values as values[mask]."
        )
    delta_merge_elements(base, values, indices)


def pack_mask(mask: Tensor) -> Tensor:
    """Return `mask` as bits: element `i` in C order is bit `i % 8` of byte `i // 8`.

    Args:
        mask: bool, any shape.

    Returns:
        A new uint8 `[ceil(mask.numel() / 8)]` on the same device; the bits past the end are zero.

    Raises:
        TypeError: `mask` is not bool.
    """
    if mask.dtype != torch.bool:
        raise TypeError(
            f"pack_mask: mask: expected torch.bool, found {mask.dtype}. Pass mask != 0."
        )
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
    if bits.dtype != torch.uint8:
        raise TypeError(
            f"unpack_mask: bits: expected torch.uint8, found {bits.dtype}. Pass what pack_mask gave."
        )
    if tuple(bits.shape) != (packed_size(numel),):
        raise ValueError(
            f"unpack_mask: bits: expected shape {(packed_size(numel),)} for a mask of "
            f"{tuple(shape)}, found {tuple(bits.shape)}. Pass what pack_mask gave."
        )
    shifts = torch.arange(8, dtype=torch.uint8, device=bits.device)
    lanes = (bits.reshape(-1, 1) >> shifts) & 1
    return lanes.reshape(-1)[:numel].to(torch.bool).reshape(shape)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors have the same shape, dtype and bits.

    A NaN equals the same NaN, and 0.0 differs from -0.0. Waits for the device.

    Args:
        a: any shape and dtype.
        b: any shape and dtype, on the device of `a`.

    Returns:
        True if nothing but strides and addresses tells them apart.
    """
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(_words(a), _words(b))


def _words(tensor: Tensor) -> Tensor:
    """Return a view of `tensor` as integers; 16-byte elements become a last dimension of two."""
    tensor = tensor.detach()
    if tensor.dtype.itemsize == 16:
        return torch.view_as_real(tensor).view(torch.int64)
    return tensor.view(_WORD[tensor.dtype.itemsize])


def _check_range(where: str, name: str, indices: Tensor, size: int) -> None:
    if indices.numel() and (int(indices.min()) < 0 or int(indices.max()) >= size):
        raise IndexError(
            f"{where}: {name}: expected indices in [0, {size}), found "
            f"{int(indices.min())} to {int(indices.max())}. Nothing wraps around; nothing was written."
        )
