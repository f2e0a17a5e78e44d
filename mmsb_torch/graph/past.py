"""Derived pages as of an earlier transaction: computed in memory, published nowhere."""

from __future__ import annotations

from collections import ChainMap
from typing import TYPE_CHECKING

from torch import Tensor

from mmsb_torch.device import copy_of
from mmsb_torch.errors import CycleDetectedError, PageMutatedError, RecipeNotLoadedError
from mmsb_torch.graph.failures import TooDeep, Written, recipe_failure, wrote_into_input
from mmsb_torch.graph.look import NEVER, Look
from mmsb_torch.graph.node import Node
from mmsb_torch.graph.recipes import Recipe
from mmsb_torch.graph.running import Frame
from mmsb_torch.instrumentation.context import settings
from mmsb_torch.runtime.state import Entry, value_at

if TYPE_CHECKING:
    from mmsb_torch.graph.engine import Engine


class Past:
    """Values of every page as of transaction `tx`, in memory that no page shares.

    Derived pages are those that today's recipes give for the inputs of that moment. Each value is
    computed once and kept. Not thread-safe: one caller at a time.
    """

    def __init__(self, engine: Engine, tx: int) -> None:
        self.engine = engine
        self.tx = tx
        self._look = Look(engine, tx)
        self._epochs: dict[int, int] = {}
        """Of kept pages: the epoch whose value is kept, NEVER if it was computed here."""
        self._values: dict[int, tuple[Tensor, int]] = {}
        self._under_way: set[int] = set()

    def value(self, entry: Entry) -> Tensor:
        """A detached alias of one page's value then.

        Raises:
            PageNotFoundError: the page (or one it depends on) did not exist then.
            RecipeError, RecipeNotLoadedError: it is derived and cannot be computed.
            PageMutatedError: somebody wrote to what this returned before.
        """
        # what was not kept is looked at again: its code may have changed
        self._look = Look(self.engine, self.tx)
        self._look.epochs = ChainMap({}, self._epochs)
        wanted = [entry]
        while True:
            try:
                value = self._value(wanted[-1])
            except TooDeep as deep:
                wanted.append(deep.entry)
                continue
            if len(wanted) == 1:
                return value
            wanted.pop()

    def again(self, node: Node) -> tuple[Tensor, Tensor] | None:
        """The present value of a derived page, and what its recipe gives now for the same inputs.

        None if it is not fresh as of `tx`, runs at every read, or its code changed while it ran.
        """
        recipe = node.recipe
        if recipe is None or recipe.untracked or node.peeked or not self._look.is_right(node):
            return None
        present = self.engine.router.read_derived(node.entry, self._look.epochs[node.id])
        if present is None:
            return None
        value = self._run(node, recipe)
        steady = recipe.changed() is None and settings() == self._look.settings
        return (present, value) if steady else None

    def _value(self, entry: Entry) -> Tensor:
        topology = self.engine.topology
        node = topology.nodes.get(entry.info.id)
        if node is None:
            return self._root(entry)
        for item in self._needed(node):
            if item.id not in self._values:  # a recipe before may have read it
                self._keep(item.entry, *self._derived(item))
        return self._kept(entry)

    def _needed(self, node: Node) -> list[Node]:
        """The pages whose values it takes for that of `node`, inputs first."""
        order = self.engine.topology.declared_order(node, known=self._values)
        needed = {node.id}
        for item in reversed(order):
            if item.id in needed and not self._look.is_right(item):
                needed.update(entry.info.id for entry in item.declared)
        return [item for item in order if item.id in needed]

    def read_inside(self, frame: Frame, entry: Entry) -> Tensor:
        """A read by a recipe that runs in this past."""
        frame.reads[entry] = self.tx
        if entry.info.id not in self._values and self.engine.runner.too_deep:
            frame.restart = TooDeep(entry)
            raise frame.restart
        return frame.hand(entry, self._value(entry))

    def _root(self, entry: Entry) -> Tensor:
        if entry.info.id not in self._values:
            with self.engine.router.table.lock:
                written = entry.tx <= self.tx and not entry.is_unwritten()
            if written:  # the present value is meant, and somebody wrote to it
                raise self.engine.router.repair(entry)
            log = self.engine.router.log
            self._keep(entry, value_at(log, entry.info.id, self.tx), None)
        return self._kept(entry)

    def _keep(self, entry: Entry, value: Tensor, epoch: int | None) -> None:
        if epoch is not None:
            self._epochs[entry.info.id] = self._look.epochs[entry.info.id] = epoch
        self._values[entry.info.id] = (value, value._version)  # noqa: SLF001 - the public counter

    def _kept(self, entry: Entry) -> Tensor:
        value, version = self._values[entry.info.id]
        if value._version != version:  # noqa: SLF001
            self._forget(entry)
            raise PageMutatedError(
                f"the value of page {entry.info.name!r} as of transaction {self.tx} was written "
                "to: it is for reading. Ask for it again, and write to a clone.",
                page_id=entry.info.id,
            )
        return value.detach()

    def _forget(self, entry: Entry) -> None:
        self._values.pop(entry.info.id, None)
        self._epochs.pop(entry.info.id, None)

    def _derived(self, node: Node) -> tuple[Tensor, int]:
        """A value of one page, and the epoch that it is of (NEVER: of none)."""
        if self._look.is_right(node):
            epoch = self._look.epochs[node.id]
            present = self.engine.router.read_derived(node.entry, epoch)
            if present is not None:
                self.engine.router.log.check(self.tx)  # else the epochs are of an older moment
                return copy_of(present), epoch
        recipe = node.recipe
        if recipe is None:
            raise RecipeNotLoadedError(
                f"page {node.name!r} as of transaction {self.tx} has to be computed, and its "
                f"recipe {node.label} has not been declared since the memory was opened. "
                "Declare it again with mem.derive(...).",
                page_id=node.id,
            )
        if node.id in self._under_way:
            raise CycleDetectedError(
                f"page {node.name!r} depended on itself as of transaction {self.tx}",
                page_id=node.id,
            )
        self._under_way.add(node.id)
        try:
            return self._run(node, recipe), NEVER
        finally:
            self._under_way.discard(node.id)

    def _run(self, node: Node, recipe: Recipe) -> Tensor:
        values = [self._value(entry) for entry in recipe.inputs]
        frame = Frame(self, node)
        try:
            value = self.engine.runner.run(recipe, values, frame)
        except Exception as error:
            for entry in (*recipe.inputs, *frame.reads):  # it may have written to these
                self._forget(entry)
            if isinstance(error, Written):  # they are this thread's alone: nobody else did
                error = wrote_into_input(node, error.entries[0])
            raise recipe_failure(node, error, self.tx) from error
        if frame.restart is not None:  # and the recipe hid it
            raise frame.restart
        return value
