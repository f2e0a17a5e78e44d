"""What users hold: `Memory`, its `Page` handles, transactions (`Changes`) and `Moment`s of the past.

Nothing but checks of what users hand over and delegation to the floors below.
"""

from mmsb_torch.memory.changes import Changes
from mmsb_torch.memory.memory import Memory
from mmsb_torch.memory.moment import Diff, Moment, PageDiff
from mmsb_torch.memory.opening import open, repair  # noqa: A004 - the public name
from mmsb_torch.memory.page import Change, Page
from mmsb_torch.memory.session import mmsb_start, mmsb_stop

__all__ = [
    "Change",
    "Changes",
    "Diff",
    "Memory",
    "Moment",
    "Page",
    "PageDiff",
    "mmsb_start",
    "mmsb_stop",
    "open",
    "repair",
]
