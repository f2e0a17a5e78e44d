"""Tensor files that a checkpoint shares with the one before: hard links instead of copies.

A file is shared if no page in it changed. What is written anew is split into pages that changed and
pages that did not, so that from the next checkpoint on the quiet ones have files that can be shared.
Damage to a shared file damages every checkpoint that has it (each says so when it is read).
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from mmsb_torch.errors import MMSBError
from mmsb_torch.runtime.store.files import Files
from mmsb_torch.runtime.store.manifest import read_index
from mmsb_torch.runtime.store.shards import plan_shards
from mmsb_torch.runtime.store.streams import FileRecord
from mmsb_torch.runtime.store.verification import checked_manifest


class Shard(NamedTuple):
    """One tensor file of a checkpoint: what is in it, and where it is already, if it is."""

    names: list[str]
    path: Path | None = None
    record: FileRecord | None = None


def plan(
    tensors: Mapping[str, torch.Tensor],
    unchanged: frozenset[str],
    earlier: Path | None,
    shard_bytes: int,
    files: Files,
) -> list[Shard]:
    """The files of a checkpoint.

    Args:
        tensors: what it holds, by name.
        unchanged: names whose tensors are those of the checkpoint `earlier`.
        earlier: its folder; None shares nothing.
        shard_bytes: largest file.
        files: the disk.

    Raises:
        SerializationError, UnsupportedError, StoreError: as `plan_shards`.
    """
    quiet = unchanged & tensors.keys()
    shared = _shared(quiet, earlier, files) if quiet and earlier is not None else []
    linked = {name for shard in shared for name in shard.names}
    rest = {name: tensor for name, tensor in tensors.items() if name not in linked}
    groups = [
        {name: tensor for name, tensor in rest.items() if (name in quiet) is same}
        for same in (True, False)
    ]
    written = [
        Shard(names) for group in groups for names in plan_shards(group, shard_bytes) if names
    ]
    return [*shared, *written] or [Shard([])]


def _shared(quiet: frozenset[str], earlier: Path, files: Files) -> list[Shard]:
    """The files of a checkpoint in which nothing changed; none if it cannot be read."""
    with contextlib.suppress(MMSBError):
        manifest = checked_manifest(earlier, files)
        weight_map = read_index(earlier, manifest, files)
        held: dict[str, list[str]] = {}
        for name, file in weight_map.items():
            held.setdefault(file, []).append(name)
        return [
            Shard(held[record.name], earlier / record.name, record)
            for record in manifest.shards
            if held.get(record.name) and quiet.issuperset(held[record.name])
        ]
    return []
