"""Which rows of its inputs changed since a derived value was computed, read off their journals."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from mmsb_torch.graph.look import Look
    from mmsb_torch.graph.node import Node
    from mmsb_torch.graph.recipes import Recipe


class Edits(NamedTuple):
    """What changed since a value was computed."""

    inputs: frozenset[int]
    """Positions of the inputs that changed."""
    rows: Tensor
    """The rows that changed in any of them, new ones among them, maybe more: int64 [n], sorted."""
    of: int
    """How many rows there are by now; no fewer than the value has."""


def edits(look: Look, node: Node, recipe: Recipe, now: tuple[int, ...]) -> Edits | None:
    """The rows that changed, if a value is there and everything else is as it was.

    None if that is not known, or if whole inputs changed. The caller holds the node's flight.
    """
    entry = node.entry
    if (
        not node.has_value
        or not entry.is_unwritten()
        or entry.value.dim() == 0
        or node.code != recipe.digest
        or node.settings != look.settings
        or not node.seen_of == node.inputs == recipe.inputs
        or len(now) != len(node.seen)
    ):
        return None
    places, found, counts = [], [], set()
    with look.engine.router.table.lock:
        for place, item in enumerate(recipe.inputs):
            before, after = node.seen[place], now[place]
            if before == after:
                continue
            if not 0 <= before < after or item.spec is None or not item.spec.shape:
                return None
            rows = item.journal.since(before, item.spec.shape).touched_rows()
            if rows is None:
                return None
            places.append(place)
            found.append(rows)
            counts.add(item.spec.shape[0])
    if len(counts) != 1 or max(counts) < entry.value.shape[0]:
        return None
    rows = found[0] if len(found) == 1 else torch.cat(found).unique()
    return Edits(frozenset(places), rows, counts.pop())
