"""What moves elements without computing: reshapes, transposes, slices, joins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from mmsb_torch.graph.rows.calls import Sized, schema_of
from mmsb_torch.graph.rows.rule import MIXED, Dims, Links, Rule

from .pointwise import broadcast
from .shifts import inside, shifted, single

_aten = torch.ops.aten


def groups(one: Sequence[int], other: Sequence[int]) -> list[tuple[list[int], list[int]]]:
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


def sliced(at: Sized) -> Links:
    """One dimension from start to end by step."""
    shape = at.shapes["self"]
    dim = at.dim("dim", len(shape), 0)
    start, _, step = slice(at.arg("start"), at.arg("end"), at.arg("step", 1)).indices(shape[dim])
    return {"self": _cut(shape, at.shape, dim, start, step)}


def _cut(shape: Sequence[int], out: Sequence[int], dim: int, start: int, step: int = 1) -> Dims:
    dims: list[Any] = list(range(len(shape)))
    if out[dim] != shape[dim]:
        dims[dim] = shifted(dim, start, step)
    return dims


def narrowed(at: Sized) -> Links:
    """`length` indices from `start`."""
    shape = at.shapes["self"]
    dim = at.dim("dim", len(shape))
    return {"self": _cut(shape, at.shape, dim, at.arg("start") % max(shape[dim], 1))}


def split(at: Sized) -> Links:
    """One of the pieces along a dimension: `split`, `chunk`, `split_with_sizes`."""
    name = at.call.places[0][0]
    shape, item = at.shapes[name], at.call.item or 0
    dim = at.dim("dim", len(shape), 0)
    sizes = at.arg("split_sizes") or at.arg("split_size")
    if sizes is None:
        sizes = -(-shape[dim] // at.arg("chunks"))
    start = sum(sizes[:item]) if isinstance(sizes, list) else sizes * item
    return {name: _cut(shape, at.shape, dim, start)}


def selected(at: Sized) -> Links:
    """One index of a dimension, which goes away: `select`, and a piece of `unbind`."""
    shape = at.shapes["self"]
    dim = at.dim("dim", len(shape), 0)
    index = at.call.item if at.call.item is not None else at.arg("index")
    dims: list[Any] = [*range(dim), single(index % max(shape[dim], 1)), *range(dim, len(shape) - 1)]
    return {"self": dims}


def joined(at: Sized) -> Links:
    """`cat`: one after the other along a dimension."""
    dim, found, start = at.dim("dim", len(at.shape), 0), [], 0
    for shape in at.shapes["tensors"]:
        dims: list[Any] = list(range(len(shape)))
        if len(shape) != len(at.shape):  # an old kindness to empty tensors
            dims = [MIXED] * len(shape)
        elif shape[dim] != at.shape[dim]:
            dims[dim] = inside(dim, start)
        start += shape[dim] if len(shape) == len(at.shape) else 0
        found.append(dims)
    return {"tensors": found}


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


def rules() -> dict[Any, Rule]:
    """All of these are exact."""
    found = {}
    for links, names in _FAMILIES.items():
        for name in names:
            packet = getattr(_aten, name)
            for overload in packet.overloads():
                if overload not in _ODD and "out" not in overload and "names" not in overload:
                    from_sizes = links in _FROM_SIZES
                    moves = links not in _CHANGE
                    found[getattr(packet, overload)] = Rule(
                        links, moves=moves, from_sizes=from_sizes
                    )
    return found


def is_reshape(op: Any) -> bool:
    """Whether an operator keeps all elements in their order."""
    return schema_of(op).name.removeprefix("aten::") in RESHAPES
