"""Operators whose bits depend on where in memory an element is: tried, not assumed.

Processors compute several elements at once, and for what is left at the end some operators (sigmoid,
softplus, powers) call another function, which rounds in another way. So their rows, computed apart,
may differ from those of the whole in the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmsb_torch.device import same_bits

from .calls import Call, Graph, Ref
from .families.pointwise import pointwise, same_place
from .table import rule_for

_LENGTH = 2048
_FEW = 15
"""Fewer than what a processor does at once."""


def uneven(graph: Graph, inputs: Sequence[torch.dtype]) -> str | None:
    """The first operator whose bits depend on the place of an element; None if all are even.

    `inputs` are the dtypes of the graph's inputs.
    """
    tried: set[Any] = set()
    for call in graph.calls:
        if _is_by_vector(graph, call):
            return f"{call} multiplies by a vector: its rounding depends on the number of rows"
        rule = rule_for(call.op)
        if rule is None or rule.links not in {pointwise, same_place}:
            continue
        key = (call.op, call.dtype, repr({k: v for k, v in call.args.items() if _is_plain(v)}))
        if key not in tried and not _is_even(graph, call, inputs):
            return f"{call} depends in its last bits on the place of an element"
        tried.add(key)
    return None


def _is_by_vector(graph: Graph, call: Call) -> bool:
    """Products with one column are made by kernels that split the rows as they like."""
    name = str(call.op).removeprefix("aten.").partition(".")[0]
    if name in {"mv", "dot", "einsum", "addmv"}:
        return True
    if name not in {"matmul", "linear", "mm", "bmm", "addmm", "baddbmm"}:
        return False
    factors = call.tensors[-2:] if name in {"addmm", "baddbmm"} else call.tensors[:2]
    ranks = [len(graph.shape(value)) for value in factors]
    return 1 in ranks or call.shape[-1] == 1


def _is_even(graph: Graph, call: Call, inputs: Sequence[torch.dtype]) -> bool:
    dtypes = [_dtype(graph, value, inputs) for value in call.tensors]
    if not call.dtype.is_floating_point or call.device.type != "cpu":
        return call.device.type == "cpu" or not call.dtype.is_floating_point
    generator = torch.Generator().manual_seed(1)
    given = [_random(dtype, generator) for dtype in dtypes]
    try:
        whole = _run(call, given)
        split = zip(*(item.split(_FEW) for item in given), strict=True)
        parts = torch.cat([_run(call, list(part)) for part in split])
    except (RuntimeError, TypeError, ValueError, IndexError):
        return False
    return same_bits(whole, parts)


def _dtype(graph: Graph, value: int, inputs: Sequence[torch.dtype]) -> torch.dtype:
    if value >= graph.first:
        return graph.calls[value - graph.first].dtype
    if value >= len(graph.inputs):
        return graph.constants[value - len(graph.inputs)].dtype
    return inputs[value]


def _random(dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    made = torch.randn(_LENGTH, generator=generator) * 3
    return made > 0 if dtype is torch.bool else made.to(dtype)


def _run(call: Call, given: list[Tensor]) -> Tensor:
    left = iter(given)
    plain, named = call.positional()
    args = [_filled(item, left) for item in plain]
    result = call.op(*args, **{name: _filled(item, left) for name, item in named.items()})
    found: Tensor = result[call.item or 0] if isinstance(result, tuple | list) else result
    return found


def _filled(item: Any, left: Any) -> Any:
    if isinstance(item, Ref):
        return next(left)
    return [_filled(one, left) for one in item] if isinstance(item, list) else item


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | float | str | bool)
