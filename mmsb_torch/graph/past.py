"""Derived pages as of an earlier transaction: computed in memory, published nowhere."""

from __future__ import annotations

from torch import Tensor

from mmsb_torch.device import copy_of
from mmsb_torch.errors import CycleDetectedError, PageMutatedError, RecipeNotLoadedError
from mmsb_torch.graph.engine import Engine
from mmsb_torch.graph.explain import is_right
from mmsb_torch.graph.node import Node
from mmsb_torch.graph.pull import recipe_failure
from mmsb_torch.graph.running import Frame, adopt, plain_torch
from mmsb_torch.runtime.state import Entry, value_at


class Past:
    """Values of every page as of transaction `tx`, in memory that no page shares.

    Derived pages are those that today's recipes give for the inputs of that moment. Each value is
    computed once and kept. Not thread-safe: one caller at a time.
    """

    def __init__(self, engine: Engine, tx: int) -> None:
        self._engine = engine
        self.tx = tx
        self._values: dict[int, tuple[Tensor, int]] = {}
        self._under_way: set[int] = set()

    def value(self, entry: Entry) -> Tensor:
        """A detached alias of one page's value then.

        Raises:
            PageNotFoundError: the page (or one it depends on) did not exist then.
            RecipeError, RecipeNotLoadedError: it is derived and cannot be computed.
            PageMutatedError: somebody wrote to what this returned before.
        """
        topology = self._engine.topology
        node = topology.nodes.get(entry.info.id)
        if node is None:
            return self._root(entry)
        for item in topology.declared_order(node):
            if item.id not in self._values:
                self._keep(item.entry, self._derived(item))
        return self._kept(entry)

    def read_inside(self, frame: Frame, entry: Entry) -> Tensor:
        """A read by a recipe that runs in this past."""
        frame.reads[entry] = self.tx
        return frame.hand(entry, self.value(entry))

    def _root(self, entry: Entry) -> Tensor:
        if entry.info.id not in self._values:
            with self._engine.router.table.lock:
                written = entry.tx <= self.tx and not entry.is_unwritten()
            if written:  # the present value is meant, and somebody wrote to it
                raise self._engine.router.repair(entry)
            log = self._engine.router.log
            self._keep(entry, value_at(log, entry.info.id, self.tx))
        return self._kept(entry)

    def _keep(self, entry: Entry, value: Tensor) -> None:
        self._values[entry.info.id] = (value, value._version)  # noqa: SLF001 - the public counter

    def _kept(self, entry: Entry) -> Tensor:
        value, version = self._values[entry.info.id]
        if value._version != version:  # noqa: SLF001
            del self._values[entry.info.id]
            raise PageMutatedError(
                f"the value of page {entry.info.name!r} as of transaction {self.tx} was written "
                "to: it is for reading. Ask for it again, and write to a clone.",
                page_id=entry.info.id,
            )
        return value.detach()

    def _derived(self, node: Node) -> Tensor:
        engine = self._engine
        epoch = node.entry.epoch
        if self._is_present(node):
            present = engine.value_if(node.entry, epoch)
            if present is not None:
                copied = copy_of(present)
                if self._untouched(node):  # also while it was read
                    return copied
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
        values = [self.value(entry) for entry in recipe.inputs]
        frame = Frame(engine, self, node, self.tx)
        self._under_way.add(node.id)
        try:
            with plain_torch():
                return adopt(engine.call(recipe, values, frame))
        except Exception as error:
            for entry in (*recipe.inputs, *frame.reads):
                self._values.pop(entry.info.id, None)
            raise recipe_failure(node, error, self.tx) from error
        finally:
            self._under_way.discard(node.id)

    def _is_present(self, node: Node) -> bool:
        """Whether the present value is also that of this moment."""
        return self._untouched(node) and is_right(self._engine, node)

    def _untouched(self, node: Node) -> bool:
        """Whether no root behind a page changed since this moment."""
        nodes = self._engine.topology.nodes
        return not any(
            entry.tx > self.tx
            for item in self._engine.topology.order([node])
            for entry in item.inputs
            if entry.info.id not in nodes
        )
