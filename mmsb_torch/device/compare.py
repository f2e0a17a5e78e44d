"""Tell bits apart: NaN equals the same NaN, and -0.0 is not 0.0."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch
from torch import Tensor

from mmsb_torch.device.allocation import empty
from mmsb_torch.device.words import words


def _find() -> Callable[[int, int, int], int] | None:
    """C's `memcmp`, which is two to three times as fast as `torch.equal`."""
    try:
        call = ctypes.CDLL(None).memcmp
    except (OSError, AttributeError, TypeError):
        return None
    call.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    return call


_memcmp = _find()
_LINE = 64  # bytes: eight words
_PIECE = 1 << 19


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same dtype, shape, device and bits; reads up to a difference."""
    if a.dtype != b.dtype or a.shape != b.shape or a.device != b.device:
        return False
    if _memcmp is not None and _is_plain(a) and _is_plain(b):
        return not _memcmp(a.data_ptr(), b.data_ptr(), a.nbytes)
    return torch.equal(words(a), words(b))


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor's memory is its elements, one after another."""
    lazy = tensor.is_conj() or tensor.is_neg()
    return tensor.is_cpu and tensor.is_contiguous() and not lazy


def _is_wordwise(tensor: Tensor) -> bool:
    """Whether a plain tensor's memory begins where a word of eight bytes may."""
    return _is_plain(tensor) and not tensor.storage_offset() * tensor.itemsize % 8


def changed_rows(a: Tensor, b: Tensor) -> Tensor:
    """Sorted int64 indices of the entries of dimension 0 whose bits differ.

    `a` and `b` have one dtype, shape and device and at least one dimension.
    """
    differs = words(a) != words(b)
    if differs.dim() > 1:
        differs = differs.flatten(1).any(dim=1)
    return differs.nonzero().view(-1)


def touched_rows(a: Tensor, b: Tensor) -> Tensor:
    """As `changed_rows`, of contiguous tensors: three times as fast on the CPU where rows are of 64 bytes.

    Eight words are compared to eight bytes, and these are looked at as one word, a piece that stays in
    cache at a time.
    """
    each = a.nbytes // len(a) if len(a) else 0
    if not (each and _is_wordwise(a) and _is_wordwise(b)) or each % _LINE:
        return changed_rows(a, b)
    old, new = (words(tensor).view(len(a), -1).view(torch.int64) for tensor in (a, b))
    step = max(_PIECE // each, 1)
    buffer = empty((step, old.shape[1]), torch.bool, a.device)
    found = []
    for start in range(0, len(a), step):
        piece = old[start : start + step]
        differs = torch.ne(piece, new[start : start + step], out=buffer[: len(piece)])
        found.append(differs.view(torch.int64).any(1))
    return torch.cat(found).nonzero().view(-1)


def changed_elements(a: Tensor, b: Tensor) -> Tensor:
    """A bool mask of `a`'s shape: True where the bits differ."""
    old, new = words(a), words(b)
    differs = torch.ne(old, new, out=empty(old.shape, torch.bool, old.device))
    return differs.any(-1) if differs.dim() > a.dim() else differs
