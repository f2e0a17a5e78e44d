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
    rows: Tensor | None
    """The rows that changed in any of them, new ones among them, maybe more: int64 [n], sorted. None
    if these inputs have not one number of rows, or fewer than the value."""
    of: int
    """How many rows there are by now."""
    share: tuple[int, int]
    """Of the input that changed most: how many rows changed, of how many."""


def edits(look: Look, node: Node, recipe: Recipe, now: tuple[int, ...]) -> Edits | None:
    """What changed, if a value is there and everything else is as it was.

    None if that is not known, or if an input changed as a whole. The caller holds the node's flight.
    """
    entry = node.entry
    seen, seen_of = node.seen, node.seen_of  # another thread may declare the page anew meanwhile
    if (
        not node.has_value
        or not entry.is_unwritten()
        or entry.value.dim() == 0
        or node.code != recipe.digest
        or node.settings != look.settings
        or not seen_of == node.inputs == recipe.inputs
        or not len(now) == len(seen) == len(recipe.inputs)
    ):
        return None
    found: dict[int, tuple[Tensor, int]] = {}
    with look.engine.router.table.lock:
        for place, item in enumerate(recipe.inputs):
            before, after = seen[place], now[place]
            if before == after:
                continue
            if not 0 <= before < after or item.spec is None or not item.spec.shape:
                return None
            rows = item.journal.since(before, item.spec.shape).touched_rows()
            if rows is None:
                return None
            found[place] = rows, item.spec.shape[0]
    if not found:
        return None
    counts = {count for _, count in found.values()}
    together = None
    if len(counts) == 1 and max(counts) >= entry.value.shape[0]:
        parts = [rows for rows, _ in found.values()]
        together = parts[0] if len(parts) == 1 else torch.cat(parts).unique()
    share = max(((rows.numel(), count) for rows, count in found.values()), key=_ratio)
    return Edits(frozenset(found), together, max(counts), share)


def _ratio(share: tuple[int, int]) -> float:
    return share[0] / max(share[1], 1)
