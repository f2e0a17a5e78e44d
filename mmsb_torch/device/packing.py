"""Boolean masks as packed bits: element i is bit i % 8 of byte i // 8, in C order."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def pack_mask(mask: Tensor) -> Tensor:
    """Pack a bool mask of any shape into uint8 [ceil(numel / 8)] on the same device; copies."""
    flat = mask.detach().reshape(-1)
    packed = torch.from_numpy(np.packbits(flat.cpu().numpy(), bitorder="little"))
    return packed.to(mask.device)


def unpack_mask(bits: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Unpack uint8 bits into a new bool mask of `shape` on the same device."""
    count = math.prod(shape)
    flat = np.unpackbits(bits.cpu().numpy(), count=count, bitorder="little").view(np.bool_)
    return torch.from_numpy(flat).view(shape).to(bits.device)
