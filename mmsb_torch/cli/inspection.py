"""What is in a store, as plain data: the store itself, the pages of a moment, two moments compared."""

from __future__ import annotations

import contextlib
import math
import stat
from pathlib import Path
from typing import Any

from torch import Tensor

from mmsb_torch.cli.figures import figures
from mmsb_torch.cli.history import newest_manifest, when
from mmsb_torch.cli.moments import moment_at
from mmsb_torch.errors import (
    CorruptLogError,
    CorruptStoreError,
    PageNotFoundError,
    RecipeNotLoadedError,
)
from mmsb_torch.memory import Memory, Moment, PageDiff
from mmsb_torch.runtime.store import (
    CheckpointRef,
    Damage,
    Files,
    Repair,
    Scan,
    Store,
    Tail,
    describe_checkpoint,
    list_checkpoints,
)
from mmsb_torch.runtime.store.bodies import outline_of
from mmsb_torch.runtime.store.files import exists
from mmsb_torch.runtime.store.logfile import DELTAS, LOG, list_logs
from mmsb_torch.types import Spec


def size_of(path: Path) -> int:
    """Bytes in all files below a folder; what checkpoints share counts once, what vanishes nothing."""
    sizes: dict[tuple[int, int], int] = {}
    for item in path.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            status = item.lstat()
            if stat.S_ISREG(status.st_mode):
                sizes[status.st_dev, status.st_ino] = status.st_size
    return sum(sizes.values())


def info(store: Store, files: Files) -> dict[str, Any]:
    """Identity, sizes, checkpoints, log files and the last transaction of a store.

    Reads the manifests and what the log holds after the newest checkpoint; no tensors. What is
    damaged is said under `problems`, the rest is as far as it could be read.

    Raises:
        UnsupportedError, StoreError: a newer format, or the disk fails.
    """
    root, problems = store.path, list[str]()
    refs, logs = list_checkpoints(root, files), list_logs(root, files)
    checkpoints = [_checkpoint(ref, files, problems) for ref in refs]
    pages, last = _registered(root, files), refs[-1].tx if refs else 0
    scan = Scan(root, store.identity.uuid, last, files)
    try:
        for found in scan:
            last = found.record.header.tx
            ops, _ = outline_of(found.body, found.record, repr(str(found.path)))
            pages += len(ops.get("created", list))
    except (CorruptLogError, CorruptStoreError) as error:
        problems.append(str(error))
    whole = bool(logs) and logs[0][0] <= 1  # else the history begins with a checkpoint
    return {
        "path": str(root),
        "uuid": store.identity.uuid,
        "created": when(store.identity.created_ns),
        "bytes": size_of(root),
        "checkpoints": checkpoints,
        "log": [{"file": str(path), "first": n, "bytes": path.lstat().st_size} for n, path in logs],
        "log_bytes": size_of(root / LOG),
        "payload_bytes": size_of(root / DELTAS),
        "pages": pages,
        "first": min(1 if whole or not refs else refs[0].tx, last),
        "last": last,
        "torn_tail": _torn(scan.tail),
        "problems": problems,
    }


def _checkpoint(ref: CheckpointRef, files: Files, problems: list[str]) -> dict[str, Any]:
    about: dict[str, Any] = {"tx": ref.tx, "path": str(ref.path), "bytes": None, "created": None}
    try:
        found = describe_checkpoint(ref.path, files)
        about |= {"bytes": found.nbytes, "created": when(found.created_ns)}
    except CorruptStoreError as error:
        if exists(ref.path, files):  # else a live writer has removed it meanwhile
            problems.append(str(error))
    return about


def _torn(tail: Tail | None) -> dict[str, Any] | None:
    if tail is None:
        return None
    return {"file": str(tail.path), "start": tail.start, "bytes": tail.nbytes, "text": str(tail)}


