"""The obvious memory: whole copies of everything, recomputed from scratch at every read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mmsb_torch.device import changed_elements, copy_of, same_bits
from mmsb_torch.testing.strategies import Append, Update, apply_append, apply_update


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
        self.values: dict[str, list[Tensor]] = {}
        """The value of each root page at each of its epochs."""
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
        self.values[name] = [self.state[name]]
        self.touched[name] = torch.zeros(value.shape, dtype=torch.bool)

    def commit(
        self, changes: Sequence[tuple[str, Update | Append]], label: str | None = None
    ) -> None:
        """Apply updates and appends in order, as one transaction."""
        state = dict(self.state)
        for name, change in changes:
            if isinstance(change, Append):
                state[name] = apply_append(state[name], change)
                self.touched[name] = resized(self.touched[name], len(state[name]))
            else:
                state[name] = apply_update(state[name], change)
                self.touched[name] = self.touched[name] | _touched(state[name], change)
        for name in {name for name, _ in changes}:
            self.epochs[name] += 1
            self.values[name].append(state[name])
        self.states.append(state)
        if label is not None:
            self.labels[label] = self.tx

    def restore(self, tx: int) -> list[str]:
        """Bring back the pages that existed at `tx`; returns those that differ."""
        before, now = self.states[tx], dict(self.state)
        moved = [name for name in before if not same_bits(before[name], now[name])]
        for name in moved:
            old, new = now[name], before[name]
            now[name] = new
            self.epochs[name] += 1
            self.values[name].append(new)
            touched = self.touched[name]
            if old.dim() and len(old) != len(new):
                rows = min(len(old), len(new))
                touched = resized(touched, len(new))
                touched[:rows] |= changed_elements(old[:rows], new[:rows])
            else:
                touched = touched | changed_elements(old, new)
            self.touched[name] = touched
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


def resized(mask: Tensor, rows: int) -> Tensor:
    """A mask for another number of rows: those that it did not have are True."""
    found = torch.ones((rows, *mask.shape[1:]), dtype=torch.bool)
    found[: len(mask)] = mask[:rows]
    return found


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
