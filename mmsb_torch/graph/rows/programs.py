"""The programs of a graph: one for each kind of edit that came up, and what all of them keep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmsb_torch.device import rows_threshold
from mmsb_torch.errors import PlanError

from .boxes import Edit
from .calls import Graph, evaluate
from .program import Analysis, Program, Writer
from .skeleton import Skeleton
from .slices import prime_for
from .tape import Boxed, Nothing, Tape
from .whole import causal_masks, run_fixed

_FEWEST = 2
"""Rows of an input, to tell one from the others."""
_VARIANTS = 8
"""Programs for one kind of edit that differ in what parts turn out to be."""


class Programs:
    """What to do when some of a graph's inputs change. Good for any thread.

    Attributes:
        anchors: the values that are kept between steps, by number.
        exact: whether steps that follow an edit of a row give the bits of a full run.
    """

    def __init__(self, graph: Graph, values: Sequence[Tensor], changed: Sequence[int]) -> None:
        self.graph = graph
        self._specs = [(value.dtype, value.device, value.dim()) for value in values]
        self._programs: dict[Any, list[Program]] = {}
        rows = prime_for(graph) if graph.dynamic else 0
        self.skeleton = Skeleton(graph, rows, values[0].device if values else torch.device("cpu"))
        self.exact, self.anchors = True, frozenset[int]()
        self.anchors, self.exact = self._foreseen(values, changed)

    def rows(self, values: Sequence[Tensor]) -> int:
        """The number of rows of these inputs; 0 if all sizes are fixed."""
        return values[self.graph.dynamic[0]].shape[0] if self.graph.dynamic else 0

    def nbytes(self, values: Sequence[Tensor]) -> int:
        """Bytes of the anchors for these inputs."""
        graph, rows = self.graph, self.rows(values)
        calls = [graph.calls[value - graph.first] for value in self.anchors]
        return sum(math.prod(evaluate(call.shape, rows)) * call.dtype.itemsize for call in calls)

    def check(self, values: Sequence[Tensor]) -> None:
        """Raise PlanError unless the capture holds for these inputs."""
        rows, graph = self.rows(values), self.graph
        least, most = graph.least, graph.most
        if graph.dynamic and not (least <= rows and (most is None or rows <= most)):
            raise PlanError(f"it was captured for {least} to {most} rows, not for {rows}")
        for at, (value, spec) in enumerate(zip(values, self._specs, strict=True)):
            if (value.dtype, value.device, value.dim()) != spec or value.shape != evaluate(
                graph.inputs[at], rows
            ):
                raise PlanError(f"it was captured for another kind of tensor as input {at}")

    def program(self, key: Any, given: Sequence[Any]) -> tuple[Program, list[Any]]:
        """What to do for an edit, and its slots.

        Args:
            key: which dimensions of each input have a part (None: it did not change), whether rows
                were added, which fixed values are other ones, and which masks are causal.
            given: rows now and before, then the parts in order.
        """
        known = self._programs.setdefault(key, [])
        for program in known:
            env = program.tape.play(given)
            if env is not None:
                return program, env
        kinds, grown, other, causal = key
        analysis = self._analysis(
            dict(enumerate(kinds)), given, grown=grown, other=other, causal=causal
        )
        analysis.backwards()
        program = Writer(analysis).program()
        if len(known) < _VARIANTS:
            known.append(program)
        return program, program.tape.env

    def _analysis(
        self,
        kinds: Mapping[int, Any],
        given: Sequence[Any],
        *,
        grown: bool,
        other: frozenset[int],
        causal: frozenset[int],
    ) -> Analysis:
        tape = Tape(given)
        slots = iter(tape.slots[2:])
        inputs: dict[int, Boxed | None] = {}
        for at, kind in kinds.items():
            if kind is not None:
                inputs[at] = tuple(_part(tape, next(slots)) if some else None for some in kind)
        least = rows_threshold(self.skeleton.device) if self.exact else 0
        before = tape.slots[1] if grown else None
        edit = Edit(tape, tape.slots[0], before, causal)
        analysis = Analysis(self.skeleton, edit, self.anchors, least)
        analysis.forwards(inputs, other)
        return analysis

    def _foreseen(
        self, values: Sequence[Tensor], changed: Sequence[int]
    ) -> tuple[frozenset[int], bool]:
        """What to keep for edits of a row in the middle, and whether those will be exact."""
        some = [at for at in changed if at in self.graph.dynamic] or [
            at for at in changed if values[at].dim()
        ]
        sizes = {values[at].shape[0] for at in some}
        if not some or min(sizes) < _FEWEST:
            return frozenset(), True
        rows, middle = self.rows(values), min(sizes) // 2
        kinds = {at: (True, *[False] * (values[at].dim() - 1)) for at in some}
        given = [rows, rows, *[range(middle, middle + 1) for _ in some]]
        causal = frozenset[int]()
        if self.skeleton.masks:
            causal = causal_masks(self.skeleton, run_fixed(self.skeleton, rows))
        analysis = self._analysis(kinds, given, grown=False, other=frozenset(), causal=causal)
        anchors = analysis.anchors()
        return anchors, Writer(analysis).program().exact


def _part(tape: Tape, slot: Any) -> Any:
    found = tape.part(_itself, slot)
    assert not isinstance(found, Nothing)
    return found


def _itself(part: Any) -> Any:
    return part
