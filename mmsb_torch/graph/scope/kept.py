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

from mmsb_torch.instrumentation.identity import LEDGER, barrier, ledger
from mmsb_torch.instrumentation.identity.ledger import Record, Views

_lazy_clone: Callable[[Tensor], Tensor] | None = getattr(torch, "_lazy_clone", None)
_HANDED = 64


class Kept:
    """The result of one operation: a tensor, or a list or tuple of tensors."""

    __slots__ = ("_handed", "_lazy", "_prune_at", "cost_s", "nbytes", "result", "used_s")

    def __init__(self, result: Any, cost_s: float, *, alone: bool) -> None:
        self._lazy = alone and _lazy_clone is not None and barrier.capability() is None
        self.result = each(result, self._clone if self._lazy else _copy)
        tensors = tensors_of(result)
        self._handed = [Record(tensor.untyped_storage()) for tensor in tensors]
        self._prune_at = _HANDED
        self.cost_s = cost_s
        self.nbytes = 256 + sum([tensor.nbytes for tensor in tensors])
        self.used_s = time.monotonic()

    def hand_out(self, views: tuple[Views, ...], *, alone: bool) -> Any:
        """The result again, as memory that the caller may write to.

        Args:
            views: stand for the bytes of each tensor of it.
            alone: what `barrier.is_alone` says.
        """
        self.used_s = time.monotonic()
        if not (self._lazy and alone):
            return each(self.result, _copy)
        result = self.result
        if isinstance(result, Tensor):
            return self._fresh(result, views[0])
        return type(result)([*map(self._fresh, result, views)])

    @property
    def held(self) -> int:
        """How many tensors that share this memory still live."""
        self._handed = [item for item in self._handed if not item.expired()]
        return len(self._handed)

    def worth(self, now: float) -> float:
        """Seconds saved a byte, less for what was long not used."""
        return self.cost_s / self.nbytes / (1.0 + now - self.used_s)

    def _fresh(self, tensor: Tensor, views: Views) -> Tensor:
        if len(self._handed) >= self._prune_at:
            self._prune_at = max(2 * self.held, _HANDED)
        fresh = self._clone(tensor)
        named = LEDGER.name(fresh, views)
        self._handed.append(named or Record(fresh.untyped_storage()))
        return fresh

    def _clone(self, tensor: Tensor) -> Tensor:
        assert _lazy_clone is not None
        # the ledger does not watch small ones, and only it clears flags when a thread begins
        lazy = tensor.is_cpu and tensor.nbytes >= ledger.LEAST_BYTES
        return _lazy_clone(tensor) if lazy else _copy(tensor)


def _copy(tensor: Tensor) -> Tensor:
    copy = torch.empty_strided(
        tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device
    )
    return copy.copy_(tensor)


def each(result: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same result with every tensor changed."""
    if isinstance(result, Tensor):
        return change(result)
    return type(result)([*map(change, result)])


def tensors_of(result: Any) -> list[Tensor]:
    """The tensors of a result, in order."""
    return [result] if isinstance(result, Tensor) else list(result)
