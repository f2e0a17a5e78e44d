"""Whether two tensors have the same bits."""

from __future__ import annotations

from torch import Tensor

from mmsb_kernels.checks import check_alike
from mmsb_kernels.reference.words import words


def same_bits(a: Tensor, b: Tensor) -> Tensor:
    """Return whether two tensors have the same bits: a NaN equals the same NaN, 0.0 is not -0.0.

    Args:
        a: any shape and dtype.
        b: shape, dtype and device of `a`; strides may differ.

    Returns:
        A new 0-dim bool tensor on the device.

    Raises:
        ValueError: a shape or a device differs.
        TypeError: a dtype differs.
    """
    check_alike("same_bits", a, b=b)
    return (words(a) == words(b)).all()
