"""Merge one delta into a tensor: by dense mask, by rows, by elements, by packed bits."""

from __future__ import annotations

import torch
from torch import Tensor

from mmsb_kernels.checks import check_bits, check_dense, check_elements, check_range, check_rows
from mmsb_kernels.reference.mask import unpack_mask
from mmsb_kernels.reference.words import words


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
    target = words(base)
    chosen = mask.reshape(mask.shape + (1,) * (target.dim() - base.dim()))
    target.copy_(torch.where(chosen, words(values), target))


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
    check_range("delta_merge_rows", "rows", rows, base.shape[0])
    words(base)[rows] = words(values)


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
    check_range("delta_merge_elements", "indices", indices, base.numel())
    target = words(base)
    # A copy, because the elements of a strided base have no flat view.
    flat = target.clone().reshape(base.numel(), *target.shape[base.dim() :])
    flat[indices] = words(values)
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
