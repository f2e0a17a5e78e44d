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
    """The rows that changed in any of them, maybe more: int64 [n], sorted."""


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
    places, found, count = [], [], entry.value.shape[0]
    with look.engine.router.table.lock:
        for place, item in enumerate(recipe.inputs):
            before, after = node.seen[place], now[place]
            if before == after:
                continue
            if not 0 <= before < after or item.spec is None or item.spec.shape[:1] != (count,):
                return None
            rows = item.journal.since(before, item.spec.shape).touched_rows()
            if rows is None:
                return None
            places.append(place)
            found.append(rows)
    if not found:
        return None
    rows = found[0] if len(found) == 1 else torch.cat(found).unique()
    return Edits(frozenset(places), rows)
