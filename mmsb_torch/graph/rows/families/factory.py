"""What is made from sizes alone: of an argument at most shape and type are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmsb_torch.graph.rows.calls import schema_of

_aten = torch.ops.aten

_UNIFORM = ("zeros", "ones", "full", "empty", "scalar_tensor")
_PLACED = ("arange", "eye", "linspace", "logspace", "tril_indices", "triu_indices")


def _all(names: tuple[str, ...]) -> frozenset[Any]:
    found = []
    for name in names:
        packet = getattr(_aten, name)
        found += [getattr(packet, overload) for overload in packet.overloads()]
    return frozenset(op for op in found if not schema_of(op).is_mutable)


uniform = _all(_UNIFORM)
"""Operators whose result has one value everywhere."""
factories = uniform | _all(_PLACED)
"""Operators that read no tensor's values."""

_LIKE = {
    _aten.zeros_like.default: 0, _aten.ones_like.default: 1, _aten.empty_like.default: 0,
    _aten.new_zeros.default: 0, _aten.new_ones.default: 1, _aten.new_empty.default: 0,
    _aten.full_like.default: None, _aten.new_full.default: None,
}  # fmt: skip
_SHAPED = {
    _aten.expand_as.default: (_aten.expand.default, "size"),
    _aten.view_as.default: (_aten.reshape.default, "shape"),
    _aten.reshape_as.default: (_aten.reshape.default, "shape"),
}


def without_models(
    op: Any, args: dict[str, Any], shape: Sequence[Any], result: Tensor
) -> tuple[Any, dict[str, Any]]:
    """A call that reads only the shape or the type of a tensor, as one that does not need it."""
    if op in _LIKE:
        value = args["fill_value"] if _LIKE[op] is None else _LIKE[op]
        made = {"size": list(shape), "fill_value": value}
        return _aten.full.default, {**made, "dtype": result.dtype, "device": result.device}
    if op in _SHAPED:
        other, name = _SHAPED[op]
        return other, {"self": args["self"], name: list(shape)}
    if op is _aten.type_as.default:
        return _aten.to.dtype, {"self": args["self"], "dtype": result.dtype}
    return op, args
