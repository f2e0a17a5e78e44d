"""The store: a folder that keeps tensors through kills, full disks and flipped bits.

What was acknowledged is never lost, what is damaged is never loaded silently, and every tensor file
opens with plain `safetensors`. One writer holds an flock; readers take no lock. A checkpoint is a
folder in Hugging Face style, complete the moment its name appears; its manifest vouches for every
byte. Digests (xxh3-128) prove integrity, not authenticity. Nothing that is read can run code.
POSIX only.

From the bottom: `files` (system calls), `streams`, `lock`, `sealed` (JSON), `dtypes`, `header`,
`tensorfile` (safetensors), `mappedfile`, `identity`, `staging`, `manifest`, `shards`, `catalog`, `verification`,
`checkpoint`, `spans`, `retention`, `collection`; of the log `frame` (headers and the chain), `payload` and `payload_writer` (a transaction as
safetensors), `logfile`, `logwriter`, `background`, `bodies`, `log` (in memory), `pastlog` (with gaps), `durable` (on disk), `recovery`,
`follow`, `logwalk`, `log_verification` and `repairing`; of things by themselves `contents`, `codecs`, `envelope`; and
`layout`, the store itself.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmsb_torch.runtime.store.catalog import CheckpointRef, list_checkpoints
    from mmsb_torch.runtime.store.checkpoint import (
        CheckpointInfo,
        Snapshot,
        describe_checkpoint,
        load_checkpoint,
        write_checkpoint,
    )
    from mmsb_torch.runtime.store.collection import Plan, Survey, retain
    from mmsb_torch.runtime.store.durable import DurableLog
    from mmsb_torch.runtime.store.files import FILES, Files
    from mmsb_torch.runtime.store.layout import Store
    from mmsb_torch.runtime.store.lock import WriterLock
    from mmsb_torch.runtime.store.log import Log
    from mmsb_torch.runtime.store.logwriter import DURABILITIES, Durability
    from mmsb_torch.runtime.store.recovery import Scan, Tail, transactions
    from mmsb_torch.runtime.store.repairing import Repair
    from mmsb_torch.runtime.store.retention import Retention
    from mmsb_torch.runtime.store.streams import FileRecord
    from mmsb_torch.runtime.store.tensorfile import read_tensors, write_tensors
    from mmsb_torch.runtime.store.verification import Damage, verify_checkpoint

__all__ = [
    "DURABILITIES",
    "FILES",
    "CheckpointInfo",
    "CheckpointRef",
    "Damage",
    "Durability",
    "DurableLog",
    "FileRecord",
    "Files",
    "Log",
    "Plan",
    "Repair",
    "Retention",
    "Scan",
    "Snapshot",
    "Store",
    "Survey",
    "Tail",
    "WriterLock",
    "describe_checkpoint",
    "list_checkpoints",
    "load_checkpoint",
    "read_tensors",
    "retain",
    "transactions",
    "verify_checkpoint",
    "write_checkpoint",
    "write_tensors",
]

_HOMES = {
    "catalog": ("CheckpointRef", "list_checkpoints"),
    "checkpoint": (
        "CheckpointInfo",
        "Snapshot",
        "describe_checkpoint",
        "load_checkpoint",
        "write_checkpoint",
    ),
    "collection": ("Plan", "Survey", "retain"),
    "durable": ("DurableLog",),
    "files": ("FILES", "Files"),
    "layout": ("Store",),
    "lock": ("WriterLock",),
    "log": ("Log",),
    "logwriter": ("DURABILITIES", "Durability"),
    "recovery": ("Scan", "Tail", "transactions"),
    "repairing": ("Repair",),
    "retention": ("Retention",),
    "streams": ("FileRecord",),
    "tensorfile": ("read_tensors", "write_tensors"),
    "verification": ("Damage", "verify_checkpoint"),
}


def __getattr__(name: str) -> Any:
    # a memory without a path needs none of these modules: they load when they are used
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
