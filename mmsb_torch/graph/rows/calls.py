"""A function as a list of calls of torch's operators, with sizes that depend on one number.

Values are numbered: the inputs first, then the constants, then what each call gives. The number
that sizes depend on is `rows`: dimension 0 of the inputs that were captured with it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


def schema_of(op: Any) -> Any:
    """The schema of an overload: its arguments and results."""
    return op._schema  # noqa: SLF001 - public in all but name


class Ref(NamedTuple):
    """The value of that number, as an argument."""

    value: int


class Size:
    """A whole number that depends on the rows: `times * rows + plus`, or what `general` says."""

    __slots__ = ("general", "plus", "times")

    def __init__(self, times: int, plus: int, general: Callable[[int], int] | None = None) -> None:
        self.times = times
        self.plus = plus
        self.general = general

    def at(self, rows: int) -> int:
        """The number for that many rows."""
        return self.times * rows + self.plus if self.general is None else self.general(rows)

    @property
    def blocks(self) -> int | None:
        """How many times the rows this is; None if it is something else."""
        return self.times if self.general is None and self.plus == 0 else None

    def __repr__(self) -> str:
        return f"{self.times}*rows+{self.plus}" if self.general is None else "f(rows)"


Shape = tuple[int, ...]


@dataclass(slots=True, eq=False)
class Call:
    """One call: an operator, its arguments by name, and what it gives."""

    value: int
    """The number of its result."""
    name: str
    """As the trace calls it, for people."""
    op: Any
    """torch.ops' overload."""
    args: dict[str, Any]
    """By the names of the schema, in its order; Ref, Size and plain values in lists."""
    shape: tuple[int | Size, ...]
    dtype: torch.dtype
    device: torch.device
    item: int | None = None
    """Which of its several results is meant."""
    tensors: tuple[int, ...] = ()
    """The values among its arguments, in order."""
    places: tuple[tuple[str, int | None], ...] = ()
    """Where each stands: the argument's name, and its place in a list."""
    sized: bool = False
    """Whether an argument depends on the rows."""

    def __post_init__(self) -> None:
        tensors, places = [], []
        for name, value in self.args.items():
            items = value if isinstance(value, list) else [value]
            for at, item in enumerate(items):
                if isinstance(item, Ref):
                    tensors.append(item.value)
                    places.append((name, at if isinstance(value, list) else None))
                self.sized = self.sized or isinstance(item, Size)
        self.tensors, self.places = tuple(tensors), tuple(places)

    @property
    def grows(self) -> bool:
        """Whether the shape depends on the rows."""
        return any(isinstance(size, Size) for size in self.shape)

    def positional(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments as torch wants them: positional ones and those by name only."""
        plain, named = [], {}
        for argument in schema_of(self.op).arguments:
            if argument.name in self.args:
                if argument.kwarg_only:
                    named[argument.name] = self.args[argument.name]
                else:
                    plain.append(self.args[argument.name])
        return tuple(plain), named

    def __str__(self) -> str:
        name = str(self.op).removeprefix("aten.").removesuffix(".default")
        return f"{self.name} = {name}"


class Graph(NamedTuple):
    """A captured function."""

    inputs: tuple[tuple[int | Size, ...], ...]
    """The shapes of the inputs."""
    constants: tuple[Tensor, ...]
    """Parameters, buffers and other tensors it holds: by reference."""
    calls: tuple[Call, ...]
    output: int
    """The number of the value it returns."""
    dynamic: tuple[int, ...]
    """The inputs whose dimension 0 is the rows; none if all sizes are fixed."""
    rows: int
    """The rows it was captured with."""
    least: int
    most: int | None

    @property
    def first(self) -> int:
        """The number of the first call's result."""
        return len(self.inputs) + len(self.constants)

    def shape(self, value: int) -> tuple[int | Size, ...]:
        """The shape of a value."""
        if value < len(self.inputs):
            return self.inputs[value]
        if value < self.first:
            return tuple(self.constants[value - len(self.inputs)].shape)
        return self.calls[value - self.first].shape

    def at(self, rows: int) -> list[Sized]:
        """Every call at that many rows."""
        return [Sized(self, call, rows) for call in self.calls]


def evaluate(value: Any, rows: int) -> Any:
    """A value or shape at that many rows."""
    if isinstance(value, Size):
        return value.at(rows)
    if isinstance(value, list):
        return [evaluate(item, rows) for item in value]
    if isinstance(value, tuple) and not isinstance(value, Ref):
        return tuple(evaluate(item, rows) for item in value)
    return value


class Sized:
    """A call at one number of rows: what rules look at.

    Attributes:
        call: the call.
        graph: where it is.
        rows: their number.
        shape: of its result.
    """

    __slots__ = ("__dict__", "call", "graph", "rows", "shape")

    def __init__(self, graph: Graph, call: Call, rows: int) -> None:
        self.graph = graph
        self.call = call
        self.resize(rows)

    def resize(self, rows: int) -> None:
        """Look at it at another number of rows."""
        self.rows = rows
        self.shape: Shape = evaluate(self.call.shape, rows)
        self.__dict__.clear()

    @functools.cached_property
    def args(self) -> Mapping[str, Any]:
        """The arguments that were given, by the schema's names; tensors are `Ref`s."""
        return {name: evaluate(value, self.rows) for name, value in self.call.args.items()}

    @functools.cached_property
    def shapes(self) -> Mapping[str, Any]:
        """The shapes of the tensors among the arguments; lists of shapes for lists of tensors."""
        found: dict[str, Any] = {}
        for value, (name, place) in zip(self.call.tensors, self.call.places, strict=True):
            shape = evaluate(self.graph.shape(value), self.rows)
            if place is None:
                found[name] = shape
            else:
                found.setdefault(name, []).append(shape)
        return found

    def arg(self, name: str, default: Any = None) -> Any:
        """An argument by name; the schema's default if it was not given."""
        if name in self.args:
            return self.args[name]
        for argument in schema_of(self.call.op).arguments:
            if argument.name == name and argument.has_default_value():
                return argument.default_value
        return default

    def dim(self, name: str, rank: int, default: Any = None) -> int:
        """A dimension among the arguments, counted from the front of `rank`."""
        given = self.arg(name, default)
        return given % rank if rank else 0

    def dims(self, name: str, rank: int) -> tuple[int, ...]:
        """Several; none given means all."""
        given = self.arg(name)
        if given is None or given == []:
            return tuple(range(rank))
        given = [given] if isinstance(given, int) else given
        return tuple(sorted(dim % rank for dim in given)) if rank else ()
