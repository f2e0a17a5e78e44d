"""What the demo does to its pages: edits, each compared with computing everything again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from mmsb_torch.demo.pipeline import Pipeline
from mmsb_torch.device import same_bits
from mmsb_torch.types import Event, EventType

EDITS = {
    3: "A generator expression yields its values lazily, one at a time.",
    4: "Keyword arguments are given by name when a function is called.",
    130: "The weather in the mountains changed within an hour.",
    131: "She painted the old boat in a bright shade of blue.",
    1400: "A tensor is an array of numbers with a shape and a type.",
}


class Step(NamedTuple):
    """One line of the demo's table."""

    title: str
    recomputed: dict[str, int]
    """Pages, and how many of their rows were computed (0: in full)."""
    unchanged: list[str]
    cut_off: list[str]
    kept: int
    seconds: float
    full_seconds: float
    equal: bool
    why: str


class Watcher:
    """Listens to a memory and notes what each step recomputed and cut off."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._seen: list[Event] = []
        self.end = pipeline.memory.subscribe(
            self._note, [EventType.RECOMPUTED, EventType.CUT_OFF, EventType.STALE]
        )

    def _note(self, event: Event) -> None:
        self._seen.append(event)

    def take(self) -> list[Event]:
        """What was noted since the last call."""
        seen, self._seen = self._seen, []
        return seen


def run_step(pipeline: Pipeline, watcher: Watcher, title: str, act: Callable[[], object]) -> Step:
    """Edit, read the result, then compute everything from scratch and compare bit for bit."""
    watcher.take()
    act()
    began = time.perf_counter()
    _ = pipeline.top.tensor
    seconds = time.perf_counter() - began
    events = watcher.take()
    why = str(pipeline.memory.why(pipeline.top))
    began = time.perf_counter()
    expected = pipeline.from_scratch()
    full_seconds = time.perf_counter() - began
    equal = all(same_bits(pipeline.memory[name].tensor, v) for name, v in expected.items())
    by = {kind: [e.fields for e in events if e.type is kind] for kind in EventType}
    ran = by[EventType.RECOMPUTED]
    return Step(
        title,
        {f["page"]: f["rows"] for f in ran},
        [f["page"] for f in ran if f["what"] == "unchanged"],
        [f["page"] for f in by[EventType.CUT_OFF]],
        len(expected) - len(ran),
        seconds,
        full_seconds,
        equal,
        why,
    )


def edits(pipeline: Pipeline, sentences: list[str]) -> Iterator[tuple[str, Callable[[], object]]]:
    """The story, title by title."""
    count = len(sentences)
    chosen = {position % count: text for position, text in EDITS.items()}
    far = int(pipeline.scores.tensor.argmin())

    def nothing() -> None:
        pipeline.memory.update(pipeline.ids, pipeline.ids.read(rows=[0]), rows=[0])

    yield "edit the query", lambda: pipeline.ask("What is a coroutine?", "ask")
    yield f"edit {len(chosen)} sentences", lambda: pipeline.edit(chosen, "reword")
    yield "edit 1 far sentence", lambda: pipeline.edit({far: "It rained all day."}, "far")
    yield "write the same again", nothing
    yield "go back to the start", lambda: pipeline.memory.restore("start")


@contextmanager
def watching(pipeline: Pipeline) -> Iterator[Watcher]:
    """A watcher for the length of a block."""
    watcher = Watcher(pipeline)
    try:
        yield watcher
    finally:
        watcher.end()
