"""`MMSB.json`: what makes a folder a store. Written once, never changed."""

from __future__ import annotations

import re
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from mmsb_torch.errors import StoreError
from mmsb_torch.runtime.store.files import (
    FILES,
    Files,
    StrPath,
    exists,
    explained,
)
from mmsb_torch.runtime.store.sealed import Fields, read_sealed, seal
from mmsb_torch.runtime.store.streams import publish_file

IDENTITY = "MMSB.json"
LOCK = "LOCK"
CHECKPOINTS = "checkpoints"
FORMAT = "mmsb-store"
VERSION = 1
KNOWN_FEATURES: frozenset[str] = frozenset()

_UUID = re.compile(r"[0-9a-f]{32}")
_LEFTOVER = re.compile(r"\.MMSB\.json\.tmp-[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a store is: uuid (32 hex digits), birth in ns since 1970, and the features it uses."""

    uuid: str
    created_ns: int
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


def new_identity() -> Identity:
    """Return a fresh identity."""
    return Identity(uuid.uuid4().hex, time.time_ns())


def write_identity(root: Path, identity: Identity, files: Files = FILES) -> None:
    """Make `root` a store, durably; the caller holds its lock.

    Raises:
        StoreError: the disk fails.
    """
    content = seal(
        {
            "format": FORMAT,
            "version": VERSION,
            "uuid": identity.uuid,
            "created_ns": identity.created_ns,
            "required": list(identity.required),
            "optional": list(identity.optional),
        }
    )
    publish_file(root / IDENTITY, content, files)


def read_identity(root: StrPath, files: Files = FILES) -> Identity:
    """Read and check `MMSB.json`.

    Raises:
        StoreError: there is no store at `root`, or it cannot be read.
        CorruptStoreError: the file is foreign or damaged.
        UnsupportedError: a newer format or an unknown required feature.
    """
    root = Path(root)
    path = root / IDENTITY
    if not exists(path, files):
        raise _no_store(root, files)
    where = repr(str(path))
    fields = Fields(read_sealed(path, files), where)
    fields.format(FORMAT, VERSION, KNOWN_FEATURES)
    name = fields.get("uuid", str)
    if not _UUID.fullmatch(name):
        raise fields.damage(f"'uuid': expected 32 hex digits, found {name!r:.60}")
    return Identity(
        uuid=name,
        created_ns=fields.count("created_ns"),
        required=fields.texts("required"),
        optional=fields.texts("optional"),
    )


def check_vacant(root: Path, files: Files = FILES) -> None:
    """Check that a store can be made in the folder `root`: that nobody's things are there.

    Raises:
        StoreError: it is a store already, or holds something else. Nothing was touched.
    """
    if exists(root / IDENTITY, files):
        raise StoreError(f"{str(root)!r} is a store already: open it instead of creating it.")
    with explained("list", root):
        names = files.listdir(root)
    # What a creator that was killed leaves is ours.
    foreign = [name for name in names if name != LOCK and not _LEFTOVER.fullmatch(name)]
    if foreign:
        raise StoreError(
            f"{str(root)!r} is not empty and no store: it holds {min(foreign)!r}, and nothing was "
            "touched. Choose an empty or new folder."
        )


def sweep_identity(root: Path, files: Files = FILES) -> None:
    """Remove what killed creators left; the caller holds the lock."""
    with explained("tidy up", root):
        for name in files.listdir(root):
            if _LEFTOVER.fullmatch(name):
                files.unlink(root / name)


def _no_store(root: Path, files: Files) -> StoreError:
    if not exists(root, files):
        return StoreError(
            f"{str(root)!r} does not exist: expected a store. Create it, or check the path."
        )
    return StoreError(
        f"{str(root)!r} is no store: it has no {IDENTITY}. Check the path, or create one."
    )
