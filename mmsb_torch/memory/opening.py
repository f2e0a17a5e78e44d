"""Opening a memory: in RAM, or on a path where checkpoints are kept."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

from mmsb_torch.device import PageLocation, resolve_device
from mmsb_torch.errors import CorruptLogError, InternalError, StoreError, UnsupportedError
from mmsb_torch.graph.activations import LIMIT_BYTES
from mmsb_torch.graph.audit import check_share
from mmsb_torch.memory import auditing, deriving
from mmsb_torch.memory.memory import BUDGET_BYTES, Memory
from mmsb_torch.memory.sizes import parse_bytes

if TYPE_CHECKING:
    from mmsb_torch.runtime.store import Durability, Files, Retention, Store
    from mmsb_torch.runtime.store.logwriter import End
    from mmsb_torch.runtime.store.objects import Objects
    from mmsb_torch.runtime.store.repairing import Repair

_ATTEMPTS = 3


def open(  # noqa: A001 - the public name, used as mmsb.open
    path: str | os.PathLike[str] | None = None,
    *,
    mode: str = "w",
    device: torch.device | str | PageLocation | None = None,
    durability: Durability = "process",
    retention: Retention | None = None,
    compaction: bool = True,
    budget: int | str | None = None,
    activations: int | str = LIMIT_BYTES,
    mapped: bool = False,
    audit: float = 0.0,
) -> Memory:
    """Open a memory.

    Args:
        path: folder of the store (made if missing), conventionally `something.mmsb`. Without one
            the memory lives in RAM only. With one, every change is in the log before it returns.
        mode: "w" reads and writes (one writer at a time); "r" only reads, without a lock, and
            computes stale derived pages in RAM; "follow" also takes over what a writer commits
            meanwhile, in order, within a tenth of a second (`subscribe` tells of it); "memo" reads,
            and adds memoised results, which any number of processes may do beside the writer.
        durability: what a change waits for. "process": written, so that it survives `kill -9`, and
            on the disk within a second; "full": on the disk, so that it survives a power cut;
            "none": the system writes when it likes.
        retention: what of the past stays; applied after every checkpoint. All of it if left out.
        compaction: write a checkpoint by itself, behind the caller, when the log has grown so long
            that opening would take twice as long as it must.
        budget: bytes that memoised results may take on disk, or without a path in memory: a number,
            or "8 GiB". Any number on disk and 1 GiB in memory if left out.
        activations: bytes that derived pages may keep to be made again in part, as `budget` is said;
            what was not used for longest goes first. `stats()["activation_bytes"]` has what is kept.
        mapped: leave the checkpoint's tensors in its files, mapped, when nothing is to be written
            (modes other than "w"): opening copies nothing, and processes share the memory. Each
            byte is checked once, at opening; somebody who later cuts the files kills this process.
        audit: share (0 to 1) of the answers that are computed again and compared, bit for bit: hits
            of memoised functions and incremental scopes, reads of fresh derived pages. A difference
            raises WrongHitError; `stats()["audit"]` counts. See also `Memory.audit`.
        device: where new pages live unless told otherwise; where their first value lives if None.

    Raises:
        StoreError, StoreLockedError, CorruptStoreError, UnsupportedError,
        UnsupportedLocationError: nothing was changed.
    """
    if not isinstance(mode, str) or mode not in {"w", "r", "follow", "memo"}:
        raise UnsupportedError(
            f"mode={mode!r}: expected 'w' (read and write), 'r' (read only), 'follow' (read, and "
            "keep up with the writer) or 'memo' (read, and add memoised results)"
        )
    if durability not in ("process", "full", "none"):
        raise UnsupportedError(f"durability={durability!r}: expected 'process', 'full' or 'none'")
    where = None if device is None else resolve_device(device)
    nbytes = None if budget is None else parse_bytes(budget)
    limit = parse_bytes(activations)
    check_share("audit", audit)
    if path is None:
        if mode != "w":
            raise StoreError(
                f"mode={mode!r} reads a store: expected a path, mmsb.open(path, mode={mode!r})"
            )
        nbytes = BUDGET_BYTES if nbytes is None else nbytes
        memory = Memory(device=where, budget=nbytes, audit=audit)
        memory._engine.activations.limit = limit  # noqa: SLF001 - one facade
        return memory
    from mmsb_torch.runtime.store import FILES  # noqa: PLC0415 - files load when there is a path

    if mapped and mode == "w":
        raise UnsupportedError(
            "mapped=True is for readers: expected mode='r', 'follow' or 'memo' with it"
        )
    memory = open_on(FILES, path, mode=mode, device=where, durability=durability, mapped=mapped)
    auditing.begin(memory, audit)
    memory._engine.activations.limit = limit  # noqa: SLF001
    memory._retention = retention  # noqa: SLF001
    memory._objects = results(memory, mode, nbytes)  # noqa: SLF001
    if mode == "w" and compaction:
        from mmsb_torch.memory.compaction import Compactor  # noqa: PLC0415 - as above

        memory._compactor = Compactor(memory)  # noqa: SLF001
    return memory


def repair(path: str | os.PathLike[str], *, dry_run: bool = False) -> Repair:
    """Let a damaged store go on from the newest state that is whole.

    Damaged checkpoints, and of the log what comes after damage, are moved into the store's folder
    `damaged`; nothing is thrown away. A damaged checkpoint alone costs nothing: the one before and
    the log lead to the same state. Transactions after damage of the log cannot be applied.

    Args:
        path: the store.
        dry_run: only say what would be done.

    Raises:
        CorruptStoreError: there is nothing to go on from; nothing was changed.
        StoreError, StoreLockedError, UnsupportedError.
    """
    from mmsb_torch.runtime.store import Store  # noqa: PLC0415 - as above

    with Store.open(path, writable=not dry_run) as store:
        return store.repair(dry_run=dry_run)


def results(memory: Memory, mode: str, budget: int | None) -> Objects:
    """Where results of a memory with a path are kept."""
    from mmsb_torch.runtime.store.objects import Objects  # noqa: PLC0415 - as above

    store = memory._store  # noqa: SLF001 - one facade
    assert store is not None
    return Objects(store.path, budget, store.files, writable=mode in {"w", "memo"})


def open_on(
    files: Files,
    path: str | os.PathLike[str],
    *,
    mode: str = "w",
    device: torch.device | None = None,
    durability: Durability = "process",
    mapped: bool = False,
) -> Memory:
    """As `open` with a path, on a disk of the caller's (see `mmsb_torch.testing`)."""
    from mmsb_torch.runtime.store import Store  # noqa: PLC0415 - as above

    read_only = mode != "w"
    if read_only or Store.exists(path, files):
        store = Store.open(path, writable=not read_only, files=files)
    else:
        store = Store.create(path, files)
    try:
        memory, end = _load(store, device, durability, read_only=read_only, mapped=mapped)
        deriving.bind_registered_kinds(memory)
    except BaseException:
        store.close()
        raise
    if mode == "follow":
        from mmsb_torch.memory.following import follow  # noqa: PLC0415 - as above

        memory._end = follow(memory, end).set  # noqa: SLF001 - one facade
    return memory


def _load(
    store: Store,
    device: torch.device | None,
    durability: Durability,
    *,
    read_only: bool,
    mapped: bool,
) -> tuple[Memory, End]:
    """A memory filled from a store, and where its log ends.

    A reader whom the collector overtakes meanwhile begins again.
    """
    from mmsb_torch.memory import keeping  # noqa: PLC0415 - as above

    for attempt in range(_ATTEMPTS):
        memory = Memory(store, device=device, read_only=read_only)
        newest = store.list_checkpoints()[-1:]
        try:
            return memory, keeping.load(memory, durability, mapped=mapped)
        except (CorruptLogError, StoreError):
            moved = store.list_checkpoints()[-1:] != newest
            if not (read_only and moved and attempt < _ATTEMPTS - 1):
                raise
    raise InternalError("unreachable")
