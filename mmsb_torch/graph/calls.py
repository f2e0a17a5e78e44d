"""The calls of a recording as a graph to draw, and as tables to read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mmsb_torch.graph.draw import Graph, Node
from mmsb_torch.instrumentation.capture.tape import Call
from mmsb_torch.instrumentation.capture.values import OUTSIDE, Value


class CallGraph(Graph):
    """Calls and what came from outside; an edge where one used what the other made or wrote."""

    __slots__ = ()
    noun = "call"

    def _summary(self) -> str:
        outside = sum(node.kind == "input" for node in self._nodes.values())
        calls, edges = len(self) - outside, len(self._edges)
        return (
            f"{calls:,} call{'s' * (calls != 1)}, {outside:,} input{'s' * (outside != 1)}, "
            f"{edges:,} edge{'s' * (edges != 1)}"
        )


def call_graph(calls: Sequence[Call], names: Mapping[int, str]) -> CallGraph:
    """The graph of calls; `names` are those of the values from outside, by number."""
    outside = {
        value.number: value for call in calls for value in call.read if value.number in names
    }
    first = len(calls)
    ids = {number: first + place for place, number in enumerate(outside)}
    nodes = [_outside(ids[number], names[number], value) for number, value in outside.items()]
    nodes += [_node(call) for call in calls]
    edges = []
    for call in calls:
        edges += [(ids[value.number], call.index) for value in call.read if value.number in ids]
        edges += [(parent, call.index) for parent in call.parents]
    return CallGraph(nodes, edges)


def _outside(number: int, name: str, value: Value) -> Node:
    return Node(
        number, name, "input", _dtype(value), value.shape, 0, "input", caption="from outside"
    )


def _node(call: Call) -> Node:
    value = next(iter(call.made or call.wrote), None)
    where = f"{call.site.module}: {call.site}" if call.module else str(call.site)
    return Node(
        id=call.index,
        name=f"{short(call.op)} #{call.index}",
        kind="call",
        dtype=_dtype(value) if value is not None else "no tensor",
        shape=value.shape if value is not None else (),
        epoch=0,
        status="error" if call.error else call.phase,
        detail=where,
        caption=f"raised {call.error}" if call.error else f"{call.phase}, {duration(call.seconds)}",
    )


def _dtype(value: Value) -> str:
    return str(value.dtype).removeprefix("torch.")


def short(op: str) -> str:
    """An operation's name without namespace and overload: "add" of "aten.add.Tensor"."""
    parts = op.split(".")
    return parts[1] if len(parts) > 1 else op


def duration(seconds: float) -> str:
    """Such as "12.3 us"."""
    for unit, scale in (("us", 1e6), ("ms", 1e3)):
        if seconds * scale < 1000:
            return f"{seconds * scale:.1f} {unit}"
    return f"{seconds:.2f} s"


@dataclass(slots=True)
class Share:
    """What one function, module or operation accounts for."""

    name: str
    calls: int = 0
    nbytes: int = 0
    """Bytes that its calls returned, or wrote in place."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By phase: "forward", "backward", "optimizer"."""

    @property
    def total(self) -> float:
        """Seconds in all phases."""
        return sum(self.seconds.values())


class Shares(tuple[Share, ...]):
    """A table of `Share`s, the longest time first. Print it."""

    __slots__ = ()

    def __str__(self) -> str:
        phases = [
            phase
            for phase in ("forward", "backward", "optimizer")
            if any(phase in share.seconds for share in self)
        ]
        rows = [("", "calls", *phases, "bytes")]
        rows += [
            (
                share.name,
                f"{share.calls:,}",
                *(duration(share.seconds.get(phase, 0.0)) for phase in phases),
                f"{share.nbytes:,}",
            )
            for share in self
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(
                [row[0].ljust(widths[0])]
                + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            ).rstrip()
            for row in rows
        )


def shares(calls: Sequence[Call], names: Iterable[str]) -> Shares:
    """Add up calls by the names given for them."""
    found: dict[str, Share] = {}
    for call, name in zip(calls, names, strict=True):
        share = found.setdefault(name, Share(name))
        share.calls += 1
        share.nbytes += call.nbytes
        share.seconds[call.phase] = share.seconds.get(call.phase, 0.0) + call.seconds
    return Shares(sorted(found.values(), key=lambda share: -share.total))


def origin(calls: Sequence[Call], call: Call) -> Call:
    """The forward call that a backward call belongs to; the call itself if none is known."""
    seen = call.index
    while call.forward != OUTSIDE and call.forward < seen:
        call = calls[call.forward]
        seen = call.index
    return call
