"""A `torch.compile` backend that keeps the graph of every compiled region, and runs it as it is.

    regions = CaptureBackend()
    compiled = torch.compile(model, backend=regions)
    compiled(x)
    regions[0].ir().text()

The regions run by torch's own operators, under autograd as ever: no compiler is needed, and nothing
gets faster. Guards, graph breaks and recompilation are torch.compile's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from mmsb_torch.errors import UnsupportedError

from .export import capture
from .ir import IR


class Region:
    """One compiled region.

    Attributes:
        module: the graph as dynamo gave it: torch's functions, methods and modules.
        calls: how often it ran.
    """

    def __init__(self, module: fx.GraphModule, inputs: Sequence[Any]) -> None:
        self.module = module
        self.calls = 0
        self._inputs = [_spec(value) for value in inputs]
        self._ir: IR | None = None

    def __call__(self, *args: Any) -> Any:
        """Run the region."""
        self.calls += 1
        return self.module.forward(*args)

    def ir(self) -> IR:
        """The region as IR, of the shapes it was compiled for; captured when first asked for.

        Its inputs are dynamo's: the tensors of the region's arguments and, where dynamo has them as
        inputs, parameters.

        Raises:
            CaptureError: it writes into its inputs, or holds what no graph can.
            UnsupportedError: it was compiled for sizes that vary.
        """
        if self._ir is None:
            inputs = [_example(spec) for spec in self._inputs]
            captured = capture(self.module, *inputs, ways=("export", "make_fx"), exact=False)
            self._ir = captured.ir
        return self._ir

    def __repr__(self) -> str:
        nodes = sum(node.op.startswith("call") for node in self.module.graph.nodes)
        return f"<Region of {nodes} calls, ran {self.calls} times>"


class CaptureBackend:
    """Pass it as `torch.compile(..., backend=)`. A sequence of the regions, in compiled order.

    Thread-safe. It keeps the graphs, and not the tensors they ran on.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._regions: list[Region] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> CaptureBackend:
        """Itself: libraries that copy the arguments of `torch.compile` shall not part it from its owner."""
        return self

    def __call__(self, module: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        """What dynamo calls with each region."""
        region = Region(module, example_inputs)
        with self._lock:
            self._regions.append(region)
        return region

    def __len__(self) -> int:
        return len(self._regions)

    def __iter__(self) -> Iterator[Region]:
        return iter(list(self._regions))

    def __getitem__(self, index: int) -> Region:
        return self._regions[index]

    def clear(self) -> None:
        """Forget the regions; compiled code goes on running."""
        with self._lock:
            self._regions.clear()

    def __repr__(self) -> str:
        return f"<CaptureBackend of {len(self)} regions>"


def _spec(value: Any) -> tuple[Any, ...] | None:
    """What an example looks like: dynamo's are without values."""
    if not isinstance(value, Tensor):
        return None
    sizes = (*value.shape, *value.stride())
    if not all(type(size) is int for size in sizes):
        return None
    return (tuple(value.shape), tuple(value.stride()), value.dtype, value.device)


def _example(spec: tuple[Any, ...] | None) -> Tensor:
    if spec is None:
        raise UnsupportedError(
            "this region was compiled for sizes that vary: compile with dynamic=False to have it as "
            "IR"
        )
    shape, stride, dtype, device = spec
    return torch.empty_strided(shape, stride, dtype=dtype, device=device).zero_()
