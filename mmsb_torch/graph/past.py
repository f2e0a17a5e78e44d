"""Derived pages as of an earlier transaction: computed in memory, published nowhere."""

from __future__ import annotations

from torch import Tensor

from mmsb_torch.errors import MMSBError, RecipeError, RecipeNotLoadedError
from mmsb_torch.graph.engine import Engine
from mmsb_torch.graph.node import Node
from mmsb_torch.graph.running import Frame, adopt, plain_torch
from mmsb_torch.runtime.state import Entry


class Past:
    """Values of every page as of transaction `tx`.

    Derived pages are those that today's recipes give for the inputs of that moment. Each value is
    computed once and kept. Not thread-safe: one caller at a time.
    """

    def __init__(self, engine: Engine, tx: int) -> None:
        self._engine = engine
        self.tx = tx
        self._values: dict[int, Tensor] = {}

    def value(self, entry: Entry) -> Tensor:
        """The value of one page then; nobody else writes to it.

        Raises:
            PageNotFoundError: the page (or one it depends on) did not exist then.
            RecipeError, RecipeNotLoadedError: it is derived and cannot be computed.
        """
        topology = self._engine.topology
        node = topology.nodes.get(entry.info.id)
        if node is None:
            return self._root(entry)
        for item in topology.order([node]):
            if item.id not in self._values:
                self._values[item.id] = self._derived(item)
        return self._values[node.id]

    def read_inside(self, frame: Frame, entry: Entry) -> Tensor:
        """A read by a recipe that runs in this past."""
        node = self._engine.topology.nodes.get(entry.info.id)
        if node is not None:
            self._engine.topology.check_acyclic(frame.node, entry)
        return self.value(entry)

    def _root(self, entry: Entry) -> Tensor:
        if entry.info.id not in self._values:
            self._values[entry.info.id] = self._engine.router.read_at(entry, self.tx)
        return self._values[entry.info.id]

    def _derived(self, node: Node) -> Tensor:
        engine = self._engine
        roots = node.cone.roots if node.cone is not None else None
        if (
            roots is not None
            and all(root.tx <= self.tx for root in roots)
            and engine.is_fresh(node)
        ):
            present = engine.router.read_derived(node.entry)
            if present is not None:
                return present
        recipe = node.recipe
        if recipe is None:
            raise RecipeNotLoadedError(
                f"page {node.name!r} as of transaction {self.tx} has to be computed, and its "
                f"recipe {node.label} has not been declared since the memory was opened. "
                "Declare it again with mem.derive(...).",
                page_id=node.id,
            )
        values = [self.value(entry).detach() for entry in recipe.inputs]
        frame = Frame(engine, self, node, self.tx)
        try:
            with plain_torch():
                return adopt(engine.call(recipe, values, frame), node.name)
        except MMSBError:
            raise
        except Exception as error:
            raise RecipeError(
                f"page {node.name!r}: its recipe {node.label} failed as of transaction {self.tx}: "
                f"{type(error).__name__}: {error}. The present value is as it was.",
                page_id=node.id,
            ) from error
