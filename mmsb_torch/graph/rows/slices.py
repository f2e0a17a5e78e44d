"""The proof that the rows of a function's result follow the rows of its inputs.

Every value is one of: *whole* (it depends neither on the rows' values nor on how many there are),
*rows* (one dimension holds the rows, in order, and what belongs to a row depends on that row only),
or *numbers* (0, 1, 2, ...: the rows' own places, good for looking up the same row and for nothing
else). A call that keeps to this gives such a value again; any other ends the proof, with its name.

It is done at a prime number of rows larger than any other size, so that a dimension holds the rows
exactly if the prime divides it; and each such size must be a multiple of the rows for all numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from .calls import Call, Graph, Size, Sized
from .families.factory import factories, uniform
from .families.lookup import index_layout
from .families.views import is_reshape
from .rule import link_list, tensor_shapes
from .table import rule_for


class Rows(NamedTuple):
    """Dimension `dim` has the rows: index (o * rows + r) * inner + i belongs to row r."""

    dim: int
    inner: int = 1
    numbers: bool = False
    """The value is r itself."""


class _EndError(Exception):
    """The proof ends here; the argument says why."""


def why_not_rows(graph: Graph) -> str | None:
    """None if row i of the result depends only on row i of the dynamic inputs; else why not."""
    if not graph.dynamic:
        return "it could only be captured at fixed sizes"
    proof = _Proof(graph)
    try:
        for at in graph.at(proof.prime):
            proof.values[at.call.value] = proof.call(at)
        found = proof.values.get(graph.output)
        first = graph.shape(graph.output)[:1]
        if found != Rows(0) or not isinstance(first[0], Size) or first[0].blocks != 1:
            return "dimension 0 of its result does not hold the rows of its inputs"
    except _EndError as end:
        return str(end)
    return None


class _Proof:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.prime = prime_for(graph)
        self.values: dict[int, Rows | None] = {value: Rows(0) for value in graph.dynamic}

    def call(self, at: Sized) -> Rows | None:
        """What a call gives."""
        call = at.call
        dims = self._sized_dims(call)
        given = [self.values.get(value) for value in call.tensors]
        if call.op in factories:
            return self._made(at, dims)
        if not any(given):
            return self._without_rows(at, dims)
        rule = rule_for(call.op)
        if rule is None:
            raise _EndError(f"{call}: no rule says what its rows depend on")
        if call.sized and not rule.from_sizes and not _whole_slice(at):
            raise _EndError(f"{call} computes with the number of rows")
        if is_reshape(call.op):
            found = self._reshaped(at, given)
        elif _is_index(call) and any(one is not None and one.numbers for one in given):
            found = self._looked_up(at, given)
        else:
            found = self._aligned(at, given, rule)
        if dims != [found.dim]:
            raise _EndError(f"{call} has rows in more than one dimension")
        return found

    def _sized_dims(self, call: Call) -> list[int]:
        dims = []
        for dim, size in enumerate(call.shape):
            if isinstance(size, Size):
                if not size.blocks:
                    raise _EndError(f"{call} cuts the rows or adds to them")
                dims.append(dim)
        return dims

    def _made(self, at: Sized, dims: list[int]) -> Rows | None:
        """From sizes alone: fixed, one value everywhere, or the rows' numbers."""
        call = at.call
        if not call.sized and not dims:
            return None
        if call.op in uniform and len(dims) == 1 and not self._size_as_value(call):
            return Rows(dims[0], at.shape[dims[0]] // self.prime)
        if (
            str(call.op).startswith("aten.arange")
            and at.shape == (self.prime,)
            and at.arg("start", 0) == 0
            and at.arg("step", 1) == 1
            and not (call.dtype.is_floating_point or call.dtype.is_complex)
        ):
            return Rows(0, numbers=True)
        raise _EndError(f"{call} depends on the places of the rows")

    def _size_as_value(self, call: Call) -> bool:
        return any(isinstance(call.args.get(name), Size) for name in ("fill_value", "s"))

    def _without_rows(self, at: Sized, dims: list[int]) -> Rows | None:
        """Calls on whole values only; one repeated for each row has rows."""
        call = at.call
        if not call.sized and not dims:
            return None
        rule = rule_for(call.op)
        if rule is not None and rule.from_sizes and not is_reshape(call.op) and len(dims) == 1:
            return Rows(dims[0], at.shape[dims[0]] // self.prime)
        raise _EndError(f"{call} depends on the number of rows")

    def _reshaped(self, at: Sized, given: list[Rows | None]) -> Rows:
        """The elements keep their order, so the rows keep their stride in it."""
        rows, shape = given[0], tensor_shapes(at)[0]
        if rows is None:
            raise _EndError(f"{at.call} takes its shape from the rows")
        stride = rows.inner * math.prod(shape[rows.dim + 1 :])
        below = 1
        for dim in reversed(range(len(at.shape))):
            size = at.shape[dim]
            fits = stride % below == 0 and (below * size) % (stride * self.prime) == 0
            if size % self.prime == 0 and fits:
                return Rows(dim, stride // below, rows.numbers)
            below *= size
        raise _EndError(f"{at.call} tears the rows apart")

    def _aligned(self, at: Sized, given: list[Rows | None], rule: Any) -> Rows:
        """Every argument with rows has them in the same dimension of the result."""
        found: Rows | None = None
        shapes = tensor_shapes(at)
        for rows, links, shape in zip(given, link_list(at, rule), shapes, strict=True):
            if rows is None:
                continue
            to = links[rows.dim]
            if not isinstance(to, int) or at.shape[to] != shape[rows.dim]:
                raise _EndError(f"{at.call} mixes rows")
            if rows.numbers and not (
                rule.moves and len(given) == 1 and at.call.dtype is torch.int64
            ):
                raise _EndError(f"{at.call} computes with the places of the rows")
            found = _same(found, Rows(to, rows.inner, rows.numbers), at.call)
        assert found is not None
        return found

    def _looked_up(self, at: Sized, given: list[Rows | None]) -> Rows:
        """`x[numbers, ...]`: the rows of x by their own numbers."""
        layout, source = index_layout(at), given[0]
        other = _EndError(f"{at.call} looks up other rows")
        if layout is None or source is None or source.inner != 1 or source.numbers:
            raise other
        indexed, begin, together = layout
        if source.dim not in indexed:
            raise other
        found: Rows | None = None
        for rows, (_, place), shape in zip(
            given[1:], at.call.places[1:], tensor_shapes(at)[1:], strict=True
        ):
            if (place == source.dim) != (rows is not None and rows.numbers):
                raise other
            if rows is not None:
                to = begin + rows.dim + len(together) - len(shape)
                found = _same(found, Rows(to, rows.inner), at.call)
        if found is None or found.inner != 1:
            raise other
        return found


def _same(found: Rows | None, other: Rows, call: Call) -> Rows:
    if found is not None and found != other:
        raise _EndError(f"{call} compares different rows")
    return other


def _is_index(call: Call) -> bool:
    return str(call.op) == "aten.index.Tensor"


def _whole_slice(at: Sized) -> bool:
    """A slice of everything, whose end was given by the number of rows."""
    return str(at.call.op) == "aten.slice.Tensor" and at.shapes["self"] == at.shape


def _numbers(graph: Graph) -> Iterator[int]:
    """All fixed numbers in a graph that could be taken for a size."""
    shapes: list[Any] = [*graph.inputs, *(tuple(held.shape) for held in graph.constants)]
    for call in graph.calls:
        shapes.append(call.shape)
        shapes += [value if isinstance(value, list) else [value] for value in call.args.values()]
    for shape in shapes:
        for size in shape:
            if isinstance(size, Size):
                yield max(abs(size.times), abs(size.plus))
            elif isinstance(size, int) and abs(size) < _ENDLESS:
                yield abs(size)


_ENDLESS = 2**31
"""Larger numbers stand for "to the end"."""


def prime_for(graph: Graph) -> int:
    """A prime number of rows that no fixed size of the graph has as a factor."""
    found = max(max(_numbers(graph), default=0), 100) | 1
    while True:
        found += 2
        if all(found % factor for factor in range(3, math.isqrt(found) + 1, 2)):
            return found
