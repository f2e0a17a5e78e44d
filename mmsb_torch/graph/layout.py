"""Where the boxes of a layered picture go: levels, order within a level, coordinates.

The method is Sugiyama's (Sugiyama, Tagawa, Toda 1981): the longest path gives each box its
level; an edge across several levels passes through one slot in each level between; sweeps by the
mean position of the neighbours reduce crossings; and the boxes of a level stand, in that order
and without overlap, as near to their neighbours as least squares allow (pool adjacent violators).

Nothing here recurses, and nothing depends on the order of a set or on chance.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

Point = tuple[float, float]
Slot = tuple[int, int]  # (id, level): the box itself, or the passage of its long edges
Neighbours = Mapping[int, Sequence[int]]

_SWEEPS = 12
_EFFORT = 60_000  # slots and edges that are looked at in all sweeps, so that tangles stay quick


@dataclass(frozen=True, slots=True)
class Link:
    """A piece of the way from `source`: to `target`, or (None) on towards several of them."""

    source: int
    target: int | None
    start: Point
    end: Point


@dataclass(frozen=True, slots=True)
class Layout:
    """Centres of boxes and pieces of edges; x runs along the arrows, y across them."""

    centres: Mapping[int, Point]
    links: Sequence[Link]
    length: float
    breadth: float


@dataclass(frozen=True, slots=True)
class Measure:
    """Sizes that the layout keeps to, in pixels: along the arrows, and across them."""

    long: float  # of a box, along
    broad: float  # of a box, across
    gap: float  # between boxes of a level
    way: float  # least distance between levels
    farthest: float  # greatest distance between levels


def topological(ids: Iterable[int], inputs: Neighbours, outputs: Neighbours) -> list[int]:
    """Ids with every input before what depends on it, else by id; short if there is a cycle."""
    missing = {number: len(inputs[number]) for number in ids}
    ready = [number for number, count in missing.items() if not count]
    heapq.heapify(ready)
    order = []
    while ready:
        number = heapq.heappop(ready)
        order.append(number)
        for output in outputs[number]:
            missing[output] -= 1
            if not missing[output]:
                heapq.heappush(ready, output)
    return order


def reachable(start: int, neighbours: Neighbours) -> set[int]:
    """Everything that can be reached from `start`, without `start`."""
    seen: set[int] = set()
    waiting = list(neighbours[start])
    while waiting:
        number = waiting.pop()
        if number not in seen:
            seen.add(number)
            waiting.extend(neighbours[number])
    return seen


def components(order: Sequence[int], inputs: Neighbours, outputs: Neighbours) -> list[list[int]]:
    """Parts without an edge between them: connected ones first, then the lone boxes."""
    parts: list[list[int]] = []
    part_of: dict[int, int] = {}
    for first in order:
        if first in part_of:
            continue
        part_of[first] = len(parts)
        waiting = [first]
        while waiting:
            number = waiting.pop()
            for other in (*inputs[number], *outputs[number]):
                if other not in part_of:
                    part_of[other] = len(parts)
                    waiting.append(other)
        parts.append([])
    for number in order:
        parts[part_of[number]].append(number)
    return sorted(parts, key=lambda part: len(part) == 1)


def shelves(sizes: Sequence[Point], gap: float, width: float) -> list[Point]:
    """Top left corners of rectangles that are put side by side, in lines of `width`."""
    corners: list[Point] = []
    x = y = line = 0.0
    for wide, high in sizes:
        if x and x + wide > width:
            x, y, line = 0.0, y + line + gap, 0.0
        corners.append((x, y))
        x += wide + gap
        line = max(line, high)
    return corners


def layout(part: Sequence[int], inputs: Neighbours, outputs: Neighbours, size: Measure) -> Layout:
    """Lay out one connected part.

    Args:
        part: its ids in topological order.
        inputs: for each id, the ids whose edges arrive there.
        outputs: for each id, the ids where its edges arrive.
        size: of the boxes and of the space between them.
    """
    level = _levels(part, inputs, outputs)
    passages = _passages(part, outputs, level)
    ranks = _ranks(part, level, passages)
    before, after = _slot_edges(part, outputs, level, passages)
    ranks = _untangled(ranks, before, after)
    across = _coordinates(ranks, before, after, level, size)
    return _placed(ranks, across, after, level, size)


def _levels(part: Sequence[int], inputs: Neighbours, outputs: Neighbours) -> dict[int, int]:
    level: dict[int, int] = {}
    for number in part:
        level[number] = 1 + max((level[source] for source in inputs[number]), default=-1)
    for number in part:
        if not inputs[number] and outputs[number]:
            # A root stands just before what first needs it, not at the far end of the picture.
            level[number] = min(level[target] for target in outputs[number]) - 1
    return level


def _passages(part: Sequence[int], outputs: Neighbours, level: Mapping[int, int]) -> dict[int, int]:
    """For each id the last level its edges pass through: long edges of one box share their way."""
    return {
        number: max((level[target] - 1 for target in outputs[number]), default=level[number])
        for number in part
    }


def _ranks(
    part: Sequence[int], level: Mapping[int, int], passages: Mapping[int, int]
) -> list[list[Slot]]:
    ranks: list[list[Slot]] = [[] for _ in range(1 + max(level.values()))]
    for number in part:
        for place in range(level[number], passages[number] + 1):
            ranks[place].append((number, place))
    return ranks


def _slot_edges(
    part: Sequence[int],
    outputs: Neighbours,
    level: Mapping[int, int],
    passages: Mapping[int, int],
) -> tuple[dict[Slot, list[Slot]], dict[Slot, list[Slot]]]:
    before: dict[Slot, list[Slot]] = defaultdict(list)
    after: dict[Slot, list[Slot]] = defaultdict(list)
    for number in part:
        pairs = [
            ((number, place), (number, place + 1))
            for place in range(level[number], passages[number])
        ]
        pairs += [
            ((number, level[target] - 1), (target, level[target])) for target in outputs[number]
        ]
        for start, end in pairs:
            after[start].append(end)
            before[end].append(start)
    return before, after


def _untangled(
    ranks: list[list[Slot]],
    before: Mapping[Slot, Sequence[Slot]],
    after: Mapping[Slot, Sequence[Slot]],
) -> list[list[Slot]]:
    """The order with the fewest crossings that barycentre sweeps came across."""
    sweeps = _sweeps(ranks, after)
    best, fewest = [list(rank) for rank in ranks], _crossings(ranks, after)
    for sweep in range(2 * sweeps):
        if not fewest:
            break
        forward = sweep % 2 == 0
        towards = before if forward else after
        place = {slot: float(index) for rank in ranks for index, slot in enumerate(rank)}
        for rank in ranks if forward else reversed(ranks):
            mean = {
                slot: sum(place[other] for other in towards[slot]) / len(towards[slot])
                if towards.get(slot)
                else place[slot]
                for slot in rank
            }
            rank.sort(key=mean.__getitem__)
            place.update((slot, float(index)) for index, slot in enumerate(rank))
        crossings = _crossings(ranks, after)
        if crossings < fewest:
            best, fewest = [list(rank) for rank in ranks], crossings
    return best


def _sweeps(ranks: Sequence[Sequence[Slot]], after: Mapping[Slot, Sequence[Slot]]) -> int:
    size = sum(map(len, ranks)) + sum(map(len, after.values()))
    return max(1, min(_SWEEPS, _EFFORT // size))


def _crossings(ranks: Sequence[Sequence[Slot]], after: Mapping[Slot, Sequence[Slot]]) -> int:
    total = 0
    for rank, following in pairwise(ranks):
        place = {slot: index for index, slot in enumerate(following)}
        seen: list[int] = []
        for slot in rank:
            ends = sorted(place[end] for end in after.get(slot, ()))
            total += sum(len(seen) - bisect_right(seen, end) for end in ends)
            for end in ends:
                insort(seen, end)
    return total


def _coordinates(
    ranks: Sequence[Sequence[Slot]],
    before: Mapping[Slot, Sequence[Slot]],
    after: Mapping[Slot, Sequence[Slot]],
    level: Mapping[int, int],
    size: Measure,
) -> dict[Slot, float]:
    sweeps = _sweeps(ranks, after)

    def half(slot: Slot) -> float:
        return (size.broad if level[slot[0]] == slot[1] else size.gap) / 2

    across: dict[Slot, float] = {}
    offsets: list[list[float]] = []  # least distance of each slot from the first of its rank
    for rank in ranks:
        at = [0.0]
        for one, other in pairwise(rank):
            at.append(at[-1] + half(one) + size.gap + half(other))
        offsets.append(at)
        across.update((slot, offset - at[-1] / 2) for slot, offset in zip(rank, at, strict=True))
    for sweep in range(2 * sweeps + 1):
        forward = sweep % 2 == 0
        last = sweep == 2 * sweeps
        for index in range(len(ranks)) if forward else reversed(range(len(ranks))):
            wanted, weights = [], []
            for slot in ranks[index]:
                near = [*before.get(slot, ()), *after.get(slot, ())]
                if not last:
                    near = list((before if forward else after).get(slot, ())) or near
                wish = sum(across[other] for other in near) / len(near) if near else across[slot]
                wanted.append(wish)
                weights.append(_weight(slot, near, level))
            across.update(zip(ranks[index], _spread(wanted, weights, offsets[index]), strict=True))
    least = min(across[slot] - half(slot) for slot in across)
    return {slot: value - least for slot, value in across.items()}


def _weight(slot: Slot, near: Collection[Slot], level: Mapping[int, int]) -> float:
    """How firmly a slot stays where it wants to be: long edges are to run straight."""
    return 1.0 + len(near) if level[slot[0]] == slot[1] else 8.0


def _spread(
    wanted: Sequence[float], weights: Sequence[float], offsets: Sequence[float]
) -> list[float]:
    """Positions at least `offsets` apart with the least weighted squares of displacement."""
    pools: list[tuple[float, float, int]] = []  # (mean, weight, members)
    for wish, weight, offset in zip(wanted, weights, offsets, strict=True):
        mean, total, members = wish - offset, weight, 1
        while pools and pools[-1][0] >= mean:
            other, heavy, count = pools.pop()
            mean = (mean * total + other * heavy) / (total + heavy)
            total, members = total + heavy, members + count
        pools.append((mean, total, members))
    flat = [mean for mean, _, members in pools for _ in range(members)]
    return [value + offset for value, offset in zip(flat, offsets, strict=True)]


def _placed(
    ranks: Sequence[Sequence[Slot]],
    across: Mapping[Slot, float],
    after: Mapping[Slot, Sequence[Slot]],
    level: Mapping[int, int],
    size: Measure,
) -> Layout:
    starts = [0.0]
    for rank in ranks[:-1]:
        rise = max(abs(across[end] - across[slot]) for slot in rank for end in after.get(slot, ()))
        # Steep curves are given more room.
        starts.append(starts[-1] + size.long + min(max(size.way, rise / 5), size.farthest))
    links = []
    for slot, here in across.items():
        number, place = slot
        begin, end = starts[place], starts[place] + size.long
        if level[number] < place:
            links.append(Link(number, None, (begin, here), (end, here)))
        for other in after.get(slot, ()):
            target = other[0] if other[0] != number else None
            arrival = (starts[place + 1], across[other])
            links.append(Link(number, target, (end, here), arrival))
    centres = {
        number: (starts[place] + size.long / 2, across[number, place])
        for number, place in level.items()
    }
    bottom = max(
        across[slot] + (size.broad if level[slot[0]] == slot[1] else size.gap) / 2
        for slot in across
    )
    return Layout(centres, links, starts[-1] + size.long, bottom)
