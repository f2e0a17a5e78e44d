"""What is known of a function before any of its values is computed in parts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from mmsb_torch.errors import PlanError

from .calls import Graph
from .kept import Kept
from .programs import Programs
from .slices import why_not_rows
from .tracing import let_go, trace

_FEWEST = 2
"""Tracers take sizes 0 and 1 for special."""


class Plan:
    """A function, captured, and what its rows depend on. Good for any thread.

    Attributes:
        graph: the captured function.
        follows: inputs whose rows the result's rows follow, all together: row i of the result
            depends on row i of each of these and on the whole of the others. Empty: not proven.
        least, most: numbers of rows for which the capture holds; no most: None.
        why_not: why it is not proven.
        grows: whether the capture holds for other numbers of rows.
        seconds: what capture and analysis took.
    """

    def __init__(self, graph: Graph, why_not: str | None, programs: Programs) -> None:
        self.graph = graph
        self.follows = frozenset(() if why_not else graph.dynamic)
        self.least, self.most = graph.least, graph.most
        self.why_not = why_not
        self.grows = bool(graph.dynamic)
        self.seconds = 0.0
        self._programs = programs

    @property
    def exact(self) -> bool:
        """Whether steps that follow an edit of a row give the bits of a full run."""
        return self._programs.exact

    def start(self, values: Sequence[Tensor], limit: int, output: Tensor | None = None) -> Kept:
        """A full run that keeps what later steps will need, at most `limit` bytes of it.

        With what the function itself gave as `output`, `exact` of what comes back tells whether the
        capture gives the same bits. (It may not where torch chooses kernels by what it is called
        from, as the fast path of nn.TransformerEncoder does.)

        Raises:
            PlanError: it would be more, or the values do not fit.
        """
        return Kept(self._programs, values, limit, output)

    def __repr__(self) -> str:
        said = f"rows of {sorted(self.follows)}" if self.follows else self.why_not
        return f"<Plan of {len(self.graph.calls)} calls: {said}>"


def plan(
    function: Callable[..., Any],
    values: Sequence[Tensor],
    output: Tensor,
    changed: Sequence[int],
    held: Sequence[Tensor] = (),
) -> Plan:
    """Capture a function and find out what its rows depend on.

    Nothing is computed; the function runs a few times on tensors without values.

    Args:
        function: takes the tensors by position and returns one tensor.
        values: what it was called with.
        output: what it gave.
        changed: the inputs, by number, whose changes are expected.
        held: tensors that the function holds; the plan then holds these and no aliases, so whether
            they were written can be seen as before.

    Raises:
        PlanError: it cannot be captured; the message says why.
    """
    began = time.perf_counter()
    try:
        graph, why = _captured(function, values, output, changed)
    finally:
        let_go()
    graph = graph._replace(constants=tuple(_original(one, held) for one in graph.constants))
    found = Plan(graph, why, Programs(graph, values, changed))
    found.seconds = time.perf_counter() - began
    return found


def _captured(
    function: Callable[..., Any], values: Sequence[Tensor], output: Tensor, changed: Sequence[int]
) -> tuple[Graph, str | None]:
    """The best capture, and why it proves nothing; sizes that vary are tried first."""
    rows = output.shape[0] if output.dim() else 0
    alike = [at for at, value in enumerate(values) if value.dim() and value.shape[0] == rows]
    tries = [alike] if rows >= _FEWEST and alike else []
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
            return graph, None
        best = best or (graph, why)
    if best is None:
        why = refusal.message if refusal else "it could only be captured at fixed sizes"
        best = (trace(function, values, []), why)
    return best


def _original(constant: Tensor, held: Sequence[Tensor]) -> Tensor:
    """The one of `held` that a constant is an alias of, or itself."""
    for one in held:
        if (
            one.untyped_storage()._cdata == constant.untyped_storage()._cdata  # noqa: SLF001
            and _look(one) == _look(constant)
        ):
            return one
    return constant


def _look(value: Tensor) -> tuple[object, ...]:
    return value.dtype, value.shape, value.stride(), value.storage_offset()
