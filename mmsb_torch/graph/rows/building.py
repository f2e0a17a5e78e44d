"""Closures that compute a box of one call's result from boxes of its arguments.

They take the registers, where values are by number, and the tape's slots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from . import parts
from .boxes import Edit, Site
from .calls import Ref, Size
from .tape import Boxed, Slot

Run = Callable[[list[Any], list[Any]], Any]


class Job(NamedTuple):
    """A box to be computed."""

    edit: Edit
    site: Site
    box: Boxed
    needs: Sequence[Any]
    """What of each tensor argument."""
    registers: Sequence[Any]
    """Where that is; None for what is not needed."""
    least: int
    """Rows that a product of matrices must have, to have the bits of the whole; 0 if none cares."""

    def lengths(self) -> list[Any]:
        """The sizes of the box."""
        tape = self.edit.tape
        return [
            self.edit.length(self.site, dim) if part is None else tape.value(len, part)
            for dim, part in enumerate(self.box)
        ]

    def register(self, name: str) -> Any:
        """The register of a tensor argument."""
        for (found, place), register in zip(self.site.call.places, self.registers, strict=True):
            if found == name and place is None:
                return register
        return None


def build(job: Job) -> Run:
    """How to compute a box."""
    rule = job.site.rule
    if rule is not None and rule.build is not None:
        found: Run | None = rule.build(job)
        if found is not None:
            return found
    return plain(job)


def plain(job: Job) -> Run:
    """The operator on its restricted arguments, its sizes as they are now."""
    call = job.site.call
    registers = iter(job.registers)

    def fill(value: Any) -> Any:
        if isinstance(value, Ref):
            return Ref(next(registers))
        if isinstance(value, Size):
            return job.edit.tape.size(value, job.edit.rows)
        if isinstance(value, list):
            return [fill(item) for item in value]
        return value

    args, named = call.positional()
    filled = [fill(value) for value in args]
    names = {name: fill(value) for name, value in named.items()}
    return calling(call.op, call.item, filled, names)


def calling(op: Any, item: int | None, args: list[Any], named: dict[str, Any]) -> Run:
    """Call an operator with registers (Ref), slots (Slot) and plain values."""
    leading = 0
    while leading < len(args) and isinstance(args[leading], Ref):
        leading += 1
    simple = not any(_varies(value) for value in (*args[leading:], *named.values()))
    if item is None and simple and leading in _SHORT:
        return _SHORT[leading](
            op, [ref.value for ref in args[:leading]], tuple(args[leading:]), named
        )

    nested = [value for value in args if not isinstance(value, Ref)] + list(named.values())
    if not any(_varies(value) for value in nested):
        return _spread_out(op, item, args, named)

    def run(registers: list[Any], env: list[Any]) -> Any:
        given = [_now(value, registers, env) for value in args]
        by_name = {name: _now(value, registers, env) for name, value in named.items()}
        result = op(*given, **by_name)
        return result if item is None else result[item]

    return run


def _spread_out(op: Any, item: int | None, args: list[Any], named: dict[str, Any]) -> Run:
    """Registers at some places among plain values."""
    at = [(place, value.value) for place, value in enumerate(args) if isinstance(value, Ref)]

    def run(registers: list[Any], _: list[Any]) -> Any:
        given = args.copy()
        for place, register in at:
            given[place] = registers[register]
        result = op(*given, **named)
        return result if item is None else result[item]

    return run


def _varies(value: Any) -> bool:
    if isinstance(value, list):
        return any(_varies(item) for item in value)
    return isinstance(value, Ref | Slot)


def _now(value: Any, registers: list[Any], env: list[Any]) -> Any:
    if isinstance(value, Ref):
        return registers[value.value]
    if isinstance(value, Slot):
        return env[value.at]
    if isinstance(value, list):
        return [_now(item, registers, env) for item in value]
    return value


def _one(op: Any, at: list[int], rest: tuple[Any, ...], named: dict[str, Any]) -> Run:
    (a,) = at
    if named:
        return lambda registers, _: op(registers[a], *rest, **named)
    return lambda registers, _: op(registers[a], *rest)


def _two(op: Any, at: list[int], rest: tuple[Any, ...], named: dict[str, Any]) -> Run:
    a, b = at
    if named:
        return lambda registers, _: op(registers[a], registers[b], *rest, **named)
    return lambda registers, _: op(registers[a], registers[b], *rest)


def _three(op: Any, at: list[int], rest: tuple[Any, ...], named: dict[str, Any]) -> Run:
    a, b, c = at
    return lambda registers, _: op(registers[a], registers[b], registers[c], *rest, **named)


_SHORT = {1: _one, 2: _two, 3: _three}


def itself(job: Job) -> Run | None:
    """For what cuts dimensions: nothing is left to do where the argument was restricted already."""
    (need,), (register,) = job.needs, job.registers
    links = job.site.links[0]
    if need is None or register is None:
        return None
    cut = [
        part
        for part, link in zip(need, links, strict=True)
        if link is not None and not isinstance(link, int)
    ]
    if cut and all(part is None for part in cut):
        return None
    at = register
    return lambda registers, _: registers[at]


def taking(register: int, cuts: Sequence[tuple[int, Slot]]) -> Run:
    """A part of a value in each of some dimensions; the slots hold what `take` wants."""
    if len(cuts) == 1:
        ((dim, slot),) = cuts
        one = slot.at

        def run_one(registers: list[Any], env: list[Any]) -> Any:
            value, index = registers[register], env[one]
            if isinstance(index, range):
                return torch.narrow(value, dim, index.start, index.stop - index.start)
            return parts.take(value, dim, index)

        return run_one

    def run(registers: list[Any], env: list[Any]) -> Any:
        value = registers[register]
        for dim, slot in cuts:
            value = parts.take(value, dim, env[slot.at])
        return value

    return run
