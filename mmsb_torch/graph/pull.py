"""What one pull finds out on its way, and what it tells when something fails."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from mmsb_torch.errors import CycleDetectedError, MMSBError, RecipeError, RecipeNotLoadedError
from mmsb_torch.graph.node import Node
from mmsb_torch.runtime.state import Entry
from mmsb_torch.types import EventType


class Restart(BaseException):
    """The moment moved on under a pull: look again.

    No `Exception`: it passes through recipes, which may catch those.
    """


Told = list[tuple[EventType, dict[str, Any]]]


class Pull:
    """One look at the graph: a moment, and what was found out about it so far."""

    __slots__ = ("epochs", "failed", "reasons", "stirred", "told", "tx", "version", "world")

    def __init__(self, tx: int, world: int, version: int) -> None:
        self.tx = tx
        self.world = world
        self.version = version
        """Of the topology, when it began."""
        self.failed: dict[int, MMSBError] = {}
        self.told: Told = []
        """What subscribers are told when the pull is over and no page is half done."""
        self.epochs: dict[int, int] = {}
        """Page id -> the epoch that is right for the moment."""
        self.reasons: dict[int, str | None] = {}
        self.stirred: set[int] = set()
        """Pages with a change somewhere behind them, even if it was cut off on the way."""


class Run(NamedTuple):
    """A recipe's result on its way to publication."""

    value: Tensor
    epochs: Mapping[Entry, int]
    digest: str
    """What the code was when it began."""
    code: str
    """The same, or that it changed while it ran."""
    reason: str | None
    seconds: float


class Counts:
    """How often the engine did what, since the memory was opened."""

    __slots__ = ("cut_off", "failed", "recomputed", "seconds", "unchanged")

    def __init__(self) -> None:
        self.recomputed = 0
        self.unchanged = 0
        self.cut_off = 0
        self.failed = 0
        self.seconds = 0.0


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


def not_loaded(node: Node, epochs: Mapping[Entry, int]) -> RecipeNotLoadedError:
    """What to raise when a page has to be computed and nobody declared how."""
    before = dict(zip(node.inputs, node.seen, strict=False))
    moved = [e.info.name for e in node.inputs if before.get(e) != epochs.get(e)]
    why = f"{', '.join(map(repr, moved))} changed" if moved else "its code had changed"
    if node.entry.tensor is None:
        why = "it has no value yet"
    return RecipeNotLoadedError(
        f"page {node.name!r} is stale ({why}), and its recipe {node.label} has not been "
        "declared since the memory was opened. Declare it again with mem.derive(...).",
        page_id=node.id,
    )
