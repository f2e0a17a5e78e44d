"""One pull: makes pages right for one moment, inputs first, running what has to be run.

In topological order each derived page is either right (cut off) or recomputed, without locks, by
one thread while others wait. A result equal to the old bits keeps its epoch, so whatever depends on
it is cut off in turn.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mmsb_torch.errors import MMSBError
from mmsb_torch.graph.edits import Edits, edits
from mmsb_torch.graph.failures import (
    Overtaken,
    Restart,
    TooDeep,
    Written,
    is_of_input,
    not_loaded,
    recipe_failure,
    said,
    wrote_into_input,
)
from mmsb_torch.graph.look import NEVER, Look, difference
from mmsb_torch.graph.node import Flight, Node, Outcome
from mmsb_torch.graph.part import Made
from mmsb_torch.graph.recipes import Recipe
from mmsb_torch.graph.run import Run
from mmsb_torch.graph.running import Frame
from mmsb_torch.graph.slicing import Slicing
from mmsb_torch.graph.worlds import note_recipe, note_settings
from mmsb_torch.instrumentation.context import settings
from mmsb_torch.instrumentation.identity import LEDGER
from mmsb_torch.runtime.state import Entry
from mmsb_torch.types import EventType, Spec

if TYPE_CHECKING:
    from mmsb_torch.graph.engine import Engine


class Pull(Look):
    """One look at the graph that computes what is not right. For one thread."""

    __slots__ = ("_stirred", "code_changes", "failed", "told", "version")

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.code_changes = engine.code_changes
        self.version = engine.topology.version
        """Of the topology, when it began."""
        self.failed: dict[int, MMSBError] = {}
        self.told: list[tuple[EventType, dict[str, Any]]] = []
        """What subscribers are told when the pull is over and no page is half done."""
        self._stirred: set[int] = set()
        """Pages with a change somewhere behind them, even if it was cut off on the way."""

    def settle_all(self, order: Sequence[Node]) -> None:
        """Make pages right for the moment, inputs first; `failed` says which could not be.

        A page fails with the inputs it was declared with. One that merely read a failing page the
        last time is run: it may not read that page any more.

        Raises:
            Restart: the moment moved on.
        """
        failed = self.failed
        for node in order:
            if node.id in self.epochs:  # settled already, perhaps by a recipe that read it
                continue
            error = next((failed[e.info.id] for e in node.declared if e.info.id in failed), None)
            if error is None:
                try:
                    self._settle(node)
                except MMSBError as raised:
                    error = raised
            if error is not None:
                failed[node.id] = error
                self.epochs[node.id] = NEVER

    def unsettled(self, entry: Entry) -> int:
        """An edge that a recipe made during this pull."""
        del entry
        raise Restart

    def _settle(self, node: Node) -> None:
        """Make one node right; its inputs are. Leaves its epoch in `epochs`."""
        inputs = node.inputs
        now = self.input_epochs(inputs)
        epoch = self.epoch_if(node, inputs, now)
        recipe, known = node.recipe, node.slicing
        later = epoch is None and recipe is not None and known is not None and known.trusted
        if later and recipe is not None:
            reason = difference(node, recipe, self.settings)
        else:
            reason = self.code_change(node)
        if epoch is not None and reason is None:
            self.epochs[node.id] = epoch
            self._cut_off(node)
            return
        flight = Flight()
        with flight.air:
            try:
                self.engine.flights.take_off(node, flight)
                if node.as_of > self.tx:
                    raise Overtaken
                if node.inputs != inputs:  # declared anew
                    raise Restart
                self._compute(node, now, reason, later=later)
            finally:
                if node.flight is flight:
                    node.flight = None
        self._stirred.add(node.id)

    def _cut_off(self, node: Node) -> None:
        """No input changed: the value is right for the moment as it stands."""
        stirred = self._stirred
        if any(entry.tx > node.as_of or entry.info.id in stirred for entry in node.inputs):
            stirred.add(node.id)
            self.engine.counts.cut_off += 1
            node.outcome = Outcome.without_run("cut off", self.tx)
            self.told.append((EventType.CUT_OFF, {"page": node.name, "tx": self.tx}))
        node.as_of, node.code_changes = max(self.tx, node.as_of), self.code_changes
        self._look(node)

    def _look(self, node: Node) -> None:
        """Make the quick check of `node`, as of the topology that the pull began with."""
        if node.topology != self.version:
            node.cone = self.engine.topology.cone(node, self.version)
            node.topology = self.version

    def _compute(
        self, node: Node, now: tuple[int, ...], reason: str | None, *, later: bool
    ) -> None:
        """Run the recipe and publish what it gives. The caller holds the flight.

        With `later`, nobody looked at the code yet (`Slicing.trusted`).
        """
        recipe = node.recipe
        if recipe is None:
            raise not_loaded(node, now)
        if reason is not None and recipe.changed() is not None:
            recipe = self._refresh(node, recipe, reason)
        if node.code and node.settings != self.settings:
            note_settings(self.engine.worlds, node.settings, self.settings)
        world = self.engine.worlds.number
        if any(self.epochs.get(entry.info.id, -1) == -1 for entry in recipe.inputs):
            raise Restart  # declared anew, or an input made, since this pull looked
        frame = Frame(self, node, private=node.id in self.engine.suspects, unchecked=later)
        slicing, began = Slicing.of(node, recipe), time.perf_counter()
        try:
            asked = reason is None and slicing.costs.may_pay
            changed = edits(self, node, recipe, now) if asked else None
            made = self._run(node, recipe, frame, changed, now)
        except Written as written:
            raise self._written(node, written.entries, frame) from written.__cause__
        except Exception as error:
            slicing.check(recipe, frame)
            raise self._failed(node, error) from error
        seconds = time.perf_counter() - began
        self.engine.suspects.discard(node.id)
        if frame.restart is not None:  # and the recipe hid it
            raise frame.restart
        if node.recipe is not recipe:  # declared anew
            raise Restart
        node.peeked = frame.peeked
        self._note_reads(node, frame)
        # if its code changed while it ran, the value is right for this read only
        with LEDGER.watching():  # weights: from now on a look at their flags will do
            steady = recipe.changed() is None and settings() == self.settings
        if frame.unchecked and not steady:
            slicing.trusted = False
            raise Restart
        code = recipe.digest if steady else "changed while it ran"
        definition = recipe.definition.digest if recipe.definition is not None else ""
        run = Run(made, slicing, recipe.digest, code, definition, world, reason, seconds)
        self._publish(node, frame, run)
        slicing.published(made, time.perf_counter())

    def _run(
        self,
        node: Node,
        recipe: Recipe,
        frame: Frame,
        changed: Edits | None,
        now: tuple[int, ...],
    ) -> Made:
        """Run a recipe on the rows that changed, or its graph in part, if that will do; else in full."""
        slicing, began = Slicing.of(node, recipe), time.perf_counter()
        if changed is not None and not frame.private:
            made = slicing.in_part(self, changed, frame, now)
            if made is not None:
                return made
        slicing.check(recipe, frame)
        values = [self.value(entry) for entry in recipe.inputs]
        value = self.engine.runner.run(recipe, values, frame)
        slicing.computed(self, value, time.perf_counter() - began, now)
        return Made(value)

    def _refresh(self, node: Node, recipe: Recipe, reason: str) -> Recipe:
        """Take note of changed code: whoever depended on the old is looked at again."""
        engine = self.engine
        refreshed = recipe.refreshed()
        with engine.topology.lock:
            if node.recipe is not recipe:  # declared anew meanwhile
                raise Restart
            node.recipe = refreshed
            engine.topology.version += 1
            engine.code_changes += 1
        self.code_changes = engine.code_changes
        world = note_recipe(engine.worlds, recipe, refreshed, reason)
        fields = {"page": node.name, "reason": reason, "world": world}
        self.told.append((EventType.WORLD_CHANGED, fields))
        return refreshed

    def _publish(self, node: Node, frame: Frame, run: Run) -> None:
        engine, entry = self.engine, node.entry
        inputs, before = node.inputs, node.seen
        epochs = self.epochs
        now = tuple([frame.reads.get(e, epochs.get(e.info.id, NEVER)) for e in inputs])
        old = entry.tensor if entry.is_unwritten() else None
        part = run.made.part
        if part is not None and old is None:
            raise Restart  # somebody wrote to what the rows belong to
        region, values = run.change(old)
        what = "computed" if old is None else "recomputed"
        with engine.router.table.lock:
            if part is not None and not entry.is_unwritten():
                raise Restart
            if old is not None and region.empty and (part or Spec.of(values) == Spec.of(old)):
                what = "unchanged"
            elif part is None:
                engine.router.publish(entry, values, region)
            else:
                engine.router.publish_rows(entry, values, region)
            node.seen, node.seen_of = now, inputs
            node.code, node.settings, node.error = run.code, self.settings, None
            node.as_of, node.code_changes = self.tx, self.code_changes
            node.world, node.definition = run.world, run.definition
            if run.code != run.digest:  # right for this read only: nobody may take it for fresh
                engine.code_changes += 1
            epochs[node.id] = entry.epoch
        self._look(node)
        node.outcome = Outcome(
            what, run.reason, inputs, before, now, self.tx, run.seconds, region, *run.how()
        )
        engine.counts.ran(node.outcome)
        if engine.router.events.listening:
            fields = {"page": node.name, "tx": self.tx, "what": what, "region": str(region)}
            fields |= {"engine": node.outcome.engine, "rows": node.outcome.rows}
            self.told.append((EventType.RECOMPUTED, {**fields, "seconds": run.seconds}))

    def _note_reads(self, node: Node, frame: Frame) -> None:
        if not frame.reads and node.inputs is node.declared:
            return
        inputs = tuple(dict.fromkeys((*node.declared, *frame.reads)))
        if inputs != node.inputs:
            self.engine.topology.connect(node, inputs)

    def value(self, entry: Entry) -> Tensor:
        """A page's value at the moment, for a recipe to read; its epoch is known."""
        router = self.engine.router
        if not entry.info.derived:
            return router.read_at(entry, self.tx)
        value = router.read_derived(entry, self.epochs[entry.info.id])
        if value is None:
            raise Overtaken
        return value

    def read_inside(self, frame: Frame, entry: Entry) -> Tensor:
        """A read by a running recipe: at the moment, and from now on an input of its page."""
        try:
            return frame.hand(entry, self._read_inside(frame, entry))
        except Restart as restart:
            frame.restart = restart
            raise
        except BaseException:
            frame.peeked = True  # a recipe that goes on without this page depends on its failure
            raise

    def _read_inside(self, frame: Frame, entry: Entry) -> Tensor:
        topology = self.engine.topology
        topology.note_read(frame.node, entry)
        node, page = topology.nodes.get(entry.info.id), entry.info.id
        if node is None:
            if self.input_epochs((entry,)) == (-1,):
                raise Restart  # the page was made after this pull began
        elif page not in self.epochs:
            if self.engine.runner.too_deep:
                raise TooDeep(entry)
            self.settle_all(topology.order([node]))
        if page in self.failed:
            raise self.failed[page]
        frame.reads[entry] = self.epochs[page]
        return self.value(entry)

    def _written(self, node: Node, entries: Sequence[Entry], frame: Frame) -> BaseException:
        """What a recipe was given to read was written into, by it or by somebody else.

        In doubt it runs again, with copies that nobody else has: then it was this recipe.
        """
        engine = self.engine
        if frame.private:
            engine.suspects.discard(node.id)
            return self._failed(node, wrote_into_input(node, entries[0]))
        for entry in entries:
            engine.router.repair(entry)
            engine.topology.doubt(entry)
        engine.suspects.add(node.id)
        return Restart()

    def _failed(self, node: Node, error: Exception) -> MMSBError:
        """Note a failure: the page stays stale, and the next read tries again."""
        if node.recipe is not None and is_of_input(error, node.recipe.inputs):
            return error  # nothing ran: somebody wrote to what it reads, which is told once
        raised = recipe_failure(node, error, self.tx)
        self.engine.counts.failed += 1
        node.error = raised
        node.outcome = Outcome.without_run("failed", self.tx, said(error))
        fields = {"page": node.name, "tx": self.tx, "error": said(error)}
        self.told.append((EventType.ERROR, fields))
        return raised
