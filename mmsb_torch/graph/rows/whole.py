"""Running all of a graph, and the part of it that no input bears on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from .calls import Call, Ref, evaluate
from .skeleton import Skeleton


def run_call(call: Call, value_of: Callable[[int], Tensor], rows: int) -> Tensor:
    """What one call gives."""

    def fill(value: Any) -> Any:
        if isinstance(value, Ref):
            return value_of(value.value)
        if isinstance(value, list):
            return [fill(item) for item in value]
        return evaluate(value, rows)

    args, named = call.positional()
    result = call.op(*map(fill, args), **{name: fill(value) for name, value in named.items()})
    found: Tensor = result if call.item is None else result[call.item]
    return found


def run_fixed(skeleton: Skeleton, rows: int) -> dict[int, Tensor]:
    """The fixed values that other calls read, and the result if it is one."""
    fixed, graph = skeleton.fixed, skeleton.graph
    inputs = len(graph.inputs)
    values = {inputs + at: constant for at, constant in enumerate(graph.constants)}
    read = {graph.output}
    for site in skeleton.sites:
        if site.call.value in fixed:
            values[site.call.value] = run_call(site.call, values.__getitem__, rows)
        else:
            read.update(site.call.tensors)
    return {value: tensor for value, tensor in values.items() if value in read}


def causal_masks(skeleton: Skeleton, fixed: dict[int, Tensor]) -> frozenset[int]:
    """The masks that let no query look at a later key."""
    return frozenset(value for value in skeleton.masks if _is_causal(fixed[value]))


def _is_causal(mask: Tensor) -> bool:
    later = torch.ones(mask.shape[-2:], dtype=torch.bool, device=mask.device).triu(1)
    hidden = ~mask if mask.dtype is torch.bool else mask <= torch.finfo(mask.dtype).min
    return bool((hidden | ~later).all())


def run_all(
    skeleton: Skeleton, inputs: Sequence[Tensor], fixed: dict[int, Tensor], keep: Iterable[int]
) -> dict[int, Tensor]:
    """The values to keep, and the result; the others are let go as soon as they can be."""
    graph, kept = skeleton.graph, {*keep, skeleton.graph.output}
    rows = inputs[graph.dynamic[0]].shape[0] if graph.dynamic else 0
    values: dict[int, Tensor] = {**fixed, **dict(enumerate(inputs))}
    last = {value: site.call.value for site in skeleton.sites for value in site.call.tensors}
    for site in skeleton.sites:
        call = site.call
        if call.value not in skeleton.fixed:
            values[call.value] = run_call(call, values.__getitem__, rows)
            for value in set(call.tensors):
                if last[value] == call.value and value >= graph.first and value not in kept:
                    del values[value]
    return {value: values[value] for value in kept}
