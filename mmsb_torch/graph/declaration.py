"""Declaring a page that is there, and telling what a change left stale."""

from __future__ import annotations

from collections.abc import Sequence

from mmsb_torch.graph.engine import Engine
from mmsb_torch.graph.node import Node, Outcome
from mmsb_torch.graph.recipes import Recipe
from mmsb_torch.graph.worlds import note_recipe
from mmsb_torch.types import EventType


def declare_again(engine: Engine, node: Node, recipe: Recipe) -> None:
    """Give an existing derived page a recipe: equal code keeps its value, other code does not.

    Raises:
        CycleDetectedError: an input depends on the page; nothing was changed.
    """
    with engine.topology.lock:
        extra = [entry for entry in node.inputs if entry not in node.declared]
        same = node.code == recipe.digest
        now = node.recipe
        if now is not None and recipe.kind is not None and now.digest == recipe.digest:
            return  # of one kind, as before: it may be its own recipe that asks
        engine.declarations += not same
        if not same:
            _note(engine, node, recipe)
        inputs = tuple(dict.fromkeys((*recipe.inputs, *(extra if same else ()))))
        if inputs != node.inputs:
            engine.topology.connect(node, inputs)
            node.seen = ()
        if same and recipe.definition is not None:
            node.definition = recipe.definition.digest
        if same and node.recipe is None:
            node.outcome = Outcome.without_run("attached", node.as_of)
        node.declared, node.recipe = recipe.inputs, recipe
        node.label, node.kind = recipe.label, recipe.kind
        engine.topology.version += 1
        engine.code_changes += 1


def _note(engine: Engine, node: Node, recipe: Recipe) -> None:
    """Tell the worlds that a page is declared with other code than before."""
    if node.recipe is not None:
        note_recipe(engine.worlds, node.recipe, recipe)
    elif node.definition and recipe.definition is not None:  # of an earlier session
        module, name = recipe.definition.home
        digests = node.definition, recipe.definition.digest
        if digests[0] != digests[1]:
            change = "declared with other code than in an earlier session"
            engine.worlds.note("code", name, change, *digests, module)


def tell_stale(engine: Engine, pages: Sequence[int]) -> None:
    """Tell subscribers which derived pages a change left stale."""
    if EventType.STALE not in engine.router.events.wanted:
        return
    for node in engine.topology.downstream(pages):
        engine.router.events.emit(EventType.STALE, {"page": node.name, "tx": engine.router.tx})
