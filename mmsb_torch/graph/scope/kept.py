"""Results of operations: kept as lazy clones, handed out as lazy clones, or as copies.

A lazy clone shares memory until somebody writes; whoever writes gets memory of their own, so what is kept
stays as it was. That holds in one thread. Where another thread may be about, copies are kept and handed
out. An original stays as long as what was handed out of it lives.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from mmsb_torch.instrumentation.identity import barrier

_lazy_clone: Callable[[Tensor], Tensor] | None = getattr(torch, "_lazy_clone", None)
_HANDED = 64


class Kept:
    """The result of one operation: a tensor, or a list or tuple of tensors."""

    __slots__ = ("_alone", "_handed", "_lazy", "cost_s", "nbytes", "result", "used_s")

    def __init__(self, result: Any, cost_s: float) -> None:
        self._alone = barrier.is_alone()
        self._lazy = self._alone and barrier.capability() is None
        self._handed: list[StorageWeakRef] = []
        self.result = each(result, self._clone)
        self.cost_s = cost_s
        self.nbytes = 256 + sum(tensor.nbytes for tensor in tensors_of(result))
        self.used_s = time.monotonic()

    def hand_out(self) -> Any:
        """The result again, as memory that the caller may write to."""
        self.used_s = time.monotonic()
        self._alone = barrier.is_alone()
        return each(self.result, self._clone)

    @property
    def held(self) -> bool:
        """Whether something that shares this memory still lives."""
        self._handed = [item for item in self._handed if not item.expired()]
        return bool(self._handed)

    def worth(self, now: float) -> float:
        """Seconds saved a byte, less for what was long not used."""
        return self.cost_s / self.nbytes / (1.0 + now - self.used_s)

    def _clone(self, tensor: Tensor) -> Tensor:
        if self._lazy and _lazy_clone is not None and tensor.is_cpu and self._alone:
            fresh = _lazy_clone(tensor)
            self._handed.append(StorageWeakRef(fresh.untyped_storage()))
            if len(self._handed) > _HANDED:
                self._handed = [item for item in self._handed if not item.expired()]
            return fresh
        copy = torch.empty_strided(
            tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device
        )
        return copy.copy_(tensor)


def each(result: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same result with every tensor changed."""
    if isinstance(result, Tensor):
        return change(result)
    if isinstance(result, (list, tuple)):
        return type(result)(each(item, change) for item in result)
    return result


def tensors_of(result: Any) -> list[Tensor]:
    """The tensors of a result, in order."""
    found: list[Tensor] = []
    each(result, lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
    return found
