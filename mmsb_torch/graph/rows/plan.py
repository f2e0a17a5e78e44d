"""What is known of a function before any of its values is computed in parts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from mmsb_torch.errors import PlanError

from .calls import Graph
from .slices import why_not_rows
from .tracing import trace


class Plan:
    """A function, captured, and what its rows depend on. Immutable; for any thread.

    Attributes:
        follows: inputs whose rows the result's rows follow, all together: row i of the result
            depends on row i of each of these and on the whole of the others. Empty: not proven.
        least, most: numbers of rows for which that holds; no most: None.
        why_not: why it is not proven.
        grows: whether the capture holds for other numbers of rows.
        seconds: what capture and analysis took.
    """

    def __init__(self, graph: Graph, why_not: str | None, seconds: float) -> None:
        self.graph = graph
        self.follows = frozenset(() if why_not else graph.dynamic)
        self.least, self.most = graph.least, graph.most
        self.why_not = why_not
        self.grows = bool(graph.dynamic)
        self.seconds = seconds

    def __repr__(self) -> str:
        said = f"rows of {sorted(self.follows)}" if self.follows else self.why_not
        return f"<Plan of {len(self.graph.calls)} calls: {said}>"


def plan(
    function: Callable[..., Any],
    values: Sequence[Tensor],
    output: Tensor,
    changed: Sequence[int],
) -> Plan:
    """Capture a function and find out what its rows depend on.

    Nothing is computed; the function runs a few times on tensors without values.

    Args:
        function: takes the tensors by position and returns one tensor.
        values: what it was called with.
        output: what it gave.
        changed: the inputs, by number, whose changes are expected.

    Raises:
        PlanError: it cannot be captured; the message says why.
    """
    began = time.perf_counter()
    rows = output.shape[0] if output.dim() else 0
    alike = [at for at, value in enumerate(values) if value.dim() and value.shape[0] == rows]
    tries = [alike] if rows >= _FEWEST else []
    tries += [[at] for at in changed if at in alike and len(alike) > 1 and tries]
    best: tuple[Graph, str] | None = None
    refusal: PlanError | None = None
    for dynamic in tries:
        try:
            graph = trace(function, values, dynamic)
        except PlanError as error:
            refusal = refusal or error
            continue
        why = why_not_rows(graph)
        if why is None:
            return Plan(graph, None, time.perf_counter() - began)
        best = best or (graph, why)
    if best is None:
        fixed = trace(function, values, [])
        best = (fixed, refusal.message if refusal else "it could only be captured at fixed sizes")
    return Plan(*best, time.perf_counter() - began)


_FEWEST = 2
"""Tracers take sizes 0 and 1 for special."""
