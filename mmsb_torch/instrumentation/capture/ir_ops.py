"""Which operations a graph may name, what they are called there, and what they do beside computing.

A name is `namespace.name.overload` of `torch.ops`, or one of a short list of Python's own functions
on numbers. Nothing else can be named, so nothing else is found by a name that was read.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch._ops import HigherOrderOperator, OpOverload

from mmsb_torch.errors import ReplayError, UnsupportedError

Operation = Callable[..., Any]

NAMESPACES = frozenset({"aten", "prims", "mmsb"})
"""What a reader resolves unless its caller names more."""

_NAME = re.compile(r"([A-Za-z_]\w*)\.([A-Za-z_]\w*)\.([A-Za-z_]\w*)", re.ASCII)

# Types whose values are plain: no storages, streams, generators' owners, or script objects.
_PLAIN = re.compile(r"((Optional|List)\[)*(Tensor|int|float|bool|number|str|Device|SymInt)\]*")
_ABSENT = re.compile(r"Optional\[Generator\]|Generator")

# Operations on the file system, and those that trust their arguments with memory.
_REFUSED = re.compile(r"from_file|save|set_.*|resize_.*|.*_unsafe|.*_unsafe_tensors|_print")


def expect_value(value: object, expected: object) -> None:
    """A guard: a number that was read out of a tensor while the graph was captured.

    Raises:
        ReplayError: it is another one now, so that the code might have gone another way.
    """
    if type(value) is not type(expected) or repr(value) != repr(expected):
        raise ReplayError(
            f"this graph was captured where a tensor's value, read as a number, was {expected!r}, "
            f"and now it is {value!r}: the code might go another way. Run the function itself."
        )


def expect_shape(value: torch.Tensor, shape: Sequence[int]) -> None:
    """A guard: the shape of a result that depends on values (`nonzero`, a mask).

    Raises:
        ReplayError: it is another one now.
    """
    if list(value.shape) != list(shape):
        raise ReplayError(
            f"this graph was captured where a result had shape {list(shape)}, and now it has "
            f"{list(value.shape)}. Run the function itself."
        )


GUARDS: Mapping[str, Operation] = {"guard.value": expect_value, "guard.shape": expect_shape}

_PYTHON: Mapping[str, Operation] = {
    **{
        f"operator.{name}": getattr(operator, name)
        for name in (
            "getitem",
            "add",
            "sub",
            "mul",
            "truediv",
            "floordiv",
            "mod",
            "pow",
            "neg",
            "pos",
            "abs",
            "lt",
            "le",
            "eq",
            "ne",
            "ge",
            "gt",
            "and_",
            "or_",
            "not_",
        )
    },
    **{f"math.{name}": getattr(math, name) for name in ("ceil", "floor", "trunc")},
    **{
        f"torch.{name}": getattr(torch, name)
        for name in ("sym_int", "sym_float", "sym_max", "sym_min", "sym_not", "sym_ite")
    },
    **GUARDS,
}
_NAMES: Mapping[object, str] = {function: name for name, function in _PYTHON.items()}

COND = "higher_order.cond"

_COUNTS: Mapping[object, int] = {
    **{
        _PYTHON[name]: 1
        for name in (
            "operator.neg",
            "operator.pos",
            "operator.abs",
            "operator.not_",
            "math.ceil",
            "math.floor",
            "math.trunc",
            "torch.sym_int",
            "torch.sym_float",
            "torch.sym_not",
        )
    },
    torch.sym_ite: 3,
    torch.ops.higher_order.cond: 4,
}
"""How many arguments functions take; all others take two."""


def name_of(operation: object) -> str:
    """What an operation is called in a graph.

    Raises:
        UnsupportedError: it is none of those that a graph may name.
    """
    if isinstance(operation, OpOverload):
        check_schema(operation)
        return ".".join((operation.namespace, *_parts(operation)))
    if isinstance(operation, HigherOrderOperator) and operation is torch.ops.higher_order.cond:
        return COND
    try:
        return _NAMES[operation]
    except (KeyError, TypeError):
        raise UnsupportedError(
            f"a graph cannot name {operation!r:.100}: expected an operator of torch.ops or of "
            "Python's on numbers. Make it one with torch.library.custom_op."
        ) from None


def _parts(operation: OpOverload) -> tuple[str, str]:
    name, _, overload = operation.name().rpartition("::")[2].partition(".")
    return name, overload or "default"


def find(name: str, namespaces: frozenset[str] = NAMESPACES) -> Operation:
    """The operation of a name.

    Raises:
        UnsupportedError: there is none in this process, or none that a graph may name.
    """
    if name in _PYTHON:
        return _PYTHON[name]
    if name == COND:
        cond: Operation = torch.ops.higher_order.cond
        return cond
    found = _NAME.fullmatch(name)
    if found is None or found[1] not in namespaces:
        raise UnsupportedError(
            f"this graph names the operation {name!r:.100}: expected one of "
            f"{', '.join(sorted(namespaces))} of torch.ops. If you trust where the graph came "
            "from, name its namespace: decode(raw, namespaces=[...])."
        )
    namespace, base, overload = found.groups()
    packet = getattr(getattr(torch.ops, namespace), base, None)
    operation = getattr(packet, overload, None)
    if not isinstance(operation, OpOverload) or name_of(operation) != name:
        raise UnsupportedError(
            f"this graph names the operation {name!r:.100}, which torch {torch.__version__} does "
            "not have. Import what defines it, or use the torch that wrote the graph."
        )
    return operation


def check_schema(operation: OpOverload) -> None:
    """Raise UnsupportedError for an operator that reads files, takes streams, and the like."""
    refused = operation.namespace == "aten" and _REFUSED.fullmatch(_parts(operation)[0])
    for argument in operation._schema.arguments:  # noqa: SLF001 - torch offers no other way
        kind = str(argument.type)
        known = _PLAIN.fullmatch(kind) or _ABSENT.fullmatch(kind)
        if refused or not known or argument.name == "filename":
            raise UnsupportedError(
                f"a graph cannot hold the operator {operation}: it works with more than tensors "
                "and plain values."
            )


def schema_of(operation: Operation) -> str:
    """The schema of an operator as text; "" for what has none."""
    return str(operation._schema) if isinstance(operation, OpOverload) else ""  # noqa: SLF001


def by_name(operation: Operation, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name, in the order of the schema; those left out are left out."""
    if not isinstance(operation, OpOverload):
        if kwargs:
            raise UnsupportedError(f"a graph cannot hold keywords of {operation!r:.80}")
        return {str(index): value for index, value in enumerate(args)}
    names = [argument.name for argument in operation._schema.arguments]  # noqa: SLF001
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    return {name: given[name] for name in names if name in given}


