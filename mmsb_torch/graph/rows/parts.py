"""Parts of a dimension, and boxes: one part for each dimension.

A part is a range, or sorted unique int64 indices (numpy), or None for everything. A value restricted to
a box is a dense tensor of the same rank.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Part = range | np.ndarray | None
Box = tuple[Part, ...]
"""Everything that has an index in each part. (A tensor without dimensions has the box ().)"""


def tidy(index: np.ndarray) -> Part:
    """Sorted unique indices, as a range if they are one."""
    count = len(index)
    if count == 0:
        return range(0)
    first, last = int(index[0]), int(index[-1])
    return range(first, last + 1) if last - first + 1 == count else index


def listed(part: range | np.ndarray) -> np.ndarray:
    """The indices of a part."""
    return np.arange(part.start, part.stop) if isinstance(part, range) else part


def union(one: Part, other: Part) -> Part:
    """What is in one of them."""
    if one is None or other is None:
        return None
    if isinstance(one, range) and isinstance(other, range):
        if one.start <= other.stop and other.start <= one.stop:
            return range(min(one.start, other.start), max(one.stop, other.stop))
        if not one or not other:
            return one or other
    return tidy(np.union1d(listed(one), listed(other)))


def within(part: range | np.ndarray, outer: range | np.ndarray) -> Part:
    """The places of a part's indices among those of one that has them all; None if it is that."""
    if isinstance(outer, range):
        if isinstance(part, range):
            if len(part) == len(outer):
                return None
            return range(part.start - outer.start, part.stop - outer.start)
        return None if len(part) == len(outer) else part - outer.start
    if len(part) == len(outer):
        return None
    return tidy(np.searchsorted(outer, listed(part)))


def covers(part: Part, size: int) -> bool:
    """Whether a part is all of a dimension."""
    return part is None or len(part) >= size


def of_index(part: Part, device: torch.device) -> range | Tensor | None:
    """What `take` wants: indices as a tensor."""
    if isinstance(part, np.ndarray):
        return torch.from_numpy(part).to(device)
    return part


def take(value: Tensor, dim: int, index: range | Tensor | None) -> Tensor:
    """A part of a tensor: a view for ranges, a copy for indices."""
    if index is None:
        return value
    if isinstance(index, range):
        return value.narrow(dim, index.start, index.stop - index.start)
    return value.index_select(dim, index)


def put(into: Tensor, where: Sequence[tuple[int, range | Tensor]], value: Tensor) -> None:
    """Write a box of a tensor; `where` has (dimension, part), the ranges first."""
    for place, (dim, index) in enumerate(where):
        if isinstance(index, range):
            into = into.narrow(dim, index.start, index.stop - index.start)
        elif place == len(where) - 1:
            into.index_copy_(dim, index, value)
            return
        else:
            some = into.index_select(dim, index)
            put(some, where[place + 1 :], value)
            into.index_copy_(dim, index, some)
            return
    into.copy_(value)


def as_part(given: object, size: int) -> Part:
    """A part as a caller may give it: None, range, slice, tensor or array of sorted indices."""
    if given is None:
        return None
    if isinstance(given, slice):
        given = range(*given.indices(size))
    if isinstance(given, Tensor):
        given = given.cpu().numpy()
    found = (
        given if isinstance(given, range) and given.step == 1 else tidy(np.asarray(given, np.int64))
    )
    return None if covers(found, size) else found
