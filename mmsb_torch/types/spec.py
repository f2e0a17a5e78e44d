"""What a tensor looks like: dtype, shape, device."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Spec(NamedTuple):
    """Dtype, shape and device. A page keeps them for life, but for its number of rows (dimension 0)."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    device: torch.device

    @classmethod
    def of(cls, tensor: Tensor) -> Spec:
        """The spec of `tensor`."""
        return cls(tensor.dtype, tuple(tensor.shape), tensor.device)

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.numel * self.dtype.itemsize

    @property
    def dtype_name(self) -> str:
        """`float32`, not `torch.float32`."""
        return str(self.dtype).removeprefix("torch.")

    def __str__(self) -> str:
        return f"{self.dtype_name}[{', '.join(map(str, self.shape))}]"


def dtype_named(name: str) -> torch.dtype | None:
    """The torch dtype called `name` (as in `Spec.dtype_name`), or None."""
    found = getattr(torch, name, None)
    return found if isinstance(found, torch.dtype) else None
