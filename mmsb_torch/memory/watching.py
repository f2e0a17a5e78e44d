"""Worlds as the facade shows them: what changed in code, and what a user registers beside it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from mmsb_torch.graph import Look, Recipe, tell_stale
from mmsb_torch.graph.worlds import InWorlds, note_recipe
from mmsb_torch.types import EventType

if TYPE_CHECKING:
    from mmsb_torch.instrumentation.code import History
    from mmsb_torch.memory.memory import Memory
    from mmsb_torch.memory.page import Page


def worlds(memory: Memory) -> History:
    """What changed so far in what results depend on beside their inputs, oldest first. Print it.

    A world is a number; it moves when a definition, one of torch's settings or a registered value is
    found to be another (code is looked at when a result is asked for). It only explains: whether a
    result is fresh is decided by digests, so code that is put back has its old results again. The
    history is kept with checkpoints, and goes on from there when a memory is opened.
    """
    memory._router.check_open()  # noqa: SLF001 - one facade
    return memory._engine.worlds.history()  # noqa: SLF001


def register_world(memory: Memory, name: str, value: Any) -> int:
    """Say what something outside of Python is now: a tokenizer's version, a data file's digest.

    `mem.derive(..., world=name)` and `mem.memo(world=name)` depend on it: when it is registered with
    another value, exactly those results are stale; with the old value again, the old ones are kept.
    It is to be registered in every process, before it is named. Returns the present world.

    Args:
        memory: this one.
        name: of your choice.
        value: plain data (str, bytes, numbers, None, in tuples, lists and dicts), compared by type
            and value.

    Raises:
        WorldError: no name, or a value of another kind; nothing was changed.
    """
    router, engine = memory._router, memory._engine  # noqa: SLF001 - one facade
    router.check_open()
    before = engine.worlds.number
    number = engine.worlds.register(name, value)
    if number != before:
        router.events.emit(EventType.WORLD_CHANGED, {"registered": name, "world": number})
    return number


def invalidate_on_world_change(memory: Memory, *pages: Page | str) -> list[Page]:
    """Look at the code of derived pages now, instead of when they are read; nothing is computed.

    Returns the pages that are stale for a change of code, with those that depend on them;
    subscribers are told of each. Whether it is called makes no difference to any value.

    Args:
        memory: this one.
        pages: the pages to look at; all derived ones if none are given.
    """
    memory._router.check_open()  # noqa: SLF001 - one facade
    engine, handles = memory._engine, memory._handles  # noqa: SLF001
    wanted = [handles.entry(page).info.id for page in pages] or list(engine.topology.nodes)
    look, changed = Look(engine), []
    for node in [engine.topology.nodes[page] for page in wanted if page in engine.topology.nodes]:
        recipe = node.recipe
        if recipe is None or recipe.untracked or node.entry.tensor is None:
            continue
        if look.code_change(node) is None:
            continue
        changed.append(node)
        change = recipe.changed()
        if change is not None:
            number = note_recipe(engine.worlds, recipe, recipe.refreshed(), change)
            fields = {"page": node.name, "reason": change, "world": number}
            memory._router.events.emit(EventType.WORLD_CHANGED, fields)  # noqa: SLF001
    below = engine.topology.downstream([node.id for node in changed])
    tell_stale(engine, [node.id for node in changed])
    return [handles.of(node.entry) for node in dict.fromkeys((*changed, *below))]


def in_worlds(memory: Memory, recipe: Recipe, names: str | Iterable[str] | None) -> Recipe:
    """A recipe that depends on registered worlds too.

    Raises:
        WorldError: one is not registered.
    """
    known = memory._engine.worlds  # noqa: SLF001 - one facade
    asked = known.names(names)
    return InWorlds(recipe, known, asked) if asked else recipe
