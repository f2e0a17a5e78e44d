"""Boxes through reshapes, where dimensions are merged or split."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mmsb_torch.graph.rows.calls import Size
from mmsb_torch.graph.rows.parts import listed, tidy

_Group = tuple[list[int], list[int]]


def groups(one: Sequence[int], other: Sequence[int]) -> list[_Group]:
    """Runs of dimensions with equal products, as short as possible.

    A reshape moves elements only inside of a group. Dimensions of size 1 without a partner are left
    out; shapes without elements have no groups.
    """
    if 0 in one or 0 in other:
        return []
    found = []
    a, b = 0, 0
    while a < len(one) or b < len(other):
        single_a, single_b = one[a : a + 1] == (1,), other[b : b + 1] == (1,)
        if single_a != single_b:
            a, b = a + single_a, b + single_b
            continue
        left, right = [a], [b]
        product, goal = one[a], other[b]
        a, b = a + 1, b + 1
        while product != goal:
            if product < goal:
                left.append(a)
                product, a = product * one[a], a + 1
            else:
                right.append(b)
                goal, b = goal * other[b], b + 1
        found.append((left, right))
    return found


def _site_groups(site: Any) -> list[_Group]:
    return groups(site.at.shapes[site.call.places[0][0]], site.at.shape)


def spread(context: Any, index: int, box: Any) -> Any:
    """The box of the result with a box of the argument inside."""
    edit, site = context
    if index:
        return (None,) * len(site.call.shape)
    return _across(edit, site, box, _site_groups(site), len(site.call.shape), site.call.tensors[0])


def need(context: Any, box: Any) -> Any:
    """The box of the argument with a box of the result inside."""
    edit, site = context
    source = site.call.tensors[0]
    turned = [(right, left) for left, right in _site_groups(site)]
    rank = len(site.graph.shape(source))
    first = _across(edit, site, box, turned, rank, site.call.value)
    return [first, *[None for _ in site.call.tensors[1:]]]


def whole(context: Any, box: Any) -> Any:
    """What comes of a box of the argument is a box again only if it is a product."""
    edit, site = context
    pairs = _site_groups(site)
    if all(len(left) == len(right) == 1 for left, right in pairs):
        return box
    found = spread((edit, site), 0, need((edit, site), box)[0])
    again = spread((edit, site), 0, need((edit, site), found)[0])
    if all(one is other for one, other in zip(found, again, strict=True)):
        return found
    regrouped = {dim for left, right in pairs if min(len(left), len(right)) > 1 for dim in right}
    return tuple(None if dim in regrouped else part for dim, part in enumerate(found))


def shifts(site: Any) -> bool:
    """Whether more rows move what was there: unless they are outermost where they are merged."""
    source, out = site.graph.shape(site.call.tensors[0]), site.call.shape
    for left, right in _site_groups(site):
        if len(left) > 1 or len(right) > 1:
            inner = [source[dim] for dim in left[1:]] + [out[dim] for dim in right[1:]]
            if any(isinstance(size, Size) for size in inner):
                return True
    return False


def _across(edit: Any, site: Any, box: Any, pairs: list[_Group], rank: int, source: int) -> Any:
    """A box on the left of the groups, as the smallest one on the right that has all of it."""
    out: list[Any] = [None] * rank
    given, made = site.graph.shape(site.call.tensors[0]), site.call.shape
    plain, plain_made = site.at.shapes[site.call.places[0][0]], site.at.shape
    if source == site.call.value:
        given, made, plain, plain_made = made, given, plain_made, plain
    for left, right in pairs:
        parts = [box[dim] for dim in left]
        if all(part is None for part in parts):
            continue
        if len(left) == len(right) == 1:
            out[right[0]] = parts[0]
            continue
        times = _times(
            [plain[dim] for dim in left[1:]], [plain_made[dim] for dim in right[1:]], site
        )
        if times and not any(part is not None for part in parts[1:]):
            out[right[0]] = edit.tape.part(_repeated, parts[0], times)
            continue
        flat = parts[0]
        if len(left) > 1:
            sizes = [edit.tape.size(given[dim], edit.rows) for dim in left]
            flat = edit.tape.part(_merged, len(left), *parts, *sizes)
        if flat is not None:
            sizes = [edit.tape.size(made[dim], edit.rows) for dim in right]
            for place, dim in enumerate(right):
                out[dim] = edit.tape.part(_digit, flat, place, *sizes)
    return tuple(out)


def _times(inner: list[int], other: list[int], site: Any) -> int:
    """How many outermost indices on the right make one on the left, at any number of rows; or 0."""
    rows, left, right = site.at.rows, math.prod(inner), math.prod(other)
    alike = not rows or (left % rows == 0) == (right % rows == 0)
    return left // right if alike and left % right == 0 else 0


def _repeated(part: Any, times: int) -> Any:
    """Blocks of so many indices for each."""
    if isinstance(part, range):
        return range(part.start * times, part.stop * times)
    return (part[:, None] * times + np.arange(times)).ravel()


def _merged(count: int, *given: Any) -> Any:
    """The places of a product of parts when their dimensions become one."""
    parts, sizes = given[:count], given[count:]
    first = next(place for place, part in enumerate(parts) if part is not None)
    inner = math.prod(sizes[first + 1 :])
    outer = math.prod(sizes[:first])
    if (
        outer == 1
        and isinstance(parts[first], range)
        and not any(part is not None for part in parts[first + 1 :])
    ):
        return range(parts[first].start * inner, parts[first].stop * inner)
    found = np.zeros(1, np.int64)
    for part, size in zip(parts, sizes, strict=True):
        indices = np.arange(size) if part is None else listed(part)
        found = (found[:, None] * size + indices).ravel()
    return None if len(found) == math.prod(sizes) else tidy(found)


def _digit(part: Any, place: int, *sizes: int) -> Any:
    """One coordinate of places, when their dimension becomes several."""
    inner = math.prod(sizes[place + 1 :])
    if place == 0 and isinstance(part, range):
        low, high = part.start // inner, -(-part.stop // inner)
        return None if high - low == sizes[0] else range(low, high)
    if isinstance(part, range) and len(part) >= inner * sizes[place]:
        return None
    found = np.unique(listed(part) // inner % sizes[place])
    return None if len(found) == sizes[place] else tidy(found)


def build(job: Any) -> Any:
    """A reshape to the sizes of the box."""
    register, lengths = job.registers[0], job.lengths()
    if all(isinstance(length, int) for length in lengths):
        return lambda registers, _: torch.reshape(registers[register], lengths)
    fixed = [length if isinstance(length, int) else 0 for length in lengths]
    moving = [(at, length.at) for at, length in enumerate(lengths) if not isinstance(length, int)]

    def run(registers: list[Any], env: list[Any]) -> Any:
        sizes = fixed.copy()
        for at, slot in moving:
            sizes[at] = env[slot]
        return torch.reshape(registers[register], sizes)

    return run


def build_expanded(job: Any) -> Any:
    """Repetition to the sizes of the box."""
    register, lengths = job.registers[0], job.lengths()

    def run(registers: list[Any], env: list[Any]) -> Any:
        sizes = [length if isinstance(length, int) else env[length.at] for length in lengths]
        return registers[register].expand(sizes)

    return run
