"""The way that runs of a function take, for any number of rows: two trails, put side by side.

What is a number of rows in one trail and another number in the other depends on the rows; what is the
same in both does not. What Python read of values on the way decides which way a run takes: it can be
told of other values without running anything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
import xxhash
from torch import Tensor

from mmsb_torch.device import same_bits
from mmsb_torch.errors import PlanError

from .calls import Call, Graph, Ref, Size, evaluate, schema_of
from .evenness import uneven
from .families.factory import without_models
from .slices import why_not_rows
from .trail import Done, Spec, Trail

_aten = torch.ops.aten
_MOST_GUARDED = 64
"""Operators that may run to tell which way a batch takes."""
_PRIVATE_BYTES = 1 << 16

_SIMPLER: dict[Any, tuple[Any, frozenset[str]]] = {
    _aten._scaled_dot_product_flash_attention_for_cpu.default: (  # noqa: SLF001 - the operators' names
        _aten.scaled_dot_product_attention.default,
        frozenset(),
    ),
    _aten.native_batch_norm.default: (
        _aten._native_batch_norm_legit_no_training.default,  # noqa: SLF001
        frozenset({"training"}),
    ),
}
"""Operators whose first result is that of one that there are rules for, and arguments it has not."""


class Made(NamedTuple):
    """A result of a function: which value it is, and how it lies in memory, by number of rows."""

    value: int
    shape: tuple[int | Size, ...]
    stride: tuple[int | Size, ...]
    offset: int | Size
    dtype: torch.dtype
    device: torch.device


class Path:
    """What runs that read the same values do.

    Args:
        a: a trail.
        b: the trail of another number of rows.
        rows: how many each was given.
        outs: the numbers of the results.

    Attributes:
        outs: the results.
        key: 16 bytes that name the calls, the values that were read and the results.

    Raises:
        PlanError: they tell different runs, or something that no number of rows explains.
    """

    def __init__(self, a: Trail, b: Trail, rows: tuple[int, int], outs: Sequence[int]) -> None:
        for trail in (a, b):
            if trail.why_not is not None:
                raise PlanError(trail.why_not)
        self._merge = _Merge(*rows)
        self._constants = a.constants
        self._calls = self._side_by_side(a, b)
        self._specs = [self._spec(*pair) for pair in zip(a.specs, b.specs, strict=True)]
        self._inputs = a.inputs
        self.outs = tuple(self._made(value) for value in outs)
        self._guards = self._guarded()
        told = [(str(c.op), repr(c.args), repr(c.read) if c.reads else "") for c in self._calls]
        self.key = xxhash.xxh3_128_digest(repr((told, self.outs)).encode())

    def why_not(self, dtypes: Sequence[torch.dtype]) -> str | None:
        """None if row i of each result depends on row i of the inputs only, wherever it stands.

        Args:
            dtypes: of the inputs.
        """
        for out in self.outs:
            graph = self._graph(out.value)
            why = why_not_rows(graph) or uneven(graph, dtypes)
            if why is not None:
                return why
        return None

    def takes(self, inputs: Sequence[Tensor], rows: int) -> bool:
        """Whether a run with these inputs would take this way, told by what it would read."""
        env: dict[int, Any] = {**dict(enumerate(inputs)), **self._private}
        with torch.no_grad():
            for call in self._guards:
                result = _repeated(call, env, rows)
                if call.reads and not _same_value(result, call.read):
                    return False
        return True

    def told_by(self, trail: Trail, rows: int) -> bool:
        """Whether a run of that many rows, by its trail, took this way."""
        return (
            trail.why_not is None
            and len(trail.calls) == len(self._calls)
            and len(trail.specs) == len(self._specs)
            and all(
                (mine.op, mine.outs, mine.several, mine.reads)
                == (its.op, its.outs, its.several, its.reads)
                and evaluate(mine.args, rows) == its.args
                and (not mine.reads or _same_value(its.read, mine.read))
                for mine, its in zip(self._evaluated(rows), trail.calls, strict=True)
            )
            and all(
                evaluate(tuple(mine), rows) == tuple(its)
                for mine, its in zip(self._specs, trail.specs, strict=True)
            )
            and _same_constants(self._constants, trail.constants)
        )

    def _evaluated(self, rows: int) -> list[Done]:
        return [
            call._replace(args={name: evaluate(v, rows) for name, v in call.args.items()})
            for call in self._calls
        ]

    def _side_by_side(self, a: Trail, b: Trail) -> list[Done]:
        differs = PlanError("what it does depends on the number of rows")
        if len(a.calls) != len(b.calls) or len(a.specs) != len(b.specs):
            raise differs
        if not _same_constants(a.constants, b.constants):
            raise differs
        calls = []
        for mine, its in zip(a.calls, b.calls, strict=True):
            same = (mine.op, mine.outs, mine.several, mine.reads, mine.args.keys())
            if same != (its.op, its.outs, its.several, its.reads, its.args.keys()):
                raise differs
            if mine.reads and not _same_value(mine.read, its.read):
                raise PlanError(f"it reads how many rows there are, or others' values: {mine.op}")
            args = {n: self._merge.of(v, its.args[n], str(mine.op)) for n, v in mine.args.items()}
            calls.append(mine._replace(args=args))
        return calls

    def _spec(self, a: Spec, b: Spec) -> Spec:
        if (a.dtype, a.device) != (b.dtype, b.device):
            raise PlanError("what it computes with depends on the number of rows")
        shape, stride, offset = (
            self._merge.of(x, y, "a size") for x, y in zip(a[:3], b[:3], strict=True)
        )
        return Spec(shape, stride, offset, a.dtype, a.device)

    def _made(self, value: int) -> Made:
        spec = self._specs[value]
        return Made(value, spec.shape, spec.stride, spec.offset, spec.dtype, spec.device)

    def _guarded(self) -> list[Done]:
        """The calls, in order, that lead to what was read; constants they need are copied.

        Raises:
            PlanError: they are too many.
        """
        needed: set[int] = set()
        found: list[Done] = []
        for call in reversed(self._calls):
            if call.reads or needed & set(call_outs(call)):
                found.append(call)
                needed |= refs(call.args)
        constants = {value: self._constants[value] for value in needed & self._constants.keys()}
        large = sum(constant.nbytes for constant in constants.values()) > _PRIVATE_BYTES
        if len(found) > _MOST_GUARDED or large:
            raise PlanError("what it does depends on values that it computes with much else")
        self._private = {value: held.detach().clone() for value, held in constants.items()}
        return found[::-1]

    def _graph(self, output: int) -> Graph:
        """The calls that lead to a value, numbered anew."""
        needed, live = {output}, []
        for index in reversed(range(len(self._calls))):
            if needed & set(call_outs(self._calls[index])):
                live.append(index)
                needed |= refs(self._calls[index].args)
        inputs = self._inputs
        numbers = {value: value for value in range(inputs)}
        constants = [value for value in sorted(self._constants) if value in needed]
        numbers.update({value: inputs + n for n, value in enumerate(constants)})
        calls: list[Call] = []
        for index in reversed(live):
            done = self._calls[index]
            for item, value in enumerate(done.outs):
                if value is not None and value in needed:
                    numbers[value] = inputs + len(constants) + len(calls)
                    calls.append(self._call(done, item, value, numbers))
        return Graph(
            inputs=tuple(self._specs[value].shape for value in range(inputs)),
            constants=tuple(self._constants[value] for value in constants),
            calls=tuple(calls),
            output=numbers[output],
            dynamic=tuple(range(inputs)),
            rows=self._merge.rows[0],
            least=1,
            most=None,
        )

    def _call(self, done: Done, item: int, value: int, numbers: dict[int, int]) -> Call:
        spec = self._specs[value]
        op, args, several = done.op, done.args, done.several
        if op in _SIMPLER and item == 0:
            other, extra = _SIMPLER[op]
            order = [argument.name for argument in schema_of(other).arguments]
            args = {name: args[name] for name in order if name in args and name not in extra}
            op, several = other, len(schema_of(other).returns) > 1
        op, args = without_models(op, args, spec.shape, cast("Tensor", spec))
        args = {name: _renumbered(arg, numbers) for name, arg in args.items()}
        name = f"call {len(numbers)}"
        number = numbers[value]
        place = item if several else None
        return Call(number, name, op, args, spec.shape, spec.dtype, spec.device, place)


class _Merge:
    """What two runs have in the same place, as something that depends on the rows."""

    def __init__(self, a: int, b: int) -> None:
        self.rows = (a, b)

    def of(self, a: Any, b: Any, where: str) -> Any:
        """The one of which both are cases.

        Raises:
            PlanError: there is none.
        """
        if isinstance(a, Ref) or type(a) is not type(b):
            if a == b:
                return a
        elif isinstance(a, list | tuple):
            if len(a) == len(b):
                merged = [self.of(x, y, where) for x, y in zip(a, b, strict=True)]
                return tuple(merged) if isinstance(a, tuple) else merged
        elif type(a) is int:
            return a if a == b else self._size(a, b, where)
        elif _same_value(a, b):
            return a
        raise PlanError(f"{where} computes with the number of rows")

    def _size(self, a: int, b: int, where: str) -> Size:
        n, m = self.rows
        times, left = divmod(b - a, m - n)
        if left:
            raise PlanError(f"{where} computes with the number of rows")
        return Size(times, a - times * n)


def call_outs(call: Done) -> list[int]:
    """The numbers of the tensors that a call gave."""
    return [value for value in call.outs if value is not None]


def refs(args: Any) -> set[int]:
    """The numbers of the tensors among arguments."""
    if isinstance(args, Ref):
        return {args.value}
    items = args.values() if isinstance(args, dict) else args
    if isinstance(args, dict | list | tuple):
        return {value for item in items for value in refs(item)}
    return set()


def _renumbered(arg: Any, numbers: dict[int, int]) -> Any:
    if isinstance(arg, Ref):
        return Ref(numbers[arg.value])
    return [_renumbered(item, numbers) for item in arg] if isinstance(arg, list) else arg


def _repeated(call: Done, env: dict[int, Any], rows: int) -> Any:
    """Run a call again on other values."""
    plain, named = [], {}
    for argument in schema_of(call.op).arguments:
        if argument.name in call.args:
            value = _filled(evaluate(call.args[argument.name], rows), env)
            if argument.kwarg_only:
                named[argument.name] = value
            else:
                plain.append(value)
    result = call.op(*plain, **named)
    if not call.reads:
        results = result if call.several else (result,)
        pairs = zip(call.outs, results, strict=True)
        env.update({value: item for value, item in pairs if value is not None})
    return result


def _filled(arg: Any, env: dict[int, Any]) -> Any:
    if isinstance(arg, Ref):
        return env[arg.value]
    return [_filled(item, env) for item in arg] if isinstance(arg, list) else arg


def _same_value(a: Any, b: Any) -> bool:
    return type(a) is type(b) and repr(a) == repr(b)


def _same_constants(a: dict[int, Tensor], b: dict[int, Tensor]) -> bool:
    """Whether the same tensors came from outside: by identity, or made of the same numbers."""
    return a.keys() == b.keys() and all(_same_constant(a[value], b[value]) for value in a)


def _same_constant(a: Tensor, b: Tensor) -> bool:
    if a is b:
        return True
    if (a.dtype, a.shape, a.stride(), a.device) != (b.dtype, b.shape, b.stride(), b.device):
        return False
    if a.untyped_storage()._cdata == b.untyped_storage()._cdata:  # noqa: SLF001 - its identity
        return a.storage_offset() == b.storage_offset()
    return a.nbytes <= _PRIVATE_BYTES and same_bits(a.detach(), b.detach())
