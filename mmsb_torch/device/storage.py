"""Who holds a tensor's memory: lets a writer merge in place when nobody else can see it.

The one private torch call of the device floor, `torch._C._storage_Use_Count`, is probed when the
module loads. Where it is missing or answers oddly every page counts as held, which is correct and
slower: each write then goes into a fresh or recycled buffer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor

_count: Callable[[int], int] | None = getattr(torch._C, "_storage_Use_Count", None)  # noqa: SLF001


def _uses(tensor: Tensor) -> int:
    """References to the memory: by tensors, and by Python's one handle on it."""
    storage = tensor.untyped_storage()
    return _count(storage._cdata) + sys.getrefcount(storage)  # type: ignore[misc] # noqa: SLF001 - probed below


def _answers_well() -> bool:
    if _count is None:
        return False
    alone = torch.empty(2, device="cpu")
    before = _uses(alone)
    alias = alone.detach()
    during = _uses(alone)
    array = alone.numpy()
    with_array = _uses(alone)
    handle = alone.untyped_storage()
    with_handle = _uses(alone)
    del alias, array, handle
    return before < during < with_array < with_handle and _uses(alone) == before


_known = _answers_well()
_ALONE = _uses(torch.empty(1, device="cpu")) if _known else 0


def held_elsewhere(tensor: Tensor) -> bool:
    """Whether anything but this one tensor object refers to its memory (aliases, views, arrays).

    Raw pointers taken with `data_ptr()` are not seen.
    """
    return not _known or _uses(tensor) > _ALONE


def is_own_memory(tensor: Tensor) -> bool:
    """Whether a contiguous tensor owns all of its memory and nothing else can reach it.

    False for views of larger memory, for memory borrowed from numpy and the like, and whenever
    somebody else holds the storage.
    """
    if held_elsewhere(tensor):  # before we hold the storage ourselves
        return False
    storage = tensor.untyped_storage()
    return (
        storage.resizable() and tensor.storage_offset() == 0 and storage.nbytes() == tensor.nbytes
    )