def defaults(operation: Operation) -> dict[str, Any]:
    """The arguments of an operator that have a default, and it."""
    if not isinstance(operation, OpOverload):
        return {}
    arguments = operation._schema.arguments  # noqa: SLF001
    return {item.name: item.default_value for item in arguments if item.has_default_value()}


def call(operation: Operation, given: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments by name as a call has them: positional as far as the schema has them so.

    Raises:
        UnsupportedError: unknown names, or one is missing.
    """
    if not isinstance(operation, OpOverload):
        count = _COUNTS.get(operation, 2)
        if list(given) != [str(index) for index in range(count)]:
            raise UnsupportedError(f"this graph calls {operation!r:.80} with {', '.join(given)}")
        return tuple(given.values()), {}
    arguments = operation._schema.arguments  # noqa: SLF001
    names = [item.name for item in arguments]
    required = [item.name for item in arguments if not item.has_default_value()]
    if not set(given) <= set(names) or not set(required) <= set(given):
        raise UnsupportedError(
            f"this graph calls {operation} with {', '.join(given)}: expected {', '.join(names)}"
        )
    positional = [item for item in arguments if not item.kwarg_only]
    while positional and positional[-1].name not in given:
        positional.pop()
    args = tuple(given.get(item.name, item.default_value) for item in positional)
    return args, {
        item.name: given[item.name] for item in arguments if item.kwarg_only and item.name in given
    }


def writes(operation: object) -> bool:
    """Whether an operator writes into one of its arguments."""
    return isinstance(operation, OpOverload) and operation._schema.is_mutable  # noqa: SLF001


def is_pure(operation: Operation, given: Mapping[str, Any]) -> bool:
    """Whether a call only computes: neither its place nor its number among other calls matters."""
    if not isinstance(operation, OpOverload):
        return operation in _PYTHON.values() and operation not in GUARDS.values()
    if operation.namespace not in {"aten", "prims"} or writes(operation):
        return False
    if operation.namespace == "aten" and "assert" in operation.name():
        return False
    if torch.Tag.nondeterministic_seeded in operation.tags:
        known = {**defaults(operation), **given}
        return known.get("train") is False or known.get("dropout_p") == 0.0
    return not operation.name().startswith("aten::sym_constrain")


def check_call(operation: Operation, given: Mapping[str, Any]) -> None:
    """Raise UnsupportedError for a call that writes into an argument and does not say so."""
    trains = given.get("training") is True and given.get("running_mean") is not None
    if trains and "batch_norm" in str(operation):
        raise UnsupportedError(
            "a graph cannot hold a batch norm in training mode: it writes its statistics. "
            "Call module.eval() first."
        )


def is_factory(operation: Operation) -> bool:
    """Whether an operator makes a tensor from nothing, of a dtype and on a device."""
    if not isinstance(operation, OpOverload):
        return False
    arguments = operation._schema.arguments  # noqa: SLF001
    return {"dtype", "device"} <= {item.name for item in arguments} and not any(
        "Tensor" in str(item.type) for item in arguments
    )
