"""The obvious memory: whole copies of everything, recomputed from scratch at every read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mmsb_torch.device import copy_of, same_bits
from mmsb_torch.testing.strategies import Update, apply_update


class ModelMemory:
    """What `Memory` should be indistinguishable from, apart from time and space.

    `states[n]` holds every root page after transaction n; derived pages are functions of roots and
    of each other, called at every read.
    """

    def __init__(self) -> None:
        self.states: list[dict[str, Tensor]] = [{}]
        self.epochs: dict[str, int] = {}
        self.labels: dict[str, int] = {}
        self.touched: dict[str, Tensor] = {}
        self.derived: dict[str, tuple[Callable[..., Tensor], Sequence[str]]] = {}

    @property
    def tx(self) -> int:
        """Number of the last transaction."""
        return len(self.states) - 1

    @property
    def state(self) -> dict[str, Tensor]:
        """Root pages now."""
        return self.states[-1]

    def page(self, name: str, value: Tensor) -> None:
        """Make a page: a transaction of its own."""
        self.states.append({**self.state, name: copy_of(value)})
        self.epochs[name] = 0
        self.touched[name] = torch.zeros(value.shape, dtype=torch.bool)

    def commit(self, changes: Sequence[tuple[str, Update]], label: str | None = None) -> None:
        """Apply updates in order, as one transaction."""
        state = dict(self.state)
        for name, update in changes:
            state[name] = apply_update(state[name], update)
            self.touched[name] = self.touched[name] | _touched(state[name], update)
        for name in {name for name, _ in changes}:
            self.epochs[name] += 1
        self.states.append(state)
        if label is not None:
            self.labels[label] = self.tx

    def restore(self, tx: int) -> list[str]:
        """Bring back the pages that existed at `tx`; returns those that differ."""
        before, now = self.states[tx], dict(self.state)
        moved = [name for name in before if not same_bits(before[name], now[name])]
        for name in moved:
            now[name] = before[name]
            self.epochs[name] += 1
        self.states.append(now)
        return moved

    def value(self, name: str, tx: int | None = None) -> Tensor:
        """The value of a page, derived ones by calling their functions all the way up."""
        state = self.states[self.tx if tx is None else tx]
        if name not in self.derived:
            return state[name]
        function, inputs = self.derived[name]
        result: Tensor = function(*(self.value(item, tx) for item in inputs))
        return result


def _touched(value: Tensor, update: Update) -> Tensor:
    mask = torch.zeros(value.shape, dtype=torch.bool)
    if update.rows is not None:
        mask[update.rows] = True
    elif update.indices is not None:
        mask.view(-1)[update.indices] = True
    elif update.mask is not None:
        mask |= update.mask
    else:
        mask |= True
    return mask
