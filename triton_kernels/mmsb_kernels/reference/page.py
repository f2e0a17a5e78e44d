"""Copy a tensor, fill it, or fill it with zeros."""

from __future__ import annotations

from torch import Tensor

from mmsb_kernels.checks import check_alike, check_fill
from mmsb_kernels.reference.words import words


def page_copy(target: Tensor, source: Tensor) -> None:
    """Make `target` what `source` is, bit for bit.

    Raises:
        ValueError: a shape or a device differs.
        TypeError: a dtype differs.
    """
    check_alike("page_copy", target, source=source)
    words(target).copy_(words(source))


def page_zero(target: Tensor) -> None:
    """Make every bit of `target` zero."""
    words(target).zero_()


def page_fill(target: Tensor, value: Tensor) -> None:
    """Make every element of `target` the bits of `value`, which is 0-dim, of its dtype and device.

    Raises:
        ValueError: a shape or a device differs.
        TypeError: the dtype differs.
    """
    check_fill("page_fill", target, value)
    words(target).copy_(words(value).expand_as(words(target)))
