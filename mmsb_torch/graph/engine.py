"""Values are pulled: a read finds what is stale behind it and recomputes just that.

A pull looks at one moment of the memory (the last transaction when it begins). In topological
order each derived page is either right for that moment (its code and the epochs of its inputs are
those it was computed from: cut off) or recomputed, without locks, by one thread while others wait.
A result equal to the old bits keeps its epoch, so whatever depends on it is cut off in turn.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from torch import Tensor

from mmsb_torch.errors import (
    MMSBError,
    RecipeError,
)
from mmsb_torch.graph.flights import Flights
from mmsb_torch.graph.node import Node, Outcome
from mmsb_torch.graph.pull import (
    Counts,
    Pull,
    Restart,
    Run,
    not_loaded,
    recipe_failure,
    said,
)
from mmsb_torch.graph.recipes import Recipe
from mmsb_torch.graph.running import Frame, Running, adopt, dense_result, difference, plain_torch
from mmsb_torch.graph.topology import Topology
from mmsb_torch.runtime.state import Entry, Router
from mmsb_torch.types import EventType, Spec

_NEVER = -2  # an epoch that no page has


class Engine:
    """Keeps derived pages right, when they are read.

    Thread safety: every method may be called from any thread. One thread computes a page, others
    wait for it; no lock is held while a recipe runs.
    """

    def __init__(self, router: Router) -> None:
        self.router = router
        self.topology = Topology()
        self.world = 0
        """Moves when code changed: quick checks made before no longer count."""
        self.running = Running()
        self._flights = Flights(self.topology.lock)
        self.declarations = 0
        """How often a page was declared with code that it did not have before."""
        self.counts = Counts()

    def read(self, entry: Entry) -> Tensor:
        """The value of any page, for reading: a detached alias.

        Inside a recipe the value is that of the recipe's moment, and the page becomes its input.

        Raises:
            RecipeError, RecipeNotLoadedError, CycleDetectedError, PageMutatedError.
        """
        frame = self.running.frame
        if frame is not None and frame.engine is self:
            return frame.reader.read_inside(frame, entry)
        node = self.topology.nodes.get(entry.info.id)
        if node is None:
            return self.router.read(entry)
        while True:
            if not self.is_fresh(node):
                self.pull([node])
            value = self.router.read_derived(entry)
            if value is not None:
                return value

    def is_fresh(self, node: Node) -> bool:
        """Whether the value is known to be right now, by a look at its roots and its code."""
        tx = self.router.tx
        cone = node.cone
        if (
            cone is None
            or node.world != self.world
            or node.topology != self.topology.version
            or node.error is not None
            or node.entry.tensor is None
        ):
            return False
        for check in cone.checks:
            if check() is not None:
                return False
        as_of = node.as_of
        if as_of != tx:
            for root in cone.roots:
                if root.tx > as_of:
                    return False
            node.as_of = max(tx, node.as_of)
        return True

    def pull(self, targets: Sequence[Node], *, keep_going: bool = False) -> list[Exception]:
        """Make every page of `targets` right for one moment not before the call.

        Raises the first failure; with `keep_going` what can be computed is, and the failures are
        returned.
        """
        while True:
            try:
                return self._pull(targets, keep_going)
            except Restart:
                continue

    def propagate(self) -> list[Node]:
        """Make every derived page right; returns those whose value changed.

        Raises the first failure, after everything else was computed.
        """
        nodes = [node for _, node in sorted(self.topology.nodes.copy().items())]
        before = {node.id: node.entry.epoch for node in nodes}
        failures = self.pull(nodes, keep_going=True)
        if failures:
            for other in failures[1:]:
                failures[0].add_note(f"also failed: {said(other)}")
            raise failures[0]
        return [node for node in nodes if node.entry.epoch != before[node.id]]

    def _pull(self, targets: Sequence[Node], keep_going: bool) -> list[Exception]:
        pull = Pull(self.router.tx, self.world, self.topology.version)
        try:
            with plain_torch():
                failed = self._settle_all(self.topology.order(targets), pull)
        finally:
            for kind, fields in pull.told:
                self.router.events.emit(kind, fields)
        if not keep_going:
            for node in targets:
                if node.id in failed:
                    raise failed[node.id]
        return list(dict.fromkeys(failed.values()))

    def _settle_all(self, order: Sequence[Node], pull: Pull) -> dict[int, MMSBError]:
        """Settle pages, inputs first; returns what failed, by page.

        A page fails with the inputs it was declared with. One that merely read a failing page the
        last time is run: it may not read that page any more.
        """
        failed = pull.failed
        for node in order:
            if node.id in pull.epochs:  # settled already, perhaps by a recipe that read it
                continue
            error = next((failed[e.info.id] for e in node.declared if e.info.id in failed), None)
            if error is None:
                try:
                    self._settle(node, pull)
                except MMSBError as raised:
                    error = raised
            if error is not None:
                failed[node.id] = error
                pull.epochs[node.id] = _NEVER
        return failed

    def _settle(self, node: Node, pull: Pull) -> None:
        """Make one node right for the pull's moment; its inputs are. Leaves its epoch there."""
        inputs = node.inputs
        now = self._input_epochs(node, inputs, pull)
        reason = self._code_change(node, pull)
        with self.router.table.lock:  # epoch, `seen` and `seen_of` belong together
            epoch = node.entry.epoch
            right = node.seen_of == inputs and node.seen == now and self.has_value(node)
        if right and reason is None:
            pull.epochs[node.id] = epoch
            self._cut_off(node, pull)
            return
        self._flights.take_off(node)
        try:
            if node.as_of > pull.tx or node.inputs != inputs:
                raise Restart  # another thread published a later value, or declared it anew
            self._compute(node, pull, dict(zip(inputs, now, strict=True)), reason)
        finally:
            self._flights.land(node)
        pull.stirred.add(node.id)

    def _input_epochs(self, node: Node, inputs: tuple[Entry, ...], pull: Pull) -> tuple[int, ...]:
        epochs = pull.epochs
        for entry in inputs:
            page = entry.info.id
            if page not in epochs:
                if page in self.topology.nodes:  # an edge that a recipe made during this pull
                    raise Restart
                epochs[page] = self.router.epoch_at(entry, pull.tx)
            if entry.tx > node.as_of:
                pull.stirred.add(page)
        return tuple([epochs[entry.info.id] for entry in inputs])

    def has_value(self, node: Node) -> bool:
        """Whether a page was computed and did not fail since."""
        return node.entry.tensor is not None and node.error is None

    def _code_change(self, node: Node, pull: Pull) -> str | None:
        recipe = node.recipe
        if recipe is None:
            return None
        key = id(getattr(recipe.changed, "__self__", recipe))
        if key not in pull.reasons:
            pull.reasons[key] = recipe.changed()
        reason = pull.reasons[key]
        if reason is None and recipe.untracked:
            return f"it refers to {recipe.untracked[0]}, which cannot be watched"
        if reason is None and node.peeked:
            return "it looked at the memory itself (names, numbers, history), not only at pages"
        if reason is None and node.code and node.code != recipe.digest:
            return "its recipe was declared with other code"
        return reason

    def _cut_off(self, node: Node, pull: Pull) -> None:
        """No input changed: the value is right for the pull's moment as it stands."""
        stirred = any(entry.info.id in pull.stirred for entry in node.inputs)
        if stirred:
            pull.stirred.add(node.id)
            self.counts.cut_off += 1
            node.outcome = Outcome.without_run("cut off", pull.tx)
            pull.told.append((EventType.CUT_OFF, {"page": node.name, "tx": pull.tx}))
        node.as_of, node.world = max(pull.tx, node.as_of), pull.world
        self._look(node, pull)

    def _look(self, node: Node, pull: Pull) -> None:
        """Make the quick check of `node`, as of the topology that the pull began with."""
        if node.topology != pull.version:
            node.cone = self.topology.cone(node, pull.version)
            node.topology = pull.version

    def _compute(
        self, node: Node, pull: Pull, epochs: Mapping[Entry, int], reason: str | None
    ) -> None:
        """Run the recipe for the pull's moment and publish. The caller holds the flight."""
        recipe = node.recipe
        if recipe is None:
            raise not_loaded(node, epochs)
        if reason is not None and recipe.changed() is not None:
            recipe = self._refresh(node, recipe, reason, pull)
        if any(entry not in epochs for entry in recipe.inputs):
            raise Restart  # declared anew, with other inputs, since this pull looked
        values = [self._value_at(entry, pull.tx, epochs[entry]) for entry in recipe.inputs]
        frame = Frame(self, self, node, pull.tx, pull)
        began = time.perf_counter()
        try:
            value = adopt(self.call(recipe, values, frame))
        except Exception as error:
            raise self._failed(node, error, pull) from error
        seconds = time.perf_counter() - began
        if node.recipe is not recipe or frame.overtaken:
            raise Restart  # declared anew, or time moved on and the recipe hid it
        node.peeked = frame.peeked
        self._note_reads(node, frame)
        seen = {**epochs, **frame.reads} if frame.reads else epochs
        # if its code changed while it ran, the value is right for this read only
        code = recipe.digest if recipe.changed() is None else "changed while it ran"
        run = Run(value, seen, recipe.digest, code, reason, seconds)
        self._publish(node, run, pull)

    def _refresh(self, node: Node, recipe: Recipe, reason: str, pull: Pull) -> Recipe:
        """Take note of changed code: whoever depended on the old is looked at again."""
        refreshed = recipe.refreshed()
        with self.topology.lock:
            if node.recipe is not recipe:  # declared anew meanwhile
                raise Restart
            node.recipe = refreshed
            self.topology.version += 1
            self.world += 1
        pull.world = self.world
        fields = {"page": node.name, "reason": reason, "world": self.world}
        pull.told.append((EventType.WORLD_CHANGED, fields))
        return refreshed

    def call(self, recipe: Recipe, values: list[Tensor], frame: Frame) -> Tensor:
        """Run the user's function: its reads go to `frame`, and it may change no page.

        Raises:
            RecipeError: it returned no dense tensor, or wrote into a page that it read.
        """
        running, recipes, name = self.running, self.router.recipes, frame.node.name
        for entry, value in zip(recipe.inputs, values, strict=True):
            frame.hand(entry, value)
        before, running.frame = running.frame, frame
        peeked, recipes.peeked = recipes.peeked, False
        recipes.depth += 1
        try:
            result = dense_result(recipe.run(values), name)
        finally:
            frame.peeked = frame.peeked or recipes.peeked
            recipes.depth -= 1
            recipes.peeked = peeked
            running.frame = before
            written = frame.written()
            for entry in written:
                self.router.repair(entry)
        if written:
            raise RecipeError(
                f"the recipe of page {name!r} wrote into its input {written[0].info.name!r}, "
                "whose committed value was put back. Work on input.clone().",
                page_id=frame.node.id,
            )
        return result

    def _publish(self, node: Node, run: Run, pull: Pull) -> None:
        entry = node.entry
        inputs, before = node.inputs, node.seen
        now = tuple([run.epochs.get(item, -1) for item in inputs])
        old = entry.tensor if entry.is_unwritten() else None
        region = difference(old, run.value)
        what = "computed" if old is None else "recomputed"
        with self.router.table.lock:
            if old is not None and region.empty and Spec.of(run.value) == Spec.of(old):
                what = "unchanged"
            else:
                self.router.publish(entry, run.value, region)
            node.seen, node.seen_of = now, inputs
            node.code, node.error = run.code, None
            node.as_of, node.world = pull.tx, pull.world
            if run.code != run.digest:  # right for this read only: nobody may take it for fresh
                self.world += 1
            pull.epochs[node.id] = entry.epoch
        self._look(node, pull)
        node.outcome = Outcome(what, run.reason, inputs, before, now, pull.tx, run.seconds, region)
        self.counts.recomputed += 1
        self.counts.unchanged += what == "unchanged"
        self.counts.seconds += run.seconds
        if self.router.events.listening:
            fields = {"page": node.name, "tx": pull.tx, "what": what, "region": str(region)}
            pull.told.append((EventType.RECOMPUTED, {**fields, "seconds": run.seconds}))

    def _note_reads(self, node: Node, frame: Frame) -> None:
        if not frame.reads and node.inputs is node.declared:
            return
        inputs = tuple(dict.fromkeys((*node.declared, *frame.reads)))
        if inputs != node.inputs:
            self.topology.connect(node, inputs)

    def _value_at(self, entry: Entry, tx: int, epoch: int) -> Tensor:
        """An input's value at the pull's moment, for a recipe to read."""
        if entry.info.id not in self.topology.nodes:
            return self.router.read_at(entry, tx)
        with self.router.table.lock:
            if entry.tensor is None or entry.epoch != epoch:
                raise Restart
            if entry.is_unwritten():
                return entry.alias()
        raise self.router.repair(entry)

    def value_if(self, entry: Entry, epoch: int) -> Tensor | None:
        """The value of a derived page, if it is at `epoch`."""
        with self.router.table.lock:
            there = entry.tensor is not None and entry.epoch == epoch and entry.is_unwritten()
            return entry.alias() if there else None

    def read_inside(self, frame: Frame, entry: Entry) -> Tensor:
        """A read by a running recipe: at its moment, and from now on an input of its page."""
        try:
            return frame.hand(entry, self._read_at_moment(frame, entry))
        except Restart:
            frame.overtaken = True
            raise
        except BaseException:
            frame.peeked = True  # a recipe that goes on without this page depends on its failure
            raise

    def _read_at_moment(self, frame: Frame, entry: Entry) -> Tensor:
        self._connect(frame.node, entry)
        node = self.topology.nodes.get(entry.info.id)
        if node is None:
            epoch = frame.reads[entry] = self.router.epoch_at(entry, frame.tx)
            if epoch < 0:
                raise Restart  # the page was made after this pull began
            return self.router.read_at(entry, frame.tx)
        pull = frame.pull
        assert pull is not None
        failed = self._settle_all(self.topology.order([node]), pull)
        if node.id in failed:
            raise failed[node.id]
        frame.reads[entry] = pull.epochs[node.id]
        return self._value_at(entry, frame.tx, pull.epochs[node.id])

    def _connect(self, node: Node, entry: Entry) -> None:
        if entry in node.inputs:
            return
        with self.topology.lock:
            self.topology.check_acyclic(node, entry)
            entry.watched = True
            node.inputs = (*node.inputs, entry)
            self.topology.version += 1

    def _failed(self, node: Node, error: Exception, pull: Pull) -> MMSBError:
        """Note a failure: the page stays stale, and the next read tries again."""
        raised = recipe_failure(node, error, pull.tx)
        self.counts.failed += 1
        node.error = raised
        node.outcome = Outcome.without_run("failed", pull.tx, said(error))
        fields = {"page": node.name, "tx": pull.tx, "error": said(error)}
        pull.told.append((EventType.ERROR, fields))
        return raised
