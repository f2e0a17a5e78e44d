"""What moves elements without computing: reshapes, transposes, slices, joins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mmsb_torch.graph.rows.building import itself
from mmsb_torch.graph.rows.calls import Call, Sized, schema_of
from mmsb_torch.graph.rows.rule import MIXED, Links, Rule

from . import folding
from .folding import groups
from .pointwise import broadcast
from .shifts import Start, inside, shifted, single

_aten = torch.ops.aten


def reshaped(at: Sized) -> Links:
    """Dimensions that come through a reshape as they are."""
    name = at.call.places[0][0]
    shape = at.shapes[name]
    dims: list[int | None] = [MIXED] * len(shape)
    for left, right in groups(shape, at.shape):
        if len(left) == len(right) == 1:
            dims[left[0]] = right[0]
    return {name: dims}


def _order(at: Sized) -> list[int]:
    """Which dimension of the argument each of the result is."""
    rank = len(at.shape)
    order = list(range(rank))
    name = schema_of(at.call.op).name.removeprefix("aten::")
    if name == "permute":
        return [dim % rank for dim in at.arg("dims")]
    if name == "movedim":
        source, goal = (
            [d % rank for d in _listed(at.arg(key))] for key in ("source", "destination")
        )
        order = [dim for dim in order if dim not in source]
        for to, dim in sorted(zip(goal, source, strict=True)):
            order.insert(to, dim)
        return order
    if rank < 2:
        return order
    if name in {"t", "mT", "adjoint"}:
        one, other = rank - 2, rank - 1
    elif name == "numpy_T":
        return order[::-1]
    else:
        one, other = at.dim("dim0", rank), at.dim("dim1", rank)
    order[one], order[other] = order[other], order[one]
    return order


def _listed(value: int | list[int]) -> list[int]:
    return [value] if isinstance(value, int) else value


def permuted(at: Sized) -> Links:
    """Dimensions in another order."""
    order = _order(at)
    return {at.call.places[0][0]: [order.index(dim) for dim in range(len(order))]}


def expanded(at: Sized) -> Links:
    """Dimensions of size 1 repeated."""
    name = at.call.places[0][0]
    return {name: broadcast(at.shapes[name], at.shape)}


def _cut(
    at: Sized, name: str, dim: int, start: Start, step: int = 1, *, appends: bool = False
) -> Links:
    shape = at.shapes[name]
    dims: list[Any] = list(range(len(shape)))
    if at.shape[dim] != shape[dim]:
        dims[dim] = shifted(dim, start, step, appends=appends)
    return {name: dims}


def sliced(at: Sized) -> Links:
    """One dimension from start to end by step."""
    dim = at.dim("dim", len(at.shape), 0)

    def start(at: Sized) -> int:
        return slice(at.arg("start"), at.arg("end")).indices(at.shapes["self"][dim])[0]

    return _cut(at, "self", dim, start, at.arg("step", 1), appends=begins_fixed(at.call))


def begins_fixed(call: Call) -> bool:
    """Whether a slice begins at a fixed index, wherever it ends."""
    start = call.args.get("start") or 0
    return isinstance(start, int) and start >= 0 and call.args.get("step", 1) == 1


def _slice_shifts(site: Any) -> bool:
    return not begins_fixed(site.call)


def narrowed(at: Sized) -> Links:
    """`length` indices from `start`."""
    dim = at.dim("dim", len(at.shape))

    def start(at: Sized) -> int:
        given = at.arg("start")
        return int(given + at.shapes["self"][dim] * (given < 0))

    return _cut(at, "self", dim, start)


def split(at: Sized) -> Links:
    """One of the pieces along a dimension: `split`, `chunk`, `split_with_sizes`."""
    name = at.call.places[0][0]
    dim, item = at.dim("dim", len(at.shape), 0), at.call.item or 0

    def start(at: Sized) -> int:
        sizes = at.arg("split_sizes") or at.arg("split_size")
        if sizes is None:
            sizes = -(-at.shapes[name][dim] // at.arg("chunks"))
        return sum(sizes[:item]) if isinstance(sizes, list) else int(sizes) * item

    return _cut(at, name, dim, start)


def selected(at: Sized) -> Links:
    """One index of a dimension, which goes away: `select`, and a piece of `unbind`."""
    rank = len(at.shapes["self"])
    dim = at.dim("dim", rank, 0)

    def index(at: Sized) -> int:
        given = at.call.item if at.call.item is not None else at.arg("index")
        return int(given + at.shapes["self"][dim] * (given < 0))

    return {"self": [*range(dim), single(index), *range(dim, rank - 1)]}


def joined(at: Sized) -> Links:
    """`cat`: one after the other along a dimension."""
    dim, found = at.dim("dim", len(at.shape), 0), []
    for place, shape in enumerate(at.shapes["tensors"]):
        if len(shape) != len(at.shape):  # an old kindness to empty tensors
            found.append([MIXED] * len(shape))
            continue
        dims: list[Any] = list(range(len(shape)))
        if shape[dim] != at.shape[dim]:
            dims[dim] = inside(dim, _before(dim, place), _length(dim, place))
        found.append(dims)
    return {"tensors": found}


def _before(dim: int, place: int) -> Start:
    def start(at: Sized) -> int:
        rank = len(at.shape)
        shapes = at.shapes["tensors"][:place]
        return sum(shape[dim] for shape in shapes if len(shape) == rank)

    return start


def _length(dim: int, place: int) -> Start:
    return lambda at: int(at.shapes["tensors"][place][dim])


def stacked(at: Sized) -> Links:
    """One behind the other along a new dimension."""
    dim = at.dim("dim", len(at.shape), 0)
    dims = [*range(dim), *range(dim + 1, len(at.shape))]
    return {"tensors": [dims for _ in at.shapes["tensors"]]}


def without(at: Sized) -> Links:
    """`flip`, `roll`: the dimensions that are not named."""
    shape = at.shapes["self"]
    moved = at.dims("dims", len(shape))
    return {"self": [MIXED if dim in moved else dim for dim in range(len(shape))]}


def triangle(at: Sized) -> Links:
    """`tril`, `triu`: what is kept depends on the place in the last two dimensions."""
    rank = len(at.shape)
    return {"self": (*range(rank - 2), MIXED, MIXED)}


def repeated(at: Sized) -> Links:
    """`repeat`: dimensions that are not."""
    shape = at.shapes["self"]
    return {"self": broadcast(shape, at.shape)}


def padded(at: Sized) -> Links:
    """`pad`: dimensions that are not; pads come as pairs from the last dimension on."""
    shape, pad = at.shapes["self"], at.arg("pad")
    dims: list[Any] = list(range(len(shape)))
    for place in range(len(pad) // 2):
        if pad[2 * place] or pad[2 * place + 1]:
            dims[len(shape) - 1 - place] = MIXED
    return {"self": dims}


def scattered(at: Sized) -> Links:
    """`slice_scatter`, `select_scatter`: the dimensions beside the one that is written."""
    shape, source = at.shapes["self"], at.shapes["src"]
    dim = at.dim("dim", len(shape), 0)
    dims = [MIXED if one == dim else one for one in range(len(shape))]
    if source == shape:
        return {"self": range(len(shape)), "src": range(len(shape))}
    return {
        "self": dims,
        "src": dims if len(source) == len(shape) else dims[:dim] + dims[dim + 1 :],
    }


def windows(at: Sized) -> Links:
    """`unfold`: overlapping pieces of one dimension, as a new last one."""
    shape = at.shapes["self"]
    dim = at.dim("dimension", len(shape))
    return {"self": [MIXED if one == dim else one for one in range(len(shape))]}


def first_dims(at: Sized) -> Links:
    """What adds or removes a last dimension: complex numbers, `one_hot`."""
    name = at.call.places[0][0]
    shape = at.shapes[name]
    return {name: [dim if dim < len(at.shape) else MIXED for dim in range(len(shape))]}


RESHAPES = ("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze")
_FAMILIES: dict[Callable[[Any], Links], tuple[str, ...]] = {
    reshaped: RESHAPES,
    permuted: ("permute", "transpose", "t", "mT", "numpy_T", "movedim", "adjoint"),
    expanded: ("expand", "broadcast_to"),
    sliced: ("slice",),
    narrowed: ("narrow",),
    split: ("split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_chunk"),
    selected: ("select", "unbind"),
    joined: ("cat", "concat", "concatenate"),
    stacked: ("stack",),
    without: ("flip", "roll"),
    triangle: ("tril", "triu"),
    repeated: ("repeat",),
    padded: ("pad", "constant_pad_nd"),
    scattered: ("slice_scatter", "select_scatter"),
    windows: ("unfold",),
    first_dims: ("view_as_real", "view_as_complex", "one_hot"),
}
_ODD = ("Dimname", "dtype", "dimname")
_FROM_SIZES = frozenset({reshaped, expanded})
_CHANGE = frozenset({triangle, padded, scattered, first_dims})
"""What puts other values beside those it moves."""


def build_selected(job: Any) -> Any:
    """The argument was restricted to the index."""
    register = job.registers[0]
    dim = job.site.at.dim("dim", len(job.needs[0]), 0)
    return lambda registers, _: torch.select(registers[register], dim, 0)


def build_joined(job: Any) -> Any:
    """The pieces of which something is needed."""
    given = [register for register in job.registers if register is not None]
    dim = job.site.at.dim("dim", len(job.box), 0)
    if len(given) == 1:
        (only,) = given
        return lambda registers, _: registers[only]
    return lambda registers, _: torch.cat([registers[one] for one in given], dim)


_HOOKS: dict[Any, dict[str, Any]] = {
    reshaped: {
        "spread": folding.spread,
        "need": folding.need,
        "whole": folding.whole,
        "build": folding.build,
        "shifts": folding.shifts,
    },
    expanded: {
        "build": folding.build_expanded,
        "shifts": lambda _: False,
        "whole": lambda _, box: box,
    },
    sliced: {"build": itself, "shifts": _slice_shifts},
    narrowed: {"build": itself},
    split: {"build": itself},
    selected: {"build": build_selected},
    joined: {"build": build_joined},
}


def rules() -> dict[Any, Rule]:
    """All of these are exact."""
    found = {}
    for links, names in _FAMILIES.items():
        rule = Rule(
            links,
            moves=links not in _CHANGE,
            from_sizes=links in _FROM_SIZES,
            **_HOOKS.get(links, {}),
        )
        for name in names:
            packet = getattr(_aten, name)
            for overload in packet.overloads():
                if overload not in _ODD and "out" not in overload and "names" not in overload:
                    found[getattr(packet, overload)] = rule
    return found


def is_reshape(op: Any) -> bool:
    """Whether an operator keeps all elements in their order."""
    return schema_of(op).name.removeprefix("aten::") in RESHAPES
