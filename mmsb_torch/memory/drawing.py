"""The graph of a memory as plain data to draw."""

from __future__ import annotations

from mmsb_torch.graph import Engine, Look, status
from mmsb_torch.graph.draw import Graph
from mmsb_torch.graph.draw import Node as DrawnNode


def picture(engine: Engine) -> Graph:
    """The dependency graph as it stands now."""
    nodes, edges, look = [], [], Look(engine)
    for entry in engine.router.table:
        node = engine.topology.nodes.get(entry.info.id)
        spec = entry.spec
        heat = 0.0
        if spec is not None:
            heat = entry.journal.since(entry.journal.checkpoint, spec.shape).share
        detail = ""
        if node is not None:
            detail = node.label
            if node.outcome is not None:
                cost = f" in {node.outcome.seconds * 1e3:.1f} ms" if node.outcome.seconds else ""
                detail = f"{node.label}: {node.outcome.what}{cost}"
            edges += [(item.info.id, node.id) for item in dict.fromkeys(node.inputs)]
        nodes.append(
            DrawnNode(
                id=entry.info.id,
                name=entry.info.name,
                kind="page" if node is None else "derived",
                dtype=spec.dtype_name if spec is not None else "",
                shape=spec.shape if spec is not None else None,
                epoch=entry.epoch,
                status="root" if node is None else _STATUS.get(found := status(look, node), found),
                detail=detail,
                heat=heat,
            )
        )
    return Graph(nodes, edges)


_STATUS = {"failed": "error"}
