"""From a kind of edit to the calls that make the result right again.

Forwards: which box of each value is stale. Backwards: which box of each value has to be computed, for
the result, for what is kept, and for what those need and nobody keeps. Then closures, in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from . import parts
from .boxes import Edit, Site, is_all
from .building import Job, Run, build, taking
from .calls import Size
from .costs import weight
from .skeleton import Skeleton
from .tape import NOTHING, Boxed, Nothing, Slot, Tape

KEPT = -1
"""The register that has the `Kept` whose anchors are updated."""


class Step(NamedTuple):
    """One call, or the restriction of a value."""

    run: Run
    to: int
    """The register for what it gives; -1 if that is nothing."""
    dead: tuple[int, ...]
    """Registers that nobody reads afterwards."""


class Program(NamedTuple):
    """What to do for one kind of edit."""

    tape: Tape
    steps: Sequence[Step]
    registers: int
    result: int | None
    """The register with the stale part of the result; None if nothing of it is."""
    box: Boxed
    """Where that belongs."""
    exact: bool
    shares: Sequence[tuple[float, Sequence[tuple[int, Any]]]]
    """What each call costs in full, and the slots that say which share of it is computed."""
    total: float


class Analysis:
    """The work on one kind of edit."""

    def __init__(self, skeleton: Skeleton, edit: Edit, kept: Iterable[int], least: int) -> None:
        self.skeleton = skeleton
        self.graph = skeleton.graph
        self.edit = edit
        self.kept = frozenset(kept)
        self.choosing = False
        """Keep whatever more is needed of than is stale."""
        self.grown = edit.before
        self.least = least
        self.stale: dict[int, Boxed | None] = {}
        self.needed: dict[int, Boxed | None] = {}
        self.computed: dict[int, Boxed] = {}
        self.needs: dict[int, list[Boxed | None]] = {}

    def forwards(self, inputs: Mapping[int, Boxed | None], other: frozenset[int]) -> None:
        """Note which box of every value is stale; `other` are fixed values that are all other now."""
        self.stale.update(inputs)
        for site in self.skeleton.sites:
            call, value = site.call, site.call.value
            box: Boxed | None = None
            fixed = value in self.skeleton.fixed
            if value in other or (self.grown is not None and site.shifts and not fixed):
                box = (None,) * len(call.shape)
            elif not fixed:
                for index, source in enumerate(call.tensors):
                    stale = self.stale.get(source)
                    if stale is not None:
                        box = self.edit.hull(box, self.edit.spread(site, index, stale))
            if self.grown is not None and call.grows:
                box = self.edit.hull(box, self.growth(call.shape))
            self.stale[value] = box

    def growth(self, shape: Sequence[int | Size]) -> Boxed:
        """The box of what was not there before; all, if more than one dimension grew."""
        assert self.grown is not None
        dims = [dim for dim, size in enumerate(shape) if isinstance(size, Size)]
        found: list[Slot | None] = [None] * len(shape)
        if len(dims) == 1:
            part = self.edit.tape.part(_new, shape[dims[0]], self.grown, self.edit.rows)
            assert isinstance(part, Slot | None)
            found[dims[0]] = part
        return tuple(found)

    def backwards(self) -> None:
        """Note which box of every value has to be computed."""
        output = self.graph.output
        self.needed[output] = self.stale.get(output)
        for site in reversed(self.skeleton.sites):
            value = site.call.value
            if value in self.skeleton.fixed:
                continue
            if self.choosing and self.wide(value) and self._worthwhile(site):
                self.kept |= {value}
            box = self.stale[value] if value in self.kept else self.needed.get(value)
            if box is None:
                continue
            box = self.edit.whole(site, box)
            self.computed[value] = box
            needs = self.needs[value] = self.edit.need(site, box)
            for source, need in zip(site.call.tensors, needs, strict=True):
                self.needed[source] = self.edit.hull(self.needed.get(source), need)

    def _worthwhile(self, site: Site) -> bool:
        """Whether to keep a value of which more is needed than is stale.

        Not one that repeats a smaller one, nor a part of one that depends on sizes only: places and
        the like are cheaply made again.
        """
        need = self.needed.get(site.call.value)
        part = need is not None and not is_all(need)
        still = site.call.value in self.skeleton.still
        return not (self.skeleton.larger(site) or (still and part))

    def anchors(self) -> frozenset[int]:
        """The values to keep for edits of this kind."""
        self.choosing = True
        self.backwards()
        return self.kept

    def wide(self, value: int) -> bool:
        """Whether more of a value is needed than is stale."""
        need, stale = self.needed.get(value), self.stale.get(value)
        if need is None:
            return False
        return stale is None or any(
            have is not None and have is not want for have, want in zip(stale, need, strict=True)
        )


def _new(size: Size, before: int, now: int) -> range:
    return range(size.at(before), size.at(now))


class Writer:
    """Writes the steps of an analysis."""

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self.edit = analysis.edit
        self.skeleton = analysis.skeleton
        self._steps: list[tuple[Run, int, tuple[int, ...]]] = []
        self._count = self.skeleton.values
        self._taken: dict[Any, int] = {}
        self._fresh: dict[int, int] = {}
        self._exact = True
        rows = self.edit.rows.value
        self._weights = {
            site.call.value: weight(site.rule, site.resized(rows))
            for site in self.skeleton.sites
            if site.call.value not in self.skeleton.fixed
        }
        self._shares: list[tuple[float, Sequence[tuple[int, Any]]]] = []

    def program(self) -> Program:
        """The steps, in order."""
        analysis = self.analysis
        for site in self.skeleton.sites:
            if site.call.value in analysis.computed:
                self._call(site)
        output = self.skeleton.graph.output
        box = analysis.stale.get(output)
        result = None
        if box is not None:
            result = self._restricted(output, box)
        return Program(
            self.edit.tape,
            self._with_ends(result),
            self._count,
            result,
            box or (),
            self._exact,
            self._shares,
            sum(self._weights.values()) or 1.0,
        )

    def _call(self, site: Site) -> None:
        analysis, value = self.analysis, site.call.value
        box, needs = analysis.computed[value], analysis.needs[value]
        registers = [
            None if need is None else self._restricted(source, need)
            for source, need in zip(site.call.tensors, needs, strict=True)
        ]
        least = self.analysis.least
        run = build(Job(self.edit, site, box, needs, registers, least))
        used = tuple(register for register in registers if register is not None)
        self._note(site, box)
        if value not in analysis.kept:
            self._add(run, value, used)
            return
        fresh = self._fresh[value] = self._temporary()
        self._add(run, fresh, used)
        self._add(self._storing(value, fresh, box), value, (fresh,))

    def _note(self, site: Site, box: Boxed) -> None:
        rule = site.rule
        if rule is not None and not is_all(box):
            exact = rule.exact if isinstance(rule.exact, bool) else rule.exact(site, box)
            filled = self.analysis.least > 0 or rule.moves  # few rows of products are not exact
            self._exact = self._exact and exact and filled
        sizes = [
            (part.at, size)
            for dim, (part, size) in enumerate(zip(box, site.call.shape, strict=True))
            if part is not None
        ]
        self._shares.append((self._weights[site.call.value], sizes))

    def _restricted(self, source: int, need: Boxed) -> int:
        """The register that has a box of a value."""
        analysis = self.analysis
        held: Boxed = (None,) * len(need)
        register = source
        if source in analysis.computed:
            box = analysis.computed[source]
            if source not in analysis.kept:
                held = box
            elif all(a is b for a, b in zip(need, box, strict=True)):
                held, register = box, self._fresh[source]
        key = (register, tuple(None if part is None else part.at for part in need))
        if key not in self._taken:
            self._taken[key] = self._take(register, need, held)
        return self._taken[key]

    def _take(self, register: int, need: Boxed, held: Boxed) -> int:
        tape, cuts = self.edit.tape, []
        for dim, (part, have) in enumerate(zip(need, held, strict=True)):
            if part is None or part is have:
                continue
            place: Slot | Nothing | None = part
            if have is not None:
                place = tape.part(parts.within, part, have)
            if place is not None and place is not NOTHING:
                cuts.append((dim, self._index(place)))
        if not cuts:
            return register
        to = self._temporary()
        self._add(taking(register, cuts), to, (register,))
        return to

    def _index(self, part: Any) -> Slot:
        """The slot with what `take` wants."""
        return self.edit.tape.value(parts.of_index, part, self.skeleton.device)

    def _storing(self, value: int, fresh: int, box: Boxed) -> Run:
        """Write a box of an anchor; the register then has all of it."""
        where = [(dim, self._index(part)) for dim, part in enumerate(box) if part is not None]

        def run(registers: list[Any], env: list[Any]) -> Any:
            cuts = [(dim, env[slot.at]) for dim, slot in where]
            return registers[KEPT].store(value, cuts, registers[fresh])

        return run

    def _temporary(self) -> int:
        self._count += 1
        return self._count - 1

    def _add(self, run: Run, to: int, used: tuple[int, ...]) -> None:
        self._steps.append((run, to, used))

    def _with_ends(self, result: int | None) -> list[Step]:
        """Each register is let go after its last reader."""
        seen = {result}
        found = []
        for run, to, used in reversed(self._steps):
            dead = tuple(
                register
                for register in dict.fromkeys(used)
                if register not in seen and register >= self.skeleton.graph.first
            )
            seen.update(dead)
            found.append(Step(run, to, dead))
        return found[::-1]


def share(program: Program, env: Sequence[Any], rows: int) -> float:
    """Which part of the whole work the steps do."""
    done = 0.0
    for cost, sizes in program.shares:
        part = cost
        for at, size in sizes:
            part *= len(env[at]) / max(size.at(rows) if isinstance(size, Size) else size, 1)
        done += part
    return min(done / program.total, 1.0)
