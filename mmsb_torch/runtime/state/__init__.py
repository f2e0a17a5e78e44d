"""The present: pages and the one door through which they change.

`table` holds the values, `journal` what changed lately, `selection` and `staging` turn what a user
hands over into a delta, `batch` collects deltas for one transaction, `reading` and `router` read and commit, `replay`
applies again what the log holds, `history` rebuilds the past, `events` tells others.
"""

from mmsb_torch.runtime.state.batch import Batch
from mmsb_torch.runtime.state.events import EventBus
from mmsb_torch.runtime.state.history import epoch_at, value_at
from mmsb_torch.runtime.state.journal import Journal
from mmsb_torch.runtime.state.replay import replay
from mmsb_torch.runtime.state.router import Router
from mmsb_torch.runtime.state.selection import row_index
from mmsb_torch.runtime.state.staging import next_delta_id, stage, stage_append
from mmsb_torch.runtime.state.table import Entry, Table

__all__ = [
    "Batch",
    "Entry",
    "EventBus",
    "Journal",
    "Router",
    "Table",
    "epoch_at",
    "next_delta_id",
    "replay",
    "row_index",
    "stage",
    "stage_append",
    "value_at",
]
