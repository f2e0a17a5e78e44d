"""Computing again what is there, to see whether it is right: nothing is published."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from mmsb_torch.device import same_bits
from mmsb_torch.errors import (
    CycleDetectedError,
    HistoryError,
    RecipeError,
    RecipeNotLoadedError,
)
from mmsb_torch.graph.failures import Overtaken, Restart
from mmsb_torch.graph.past import Past
from mmsb_torch.instrumentation.context import GradKept
from mmsb_torch.runtime.state import Entry, value_at
from mmsb_torch.types import Spec

if TYPE_CHECKING:
    from mmsb_torch.graph.engine import Engine
    from mmsb_torch.graph.node import Node

_ELSE = (
    "recomputed from the same inputs, it is something else. Its recipe depends on something that "
    "nobody sees, or does not compute the same twice; or something wrote into a value unseen."
)


def check_derived(engine: Engine, node: Node) -> str | None:
    """Run the recipe of a page that is taken for fresh: "" if it gives the same, bit for bit.

    Returns what is wrong with it, or None if that cannot be told: it is stale, or has just changed. A
    wrong page is stale afterwards. The random generators are as they were.
    """
    try:
        with _same_generators(), GradKept(), engine.runner.plain():
            pair = Past(engine, engine.router.tx).again(node)
    except (RecipeNotLoadedError, HistoryError, CycleDetectedError, Overtaken, Restart):
        return None
    except RecipeError as error:
        engine.topology.doubt_page(node)
        return f"its recipe, run again, failed: {error}"
    if pair is None:
        return None
    present, again = pair
    if Spec.of(present) == Spec.of(again) and same_bits(present, again):
        return ""
    engine.topology.doubt_page(node)
    return _ELSE


def check_root(engine: Engine, entry: Entry) -> str | None:
    """Compare a page of the user's with what the log says of it: "" if it is the same.

    Returns what is wrong with it, or None if that cannot be told. A page that is wrong is put back,
    and what depends on it is stale.
    """
    router = engine.router
    with router.table.lock:
        tx, present = router.tx, entry.alias()
    try:
        logged = value_at(router.log, entry.info.id, tx)
    except HistoryError:
        return None
    if Spec.of(present) == Spec.of(logged) and same_bits(present, logged):
        return ""
    if not router.put_back(entry, logged, tx):
        return None  # changed meanwhile
    engine.topology.doubt(entry)
    return "its value was written past `mem.update`, where nobody sees it; it was put back."


@contextlib.contextmanager
def _same_generators() -> Iterator[None]:
    """Leave the random generators as they are now."""
    python, numpy = random.getstate(), sys.modules.get("numpy.random")
    drawn = numpy.get_state() if numpy is not None else None
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        if numpy is not None:
            numpy.set_state(drawn)
