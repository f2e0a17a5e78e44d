"""A derived page's side of the graph: its recipe, its inputs, and what is known of its value."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from mmsb_torch.instrumentation.context import Settings
from mmsb_torch.runtime.state import Entry
from mmsb_torch.types import Region

if TYPE_CHECKING:
    from mmsb_torch.graph.recipes import Recipe
    from mmsb_torch.graph.slicing import Slicing

Check = Callable[[], str | None]
"""Says what changed in the code that a value depends on, or None."""


class Outcome(NamedTuple):
    """What the engine last did with a derived page, and why."""

    what: str
    """"computed" (the first time), "recomputed", "unchanged" (recomputed, equal bits: whoever
    depends on it is cut off), "cut off" (not run: no input changed), "attached" (declared again
    with equal code), "failed"."""
    reason: str | None
    """What changed in its code, if that was the cause."""
    inputs: tuple[Entry, ...]
    before: tuple[int, ...]
    """The epochs of `inputs` that the value before was computed from; shorter if some are new."""
    now: tuple[int, ...]
    """The epochs of `inputs` now."""
    tx: int
    """The value is that of this transaction."""
    seconds: float
    region: Region | None
    """What differs from the value before."""
    engine: str = "full"
    """How the value was made: "full", or "slice" (the recipe ran on some rows)."""
    rows: int = 0
    """How many rows changed behind it, if it was made by rows."""
    saved: float = 0.0
    """Seconds less than the last runs in full took."""
    in_full: str | None = None
    """Why it was made in full, where rows might have done."""

    @classmethod
    def without_run(cls, what: str, tx: int, reason: str | None = None) -> Outcome:
        """The outcome of a look that computed no value."""
        return cls(what, reason, (), (), (), tx, 0.0, None)

    def moved(self) -> dict[str, int]:
        """The inputs that changed: page -> epoch before (-1: not seen before)."""
        before = dict(zip(self.inputs, self.before, strict=False))
        return {
            entry.info.name: before.get(entry, -1)
            for entry, epoch in zip(self.inputs, self.now, strict=True)
            if before.get(entry, -1) != epoch
        }


class Cone(NamedTuple):
    """What a derived page depends on in the end, for a quick check that nothing changed."""

    roots: tuple[Entry, ...]
    checks: tuple[Check, ...]


class Flight:
    """One computation: under way while `air` is held. Others wait for it instead of computing the same."""

    __slots__ = ("air", "reads", "thread")

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.reads: set[Entry] = set()
        """The pages that the recipe read so far, beside those of its declaration."""
        self.air = threading.Lock()
        """A tenth of an Event's cost, and given back whatever interrupts."""

    def wait(self) -> None:
        """Wait until it has landed."""
        with self.air:
            return


class Node:
    """A derived page in the graph.

    `seen` holds the epochs of `inputs` that the value was computed from, `code` the digest of the
    recipe that computed it and `settings` torch's: the value is right for a moment exactly if they
    are those of that moment. Only the thread that holds the node's flight writes the fields below it.
    """

    __slots__ = (
        "as_of",
        "code",
        "code_changes",
        "cone",
        "declared",
        "definition",
        "entry",
        "error",
        "flight",
        "inputs",
        "kind",
        "label",
        "outcome",
        "peeked",
        "recipe",
        "seen",
        "seen_of",
        "settings",
        "slicing",
        "topology",
        "world",
    )

    def __init__(self, entry: Entry, recipe: Recipe | None, declared: tuple[Entry, ...]) -> None:
        self.entry = entry
        self.recipe = recipe
        """None: reopened, and not declared since."""
        self.label = recipe.label if recipe is not None else ""
        self.kind = recipe.kind if recipe is not None else None
        self.declared = declared
        """Inputs by declaration."""
        self.inputs = declared
        """`declared` and the pages that the recipe was seen to read."""
        self.flight: Flight | None = None
        self.seen: tuple[int, ...] = ()
        self.seen_of = self.inputs
        """The inputs that `seen` speaks of."""
        self.peeked = False
        """The recipe looked at what is not watched: it runs at every read."""
        self.code = ""
        self.settings: Settings = ()
        """Torch's settings when the value was computed."""
        self.as_of = -1
        """The value was right at this transaction (and back to when it was computed)."""
        self.code_changes = -1
        """The engine's count at the last look."""
        self.world = 0
        """In which world the value was computed."""
        self.definition = ""
        """The digest of the definition that computed it, as worlds name it."""
        self.error: Exception | None = None
        self.outcome: Outcome | None = None
        self.slicing: Slicing | None = None
        """What is known of the value's rows."""
        self.cone: Cone | None = None
        self.topology = -1

    @property
    def id(self) -> int:
        """The page's id."""
        return self.entry.info.id

    @property
    def name(self) -> str:
        """The page's name."""
        return self.entry.info.name

    @property
    def has_value(self) -> bool:
        """Whether the page was computed and did not fail since."""
        return self.entry.tensor is not None and self.error is None

    def __repr__(self) -> str:
        return f"<Node {self.name!r} as of {self.as_of}, {len(self.inputs)} inputs>"
