"""A few numbers of a tensor, however large it is: what a histogram shows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_MOST = 1 << 14
"""Elements that are read; of a larger tensor, every so many."""


class Sample(NamedTuple):
    """Numbers of a tensor."""

    counts: list[int]
    """Finite values in equal parts from `low` to `high`; empty if there are none."""
    low: float
    high: float
    mean: float
    strange: int
    """Of those that were read: nan and infinities."""
    read: int
    total: int


def sample(tensor: Tensor, parts: int = 32) -> Sample:
    """Read at most 16,384 elements of a contiguous dense tensor; of complex ones the magnitude.

    Raises:
        RuntimeError: it is of a kind that cannot be read like that.
    """
    flat = tensor.detach().view(-1)
    step = max(-(-flat.numel() // _MOST), 1)
    read = flat[::step].cpu()
    if read.is_complex():
        read = read.to(torch.complex128).abs()
    values = read.to(torch.float64)
    finite = values[values.isfinite()]
    strange = len(values) - len(finite)
    if not len(finite):
        return Sample([], 0.0, 0.0, 0.0, strange, len(values), flat.numel())
    low, high = float(finite.min()), float(finite.max())
    parts = 2 if tensor.dtype is torch.bool else parts
    counts = [len(finite)]
    if high > low:
        # the difference of two floats may overflow where their halves do not
        places = (finite / 2 - low / 2) / (high / 2 - low / 2)
        counts = torch.bincount(
            (places * parts).long().clamp(0, parts - 1), minlength=parts
        ).tolist()
    mean = float((finite / len(finite)).sum())
    return Sample(counts, low, high, mean, strange, len(values), flat.numel())
