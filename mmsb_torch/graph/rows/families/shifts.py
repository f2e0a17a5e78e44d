"""Links between a dimension and a piece of it. Where it begins may depend on sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mmsb_torch.graph.rows.calls import Sized
from mmsb_torch.graph.rows.rule import Link

Start = Callable[[Sized], int]


def shifted(dim: int, start: Start, step: int = 1, *, appends: bool = False) -> Link:
    """The result's index i is the argument's `start + i * step`."""

    def forward(part: Any, at: Sized) -> Any:
        first, size = start(at), at.shape[dim]
        if isinstance(part, range):
            low = max(-(-(part.start - first) // step), 0)
            return range(low, max(low, min((part.stop - 1 - first) // step + 1, size)))
        moved, rest = np.divmod(part - first, step)
        return moved[(rest == 0) & (moved >= 0) & (moved < size)]

    def backward(part: Any, at: Sized) -> Any:
        first = start(at)
        if isinstance(part, range) and step == 1:
            return range(part.start + first, part.stop + first)
        indices = np.arange(part.start, part.stop) if isinstance(part, range) else part
        return indices * step + first

    return Link(dim, forward, backward, appends=appends)


def inside(dim: int, start: Start, size: Start) -> Link:
    """The argument is the piece of the result that begins at `start`."""

    def forward(part: Any, at: Sized) -> Any:
        first = start(at)
        part = range(size(at)) if part is None else part
        if isinstance(part, range):
            return range(part.start + first, part.stop + first)
        return part + first

    def backward(part: Any, at: Sized) -> Any:
        first, length = start(at), size(at)
        if isinstance(part, range):
            low, high = max(part.start - first, 0), min(part.stop - first, length)
            return None if (low, high) == (0, length) else range(low, max(low, high))
        moved = part - first
        return moved[(moved >= 0) & (moved < length)]

    return Link(dim, forward, backward, piece=True)


def single(index: Start) -> Link:
    """The result has index `index` of the argument only, without the dimension."""

    def forward(part: Any, at: Sized) -> Any:
        one = index(at)
        held = one in part if isinstance(part, range) else bool(np.isin(one, part))
        return range(1) if held else range(0)

    def backward(part: Any, at: Sized) -> Any:
        del part
        one = index(at)
        return range(one, one + 1)

    return Link(None, forward, backward)
