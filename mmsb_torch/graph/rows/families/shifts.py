"""Links between a dimension and a piece of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmsb_torch.graph.rows.rule import Link


def shifted(dim: int, start: int, step: int = 1) -> Link:
    """The result's index i is the argument's `start + i * step`."""

    def forward(part: Any, at: Any) -> Any:
        size = at.shape[dim]
        if isinstance(part, range):
            low = max(-(-(part.start - start) // step), 0)
            high = min((part.stop - 1 - start) // step + 1, size)
            return range(low, max(low, high))
        moved, rest = np.divmod(part - start, step)
        return moved[(rest == 0) & (moved >= 0) & (moved < size)]

    def backward(part: Any, at: Any) -> Any:
        del at
        if isinstance(part, range) and step == 1:
            return range(part.start + start, part.stop + start)
        listed = np.arange(part.start, part.stop) if isinstance(part, range) else part
        return listed * step + start

    return Link(dim, forward, backward)


def inside(dim: int, start: int) -> Link:
    """The argument is the piece of the result that begins at `start`."""

    def forward(part: Any, at: Any) -> Any:
        del at
        if isinstance(part, range):
            return range(part.start + start, part.stop + start)
        return part + start

    def backward(part: Any, at: Any) -> Any:
        raise NotImplementedError

    return Link(dim, forward, backward)


def single(index: int) -> Link:
    """The result has index `index` of the argument only, without the dimension."""

    def forward(part: Any, at: Any) -> Any:
        del at
        held = index in part if isinstance(part, range) else bool(np.isin(index, part))
        return None if held else range(0)

    def backward(part: Any, at: Any) -> Any:
        del part, at
        return range(index, index + 1)

    return Link(None, forward, backward)
