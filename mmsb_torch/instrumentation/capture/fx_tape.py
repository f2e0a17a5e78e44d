"""A run as a graph: the operators that ran, and guards on the values that Python read.

Under the dispatcher every operator is seen. Python can also read tensors past it (`tolist`,
`numpy`, `torch.tensor` of tensors): those calls are seen by a function mode, and refused, because
what they read would be baked in; `tolist` of integers becomes a guard.
"""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from mmsb_torch.errors import CaptureError, MMSBError

from . import ir_ops
from .ir_bytes import Constant
from .ir_writer import SPEC, Sizes

_aten = torch.ops.aten
_SAME = {_aten.lift_fresh.default: _aten.clone.default}
"""A tensor made of Python's numbers is a constant: what runs later may write into a copy of it."""


def record(
    function: Callable[..., Sequence[Any]], leaves: Sequence[Tensor], paths: Mapping[int, str]
) -> tuple[fx.Graph, dict[str, Constant]]:
    """Run `function` once, and return what ran as a graph and its constants by attribute.

    Args:
        function: from tensors to a sequence of tensors.
        leaves: its arguments.
        paths: the paths of parameters and buffers by `id`.

    Raises:
        CaptureError: it read or wrote in a way that a graph cannot repeat.
    """
    tape = _Tape(leaves, paths)
    with Reads(tape), tape:
        results = function(*leaves)
    if tape.refusal is not None:  # the function may have caught it, and gone on
        raise tape.refusal
    tape.graph.output(tuple(tape.node_of(result) for result in results))
    return tape.graph, tape.constants


class _Tape(TorchDispatchMode):
    """Records operators as nodes. For one run, on one thread."""

    def __init__(self, leaves: Sequence[Tensor], paths: Mapping[int, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = fx.Graph()
        self.constants: dict[str, Constant] = {}
        self.refusal: MMSBError | None = None
        """Why this run is no graph."""
        self._paths = paths
        self._sizes = Sizes()
        self._nodes: dict[int, tuple[weakref.ref[Tensor], fx.Node]] = {}
        self._outside: dict[int, torch.UntypedStorage] = {}
        """Memory that was there before the run."""
        for index, leaf in enumerate(leaves):
            node = self.graph.create_node("placeholder", f"in{index}", name=f"in{index}")
            self._know(leaf, node)
            self._put_outside(leaf)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and note it."""
        del types
        try:
            taken = self._taken(func, args, kwargs or {})
        except MMSBError as error:
            self.refusal = error
            raise
        result = func(*args, **kwargs or {})
        if func is _aten.lift_fresh.default:  # new memory, which may be written
            self._outside.pop(_memory(result), None)
        self._note(func, self.graph.call_function(_SAME.get(func, func), *taken), result)
        return result

    def _taken(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The arguments of a call as nodes.

        Raises:
            CaptureError, UnsupportedError: a graph cannot have this call; it did not run.
        """
        given = ir_ops.by_name(func, args, kwargs)
        ir_ops.check_call(func, given)
        taken = tree_map_only(Tensor, self.node_of, (args, kwargs))
        self._check_writes(func, given)
        return taken

    def node_of(self, value: Tensor) -> fx.Node:
        """The node that gave a tensor; a constant if none did."""
        known = self._nodes.get(id(value))
        if known is not None and known[0]() is value:
            return known[1]
        name = f"const{len(self.constants)}"
        self.constants[name] = Constant.of(value, self._paths.get(id(value))).owned()
        node = self.graph.create_node("get_attr", name, name=name)
        self._know(value, node)
        self._put_outside(value)
        return node

    def _put_outside(self, value: Tensor) -> None:
        storage = value.untyped_storage()
        self._outside[_memory(value)] = storage

    def _know(self, value: Tensor, node: fx.Node) -> None:
        node.meta[SPEC] = self._sizes.of(value)
        self._nodes[id(value)] = (weakref.ref(value), node)

    def _check_writes(self, func: Any, given: Mapping[str, Any]) -> None:
        """Raise CaptureError before an operator writes into what was there before the run."""
        for argument in func._schema.arguments if ir_ops.writes(func) else ():  # noqa: SLF001
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            for value in tree_leaves(given.get(argument.name)):
                if isinstance(value, Tensor) and _memory(value) in self._outside:
                    raise CaptureError(
                        f"{func} writes into an argument, parameter or buffer of the function: "
                        "expected one that only computes. Let it work on x.clone(), or call "
                        "module.eval() first."
                    )

    def _note(self, func: Any, node: fx.Node, result: Any) -> None:
        """Know an operator's results, and guard what Python may have read of them."""
        node.meta[SPEC] = self._sizes.of(result)
        if isinstance(result, Tensor):
            self._know(result, node)
            self._guard_shape(func, node, result)
        elif isinstance(result, list | tuple):
            for index, item in enumerate(result):
                if isinstance(item, Tensor):
                    part = self.graph.call_function(operator.getitem, (node, index))
                    self._know(item, part)
                    self._guard_shape(func, part, item)
        elif result is not None:
            self._call(ir_ops.expect_value, node, result)

    def _guard_shape(self, func: Any, node: fx.Node, value: Tensor) -> None:
        if func.namespace != "aten" or torch.Tag.dynamic_output_shape in func.tags:
            self._call(ir_ops.expect_shape, node, list(value.shape))

    def _call(self, guard: Callable[..., None], node: fx.Node, expected: Any) -> None:
        self.graph.call_function(guard, (node, expected)).meta[SPEC] = None


def _memory(value: Tensor) -> int:
    return int(value.untyped_storage()._cdata)  # noqa: SLF001 - its identity while it lives


_UNSEEN = frozenset(
    {
        Tensor.numpy,
        Tensor.__array__,
        Tensor.data_ptr,
        Tensor.__dlpack__,
        Tensor.untyped_storage,
        Tensor.storage,
        Tensor.share_memory_,
    }
)
_MAKERS = frozenset({torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor})


class Recorder(Protocol):
    """Who wants to know of such reads."""

    refusal: MMSBError | None


class Reads(TorchFunctionMode):
    """Sees what Python reads out of tensors past the dispatcher."""

    def __init__(self, tape: Recorder) -> None:
        super().__init__()
        self._tape = tape

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Refuse what would be baked in; run everything else."""
        del types
        kwargs = kwargs or {}
        copies = func in _MAKERS and any(map(_holds_tensor, (*args, *kwargs.values())))
        if copies or func in _UNSEEN:
            self._refuse(
                f"{getattr(func, '__name__', func)} reads a tensor's values in a way that is not "
                "seen. Use torch's operators, .item() or torch.stack instead."
            )
        result = func(*args, **kwargs)
        if func is Tensor.tolist:
            self._guard(args[0], result)
        return result

    def _guard(self, value: Tensor, listed: Any) -> None:
        """Let the graph hold only where a tensor is as it was listed."""
        if value.is_floating_point() or value.is_complex():
            self._refuse("tolist() of floats cannot be guarded. Use .item() instead.")
        torch.equal(value, torch.tensor(listed, dtype=value.dtype))  # recorded as it runs

    def _refuse(self, why: str) -> NoReturn:
        self._tape.refusal = CaptureError(why)
        raise self._tape.refusal


def _holds_tensor(data: Any) -> bool:
    return isinstance(data, list | tuple) and any(
        isinstance(item, Tensor) or _holds_tensor(item) for item in data
    )
