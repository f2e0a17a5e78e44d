"""Which derived values are right for one moment, found by looking: nothing runs here.

A value is right for a moment exactly if the epochs of its inputs, the digest of its code and torch's
settings are those that it was computed from.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import TYPE_CHECKING

from mmsb_torch.graph.node import Node
from mmsb_torch.graph.recipes import Recipe
from mmsb_torch.instrumentation.context import Settings, settings, settings_change
from mmsb_torch.runtime.state import Entry

if TYPE_CHECKING:
    from mmsb_torch.graph.engine import Engine

NEVER = -2
"""The epoch of a page that has no value for the moment: no value was computed from it."""


class Look:
    """One look at the graph at one moment; what it finds is kept. For one thread."""

    __slots__ = ("_reasons", "engine", "epochs", "settings", "tx")

    def __init__(self, engine: Engine, tx: int | None = None) -> None:
        self.engine = engine
        self.tx = engine.router.tx if tx is None else tx
        self.settings = settings()
        self.epochs: MutableMapping[int, int] = {}
        """Page id -> the epoch that is right for the moment."""
        self._reasons: dict[int, str | None] = {}

    def is_right(self, node: Node) -> bool:
        """Whether the present value of `node` is right for the moment."""
        for item in self.engine.topology.order([node], known=self.epochs):
            inputs = item.inputs
            epoch = self.epoch_if(item, inputs, self.input_epochs(inputs))
            right = epoch is not None and self.code_change(item) is None
            self.epochs[item.id] = epoch if right and epoch is not None else NEVER
        return self.epochs[node.id] != NEVER

    def input_epochs(self, inputs: tuple[Entry, ...]) -> tuple[int, ...]:
        """The epochs of pages at the moment; derived ones are looked up, so come first."""
        epochs, router = self.epochs, self.engine.router
        for entry in inputs:
            if entry.info.id not in epochs:
                epochs[entry.info.id] = (
                    self.unsettled(entry) if entry.info.derived else router.epoch_at(entry, self.tx)
                )
        return tuple([epochs[entry.info.id] for entry in inputs])

    def unsettled(self, entry: Entry) -> int:
        """The epoch of a derived page that was not looked at before those that read it."""
        del entry
        return NEVER

    def epoch_if(self, node: Node, inputs: tuple[Entry, ...], now: tuple[int, ...]) -> int | None:
        """The epoch of the present value, if it was computed from `inputs` at epochs `now`."""
        with self.engine.router.table.lock:  # epoch, `seen` and `seen_of` belong together
            right = node.has_value and node.seen_of == inputs and node.seen == now
            return node.entry.epoch if right else None

    def code_change(self, node: Node) -> str | None:
        """Why the recipe, as it is now, might give another value for the same inputs."""
        recipe = node.recipe
        if recipe is None:
            return None
        key = id(getattr(recipe.changed, "__self__", recipe))
        if key not in self._reasons:
            self._reasons[key] = recipe.changed()
        return self._reasons[key] or difference(node, recipe, self.settings)


def difference(node: Node, recipe: Recipe, now: Settings) -> str | None:
    """As `Look.code_change`, of a recipe whose own guards say that nothing changed."""
    if recipe.untracked:
        return f"it refers to {recipe.untracked[0]}, which cannot be watched"
    if node.peeked:
        return "it looked at the memory itself (names, numbers, history), not only at pages"
    if node.code and node.code != recipe.digest:
        return "its recipe was declared with other code"
    return settings_change(node.settings, now) if node.code else None
