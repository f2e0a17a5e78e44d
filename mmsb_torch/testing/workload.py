"""A fixed piece of work whose every state is known: for tests of what comes back."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mmsb_torch.device import same_bits
from mmsb_torch.errors import MMSBError
from mmsb_torch.memory import Memory
from mmsb_torch.runtime.store import DurableLog, Tail
from mmsb_torch.runtime.store.files import Files
from mmsb_torch.testing.disks import FailingDisk, open_on

States = dict[int, dict[str, Tensor]]
"""Transaction -> the root pages after it, by name."""


def values(memory: Memory) -> dict[str, Tensor]:
    """Every root page of a memory, copied."""
    return {name: memory[name].read() for name in memory if not memory[name].derived}


def same_values(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    """Whether both have the same names, and bit for bit the same tensors."""
    return found.keys() == wanted.keys() and all(same_bits(found[n], wanted[n]) for n in wanted)


def work(memory: Memory, count: int = 20, states: States | None = None) -> States:
    """Edits of every form, and appends, up to transaction `count`, always the same ones.

    Args:
        memory: an empty memory, or one that this function worked on before.
        count: number of the last transaction.
        states: filled and returned: `states[n]` is the state after transaction n.
    """
    states = {} if states is None else states
    states.setdefault(0, {})
    if memory.tx < 2:
        memory.page("a", torch.arange(12.0).view(4, 3), metadata={"who": "ä\n"})
        states[memory.tx] = values(memory)
        memory.page("b", torch.arange(8, dtype=torch.int16))
        states[memory.tx] = values(memory)
    while memory.tx < count:
        _edit(memory)
        states[memory.tx] = values(memory)
    return states


def _edit(memory: Memory) -> None:
    tx, value = memory.tx, float(memory.tx)
    numbers = random.Random(tx)  # noqa: S311 - any numbers will do
    [rows] = memory["b"].shape
    if tx % 6 == 5:
        memory.append("b", torch.arange(1 + tx % 2, dtype=torch.int16) - tx)
    elif tx % 5 == 0:
        memory.update("a", torch.full((4, 3), value))
    elif tx % 5 == 1:
        memory.update("a", torch.full((1, 3), value), rows=[numbers.randrange(4)])
    elif tx % 5 == 2:
        memory.update("b", tx, indices=[numbers.randrange(rows)])
    elif tx % 5 == 3:
        mask = torch.rand(4, 3, generator=torch.Generator().manual_seed(tx)) < 0.4
        memory.update("a", torch.full((4, 3), -value), mask=mask)
    else:
        with memory.commit(f"label {tx}", step=tx) as changes:
            changes.update("a", value, rows=[0])
            changes.update("b", torch.arange(rows, dtype=torch.int16) * tx)
            changes.append("b", torch.full((1,), tx, dtype=torch.int16))
            changes.update("b", -tx, rows=[rows, 1])


def opened(
    path: Path, disk: Files | None = None
) -> tuple[int, dict[str, Tensor], Tail | None] | MMSBError:
    """The last transaction, root pages and torn tail of a store, or the error that opening raises."""
    try:
        memory = open_on(disk or FailingDisk(), path, mode="r")
    except MMSBError as error:
        return error
    found = memory.tx, values(memory), memory.tail
    log = memory._router.log  # noqa: SLF001 - nothing is computed or written on the way out
    assert isinstance(log, DurableLog)
    log.close()
    assert memory._store is not None  # noqa: SLF001
    memory._store.close()  # noqa: SLF001
    return found
