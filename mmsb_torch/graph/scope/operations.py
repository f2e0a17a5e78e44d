"""What is known of the operations of one memory: their results, within a budget."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmsb_torch.graph.scope.admission import is_worth_keeping
from mmsb_torch.graph.scope.kept import Kept
from mmsb_torch.graph.scope.opkeys import OpKey
from mmsb_torch.instrumentation.context import Settings, settings
from mmsb_torch.instrumentation.identity.ledger import Views

_KNOWN = 1 << 18


class Known:
    """One operation with all that its result follows from.

    Attributes:
        views: stand for the bytes of each tensor of its result, and for nothing else, ever.
        kept: the result.
        runs: how often it was executed.
    """

    __slots__ = ("kept", "runs", "views")

    def __init__(self, results: int) -> None:
        self.views: tuple[Views, ...] = tuple([{} for _ in range(results)])
        self.kept: Kept | None = None
        self.runs = 0


class Operations:
    """The results of operations of one memory. Used by one scope at a time.

    Args:
        budget: bytes of results.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._known: dict[OpKey, Known] = {}
        self._anchors: list[Kept] = []
        """What was forgotten while something that shares its memory lived."""
        self.nbytes = 0
        self._settings: Settings = ()
        self._inference = False
        self._context = object()
        self._contexts: dict[tuple[Settings, bool], object] = {}

    def context(self) -> object:
        """Stands for torch's settings and modes as they are now; the same ones, the same object.

        They may change between any two operations, and nobody is told; asking takes half a
        microsecond.
        """
        now, inference = settings(), torch.is_inference_mode_enabled()
        if now != self._settings or inference is not self._inference:
            self._settings, self._inference = now, inference
            self._context = self._contexts.setdefault((now, inference), object())
        return self._context

    def get(self, key: OpKey) -> Known | None:
        """What is known of an operation of this key."""
        return self._known.get(key)

    def enter(self, key: OpKey, results: int) -> Known:
        """Begin to know an operation that gives so many tensors."""
        if len(self._known) >= _KNOWN:
            self._known = {key: known for key, known in self._known.items() if known.kept}
        known = self._known[key] = Known(results)
        return known

    def put(
        self, known: Known, result: Any, tensors: Sequence[Tensor], seconds: float, *, alone: bool
    ) -> bool:
        """Keep a result if it is worth it; others may go for it. Whether it was kept.

        Args:
            known: entered before.
            result: shared lazily, or copied.
            tensors: those of the result.
            seconds: what it took.
            alone: what `barrier.is_alone` says.
        """
        known.runs += 1
        nbytes = sum([tensor.nbytes for tensor in tensors])
        if nbytes > self._budget or not is_worth_keeping(nbytes, seconds, known.runs):
            return False
        known.kept = Kept(result, seconds, alone=alone)
        self.nbytes += known.kept.nbytes
        if self.nbytes > self._budget:
            self._make_room()
        return known.kept is not None

    def resize(self, budget: int) -> None:
        """Another budget; what is too much for it goes now."""
        self._budget = budget
        if self.nbytes > budget:
            self._make_room()

    def remove(self, known: Known) -> None:
        """Forget a result."""
        kept, known.kept = known.kept, None
        if kept is not None:
            self.nbytes -= kept.nbytes
            self._anchors.append(kept)

    def clear(self) -> None:
        """Forget all."""
        for known in self._known.values():
            self.remove(known)
        self._known.clear()
        self._anchors = [kept for kept in self._anchors if kept.held]

    def __len__(self) -> int:
        return sum(known.kept is not None for known in self._known.values())

    def _make_room(self) -> None:
        now = time.monotonic()
        found = [(known.kept.worth(now), known) for known in self._known.values() if known.kept]
        for _, known in sorted(found, key=lambda pair: pair[0]):
            if self.nbytes <= self._budget * 0.9:
                break
            self.remove(known)
        self._anchors = [kept for kept in self._anchors if kept.held]
