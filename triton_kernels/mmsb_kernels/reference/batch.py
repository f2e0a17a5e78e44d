"""Many small deltas merged into many tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from mmsb_kernels.checks import check_pieces, check_plain


def delta_merge_many(bases: list[Tensor], values: Tensor, pieces: Tensor) -> None:
    """Copy pieces of `values` into `bases`, one after another.

    Args:
        bases: any shapes and dtypes, contiguous, on one device; changed in place.
        values: uint8 `[bytes]` on that device: the pieces' bytes.
        pieces: int64 `[n, 4]` on the CPU, a line for each piece: which base, the byte in it where the
            piece begins, the byte in `values` where its values begin, and how many bytes it has. No
            two pieces may write the same byte.

    Raises:
        ValueError: a shape or a device differs, or a tensor is not contiguous.
        TypeError: a dtype differs.
        IndexError: a piece is not inside of its base or of `values`; nothing was written.
    """
    check_pieces("delta_merge_many", bases, values, pieces)
    for base in bases:  # a strided one has no bytes in a row
        check_plain("delta_merge_many", base=base)
    flat = [base.detach().reshape(-1).view(torch.uint8) for base in bases]
    for which, at, start, size in pieces.tolist():
        flat[which][at : at + size] = values[start : start + size]
