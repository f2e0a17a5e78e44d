"""Numbers about a memory."""

from __future__ import annotations

from collections import Counter
from typing import Any

from mmsb_torch.graph import Engine


def statistics(engine: Engine) -> dict[str, Any]:
    """Pages, bytes by device, history and recomputation, as plain data."""
    router, counts = engine.router, engine.counts
    held: Counter[str] = Counter()
    for entry in router.table:
        if entry.spec is not None and entry.tensor is not None:
            held[str(entry.spec.device)] += entry.spec.nbytes
    return {
        "pages": len(router.table),
        "derived": len(engine.topology.nodes),
        "edges": sum(len(set(node.inputs)) for node in engine.topology.nodes.copy().values()),
        "bytes": dict(held),
        "transaction": router.tx,
        "deltas": router.log.deltas,
        "history_bytes": router.log.nbytes,
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
        "audit": engine.audit.stats(),
    }
