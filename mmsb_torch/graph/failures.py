"""What stops a computation: the moment that moved on, and the errors that users see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

from mmsb_torch.errors import (
    CycleDetectedError,
    MMSBError,
    PageMutatedError,
    RecipeError,
    RecipeNotLoadedError,
)
from mmsb_torch.graph.node import Node
from mmsb_torch.runtime.state import Entry


class Restart(BaseException):
    """What was known when this look began is no longer so: look again.

    No `Exception`: it passes through recipes, which may catch those.
    """


class Overtaken(Restart):
    """Another thread published a later value than the moment that is looked at."""


class TooDeep(Restart):
    """Recipes read pages whose recipes read pages, and so on: begin with `entry` instead."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry)
        self.entry = entry


class Written(Exception):  # noqa: N818 - it never leaves the graph
    """A recipe, or somebody else while it ran, wrote into pages that it was given to read."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        super().__init__(entries)
        self.entries = entries


def said(error: Exception) -> str:
    """What an error says, in one line for another message."""
    return error.message if isinstance(error, MMSBError) else f"{type(error).__name__}: {error}"


def recipe_failure(node: Node, error: Exception, tx: int) -> MMSBError:
    """What to raise when the recipe of `node` raised `error`."""
    own = isinstance(error, RecipeError) and error.page_id == node.id
    if isinstance(error, MMSBError) and (own or isinstance(error, CycleDetectedError)):
        return error
    return RecipeError(
        f"page {node.name!r}: its recipe {node.label} failed as of transaction {tx}: "
        f"{said(error)}. The page stays stale and is tried again at the next read; every other "
        "page is as it was.",
        page_id=node.id,
    )


def is_of_input(error: Exception, inputs: Sequence[Entry]) -> TypeGuard[PageMutatedError]:
    """Whether an error says that one of these pages was written through an alias."""
    if not isinstance(error, PageMutatedError):
        return False
    return error.page_id in {entry.info.id for entry in inputs}


def wrote_into_input(node: Node, entry: Entry) -> RecipeError:
    """What to raise when the recipe of `node` wrote into its input `entry`."""
    return RecipeError(
        f"the recipe of page {node.name!r} wrote into its input {entry.info.name!r}, whose "
        "committed value was put back. Work on input.clone().",
        page_id=node.id,
    )


def not_loaded(node: Node, now: Sequence[int]) -> RecipeNotLoadedError:
    """What to raise when a page has to be computed and nobody declared how.

    `now` are the epochs of its inputs.
    """
    before = dict(zip(node.seen_of, node.seen, strict=False))
    moved = [
        entry.info.name
        for entry, epoch in zip(node.inputs, now, strict=False)
        if before.get(entry) != epoch
    ]
    why = f"{', '.join(map(repr, moved))} changed" if moved else "its code had changed"
    if node.entry.tensor is None:
        why = "it has no value yet"
    return RecipeNotLoadedError(
        f"page {node.name!r} is stale ({why}), and its recipe {node.label} has not been "
        "declared since the memory was opened. Declare it again with mem.derive(...).",
        page_id=node.id,
    )
