"""Test against us: Hypothesis strategies, the obvious model, and the state machine (extra `test`).

`strategies` draws specs, tensors of random bits and updates; `model.ModelMemory` is a memory made
of copies and full recomputation; `machine.MemoryMachine` runs both side by side.
"""

from mmsb_torch.testing.machine import MemoryMachine
from mmsb_torch.testing.model import ModelMemory
from mmsb_torch.testing.strategies import (
    DTYPES,
    Update,
    apply_update,
    deltas,
    random_bits,
    shapes,
    tensors,
    updates,
)

__all__ = [
    "DTYPES",
    "MemoryMachine",
    "ModelMemory",
    "Update",
    "apply_update",
    "deltas",
    "random_bits",
    "shapes",
    "tensors",
    "updates",
]
