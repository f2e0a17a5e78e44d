"""How boxes go through one call, by its rule: forwards to what is stale, backwards to what is needed."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from . import parts
from .calls import Graph, Size, Sized
from .rule import Dims, Link, Rule, link_list
from .tape import NOTHING, Boxed, Nothing, Slot, Some, Tape


class Site:
    """A call with its rule and links, for all edits."""

    __slots__ = ("at", "call", "carried", "graph", "links", "resized", "rule", "shifts")

    def __init__(self, graph: Graph, at: Sized, rule: Rule | None) -> None:
        self.graph = graph
        self.at = at
        self.call = at.call
        self.rule = rule
        self.links: list[Dims] = [] if rule is None else link_list(at, rule)
        self.resized = functools.partial(Sized, graph, at.call)
        """Makes the call at a number of rows."""
        self.carried = frozenset(
            link.dim if isinstance(link, Link) else link for dims in self.links for link in dims
        )
        """Dimensions of the result that are restricted by restricting arguments (and None)."""
        self.shifts = self._shifts()
        """Whether more rows move or change what its result had, by no change of its arguments."""

    def _shifts(self) -> bool:
        rule = self.rule
        if rule is None:
            return self.call.sized
        if rule.shifts is not None:
            return rule.shifts(self)
        if self.call.sized and not rule.from_sizes:
            return True
        return any(
            isinstance(link, Link)
            and not link.appends
            and (isinstance(size, Size) or self._grows(link.dim))
            for links, value in zip(self.links, self.call.tensors, strict=True)
            for link, size in zip(links, self.graph.shape(value), strict=True)
        )

    def _grows(self, dim: int | None) -> bool:
        return dim is not None and isinstance(self.call.shape[dim], Size)


class Edit:
    """One analysis.

    Attributes:
        tape: its parts.
        rows: the slot that has the number of rows.
        before: the slot that has the number there was, if it grew.
        causal: masks that let no query look at a later key, now and before.
    """

    __slots__ = ("before", "causal", "rows", "tape")

    def __init__(self, tape: Tape, rows: Slot, before: Slot | None, causal: frozenset[int]) -> None:
        self.tape = tape
        self.rows = rows
        self.before = before
        self.causal = causal

    def sized(self, site: Site) -> Slot:
        """The call at its sizes."""
        return self.tape.value(site.resized, self.rows)

    def length(self, site: Site, dim: int) -> int | Slot:
        """A size of the result."""
        return self.tape.size(site.call.shape[dim], self.rows)

    def union(self, one: Some, other: Some) -> Some:
        """What is in one of two parts."""
        if one is None or other is None:
            return None
        if one is other:
            return one
        found = self.tape.part(parts.union, one, other)
        assert not isinstance(found, Nothing)
        return found

    def hull(self, one: Boxed | None, other: Boxed | None) -> Boxed | None:
        """The smallest box around two, either of which may be empty (None)."""
        if one is None or other is None:
            return other if one is None else one
        return tuple([self.union(a, b) for a, b in zip(one, other, strict=True)])

    def spread(self, site: Site, index: int, box: Boxed) -> Boxed | None:
        """The box of the result that reads a box of an argument; None if nothing does."""
        rank, rule = len(site.call.shape), site.rule
        if rule is None:
            return (None,) * rank
        if rule.spread is not None:
            found: Boxed | None = rule.spread((self, site), index, box)
            return found
        out: list[Some] = [None] * rank
        for part, link in zip(box, site.links[index], strict=True):
            if link is None:
                continue
            if isinstance(link, int):
                if part is not None:
                    out[link] = part
            elif part is not None or link.piece:
                moved = self.tape.part(link.forward, part, self.sized(site))
                if moved is NOTHING:
                    return None
                if link.dim is not None:
                    assert not isinstance(moved, Nothing)
                    out[link.dim] = moved
        return tuple(out)

    def need(self, site: Site, box: Boxed) -> list[Boxed | None]:
        """The boxes of the arguments that a box of the result reads; None for nothing of one."""
        rule = site.rule
        if rule is None:
            return [(None,) * len(site.graph.shape(value)) for value in site.call.tensors]
        if rule.need is not None:
            found: list[Boxed | None] = rule.need((self, site), box)
            return found
        return [self._needed(site, links, box) for links in site.links]

    def _needed(self, site: Site, links: Dims, box: Boxed) -> Boxed | None:
        found: list[Some] = []
        for link in links:
            if link is None:
                found.append(None)
            elif isinstance(link, int):
                found.append(box[link])
            else:
                part = box[link.dim] if link.dim is not None else None
                if part is None and link.dim is not None:
                    found.append(None)
                    continue
                moved = self.tape.part(link.backward, part, self.sized(site))
                if isinstance(moved, Nothing):
                    return None
                found.append(moved)
        return tuple(found)

    def whole(self, site: Site, box: Boxed) -> Boxed:
        """The box that is computed to have this one."""
        if site.rule is None:
            return (None,) * len(box)
        if site.rule.whole is not None:
            found: Boxed = site.rule.whole((self, site), box)
            return found
        return tuple(part if dim in site.carried else None for dim, part in enumerate(box))


def is_all(box: Sequence[Any]) -> bool:
    """Whether a box is everything."""
    return all(part is None for part in box)
