"""Checkpoints: the state after one transaction, as a folder any Hugging Face loader can read.

`checkpoints/%020d/` holds `model-00001-of-0000N.safetensors`, `model.safetensors.index.json` and,
written last, `MMSB_CHECKPOINT.json`. The folder appears by one rename after every file in it was
synced, so it is whole or not there.

All functions are re-entrant. Writing needs the store's writer lock, which the caller holds; reading
takes no lock, makes nothing, and works on a read-only disk beside a live writer.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mmsb_torch.errors import (
    CorruptStoreError,
    HistoryError,
    MMSBError,
    SerializationError,
    StoreError,
)
from mmsb_torch.runtime.store.catalog import (
    MAX_TX,
    CheckpointRef,
    folder_name,
    is_checkpoint,
    list_checkpoints,
)
from mmsb_torch.runtime.store.files import (
    FILES,
    Files,
    StrPath,
    exists,
    explained,
    sync_folder,
)
from mmsb_torch.runtime.store.identity import CHECKPOINTS, read_identity
from mmsb_torch.runtime.store.manifest import (
    INDEX,
    MANIFEST,
    Manifest,
    dump_index,
    dump_manifest,
    read_index,
    shard_name,
)
from mmsb_torch.runtime.store.mappedfile import map_tensors
from mmsb_torch.runtime.store.sealed import check_json
from mmsb_torch.runtime.store.shards import SHARD_BYTES
from mmsb_torch.runtime.store.sharing import Shard, plan
from mmsb_torch.runtime.store.staging import staged_folder, sweep
from mmsb_torch.runtime.store.streams import FileRecord, create_file
from mmsb_torch.runtime.store.tensorfile import read_tensors, write_tensors
from mmsb_torch.runtime.store.verification import check_names, checked_manifest, verify_checkpoint

_ATTEMPTS = 3
_READERS = min(os.cpu_count() or 1, 4)
"""Files that are read and hashed at the same time."""


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """A state: every tensor by name, and the caller's JSON about them, after transaction `tx`.

    The registry is a dict of JSON, at most 100 levels deep.
    """

    tx: int
    tensors: dict[str, torch.Tensor]
    registry: dict[str, Any] = field(default_factory=dict)
    unchanged: frozenset[str] = frozenset()
    """Names whose tensors are, bit for bit, those of the checkpoint `since`."""
    since: int | None = None


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """A published checkpoint: folder, transaction, size in bytes, birth in ns since 1970."""

    path: Path
    tx: int
    nbytes: int
    created_ns: int


def write_checkpoint(
    root: StrPath,
    snapshot: Snapshot,
    files: Files = FILES,
    *,
    progress: Callable[[int, int], None] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> CheckpointInfo:
    """Write `snapshot` into the store at `root`, durably, and return where it is.

    A checkpoint of the same transaction is replaced: at every moment, kill or power failure
    included, either the old one or the new one is found. What killed writers left is swept first.

    Args:
        root: the store; the caller holds its `WriterLock`.
        snapshot: what to write; the tensors must not change before this returns.
        files: the disk.
        progress: called on this thread with (tensor bytes written, tensor bytes in all); an
            exception it raises ends the writing and leaves nothing.
        shard_bytes: largest tensor file; a larger tensor has a file of its own.

    Raises:
        SerializationError, UnsupportedError: the snapshot cannot be written.
        StoreError: no store there, or the disk fails. Earlier checkpoints are intact.
    """
    root = Path(root)
    identity = read_identity(root, files)
    _check_snapshot(snapshot)
    folder = checkpoints_folder(root, files)
    sweep(folder, files)
    earlier = None if snapshot.since is None else folder / folder_name(snapshot.since)
    shards_planned = plan(snapshot.tensors, snapshot.unchanged, earlier, shard_bytes, files)
    created_ns = time.time_ns()
    path = folder / folder_name(snapshot.tx)
    with staged_folder(path, files) as temporary:
        shards = _write_shards(temporary, snapshot, shards_planned, files, progress)
        index = create_file(temporary / INDEX, _index(snapshot, shards_planned), files)
        manifest = Manifest(
            store=identity.uuid,
            tx=snapshot.tx,
            created_ns=created_ns,
            torch=str(torch.__version__),
            shards=shards,
            index=index,
            registry=snapshot.registry,
        )
        seal = create_file(temporary / MANIFEST, dump_manifest(manifest), files)
    return CheckpointInfo(path, snapshot.tx, manifest.nbytes + seal.nbytes, created_ns)


def checkpoints_folder(root: Path, files: Files = FILES) -> Path:
    """Return the folder of a store's checkpoints, made if missing.

    Raises:
        StoreError: it cannot be made.
    """
    folder = root / CHECKPOINTS
    if not exists(folder, files):
        with explained("make the folder", folder), contextlib.suppress(FileExistsError):
            files.mkdir(folder)
        sync_folder(root, files)
    return folder


def _check_snapshot(snapshot: Snapshot) -> None:
    if type(snapshot.tx) is not int or not 0 <= snapshot.tx <= MAX_TX:
        raise SerializationError(
            f"the transaction is {snapshot.tx!r}: expected an int from 0 to {MAX_TX}."
        )
    if type(snapshot.registry) is not dict:
        raise SerializationError(
            f"the registry is a {type(snapshot.registry).__name__}: expected a dict."
        )
    check_json(snapshot.registry, "registry")


def _write_shards(
    folder: Path,
    snapshot: Snapshot,
    shards: list[Shard],
    files: Files,
    progress: Callable[[int, int], None] | None,
) -> tuple[FileRecord, ...]:
    done, total = 0, _nbytes(snapshot)

    def advance(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if progress is not None:
            progress(done, total)

    def write(shard: Shard, name: str) -> FileRecord:
        tensors = {name: snapshot.tensors[name] for name in shard.names}
        if shard.path is not None and shard.record is not None:
            with contextlib.suppress(OSError):  # no links here: it is written
                files.link(shard.path, folder / name)
                advance(sum(tensor.nbytes for tensor in tensors.values()))
                return FileRecord(name, shard.record.nbytes, shard.record.digest)
        # without a format transformers refuses the file
        return write_tensors(folder / name, tensors, {"format": "pt"}, files, advance=advance)

    return tuple(
        write(shard, shard_name(number, len(shards))) for number, shard in enumerate(shards, 1)
    )


def _index(snapshot: Snapshot, shards: list[Shard]) -> bytes:
    where = {
        name: shard_name(number, len(shards))
        for number, shard in enumerate(shards, 1)
        for name in shard.names
    }
    weight_map = {name: where[name] for name in snapshot.tensors}  # in the order they were given
    return dump_index(weight_map, _nbytes(snapshot))


def _nbytes(snapshot: Snapshot) -> int:
    return sum(tensor.numel() * tensor.dtype.itemsize for tensor in snapshot.tensors.values())


def describe_checkpoint(folder: StrPath, files: Files = FILES) -> CheckpointInfo:
    """Return what the manifest in a checkpoint's folder says; the tensor files are not looked at.

    Raises:
        CorruptStoreError, UnsupportedError, StoreError: the manifest cannot be used.
    """
    folder = Path(folder)
    manifest = checked_manifest(folder, files)
    with explained("look at", folder / MANIFEST):
        seal_nbytes = files.lstat(folder / MANIFEST).st_size
    return CheckpointInfo(folder, manifest.tx, manifest.nbytes + seal_nbytes, manifest.created_ns)


def load_checkpoint(
    path: StrPath, tx: int | None = None, files: Files = FILES, *, mapped: bool = False
) -> Snapshot:
    """Read a checkpoint: each byte once, nothing returned that is not what was written.

    The tensors are on the CPU, own their memory, and come in the order they were given.

    Args:
        path: a store, or one checkpoint's folder.
        tx: which checkpoint; None is the newest there is.
        files: the disk.
        mapped: leave the tensors in the files, mapped: see `mappedfile.map_tensors`.

    Raises:
        HistoryError: there is no such checkpoint.
        CorruptStoreError: it is damaged. Nothing else is loaded in its place: if it is the newest,
            the message names the next older one that verifies, and `tx=` opens that.
        UnsupportedError: a newer format or an unknown required feature.
        StoreError: no store there, it cannot be read, or the writer kept replacing it.
    """
    path = Path(path)
    if not is_checkpoint(path, files):
        return _load_from_store(path, tx, files, mapped=mapped)
    snapshot = _load(path, None, files, mapped=mapped)
    if tx not in (None, snapshot.tx):
        raise HistoryError(f"{str(path)!r} is the checkpoint {snapshot.tx}, not {tx}.")
    return snapshot


def _load_from_store(root: Path, tx: int | None, files: Files, *, mapped: bool) -> Snapshot:
    identity = read_identity(root, files)
    for _ in range(_ATTEMPTS):
        ref = _find(root, tx, files)
        before = _folder_id(ref.path, files)
        try:
            return _load(ref.path, identity.uuid, files, mapped=mapped)
        except CorruptStoreError as error:
            # A writer that replaces or removes the folder meanwhile makes it look damaged.
            if before is None or _folder_id(ref.path, files) != before:
                continue
            if tx is not None:
                raise
            raise CorruptStoreError(f"{error} {_advice(root, ref, files)}") from error
    raise StoreError(
        f"the writer of {str(root)!r} replaced or removed the checkpoint {_ATTEMPTS} times while it "
        "was being read. Try again."
    )


def _load(folder: Path, store: str | None, files: Files, *, mapped: bool) -> Snapshot:
    manifest = checked_manifest(folder, files, store)
    weight_map = read_index(folder, manifest, files)

    def read(record: FileRecord) -> dict[str, torch.Tensor]:
        path = folder / record.name
        if mapped:
            return map_tensors(path, record, files)
        return read_tensors(path, record, files)[0]

    found: dict[str, torch.Tensor] = {}
    with ThreadPoolExecutor(_READERS, "mmsb read") as pool:
        for record, tensors in zip(manifest.shards, pool.map(read, manifest.shards), strict=True):
            check_names(folder, record.name, weight_map, tensors)
            found |= tensors
    return Snapshot(manifest.tx, {name: found[name] for name in weight_map}, manifest.registry)


def load_tensor(root: Path, tx: int, name: str, files: Files = FILES) -> torch.Tensor:
    """One tensor of a checkpoint, read and checked with the file that holds it.

    Raises:
        as `load_checkpoint`.
    """
    ref = _find(root, tx, files)
    manifest = checked_manifest(ref.path, files, read_identity(root, files).uuid)
    weight_map = read_index(ref.path, manifest, files)
    if name not in weight_map:
        raise HistoryError(f"the checkpoint {tx} of {str(root)!r} holds no tensor {name!r}.")
    record = next(item for item in manifest.shards if item.name == weight_map[name])
    tensors, _ = read_tensors(ref.path / record.name, record, files)
    return tensors[name]


def _find(root: Path, tx: int | None, files: Files) -> CheckpointRef:
    refs = list_checkpoints(root, files)
    chosen = [ref for ref in refs if tx is None or ref.tx == tx]
    if not chosen:
        have = ", ".join(str(ref.tx) for ref in refs[-8:]) or "none"
        wanted = "a checkpoint" if tx is None else f"the checkpoint {tx}"
        raise HistoryError(f"{str(root)!r}: expected {wanted}, found {have}.")
    return chosen[-1]


def _folder_id(path: Path, files: Files) -> tuple[int, int] | None:
    with explained("look at", path):
        try:
            status = files.lstat(path)
        except FileNotFoundError:
            return None
    return status.st_dev, status.st_ino


def _advice(root: Path, damaged: CheckpointRef, files: Files) -> str:
    """Say what can be done."""
    for ref in reversed(list_checkpoints(root, files)):
        with contextlib.suppress(MMSBError):
            if ref.tx < damaged.tx and not verify_checkpoint(ref.path, files):
                return (
                    f"The next older checkpoint that verifies is {ref.tx}: `mmsb.repair(path)` goes "
                    "on from it and the log."
                )
    return "No older checkpoint verifies: `mmsb.repair(path)` goes on from the log, if it can."
