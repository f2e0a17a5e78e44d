"""A memory's numbers for a Prometheus server to scrape.

    from prometheus_client import REGISTRY, start_http_server
    REGISTRY.register(MemoryCollector(mem, name="run"))
    start_http_server(9100)

`pip install 'mmsb-torch[prometheus]'`. Names, units and kinds of the metrics: docs/monitoring.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mmsb_torch.errors import ClosedError, UnsupportedError

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from mmsb_torch.memory import Memory

GAUGES = {  # key of mem.stats() -> what it is
    "pages": "Pages, derived ones among them",
    "derived": "Derived pages",
    "edges": "Edges of the graph",
    "depth": "Derived pages in the longest chain",
    "transaction": "Number of the last transaction",
    "log_bytes": "Bytes of the log",
    "activation_bytes": "Bytes kept to make derived pages again in part",
}
COUNTERS = {
    "deltas": "Deltas at hand or committed",
    "recomputed": "Derived pages recomputed",
    "unchanged": "Of those, that came out equal",
    "cut_off": "Derived pages found right without being run",
    "failed": "Recipes that raised",
    "recompute_seconds": "Seconds spent in recipes",
}
MEMO = {
    "hits": "Calls answered from what is kept",
    "misses": "Calls computed",
    "refused": "Calls executed without a key",
    "evicted": "Results that went, for there were too many bytes",
}


class MemoryCollector:
    """A collector of `prometheus_client`: register it. Thread-safe; each scrape calls `mem.stats()`.

    A closed memory gives `mmsb_up 0` and nothing else.

    Args:
        memory: the memory.
        name: the label `memory` of every metric, to tell several memories apart.

    Raises:
        UnsupportedError: prometheus_client is not installed, or `name` is no text.
    """

    def __init__(self, memory: Memory, name: str = "") -> None:
        try:
            from prometheus_client import core  # noqa: PLC0415 - an extra
        except ModuleNotFoundError as error:
            raise UnsupportedError(
                "MemoryCollector needs prometheus_client, which is not installed. "
                "Install the extra: pip install 'mmsb-torch[prometheus]'"
            ) from error
        if not isinstance(name, str):
            raise UnsupportedError(f"name={name!r:.60}: expected a text, the label of its metrics.")
        self._memory, self._name, self._core = memory, name, core

    def describe(self) -> list[Metric]:
        """Nothing: registering asks for no numbers."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The metrics now."""
        try:
            stats = self._memory.stats()
        except ClosedError:
            yield self._gauge("up", "Whether the memory is open", {(): 0})
            return
        yield self._gauge("up", "Whether the memory is open", {(): 1})
        for key, text in GAUGES.items():
            yield self._gauge(key, text, {(): stats[key]})
        yield self._gauge("bytes", "Bytes of pages", _by(stats["bytes"]), "device")
        yield self._gauge("disk_bytes", "Bytes of files", _by(stats["disk_bytes"]), "part")
        yield self._gauge("derived_pages", "Derived pages", _by(stats["states"]), "state")
        for key, text in COUNTERS.items():
            yield self._counter(key, text, {(): stats[key]})
        memo = stats["memo"]
        for key, text in MEMO.items() if memo else ():
            yield self._counter(f"memo_{key}", text, {(): memo[key]})
        saved = {"rows": stats["saved_seconds"], "memo": memo.get("saved_seconds", 0.0)}
        yield self._gauge("saved_seconds", "Seconds of computing saved", _by(saved), "by")
        audit = stats["audit"]
        yield self._counter("audited", "Answers computed again", {(): audit["checked"]})
        yield self._counter("wrong", "Of those, that came out different", {(): audit["wrong"]})

    def _gauge(
        self, name: str, text: str, values: Mapping[tuple[str, ...], float], *labels: str
    ) -> Metric:
        family = self._core.GaugeMetricFamily(f"mmsb_{name}", text, labels=["memory", *labels])
        return self._filled(family, values)

    def _counter(
        self, name: str, text: str, values: Mapping[tuple[str, ...], float], *labels: str
    ) -> Metric:
        family = self._core.CounterMetricFamily(f"mmsb_{name}", text, labels=["memory", *labels])
        return self._filled(family, values)

    def _filled(self, family: Any, values: Mapping[tuple[str, ...], float]) -> Metric:
        for labels, value in values.items():
            family.add_metric([self._name, *labels], value)
        return family  # type: ignore[no-any-return]


def _by(counts: Mapping[str, float]) -> dict[tuple[str, ...], float]:
    return {(name,): count for name, count in counts.items()}
