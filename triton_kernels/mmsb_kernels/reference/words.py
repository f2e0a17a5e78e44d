"""Any tensor as integers of the width of its elements."""

from __future__ import annotations

import torch
from torch import Tensor

WORD = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def words(tensor: Tensor) -> Tensor:
    """Return a view of `tensor` as integers; 16-byte elements become a last dimension of two."""
    tensor = tensor.detach()
    if tensor.dtype.itemsize == 16:
        return torch.view_as_real(tensor).view(torch.int64)
    return tensor.view(WORD[tensor.dtype.itemsize])
