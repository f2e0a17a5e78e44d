"""Incremental scopes of a memory, and the budget of what they and memoised functions keep."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmsb_torch.graph.scope import Incremental, Operations, Witness

if TYPE_CHECKING:
    from mmsb_torch.memory.memory import Memory


def incremental(
    memory: Memory, *, verify: float = 0.0, bound: bool = True, witness: Witness | None = None
) -> Incremental:
    """What `Memory.incremental` does.

    Args:
        memory: whose results are used and kept.
        verify: share of hits that are run again and compared.
        bound: False for a scope of the whole thread, whatever generator or task enters it.
        witness: is told of every operation.

    Raises:
        ClosedError, UnsupportedError: as `Memory.incremental`.
    """
    memory._router.check_open()  # noqa: SLF001 - one facade
    if memory._operations is None:  # noqa: SLF001
        memory._operations = Operations(memory._budget)  # noqa: SLF001
    operations, audit = memory._operations, memory._engine.audit  # noqa: SLF001
    check = memory._router.check_open  # noqa: SLF001
    return Incremental(operations, check, verify, audit, bound=bound, witness=witness)


def kept(memory: Memory) -> tuple[int, int, int]:
    """(results of operations, their bytes, the budget in bytes)."""
    operations = memory._operations  # noqa: SLF001
    found = (0, 0) if operations is None else (len(operations), operations.nbytes)
    return (*found, memory._budget)  # noqa: SLF001


def resize(memory: Memory, budget: int) -> None:
    """Another budget, in bytes, for results in memory; what is too much for it goes now."""
    memory._router.check_open()  # noqa: SLF001
    memory._budget = budget  # noqa: SLF001
    if memory._operations is not None:  # noqa: SLF001
        memory._operations.resize(budget)  # noqa: SLF001
    if memory._memo is not None:  # noqa: SLF001
        memory._memo.shelf.resize(budget)  # noqa: SLF001
