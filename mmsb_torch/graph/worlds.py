"""Recipes and worlds: what a recipe says of its code to people, and values that a user registered."""

from __future__ import annotations

from collections.abc import Sequence

import xxhash
from torch import Tensor

from mmsb_torch.graph.recipes import Recipe
from mmsb_torch.instrumentation.code import Worlds
from mmsb_torch.instrumentation.context import Settings, settings_change


class InWorlds(Recipe):
    """A recipe that also depends on registered values: a change of one is a change of its code."""

    def __init__(self, recipe: Recipe, worlds: Worlds, names: tuple[str, ...]) -> None:
        self._recipe, self._worlds = recipe, worlds
        self._values = worlds.values(names)
        self.label, self.inputs = recipe.label, recipe.inputs
        self.untracked, self.definition, self.worlds = recipe.untracked, recipe.definition, names
        parts = [recipe.digest, *(f"{n}={v}" for n, v in zip(names, self._values, strict=True))]
        self.digest = xxhash.xxh3_128_hexdigest("\0".join(parts).encode())
        self.changed = self._changed

    def _changed(self) -> str | None:
        now = self._worlds.values(self.worlds)
        if now == self._values:
            return self._recipe.changed()
        pairs = zip(self.worlds, self._values, now, strict=True)
        return f"world {next(name for name, was, value in pairs if was != value)!r} changed"

    def refreshed(self) -> InWorlds:
        """The same recipe with its code and the registered values as they are now."""
        return InWorlds(self._recipe.refreshed(), self._worlds, self.worlds)

    def run(self, values: Sequence[Tensor]) -> object:
        """Run the recipe."""
        return self._recipe.run(values)


def note_recipe(worlds: Worlds, before: Recipe, after: Recipe, change: str | None = None) -> int:
    """A recipe was found to be another; the world that this began, or is in."""
    if before.definition is None or after.definition is None:
        return worlds.number
    return worlds.note_code(before.definition, after.definition, change)


def note_settings(worlds: Worlds, before: Settings, now: Settings) -> None:
    """A value was computed under other settings of torch's than the one before."""
    change = settings_change(before, now)
    if change is not None and len(before) == len(now):
        worlds.note("setting", "torch", change, settings_mark(before), settings_mark(now))


def settings_mark(settings: Settings) -> str:
    """What stands for torch's settings among digests of definitions."""
    return f"settings {xxhash.xxh3_64_hexdigest(repr(settings).encode())}"
