"""Looking rows up by number: tables, indices, gathers."""

from __future__ import annotations

import math
from typing import Any

import torch

from mmsb_torch.graph.rows.building import plain
from mmsb_torch.graph.rows.calls import Ref, Sized, schema_of
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
    if at.arg("dim") is None:
        return {}
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
    """`x[i, :, j]`: indices side by side, the other dimensions as they are.

    A dimension that is indexed by its own numbers, 0, 1, 2, ..., goes where those go.
    """
    layout = index_layout(at)
    if layout is None:
        return {}
    indexed, begin, together = layout
    shape = at.shapes["self"]
    found: list[list[Any]] = [
        [None if to is None else int(to) + begin for to in broadcast(item, together)]  # type: ignore[arg-type]
        for item in at.shapes["indices"]
    ]
    dims: list[Any] = []
    place = 0 if begin else len(together)
    for dim in range(len(shape)):
        if dim in indexed:
            numbers = counting_dim(at, dim)
            dims.append(None if numbers is None else found[indexed.index(dim)][numbers])
            continue
        if place == begin and begin:
            place += len(together)
        dims.append(place)
        place += 1
    return {"self": dims, "indices": found}


def counting_dim(at: Sized, dim: int) -> int | None:
    """Where the index of a dimension holds all its numbers in order, and is 1 long elsewhere."""
    graph, value = at.graph, at.arg("indices")[dim].value
    at_place = [name_place for name_place in at.call.places if name_place[0] == "indices"]
    shape = at.shapes["indices"][at_place.index(("indices", dim))]
    long = [place for place, size in enumerate(shape) if size != 1]
    if len(long) != 1 or shape[long[0]] != at.shapes["self"][dim]:
        return None
    while value >= graph.first:
        call = graph.calls[value - graph.first]
        name = schema_of(call.op).name.removeprefix("aten::")
        if call.dtype is not torch.int64:
            return None
        if name == "arange":
            made = Sized(graph, call, at.rows)
            counts = (made.arg("start", 0), made.arg("step", 1)) == (0, 1)
            return long[0] if counts and made.shape == (shape[long[0]],) else None
        whole = Sized(graph, call, at.rows)
        if name not in _KEEPING or math.prod(whole.shape) != shape[long[0]]:
            return None
        value = call.tensors[0]
    return None


_KEEPING = (
    "view",
    "reshape",
    "unsqueeze",
    "squeeze",
    "expand",
    "slice",
    "to",
    "contiguous",
    "alias",
)
"""What keeps the order of all elements, if it keeps their number."""


def build_index(job: Any) -> Any:
    """A dimension indexed by its numbers was restricted to some: they count anew."""
    own = [
        register
        for (name, place), register in zip(job.site.call.places, job.registers, strict=True)
        if name == "indices" and job.needs[0][place] is not None
    ]
    if not own:
        return None
    run = plain(job)

    def counted(registers: list[Any], env: list[Any]) -> Any:
        kept = [registers[register] for register in own]
        for register, value in zip(own, kept, strict=True):
            registers[register] = torch.arange(value.numel(), device=value.device).view_as(value)
        try:
            return run(registers, env)
        finally:
            for register, value in zip(own, kept, strict=True):
                registers[register] = value

    return counted


def rules() -> dict[Any, Rule]:
    """Of a table, all is needed."""
    found = {
        _aten.embedding.default: embedding,
        _aten.index_select.default: index_select,
        _aten.gather.default: gather,
        _aten.take_along_dim.default: gather,
    }
    table = {op: Rule(links) for op, links in found.items()}
    table[_aten.index.Tensor] = Rule(index, build=build_index)
    return table
