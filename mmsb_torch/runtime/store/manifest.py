"""`MMSB_CHECKPOINT.json` and `model.safetensors.index.json`: what a checkpoint must contain.

The manifest is sealed (see `sealed`) and lists every other file with its size and digest, so the
manifest's own digest vouches for the whole checkpoint. Names from either file must match a strict
pattern before anything is opened.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmsb_torch.errors import CorruptStoreError, SerializationError
from mmsb_torch.runtime.store.files import FILES, Files
from mmsb_torch.runtime.store.sealed import (
    MAX_JSON_BYTES,
    Fields,
    read_sealed,
    seal,
    strict_loads,
)
from mmsb_torch.runtime.store.streams import FileRecord, open_file
from mmsb_torch.runtime.store.tensorfile import check_digest, check_size

MANIFEST = "MMSB_CHECKPOINT.json"
INDEX = "model.safetensors.index.json"
FORMAT = "mmsb-checkpoint"
VERSION = 1
KNOWN_FEATURES: frozenset[str] = frozenset()

_SHARD = re.compile(r"model-([0-9]{5})-of-([0-9]{5})\.safetensors")
_DIGEST = re.compile(r"[0-9a-f]{32}")
_UUID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a checkpoint says about itself.

    Attributes:
        store: uuid of the store, 32 hex digits.
        tx: the transaction it is the state after.
        created_ns: when, in nanoseconds since 1970.
        torch: the torch that wrote it.
        shards: the tensor files, in order.
        index: the index file.
        registry: the caller's own JSON.
        required: features without which it cannot be read.
        optional: features that may be ignored.
    """

    store: str
    tx: int
    created_ns: int
    torch: str
    shards: tuple[FileRecord, ...]
    index: FileRecord
    registry: dict[str, Any]
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[FileRecord, ...]:
        """Every file but the manifest."""
        return (*self.shards, self.index)

    @property
    def nbytes(self) -> int:
        """Size of all files but the manifest."""
        return sum(record.nbytes for record in self.files)


def shard_name(number: int, total: int) -> str:
    """Return the canonical name of tensor file `number` (from 1) of `total`."""
    return f"model-{number:05d}-of-{total:05d}.safetensors"


def dump_manifest(manifest: Manifest) -> bytes:
    """Return the bytes of `MMSB_CHECKPOINT.json`.

    Raises:
        SerializationError: the registry is no JSON, or too large.
    """
    return seal(
        {
            "format": FORMAT,
            "version": VERSION,
            "required": list(manifest.required),
            "optional": list(manifest.optional),
            "store": manifest.store,
            "transaction": manifest.tx,
            "created_ns": manifest.created_ns,
            "torch": manifest.torch,
            "files": [
                {"name": record.name, "nbytes": record.nbytes, "xxh3_128": record.digest}
                for record in manifest.files
            ],
            "registry": manifest.registry,
        }
    )


def read_manifest(folder: Path, files: Files = FILES) -> Manifest:
    """Read and check the manifest of the checkpoint in `folder`.

    Raises:
        CorruptStoreError: it is missing, foreign or damaged, or contradicts itself.
        UnsupportedError: a newer format or an unknown required feature.
        StoreError: it cannot be read.
    """
    path = folder / MANIFEST
    where = repr(str(path))
    fields = Fields(read_sealed(path, files), where)
    fields.format(FORMAT, VERSION, KNOWN_FEATURES)
    store = fields.get("store", str)
    if not _UUID.fullmatch(store):
        raise fields.damage(f"'store': expected 32 hex digits, found {store!r:.60}")
    shards, index = _records(fields, where)
    return Manifest(
        store=store,
        tx=fields.count("transaction"),
        created_ns=fields.count("created_ns"),
        torch=fields.get("torch", str),
        shards=shards,
        index=index,
        registry=fields.get("registry", dict),
        required=fields.texts("required"),
        optional=fields.texts("optional"),
    )


def _records(fields: Fields, where: str) -> tuple[tuple[FileRecord, ...], FileRecord]:
    """Return the shards and the index of "files": exactly shards 1 to N in order, and one index."""
    records = [_record(item, where) for item in fields.get("files", list)]
    names = [record.name for record in records]
    total = len(records) - 1
    if total < 1 or names != [*(shard_name(n, total) for n in range(1, total + 1)), INDEX]:
        raise fields.damage(f"'files': expected shards 1 to N and {INDEX!r}, found {names!r:.200}")
    return tuple(records[:-1]), records[-1]


def _record(item: Any, where: str) -> FileRecord:
    fields = Fields(item, f"{where}: 'files'")
    name, digest = fields.get("name", str), fields.get("xxh3_128", str)
    if name != INDEX and not _SHARD.fullmatch(name):
        raise fields.damage(f"the file name {name!r:.80} is not one of a checkpoint's")
    if not _DIGEST.fullmatch(digest):
        raise fields.damage(f"'xxh3_128': expected 32 hex digits, found {digest!r:.60}")
    return FileRecord(name, fields.count("nbytes"), digest)


def dump_index(weight_map: Mapping[str, str], total_size: int) -> bytes:
    """Return the bytes of `model.safetensors.index.json`: tensor name to file name.

    Raises:
        SerializationError: it would be too large to be read back.
    """
    content = {"metadata": {"total_size": total_size}, "weight_map": dict(weight_map)}
    raw = (json.dumps(content, indent=1) + "\n").encode()
    if len(raw) > MAX_JSON_BYTES:
        raise SerializationError(
            f"the index would have {len(raw)} bytes: expected at most {MAX_JSON_BYTES}. "
            "Use shorter tensor names."
        )
    return raw


def read_index(folder: Path, manifest: Manifest, files: Files = FILES) -> dict[str, str]:
    """Return the weight map: tensor name to file name, in the order it was written.

    Raises:
        CorruptStoreError: the index is missing or damaged, or names a file that is not listed.
        StoreError: it cannot be read.
    """
    path = folder / INDEX
    where = repr(str(path))
    with open_file(path, files) as source:
        check_size(source, manifest.index)
        if source.nbytes > MAX_JSON_BYTES:
            raise CorruptStoreError(f"{where} is too large: {source.nbytes} bytes.")
        raw = source.take(source.nbytes)
        check_digest(source, manifest.index)
    fields = Fields(strict_loads(raw, where), where)
    weight_map: dict[str, str] = fields.get("weight_map", dict)
    listed = {record.name for record in manifest.shards}
    for name, file in weight_map.items():
        if type(file) is not str or file not in listed:
            raise fields.damage(f"tensor {name!r:.80} is in {file!r:.80}, which is no file of it")
    return weight_map
