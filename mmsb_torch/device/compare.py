"""Tell bits apart: NaN equals the same NaN, and -0.0 is not 0.0."""

from __future__ import annotations

import torch
from torch import Tensor

from mmsb_torch.device.allocation import empty
from mmsb_torch.device.words import words


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same dtype, shape, device and bits; reads every byte once."""
    if a.dtype != b.dtype or a.shape != b.shape or a.device != b.device:
        return False
    return torch.equal(words(a), words(b))


def changed_rows(a: Tensor, b: Tensor) -> Tensor:
    """Sorted int64 indices of the entries of dimension 0 whose bits differ.

    `a` and `b` have one dtype, shape and device and at least one dimension.
    """
    differs = words(a) != words(b)
    if differs.dim() > 1:
        differs = differs.flatten(1).any(dim=1)
    return differs.nonzero().view(-1)


def changed_elements(a: Tensor, b: Tensor) -> Tensor:
    """A bool mask of `a`'s shape: True where the bits differ."""
    old, new = words(a), words(b)
    differs = torch.ne(old, new, out=empty(old.shape, torch.bool, old.device))
    return differs.any(-1) if differs.dim() > a.dim() else differs
