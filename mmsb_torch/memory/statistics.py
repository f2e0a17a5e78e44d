"""Numbers about a memory."""

from __future__ import annotations

import contextlib
import os
import stat
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsb_torch.graph import Engine, Look, status
from mmsb_torch.runtime.store.log import About, Log

if TYPE_CHECKING:
    from mmsb_torch.memory.memory import Memory
    from mmsb_torch.runtime.store import Store

RECENT = 1000
"""So many transactions are looked at to tell how many there are a second."""


def get_stats(memory: Memory) -> dict[str, Any]:
    """Numbers about a memory as plain data: `mem.stats()`. docs/monitoring.md names each, with its unit."""
    return memory.stats()


def statistics(memory: Memory) -> dict[str, Any]:
    """Pages, bytes, history, the graph, what was computed and what that saved."""
    engine, memo = memory._engine, memory._memo  # noqa: SLF001 - one facade
    router, log = engine.router, engine.router.log
    kept = memo.stats() if memo is not None else {}
    disk = _on_disk(memory._store)  # noqa: SLF001
    found = {
        "pages": len(router.table),
        "derived": len(engine.topology.nodes),
        "bytes": _bytes_by_device(engine),
        "transaction": router.tx,
        "deltas": log.deltas,
        "delta_mean_bytes": log.nbytes / log.deltas if log.deltas else 0.0,
        "deltas_per_second": _rate(log),
        "history_bytes": log.nbytes,
        "log_bytes": disk.get("log", log.nbytes),
        "disk_bytes": disk,
        **_graph(engine),
        **_counts(engine),
        "audit": engine.audit.stats(),
        "memo": kept,
    }
    found["hit_rates"] = {
        "derived": _share(found["cut_off"], found["recomputed"]),
        "memo": kept.get("hit_rate"),
    }
    found["time_saved_seconds"] = found["saved_seconds"] + kept.get("saved_seconds", 0.0)
    return found


def recent(memory: Memory) -> list[About]:
    """The last transactions at hand, at most `RECENT`, oldest first."""
    log = memory._router.log  # noqa: SLF001 - one facade
    with memory._router.table.lock:  # noqa: SLF001 - a commit under way is there as a whole, or not
        last, first = log.last, max(log.first, log.last - RECENT + 1)
        return [log.about(tx) for tx in range(first, last + 1)]


def _counts(engine: Engine) -> dict[str, Any]:
    counts = engine.counts
    return {
        "recomputed": counts.recomputed,
        "unchanged": counts.unchanged,
        "cut_off": counts.cut_off,
        "failed": counts.failed,
        "recompute_seconds": counts.seconds,
        "sliced": counts.sliced,
        "stepped": counts.stepped,
        "activation_bytes": engine.activations.nbytes,
        "sliced_rows": counts.rows,
        "saved_seconds": counts.saved,
    }


def _graph(engine: Engine) -> dict[str, Any]:
    """Its size, and how its pages stand now; nothing is computed."""
    nodes, look = engine.topology.nodes.copy(), Look(engine)
    depths: dict[int, int] = {}
    for node in engine.topology.order(list(nodes.values())):
        depths[node.id] = 1 + max((depths.get(e.info.id, 0) for e in node.inputs), default=0)
    states = Counter(status(look, node) for node in nodes.values())
    return {
        "edges": sum(len(set(node.inputs)) for node in nodes.values()),
        "depth": max(depths.values(), default=0),
        "stale": states["stale"],
        "states": {name: states[name] for name in ("fresh", "stale", "new", "failed", "unbound")},
    }


def _bytes_by_device(engine: Engine) -> dict[str, int]:
    held: Counter[str] = Counter()
    for entry in engine.router.table:
        if entry.spec is not None and entry.tensor is not None:
            held[str(entry.spec.device)] += entry.spec.nbytes
    return dict(held)


def _rate(log: Log) -> float:
    """Deltas a second, from the first to the last of the recent transactions."""
    last, first = log.last, max(log.first, log.last - RECENT + 1)
    if last <= first:
        return 0.0
    span = (log.about(last).time_ns - log.about(first).time_ns) / 1e9
    return log.deltas_between(first, last) / span if span > 0 else 0.0


def _share(part: int, rest: int) -> float | None:
    return part / (part + rest) if part + rest else None


def _on_disk(store: Store | None) -> dict[str, int]:
    """Bytes of the files of a store by what they are for."""
    if store is None:
        return {}
    from mmsb_torch.runtime.store.identity import CHECKPOINTS  # noqa: PLC0415 - there is a path
    from mmsb_torch.runtime.store.logfile import DELTAS, LOG  # noqa: PLC0415
    from mmsb_torch.runtime.store.objects import OBJECTS  # noqa: PLC0415

    parts = {"log": (LOG, DELTAS), "checkpoints": (CHECKPOINTS,), "results": (OBJECTS,)}
    return {name: _size([store.path / part for part in folders]) for name, folders in parts.items()}


def _size(folders: list[Path]) -> int:
    """Bytes in all files below folders; what they share counts once, what vanishes nothing."""
    sizes: dict[tuple[int, int], int] = {}
    for folder in folders:
        paths = [folder]
        for place, _, names in os.walk(folder):  # a folder that vanishes is passed over
            paths += [Path(place, name) for name in names]
        for item in paths:
            with contextlib.suppress(OSError):
                found = item.lstat()
                if stat.S_ISREG(found.st_mode):
                    sizes[found.st_dev, found.st_ino] = found.st_size
    return sum(sizes.values())
