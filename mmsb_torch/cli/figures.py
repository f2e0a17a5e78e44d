"""Figures of a tensor's elements: how they spread, and what among them is no number."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

_CHUNK = 1 << 20  # elements at once: what is held beside the tensor stays small


def figures(tensor: Tensor) -> dict[str, Any] | None:
    """Least, greatest, mean and deviation of the finite elements; counts of zeros, NaN and inf.

    Complex elements count by their absolute value, booleans as 0 and 1. A figure that is no finite
    number, as the mean of nothing, is None. Of a dtype that is no number (bit shells) there are none.

    Args:
        tensor: on the CPU, of any dtype and shape.
    """
    try:
        return _Tally().over(tensor.detach().reshape(-1)).report()
    except (RuntimeError, TypeError):  # torch or numpy does not count in this dtype
        return None


class _Tally:
    """Figures of what was seen so far; parts are joined as Chan, Golub and LeVeque do."""

    def __init__(self) -> None:
        self._count = self._nan = self._inf = self._zeros = 0
        self._mean = self._squares = 0.0
        self._least: int | float = math.inf
        self._greatest: int | float = -math.inf

    def over(self, flat: Tensor) -> _Tally:
        for chunk in flat.split(_CHUNK):
            self._add(_numbers(chunk))
        return self

    def _add(self, numbers: np.ndarray[Any, Any]) -> None:
        finite = numbers[np.isfinite(numbers)]
        self._nan += int(np.isnan(numbers).sum())
        self._inf += int(np.isinf(numbers).sum())
        self._zeros += int((finite == 0).sum())
        if not finite.size:
            return
        self._least = min(self._least, finite.min().item())
        self._greatest = max(self._greatest, finite.max().item())
        with np.errstate(over="ignore", invalid="ignore"):
            mean = float(finite.mean(dtype=np.float64))
            squares = float(np.square(finite.astype(np.float64) - mean).sum())
        count, seen = finite.size, self._count
        apart = mean - self._mean
        self._count = seen + count
        self._mean += apart * count / self._count
        self._squares += squares + apart * apart * seen * count / self._count

    def report(self) -> dict[str, Any]:
        deviation = math.sqrt(self._squares / self._count) if self._count else math.nan
        return {
            "min": _finite(self._least),
            "max": _finite(self._greatest),
            "mean": _finite(self._mean if self._count else math.nan),
            "std": _finite(deviation),
            "zeros": self._zeros,
            "nan": self._nan,
            "inf": self._inf,
        }


def _numbers(chunk: Tensor) -> np.ndarray[Any, Any]:
    if chunk.dtype.is_complex:
        chunk = chunk.to(torch.complex128).abs()
    elif chunk.dtype.is_floating_point:
        chunk = chunk.to(torch.float64)
    elif chunk.dtype is torch.bool:
        chunk = chunk.to(torch.uint8)
    return chunk.numpy()  # integers as they are: 2**63 - 1 is no float


def _finite(value: float) -> int | float | None:
    return value if math.isfinite(value) else None
