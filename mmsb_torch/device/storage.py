"""Who holds a tensor's memory: lets a writer merge in place when nobody else can see it.

The one private torch call of the device floor, `torch._C._storage_Use_Count`, is probed when the
module loads. Where it is missing or answers oddly every page counts as held, which is correct and
slower: each write then goes into a fresh or recycled buffer.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def _use_count_function() -> Callable[[Tensor], int] | None:
    count = getattr(torch._C, "_storage_Use_Count", None)  # noqa: SLF001 - probed below
    if count is None:
        return None

    def use_count(tensor: Tensor) -> int:
        return count(tensor.untyped_storage()._cdata)  # type: ignore[no-any-return] # noqa: SLF001

    alone = torch.empty(2)
    before = use_count(alone)
    alias = alone.detach()
    during = use_count(alone)
    array = alone.numpy()
    with_array = use_count(alone)
    del alias, array
    if not (before < during < with_array and use_count(alone) == before):
        return None
    return use_count


_use_count = _use_count_function()
_ALONE = _use_count(torch.empty(1)) if _use_count else 0


def held_elsewhere(tensor: Tensor) -> bool:
    """Whether anything but this one tensor object refers to its memory (aliases, views, arrays).

    Raw pointers taken with `data_ptr()` are not seen.
    """
    return _use_count is None or _use_count(tensor) > _ALONE


def is_own_memory(tensor: Tensor) -> bool:
    """Whether a contiguous tensor owns all of its memory and nothing else can reach it.

    False for views of larger memory, for memory borrowed from numpy and the like, and whenever
    somebody else holds the storage.
    """
    storage = tensor.untyped_storage()
    return (
        storage.resizable()
        and tensor.storage_offset() == 0
        and storage.nbytes() == tensor.nbytes
        and not held_elsewhere(tensor)
    )
