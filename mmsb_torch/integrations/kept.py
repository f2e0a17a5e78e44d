"""What a run kept, read before there is anything to load it into."""

from __future__ import annotations

from typing import Any

from mmsb_torch.memory import Memory
from mmsb_torch.training.saved import RUN, Saved
from mmsb_torch.training.tree import decode


def saved(memory: Memory, name: str | None) -> Saved | None:
    """What the run of that name kept last; None if it did not begin."""
    prefix = f"{name}: " if name else ""
    return Saved(memory, prefix) if prefix + RUN in memory else None


def kept(memory: Memory, name: str | None, part: str) -> Any:
    """The state of what was given in `extra`; None if the run did not begin."""
    found = saved(memory, name)
    return None if found is None else decode(found.part(part)["state"], found.find)
