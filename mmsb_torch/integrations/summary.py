"""A memory's numbers as people read them: sections of names and texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmsb_torch.graph.memo.report import seconds, size

Section = tuple[str, list[tuple[str, str]]]


def sections(stats: Mapping[str, Any]) -> list[Section]:
    """What `mem.stats()` gave, in sections; what is not there is left out."""
    found = [
        ("pages", _pages(stats)),
        ("history", _history(stats)),
        ("graph", _graph(stats)),
        ("computing", _computing(stats)),
        ("memo", _memo(stats["memo"])),
        ("audit", [(name, f"{count:,}") for name, count in stats["audit"].items() if count]),
    ]
    return [(title, rows) for title, rows in found if rows]


def _pages(stats: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [("pages", f"{stats['pages']:,} ({stats['derived']:,} derived)")]
    return [*rows, *((f"on {device}", size(n)) for device, n in sorted(stats["bytes"].items()))]


def _history(stats: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [
        ("transactions", f"{stats['transaction']:,}"),
        ("deltas", f"{stats['deltas']:,} of {size(stats['delta_mean_bytes'])} on average"),
        ("lately", f"{stats['deltas_per_second']:,.1f} deltas/s"),
        ("log", size(stats["log_bytes"])),
    ]
    disk = stats["disk_bytes"]
    return [
        *rows,
        *((name, size(disk[name])) for name in ("checkpoints", "results") if name in disk),
    ]


def _graph(stats: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not stats["derived"]:
        return []
    states = ", ".join(f"{count:,} {name}" for name, count in stats["states"].items() if count)
    return [
        ("derived pages", states),
        ("edges", f"{stats['edges']:,}"),
        ("depth", f"{stats['depth']:,}"),
    ]


def _computing(stats: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not stats["derived"]:
        return []
    in_part = stats["sliced"] + stats["stepped"]
    took = seconds(stats["recompute_seconds"])
    rows = [
        ("recomputed", f"{stats['recomputed']:,} in {took}"),
        ("of those", f"{stats['unchanged']:,} came out equal, {in_part:,} in part"),
        ("cut off", f"{stats['cut_off']:,}{_percent(stats['hit_rates']['derived'])}"),
        ("saved by rows", seconds(stats["saved_seconds"])),
    ]
    return [*rows, ("failed", f"{stats['failed']:,}")] if stats["failed"] else rows


def _memo(memo: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not memo:
        return []
    rows = [
        ("hits", f"{memo['hits']:,}{_percent(memo['hit_rate'])}"),
        ("misses", f"{memo['misses']:,}"),
        ("executed, not kept", f"{memo['refused']:,}"),
        ("saved", seconds(memo["saved_seconds"])),
        ("in memory", f"{memo['results']:,} results, {size(memo['bytes'])}"),
    ]
    return [*rows, ("evicted", f"{memo['evicted']:,.0f}")] if memo["evicted"] else rows


def _percent(share: float | None) -> str:
    return "" if share is None else f" ({share:.0%})"
