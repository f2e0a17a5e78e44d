"""Running a graph node by node, and what each node did: shapes, bytes, time, and whose it is."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from .ir import IR
from .ir_writer import scope_of


class Step(NamedTuple):
    """One node that ran."""

    name: str
    op: str
    scope: str
    """The path of the module that called it, "" at the top or where that is not known."""
    shapes: tuple[tuple[int, ...], ...]
    """Shapes of the tensors it gave."""
    nbytes: int
    """Bytes of the tensors it gave, those of views and of what was written in place included."""
    seconds: float


class MMSBInterpreter(fx.Interpreter):
    """Runs a graph and records each node; for one thread.

    Results are those of the graph. On an accelerator the seconds are those of the launch unless
    `synchronise` is set, which waits after every node.

    Attributes:
        steps: what ran in the last `run`, in order.
    """

    def __init__(self, graph: IR | fx.GraphModule, *, synchronise: bool = False) -> None:
        module = graph.module if isinstance(graph, IR) else graph
        super().__init__(module, garbage_collect_values=True)
        self.steps: list[Step] = []
        self._synchronise = synchronise and torch.cuda.is_available()

    def run(self, *args: Any, **options: Any) -> Any:
        """Run the graph on tensors, in the order of its inputs."""
        self.steps.clear()
        return super().run(*args, **options)

    def run_node(self, n: fx.Node) -> Any:
        """Run one node, and note it if it computes."""
        started = time.perf_counter()
        result = super().run_node(n)
        if n.op in {"placeholder", "get_attr", "output"}:
            return result
        if self._synchronise:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        given = [item for item in _flat(result) if isinstance(item, Tensor)]
        shapes = tuple(tuple(item.shape) for item in given)
        nbytes = sum(item.numel() * item.element_size() for item in given)
        self.steps.append(Step(n.name, _label(n), scope_of(n), shapes, nbytes, seconds))
        return result

    def table(self, limit: int = 20) -> str:
        """The steps that took longest, for people."""
        total = sum(step.seconds for step in self.steps) or 1.0
        rows = sorted(self.steps, key=lambda step: -step.seconds)[:limit]
        return "\n".join(
            f"{step.seconds * 1e6:9.1f} us {step.seconds / total:4.0%}  {step.op}  "
            f"{' '.join(map(str, step.shapes))}  {step.scope}".rstrip()
            for step in rows
        )


def _flat(result: Any) -> tuple[Any, ...] | list[Any]:
    return result if isinstance(result, list | tuple) else (result,)


def _label(node: fx.Node) -> str:
    target = node.target
    return target if isinstance(target, str) else str(getattr(target, "__name__", target))
