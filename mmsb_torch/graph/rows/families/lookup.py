"""Looking rows up by number: tables, indices, gathers."""

from __future__ import annotations

from typing import Any

import torch

from mmsb_torch.graph.rows.calls import Ref, Sized
from mmsb_torch.graph.rows.rule import MIXED, Links, Rule

from .pointwise import broadcast

_aten = torch.ops.aten


def embedding(at: Sized) -> Links:
    """A row of the table for each id."""
    rank = len(at.shapes["indices"])
    return {"weight": (MIXED, rank), "indices": range(rank)}


def index_select(at: Sized) -> Links:
    """Indices of one dimension."""
    shape = at.shapes["self"]
    dim = at.dim("dim", len(shape))
    dims = [MIXED if one == dim else one for one in range(len(shape))]
    return {"self": dims, "index": (dim,) if at.shapes["index"] else ()}


def gather(at: Sized) -> Links:
    """Along one dimension, by an index of the result's shape."""
    shape = at.shapes["self"]
    dim = at.dim("dim", len(shape))
    name = "indices" if "indices" in at.shapes else "index"
    dims = [
        one if one != dim and size == at.shape[one] else MIXED for one, size in enumerate(shape)
    ]
    return {"self": dims, name: broadcast(at.shapes[name], at.shape)}


def index_layout(at: Sized) -> tuple[list[int], int, tuple[int, ...]] | None:
    """Of `x[i, :, j]`: the indexed dimensions, where their results begin, and those's shape.

    None if an index is a mask, whose result's size depends on values.
    """
    given = at.arg("indices")
    indexed = [dim for dim, item in enumerate(given) if isinstance(item, Ref)]
    shapes = at.shapes["indices"]
    together = torch.broadcast_shapes(*shapes)
    left = len(at.shapes["self"]) - len(indexed)
    if left + len(together) != len(at.shape):
        return None
    adjacent = indexed == list(range(indexed[0], indexed[-1] + 1))
    return indexed, indexed[0] if adjacent else 0, tuple(together)


def index(at: Sized) -> Links:
    """`x[i, :, j]`: indices side by side, the other dimensions as they are."""
    layout = index_layout(at)
    if layout is None:
        return {}
    indexed, begin, together = layout
    shape = at.shapes["self"]
    dims: list[int | None] = []
    place = 0 if begin else len(together)
    for dim in range(len(shape)):
        if dim in indexed:
            dims.append(MIXED)
            continue
        if place == begin and begin:
            place += len(together)
        dims.append(place)
        place += 1
    found = [
        [None if to is None else to + begin for to in broadcast(item, together)]  # type: ignore[operator]
        for item in at.shapes["indices"]
    ]
    return {"self": dims, "indices": found}


def rules() -> dict[Any, Rule]:
    """Of a table, all is needed."""
    found = {
        _aten.embedding.default: embedding,
        _aten.index_select.default: index_select,
        _aten.gather.default: gather,
        _aten.take_along_dim.default: gather,
        _aten.index.Tensor: index,
    }
    return {op: Rule(links) for op, links in found.items()}
