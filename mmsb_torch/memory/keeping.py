"""Keeping a memory on disk: writing checkpoints, and filling a memory from one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mmsb_torch.errors import StoreError
from mmsb_torch.memory import collecting, registry
from mmsb_torch.runtime.state import replay
from mmsb_torch.runtime.store import (
    CheckpointInfo,
    Durability,
    DurableLog,
    Snapshot,
    Store,
    transactions,
)
from mmsb_torch.runtime.store.logwriter import End
from mmsb_torch.runtime.store.manifest import Manifest
from mmsb_torch.runtime.store.pastlog import Checkpoint
from mmsb_torch.types import EventType

if TYPE_CHECKING:
    from mmsb_torch.memory.keeper import Keeper
    from mmsb_torch.memory.memory import Memory


def checkpoint(
    memory: Keeper, keep: int | None, progress: Callable[[int, int], None] | None
) -> CheckpointInfo:
    """What `Memory.checkpoint` does; one at a time, beside readers and writers."""
    store, router = memory._store, memory._router  # noqa: SLF001 - one facade
    if store is None:
        raise StoreError(
            "this memory lives in RAM only: expected one opened with a path, "
            "mmsb.open('run.mmsb'). mmsb.mmsb_stop(mem, checkpoint_path=...) writes one file."
        )
    if keep is not None and (type(keep) is not int or keep < 1):
        raise StoreError(f"keep={keep!r}: expected how many checkpoints to keep, an integer from 1")
    with memory._checkpointing:  # noqa: SLF001
        before, before_tx = _progress(memory), memory._checkpointed[0] or None  # noqa: SLF001
        snapshot, epochs = registry.capture(memory._engine, before_tx)  # noqa: SLF001
        info = store.write_checkpoint(snapshot, progress=progress)
        memory._checkpointed = (snapshot.tx, *before[1:])  # noqa: SLF001
        for entry in router.table:
            if entry.info.id in epochs:
                entry.journal.checkpoint = epochs[entry.info.id]
        log = router.log
        assert isinstance(log, DurableLog)
        with router.committing:
            log.begin_after(_base(store, snapshot))
        if keep is not None:
            log.forget([ref.tx for ref in store.list_checkpoints()[:-keep]], [])
            store.retain(keep)  # last: who looks back meanwhile must not need them
    if memory._retention is not None:  # noqa: SLF001
        collecting.collect(memory, None, dry_run=False)
    router.events.emit(
        EventType.CHECKPOINTED, {"tx": info.tx, "nbytes": info.nbytes, "path": str(info.path)}
    )
    return info


def remove_checkpoint(memory: Keeper, tx: int) -> None:
    """Remove one checkpoint, if it is there and not the newest; the log stays."""
    store, log = memory._store, memory._router.log  # noqa: SLF001
    assert store is not None
    assert isinstance(log, DurableLog)
    with memory._checkpointing:  # noqa: SLF001
        for ref in store.list_checkpoints()[:-1]:
            if ref.tx == tx:
                store.check_newest()
                log.forget([tx], [])
                store.remove_checkpoint(ref)


def checkpoint_if_changed(memory: Keeper) -> None:
    """Write a checkpoint unless the last one holds all there is, or nobody may write."""
    store = memory._store  # noqa: SLF001
    if store is not None and store.writable and memory._checkpointed != _progress(memory):  # noqa: SLF001
        checkpoint(memory, None, None)


def load(memory: Memory, durability: Durability, *, mapped: bool = False) -> End:
    """Fill a memory that was just made: the newest checkpoint, and what the log holds after it.

    Returns where the log ends.
    """
    store, router = memory._store, memory._router  # noqa: SLF001
    assert store is not None
    base = None
    if store.list_checkpoints():
        snapshot = store.load_checkpoint(mapped=mapped)
        registry.restore_pages(memory._engine, snapshot, repr(str(store.path)))  # noqa: SLF001
        base = _base(store, snapshot)
    after = router.tx
    names = {entry.info.id: entry.info.name for entry in router.table}
    log, scan = store.open_log(names, base, lambda: _bases(store, after))
    router.log = log
    for step in transactions(store.path, scan, after, store.files):
        replay(router, step.transaction, step.place, step.superseded)
    memory._checkpointed = (after, *_progress(memory)[1:])  # noqa: SLF001
    if store.writable:
        memory.tail = store.begin_writing(log, scan, durability)
    else:
        memory.tail = scan.tail
        router.table.leave_ids_to_the_writer()
    return scan.end


def _base(store: Store, snapshot: Snapshot | Manifest) -> Checkpoint:
    """A checkpoint of this memory as a base for values of the past."""
    about, epochs, names = registry.outline(snapshot)
    return store.base(about, epochs, names)


def _bases(store: Store, before: int) -> list[Checkpoint]:
    """The checkpoints before transaction `before`."""
    return [_base(store, manifest) for manifest in store.read_manifests(before)]


def _progress(memory: Keeper) -> tuple[int, int, int, int]:
    """What a checkpoint holds that an earlier one may not: commits, computations, code."""
    engine = memory._engine  # noqa: SLF001
    counts = engine.counts.recomputed, engine.declarations, engine.worlds.number
    return memory._router.tx, *counts  # noqa: SLF001
