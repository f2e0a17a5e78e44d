"""Memory for large tensors, on huge pages if `MMSB_HUGE_PAGES=1` is set and the system has them.

The first touch of fresh memory costs a page fault for every 4 KiB, several times what filling it costs
once it is there. `madvise(MADV_HUGEPAGE)` before the first touch asks for 2 MiB at a time. It is advice:
where the call is missing or fails, memory is plain. Nobody gets it unasked: a virtual machine that
gives its free memory back to the host pays more for a huge page than for 512 small ones.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

LARGE = 4 << 20
"""Bytes from which on memory is advised; below, few huge pages fit and memory is mostly recycled."""


def _find() -> Callable[[int | None, int, int], int] | None:
    """`madvise`, if this system has it and knows of huge pages."""
    try:
        call = ctypes.CDLL(None).madvise
        call.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        known: bool = call(None, 0, mmap.MADV_HUGEPAGE) == 0
    except (OSError, AttributeError, TypeError, ctypes.ArgumentError):
        return None
    return call if known else None


_madvise = _find() if os.environ.get("MMSB_HUGE_PAGES") == "1" else None


def advised(tensor: Tensor) -> Tensor:
    """`tensor` itself, whose memory was just taken and not touched yet; any device."""
    if _madvise is not None and tensor.nbytes >= LARGE and tensor.is_cpu:
        start = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE  # whole pages of its own
        stop = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        _madvise(start, stop - start, mmap.MADV_HUGEPAGE)
    return tensor


def empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A new contiguous tensor whose elements are anything; the caller fills it."""
    return advised(torch.empty(shape, dtype=dtype, device=device))
