"""Operators that compute every element from the elements at its place: those torch tags so, and some."""

from __future__ import annotations

from typing import Any

import torch

from mmsb_torch.graph.rows.calls import Sized, schema_of
from mmsb_torch.graph.rows.rule import Dims, Links, Rule

from .vectors import in_vectors

_aten = torch.ops.aten


def broadcast(shape: tuple[int, ...], out: tuple[int, ...]) -> Dims:
    """Dimensions aligned from the right; one of size 1 that is repeated is needed whole."""
    shift = len(out) - len(shape)
    return tuple(at + shift if size == out[at + shift] else None for at, size in enumerate(shape))


def pointwise(at: Sized) -> Links:
    """Every tensor argument, broadcast."""
    found: dict[str, Any] = {}
    for name, shape in at.shapes.items():
        if isinstance(shape, list):
            found[name] = [broadcast(item, at.shape) for item in shape]
        else:
            found[name] = broadcast(shape, at.shape)
    return found


def same_place(at: Sized) -> Links:
    """The tensor `self`; of any other only the type is read."""
    name = at.call.places[0][0]
    return {name: broadcast(at.shapes[name], at.shape)}


ARITHMETIC = Rule(pointwise)
FUNCTION = Rule(pointwise, exact=in_vectors)

_ARITHMETIC = frozenset(
    [
        "add",
        "sub",
        "mul",
        "div",
        "rsub",
        "neg",
        "abs",
        "relu",
        "clamp",
        "clamp_min",
        "clamp_max",
        "clip",
        "maximum",
        "minimum",
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
        "logical_and",
        "logical_or",
        "logical_not",
        "logical_xor",
        "bitwise_and",
        "bitwise_or",
        "bitwise_not",
        "bitwise_xor",
        "where",
        "masked_fill",
        "sqrt",
        "reciprocal",
        "square",
        "sign",
        "floor",
        "ceil",
        "round",
        "trunc",
        "copy",
        "fill",
        "dropout",
        "threshold",
        "hardtanh",
        "relu6",
        "isnan",
        "isfinite",
        "isinf",
        "__and__",
        "__or__",
        "__xor__",
        "feature_dropout",
        "alpha_dropout",
        "positive",
    ]
)
"""Each result is rounded once, so it is the same wherever it is computed."""


def _rule(op: Any) -> Rule:
    name = schema_of(op).name.removeprefix("aten::")
    return ARITHMETIC if name in _ARITHMETIC else FUNCTION


_UNTAGGED = (
    "__and__", "__or__", "__xor__", "copy", "threshold", "log_sigmoid", "hardswish",
    "native_dropout", "polar", "complex", "where", "masked_fill", "fill", "dropout", "silu", "selu",
    "softplus", "isclose", "isreal", "gelu", "relu6", "bitwise_left_shift", "celu", "rrelu",
    "square", "ldexp", "float_power", "xlogy", "nan_to_num", "conj_physical", "feature_dropout",
    "alpha_dropout", "true_divide", "divide", "multiply", "subtract", "greater", "less", "arctan2",
    "greater_equal", "less_equal", "not_equal", "logical_not", "fix", "clip", "special_expit",
    "special_softmax_", "isfinite", "isinf", "isnan", "rsub", "positive",
)  # fmt: skip
_MOVES = ("clone", "contiguous", "detach", "alias", "lift_fresh_copy", "lift_fresh", "_to_copy",
          "to", "float", "double", "half", "bfloat16", "view_as_real_")  # fmt: skip


def pointwise_rule(op: Any) -> Rule | None:
    """The rule of an operator that torch tags as pointwise."""
    schema = getattr(op, "_schema", None)
    if schema is None or schema.is_mutable or torch.Tag.pointwise not in op.tags:
        return None
    return _rule(op) if len(schema.returns) == 1 else None


def rules() -> dict[Any, Rule]:
    """Those that are not tagged."""
    moving = Rule(same_place, moves=True)
    return {
        op: moving if name in _MOVES else _rule(op)
        for name in (*_UNTAGGED, *_MOVES)
        for op in _overloads(name)
    }


def _overloads(name: str) -> list[Any]:
    packet = getattr(_aten, name, None)
    found = [getattr(packet, overload) for overload in packet.overloads()] if packet else []
    return [op for op in found if not schema_of(op).is_mutable]