def _registered(root: Path, files: Files) -> int:
    """How many pages the newest checkpoint has; 0 if it is damaged, which `problems` says."""
    with contextlib.suppress(CorruptStoreError):
        manifest = newest_manifest(root, files)
        return len(manifest.registry.get("pages", [])) if manifest is not None else 0
    return 0


def moment(memory: Memory, text: str, page: str | None) -> dict[str, Any]:
    """The pages at a moment, or one of them: what they are, and figures of their elements.

    One value is held at a time, beside those that the memory holds. A derived page whose value of
    that moment is not stored has none: its recipe is not known here.

    Raises:
        HistoryError: no such moment; PageNotFoundError: no such page then.
        CorruptLogError, CorruptStoreError, StoreError: it cannot be read.
    """
    then = moment_at(memory, text)
    if page is not None and page not in then:
        memory[page]  # says which names are close, if there is none at all
        raise PageNotFoundError(f"page {page!r} did not exist at transaction {then.tx}")
    names = list(then) if page is None else [page]
    return {**about(then), "pages": [_page(memory, then.tx, name) for name in names]}


def about(then: Moment) -> dict[str, Any]:
    """Number, label, step and time of a moment."""
    return {
        "tx": then.tx,
        "label": then.label,
        "step": then.step,
        "time": when(then.time_ns),
        "time_ns": then.time_ns,
    }


def _page(memory: Memory, tx: int, name: str) -> dict[str, Any]:
    then, derived = memory.at(tx), memory[name].derived
    found: dict[str, Any] = {"name": name, "derived": derived}
    found["epoch"] = None if derived else then.epoch(name)
    value = value_of(then, name)
    if value is None:
        return {**found, "dtype": None, "shape": None, "bytes": None, "figures": None}
    spec = Spec.of(value)
    return {
        **found,
        "dtype": spec.dtype_name,
        "shape": list(spec.shape),
        "bytes": spec.nbytes,
        "figures": figures(value),
    }


def value_of(then: Moment, name: str) -> Tensor | None:
    """The value of a page at a moment; None if it is derived and was not stored."""
    try:
        return then[name]
    except RecipeNotLoadedError:
        return None


def difference(memory: Memory, a: str, b: str) -> dict[str, Any]:
    """What differs between two moments, page by page; derived pages follow from these.

    Raises:
        as `moment`.
    """
    before, after = moment_at(memory, a), moment_at(memory, b)
    pages = memory.diff(before.tx, after.tx).items()
    return {
        "a": about(before),
        "b": about(after),
        "pages": [_changed(name, page) for name, page in pages],
    }


def _changed(name: str, page: PageDiff) -> dict[str, Any]:
    value = page.after if page.after is not None else page.before
    assert value is not None
    if page.before is None or page.after is None:
        change = "made" if page.before is None else "not made yet"
    else:
        more = page.after.numel() - page.before.numel()
        change = "grown" if more > 0 else "shrunk" if more else "changed"
    return {
        "name": name,
        "change": change,
        "region": page.effect,
        "elements": page.region.count,
        "of": math.prod(page.region.shape),
        "bytes": page.region.count * value.dtype.itemsize,
    }


def repaired(path: Path, plan: Repair, *, done: bool) -> dict[str, Any]:
    """A repair as plain data; `cut` is the file and the byte from which on it is set aside."""
    cut = plan.cut
    return {
        "path": str(path),
        "done": done,
        "tx": plan.tx,
        "checkpoints": [ref.tx for ref in plan.checkpoints],
        "cut": None if cut is None else {"file": str(cut.path), "start": cut.start, "why": cut.why},
        "logs": [str(log) for log in plan.logs],
    }


def damages(found: list[Damage]) -> list[dict[str, Any]]:
    """Damage as plain data; `transactions` are the first and the last one concerned, or None."""
    return [
        {
            "file": str(item.path),
            "start": item.start,
            "stop": item.stop,
            "torn": item.torn,
            "problem": item.problem,
            "transactions": [item.transactions[0], item.transactions[-1]]
            if item.transactions
            else None,
        }
        for item in found
    ]
