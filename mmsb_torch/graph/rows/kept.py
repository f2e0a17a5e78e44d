"""What a plan keeps between edits, and the edits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmsb_torch.device import same_bits
from mmsb_torch.errors import PlanError
from mmsb_torch.instrumentation.context import is_plain, plain_torch

from . import parts
from .calls import Size, evaluate
from .parts import Box, Part
from .program import KEPT, Program, share
from .programs import Programs
from .whole import causal_masks, run_all, run_fixed


class Ahead(NamedTuple):
    """A step that was looked at and not yet taken."""

    program: Program
    env: list[Any]
    rows: int
    fixed: dict[int, Tensor]

    @property
    def share(self) -> float:
        """Which part of the work of a full run it would do, 0 to 1, as the plan sees it."""
        return share(self.program, self.env, self.rows)


class Kept:
    """The anchors of one value of a plan's function. For one thread at a time.

    Attributes:
        value: the result of the full run that it began with, in memory of its own.
        exact: whether value and all steps so far have the bits of full runs.
        nbytes: bytes of the anchors.
    """

    def __init__(
        self, programs: Programs, values: Sequence[Tensor], limit: int, output: Tensor | None
    ) -> None:
        self._programs = programs
        self._skeleton = programs.skeleton
        programs.check(values)
        wanted = programs.nbytes(values)
        if wanted > limit:
            raise PlanError(
                f"its anchors take {wanted} bytes, and {limit} are allowed. Allow more, or run the "
                "function in full."
            )
        self._shapes = [value.shape for value in values]
        self._rows = programs.rows(values)
        with _plain(values):
            self._fixed = run_fixed(self._skeleton, self._rows)
            self._causal = causal_masks(self._skeleton, self._fixed)
            found = run_all(self._skeleton, values, self._fixed, programs.anchors)
            seen = [*values, *self._fixed.values()]
            self.value: Tensor = _owned(found[self._skeleton.graph.output], seen)
            self._held: dict[int, Tensor] = {}
            for at in programs.anchors:
                self._held[at] = _owned(found[at], [*seen, self.value, *self._held.values()])
        self._room = dict(self._held)
        self._base = self._registers()
        self._broken = False
        self.exact = output is None or same_bits(self.value, output)

    @property
    def nbytes(self) -> int:
        """Bytes of the anchors, with the room they have to grow."""
        return sum(held.nbytes for held in self._room.values())

    def prepare(self, values: Sequence[Tensor], changed: Sequence[Box | None]) -> Ahead:
        """Look at what an edit changed; nothing is computed.

        Args:
            values: the inputs as they are now; those of the plan's rows may have grown.
            changed: for each input the box in which it differs from the last time, None if it does
                not; what was appended counts by itself.

        Raises:
            PlanError: it does not fit the plan, or a step before failed midway. Start again.
        """
        if self._broken:
            raise PlanError("a step before failed midway: start again")
        self._programs.check(values)
        other, fixed = self._other(values)
        return self._ahead(values, changed, other, fixed)

    def step(
        self, values: Sequence[Tensor], changed: Sequence[Box | None]
    ) -> tuple[Tensor, Box] | None:
        """Compute what an edit changed: `take` of what `prepare` finds."""
        return self.take(values, self.prepare(values, changed))

    def take(self, values: Sequence[Tensor], ahead: Ahead) -> tuple[Tensor, Box] | None:
        """Compute what an edit changed, just after `prepare` looked at it.

        Returns:
            The part of the result that may differ, and the box where it belongs; None if nothing
            does. The part may be a view of an input.
        """
        program, env, rows, fixed = ahead
        with _plain(values):
            self._broken = True  # until the last anchor is written
            if rows != self._rows:
                self._grow(rows)
                self._fixed = fixed
                self._causal = causal_masks(self._skeleton, fixed)
                self._base = self._registers()
            registers = self._base + [None] * (program.registers - len(self._base) + 1)
            registers[: len(values)] = values
            registers[KEPT] = self
            for run, to, dead in program.steps:
                registers[to] = run(registers, env)
                for register in dead:
                    registers[register] = None
            self._rows, self._shapes = rows, [value.shape for value in values]
            self._broken, self.exact = False, self.exact and program.exact
            if program.result is None:
                return None
            result = registers[program.result]
            if any(_shared(result, held) for held in self._held.values()):
                result = result.clone()
        box = tuple(None if slot is None else env[slot.at] for slot in program.box)
        return result, box

    def store(self, at: int, cuts: list[tuple[int, Any]], value: Tensor) -> Tensor:
        """Write a box of an anchor; returns all of it. For the steps of programs."""
        held = self._held[at]
        if not cuts:
            held = self._held[at] = self._room[at] = self._base[at] = value.clone()
            return held
        if len(cuts) == 1:
            ((dim, index),) = cuts
            if isinstance(index, range):
                held.narrow(dim, index.start, len(index)).copy_(value)
            else:
                held.index_copy_(dim, index, value)
            return held
        parts.put(held, sorted(cuts, key=lambda cut: not isinstance(cut[1], range)), value)
        return held

    def _ahead(
        self,
        values: Sequence[Tensor],
        changed: Sequence[Box | None],
        other: frozenset[int],
        fixed: dict[int, Tensor],
    ) -> Ahead:
        programs = self._programs
        rows = programs.rows(values)
        for at, (before, value) in enumerate(zip(self._shapes, values, strict=True)):
            fits = before == value.shape
            if at in programs.graph.dynamic:
                fits = before[1:] == value.shape[1:] and before[0] <= value.shape[0]
            if not fits:
                raise PlanError(f"input {at} had the shape {list(before)}: start again")
        given: list[Part] = []
        kinds: list[Any] = []
        for at, (box, value) in enumerate(zip(changed, values, strict=True)):
            kinds.append(
                _kind(box, value, given, self._rows if at in programs.graph.dynamic else None)
            )
        causal = self._causal
        if rows != self._rows:
            causal = causal & causal_masks(self._skeleton, fixed) - other
        key = (tuple(kinds), rows != self._rows, other, causal)
        program, env = programs.program(key, [rows, self._rows, *given])
        return Ahead(program, env, rows, fixed)

    def _other(self, values: Sequence[Tensor]) -> tuple[frozenset[int], dict[int, Tensor]]:
        """Fixed values that are other ones at this size, beyond what is new; and all of them."""
        rows = self._programs.rows(values)
        if rows == self._rows:
            return frozenset(), self._fixed
        with _plain(values):
            fixed = run_fixed(self._skeleton, rows)
        graph, found = self._skeleton.graph, set()
        for at, value in fixed.items():
            before = self._fixed[at]
            if before is value:
                continue
            same = value
            for dim, size in enumerate(graph.shape(at)):
                if isinstance(size, Size):
                    same = same.narrow(dim, 0, min(before.shape[dim], value.shape[dim]))
            if same.shape != before.shape or not same_bits(same, before):
                found.add(at)
        return frozenset(found), fixed

    def _registers(self) -> list[Any]:
        """The registers of the values at hand; the others are empty."""
        found: list[Any] = [None] * self._skeleton.values
        for at, value in (*self._fixed.items(), *self._held.items()):
            found[at] = value
        return found

    def _grow(self, rows: int) -> None:
        """Give the anchors the sizes they have at that many rows; what is new is not yet there."""
        graph = self._skeleton.graph
        for at, held in self._held.items():
            shape = evaluate(graph.shape(at), rows)
            dims = [dim for dim, size in enumerate(shape) if size != held.shape[dim]]
            if len(dims) > 1:
                self._held[at] = self._room[at] = held.new_empty(shape)  # written as a whole
            elif dims:
                (dim,) = dims
                room = self._room[at]
                if room.shape[dim] < shape[dim]:
                    larger = [*shape]
                    larger[dim] = shape[dim] + max(shape[dim] // 2, 16)
                    room = self._room[at] = held.new_empty(larger)
                    room.narrow(dim, 0, held.shape[dim]).copy_(held)
                self._held[at] = room.narrow(dim, 0, shape[dim])


def _kind(
    box: Box | None, value: Tensor, given: list[Part], before: int | None
) -> tuple[bool, ...] | None:
    """Add the parts of a changed input to `given`; which dimensions have one; None if unchanged."""
    grown = before is not None and value.shape[0] != before
    if box is None and not grown:
        return None
    new = range(before or 0, value.shape[0])
    if box is None:
        found: list[Part] = [new, *[None] * (value.dim() - 1)]
    else:
        found = [parts.as_part(part, size) for part, size in zip(box, value.shape, strict=True)]
        if any(part is not None and len(part) == 0 for part in found):
            return _kind(None, value, given, before)
        if grown:
            found = [parts.union(found[0], new), *[None] * (value.dim() - 1)]
            if found[0] is not None and parts.covers(found[0], value.shape[0]):
                found[0] = None
    given.extend(part for part in found if part is not None)
    return tuple(part is not None for part in found)


def _plain(values: Sequence[Tensor]) -> AbstractContextManager[None]:
    return nullcontext() if is_plain() else plain_torch(values[0].device)


def _owned(value: Tensor, others: Sequence[Tensor]) -> Tensor:
    """A tensor in memory that is not a view of something larger."""
    small = value.untyped_storage().nbytes() == math.prod(value.shape) * value.element_size()
    if value.is_contiguous() and small and not any(_shared(value, other) for other in others):
        return value
    return value.clone(memory_format=torch.contiguous_format)


def _shared(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
