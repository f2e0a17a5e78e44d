"""Test against us: Hypothesis strategies, the obvious model, and the state machine (extra `test`).

`strategies` draws specs, tensors of random bits and updates; `model.ModelMemory` is a memory made
of copies and full recomputation; `machine.MemoryMachine` runs both side by side; `disks` has disks
that fail, and lays out what a crash may leave; `workload` is a fixed piece of work whose states are
known; `answers` compares what two runs gave.
"""

from mmsb_torch.testing.answers import alike, tensors_in
from mmsb_torch.testing.disks import (
    Crash,
    FailingDisk,
    RecordingDisk,
    ShortDisk,
    abandon,
    crash_states,
    open_on,
)
from mmsb_torch.testing.machine import MemoryMachine
from mmsb_torch.testing.model import ModelMemory
from mmsb_torch.testing.strategies import (
    DTYPES,
    Append,
    Update,
    appends,
    apply_append,
    apply_update,
    deltas,
    random_bits,
    resizing_deltas,
    shapes,
    tensors,
    updates,
)
from mmsb_torch.testing.workload import opened, same_values, values, work

__all__ = [
    "DTYPES",
    "Append",
    "Crash",
    "FailingDisk",
    "MemoryMachine",
    "ModelMemory",
    "RecordingDisk",
    "ShortDisk",
    "Update",
    "abandon",
    "alike",
    "appends",
    "apply_append",
    "apply_update",
    "crash_states",
    "deltas",
    "open_on",
    "opened",
    "random_bits",
    "resizing_deltas",
    "same_values",
    "shapes",
    "tensors",
    "tensors_in",
    "updates",
    "values",
    "work",
]
