"""From a function to its calls, by `torch.export`.

Parameters are taken by reference. Writes in place are rewritten as calls without effects where that
is possible; what changes its inputs or its own tensors, draws random numbers or depends on values in
its sizes is refused.
"""

from __future__ import annotations

import gc
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from mmsb_torch.errors import MMSBError, PlanError
from mmsb_torch.instrumentation.capture.export import quiet, same_random_numbers
from mmsb_torch.instrumentation.context import GradKept, plain_torch

from .calls import Call, Graph, Ref, Size, schema_of
from .families.factory import without_models

_aten = torch.ops.aten
_CHECKS = frozenset({
    _aten._assert_tensor_metadata.default,  # noqa: SLF001 - the operators' names
    _aten._assert_scalar.default,  # noqa: SLF001
    _aten.sym_constrain_range_for_size.default,
    _aten.sym_constrain_range.default,
})  # fmt: skip
"""What only checks what the capture implies."""
_SAME = {
    _aten.detach_.default: _aten.detach.default,
    _aten.lift_fresh.default: _aten.lift_fresh_copy.default,
}
_PROBABILITIES = ("p", "dropout_p", "dropout")
_TRAINING = ("train", "training")
_UPDATING = ("training", "train", "use_input_stats")


def trace(function: Callable[..., Any], values: Sequence[Tensor], dynamic: Sequence[int]) -> Graph:
    """The calls of `function(*values)`, with dimension 0 of the `dynamic` values as one number.

    The function runs on tensors without values; torch's generators are afterwards as they were.

    Raises:
        PlanError: it cannot be captured, has effects, or returns something but one tensor.
    """
    leaves = [value.detach() for value in values]
    device = leaves[0].device if leaves else torch.device("cpu")
    flat = _Function(function)
    try:
        with GradKept(), plain_torch(device), same_random_numbers(), quiet():
            program = _export(flat, leaves, dynamic)
            if any(_writes(node) for node in program.graph.nodes):
                program = program.run_decompositions({})
            return _Reader(program, len(leaves), dynamic).graph(leaves)
    except PlanError:
        raise
    except Exception as error:
        said = str(error) if isinstance(error, _StoppedError) else _said(error)
        raise PlanError(f"torch.export does not take it: {said}") from error


def let_go() -> None:
    """After tracing: free the aliases of weights that the tracer would hold until its next run.

    As long as there are any, nobody can tell that weights are unchanged but by reading them.
    """
    from torch.fx.experimental import proxy_tensor  # noqa: PLC0415 - loaded by torch.export

    nodes = getattr(proxy_tensor, "_FAKE_TENSOR_ID_TO_PROXY_MAP_FOR_EXPORT", None)
    if isinstance(nodes, dict):
        nodes.clear()
    gc.collect()


class _Function(nn.Module):
    """Hides the function from the tracer, which would replace a module's parameters meanwhile."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        object.__setattr__(self, "held", function)

    def forward(self, *values: Tensor) -> Any:
        function: Any = self.held
        try:
            return function(*values)
        except RuntimeError as error:  # torch.export prints the graph for some of those
            raise _StoppedError(_said(error)) from error


class _StoppedError(Exception):
    """The function, or a tracer in it, raised a RuntimeError."""


def _export(flat: nn.Module, leaves: list[Tensor], dynamic: Sequence[int]) -> Any:
    if not dynamic:
        return torch.export.export(flat, tuple(leaves), strict=False)
    try:
        return _export_rows(flat, leaves, dynamic, {})
    except Exception as error:
        limits = _suggested(str(error))
        if not limits:
            raise
        return _export_rows(flat, leaves, dynamic, limits)


def _export_rows(
    flat: nn.Module, leaves: list[Tensor], dynamic: Sequence[int], limits: dict[str, int]
) -> Any:
    rows = torch.export.Dim("rows", **limits)
    shapes = (tuple({0: rows} if at in dynamic else {} for at in range(len(leaves))),)
    return torch.export.export(flat, tuple(leaves), dynamic_shapes=shapes, strict=False)


def _suggested(message: str) -> dict[str, int]:
    """The sizes for which an export that failed would hold, if it says so."""
    found = re.search(r"rows = Dim\('rows'((?:, m(?:in|ax)=\d+)+)\)", message)
    pairs = re.findall(r"(m(?:in|ax))=(\d+)", found[1]) if found else ()
    return {name: int(limit) for name, limit in pairs}


def _said(error: BaseException) -> str:
    text = str(error.message if isinstance(error, MMSBError) else error).strip()
    lines = [line.strip(" -") for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].startswith("Constraints violated"):
        return lines[1][:300]
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"


def _writes(node: fx.Node) -> bool:
    """Whether a call writes into a tensor that anybody else may look at."""
    target: Any = node.target
    if node.op != "call_function" or not hasattr(target, "_schema") or target in _SAME:
        return False
    return bool(schema_of(target).is_mutable) and _without_writing(node) is None


def _without_writing(node: fx.Node) -> Any:
    """The operator that gives what this one writes in place, where nobody sees the difference.

    That is so if what it writes into was made by another call, not as a view, and is read by
    nobody else.
    """
    target: Any = node.target
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or source.op != "call_function" or len(source.users) > 1:
        return None
    maker: Any = source.target
    if not hasattr(maker, "_schema") or not _fresh(maker):
        return None
    packet = getattr(_aten, schema_of(target).name.removeprefix("aten::").removesuffix("_"), None)
    other = getattr(packet, target._overloadname, None)  # noqa: SLF001
    if other is None or other is target or schema_of(other).is_mutable:
        return None
    same = [item.name for item in schema_of(target).arguments] == [
        item.name for item in schema_of(other).arguments
    ]
    return other if same else None


_MAY_ALIAS = frozenset({
    "contiguous", "reshape", "flatten", "to", "dropout", "expand_as", "view_as", "type_as",
    "reshape_as", "feature_dropout", "alpha_dropout", "broadcast_to",
})  # fmt: skip


def _fresh(op: Any) -> bool:
    """Whether an operator gives new memory."""
    schema = schema_of(op)
    name = schema.name.removeprefix("aten::")
    views = any(result.alias_info is not None for result in schema.returns)
    alias = torch.Tag.maybe_aliasing_or_mutating in op.tags
    return not (views or alias or schema.is_mutable or name in _MAY_ALIAS)


class _Reader:
    """Numbers the values of an exported program and writes down its calls."""

    def __init__(self, program: Any, inputs: int, dynamic: Sequence[int]) -> None:
        self._program = program
        self._inputs = inputs
        self._dynamic = tuple(dynamic)
        self._known: dict[fx.Node, Any] = {}
        self._items: dict[fx.Node, tuple[Any, dict[str, Any]]] = {}
        self._symbol: Any = None
        self._sizes: dict[Any, Size | int] = {}
        self._constants: list[Tensor] = []
        self._calls: list[Call] = []

    def graph(self, leaves: Sequence[Tensor]) -> Graph:
        self._check_outputs()
        self._number_placeholders()
        for node in self._program.graph.nodes:
            if node.op == "get_attr":
                raise PlanError(f"it holds {node.target!r}, which is no operator of torch's")
            if node.op == "call_function" and not (node.target in _CHECKS or self._is_number(node)):
                self._call(node)
        result = self._program.graph.output_node().args[0]
        known = self._known.get(result[0]) if len(result) == 1 else None
        if not isinstance(known, Ref) or not isinstance(result[0].meta.get("val"), Tensor):
            raise PlanError("it does not return one tensor that it computes")
        least, most = self._range()
        return Graph(
            inputs=self._shapes,
            constants=tuple(self._constants),
            calls=tuple(self._calls),
            output=known.value,
            dynamic=self._dynamic,
            rows=leaves[self._dynamic[0]].shape[0] if self._dynamic else 0,
            least=least,
            most=most,
        )

    def _check_outputs(self) -> None:
        kinds = torch.export.graph_signature.OutputKind
        for spec in self._program.graph_signature.output_specs:
            if spec.kind is not kinds.USER_OUTPUT:
                what = spec.kind.name.lower().replace("_", " ")
                raise PlanError(f"it writes into what it is given or holds ({what})")

    def _number_placeholders(self) -> None:
        kinds = torch.export.graph_signature.InputKind
        specs = self._program.graph_signature.input_specs
        nodes = self._program.graph.find_nodes(op="placeholder")
        given = [
            node for node, spec in zip(nodes, specs, strict=True) if spec.kind is kinds.USER_INPUT
        ]
        if len(given) != self._inputs:
            raise PlanError("its tensors cannot be told apart")
        for index, node in enumerate(given):
            self._known[node] = Ref(index)
        if self._dynamic:
            size = given[self._dynamic[0]].meta["val"].shape[0]
            if not isinstance(size, torch.SymInt):
                raise PlanError("its rows are a fixed number")
            self._symbol = size.node.expr
        self._shapes = tuple(self._shape(node.meta["val"]) for node in given)
        for node, spec in zip(nodes, specs, strict=True):
            if node not in self._known:
                self._known[node] = Ref(self._inputs + len(self._constants))
                self._constants.append(self._held(spec))

    def _held(self, spec: Any) -> Tensor:
        for holder in (self._program.state_dict, self._program.constants):
            value = holder.get(spec.target)
            if isinstance(value, Tensor):
                return value.detach()
        raise PlanError(f"it holds {spec.target!r}, which is no tensor")

    def _range(self) -> tuple[int, int | None]:
        """The sizes for which the capture holds: tracers take 0 and 1 for special."""
        least, most = 2, None
        for symbol, limits in self._program.range_constraints.items():
            if symbol == self._symbol:
                least = max(least, int(limits.lower))
                most = int(limits.upper) if str(limits.upper).isdecimal() else None
        return least, most

    def _is_number(self, node: fx.Node) -> bool:
        """Note a node that gives a number: its meta data says what, so nobody has to call it."""
        value = node.meta.get("val")
        if value is None or isinstance(value, Tensor | list | tuple):
            return False
        self._known[node] = self._size(value)
        return True

    def _size(self, value: Any) -> Any:
        if isinstance(value, torch.SymInt):
            expression = value.node.expr
            if expression not in self._sizes:
                self._sizes[expression] = _size(expression, self._symbol)
            return self._sizes[expression]
        if isinstance(value, torch.SymFloat | torch.SymBool):
            if value.node.expr.free_symbols:
                raise PlanError("it computes a fraction or a choice from the number of rows")
            return type(value.node.expr)(value.node.expr)
        return value

    def _shape(self, value: Tensor) -> tuple[Any, ...]:
        if value.layout != torch.strided:
            raise PlanError(f"it works with tensors of layout {value.layout}")
        return tuple(self._size(size) for size in value.shape)

    def _call(self, node: fx.Node) -> None:
        target: Any = node.target
        if target is operator.getitem:
            self._item(node)
            return
        if not hasattr(target, "_schema"):
            raise PlanError(f"it calls {getattr(target, '__name__', target)}")
        schema = schema_of(target)
        if schema.is_mutable:
            target = _SAME.get(target) or _without_writing(node)
            if target is None:
                raise PlanError(f"{node.name} writes in place")
        args = self._arguments(target, node)
        _check_random(target, args, node.name)
        if args.get("running_mean") is not None and any(args.get(name) for name in _UPDATING):
            raise PlanError(f"{node.name} writes into its running statistics")
        value = node.meta.get("val")
        if value is None:
            raise PlanError(f"{node.name} is called for its effect")
        if isinstance(value, Tensor):
            self._add(node, target, args, value, None)
        else:
            self._items[node] = (target, args)

    def _item(self, node: fx.Node) -> None:
        """One of several results: as a call of its own."""
        source: Any = node.args[0]
        index: Any = node.args[1]
        value = node.meta.get("val")
        if source not in self._items or not isinstance(value, Tensor):
            raise PlanError(f"{node.name} is no tensor")
        target, args = self._items[source]
        self._add(node, target, args, value, index)

    def _add(self, node: fx.Node, target: Any, args: dict[str, Any], value: Any, item: Any) -> None:
        number = self._inputs + len(self._constants) + len(self._calls)
        self._known[node] = Ref(number)
        shape = self._shape(value)
        target, args = without_models(target, args, shape, value)
        self._calls.append(
            Call(number, node.name, target, args, shape, value.dtype, value.device, item)
        )

    def _arguments(self, target: Any, node: fx.Node) -> dict[str, Any]:
        known = schema_of(target).arguments
        args = {argument.name: value for argument, value in zip(known, node.args, strict=False)}
        args.update(node.kwargs)
        return {name: self._argument(value) for name, value in args.items()}

    def _argument(self, value: Any) -> Any:
        if isinstance(value, fx.Node):
            if value not in self._known:
                raise PlanError(f"{value.name} is no tensor")
            return self._known[value]
        if isinstance(value, list | tuple):
            return [self._argument(item) for item in value]
        return self._size(value)


def _size(expression: Any, symbol: Any) -> Size | int:
    """A sympy expression of the rows as a Size.

    Raises:
        PlanError: it depends on something else.
    """
    if expression.is_number:
        return int(expression)
    if expression.free_symbols != {symbol}:
        raise PlanError("the sizes of its tensors depend on values")
    times, plus = expression.coeff(symbol, 1), expression.coeff(symbol, 0)
    if times.is_Integer and plus.is_Integer and expression == times * symbol + plus:
        return Size(int(times), int(plus))
    return Size(0, 0, lambda rows: int(expression.subs(symbol, rows)))


def _check_random(op: Any, args: dict[str, Any], name: str) -> None:
    """Raise PlanError if a call draws random numbers."""
    if torch.Tag.nondeterministic_seeded not in op.tags:
        return
    for argument in schema_of(op).arguments:
        value = args.get(argument.name, argument.default_value)
        if argument.name in _PROBABILITIES and value == 0:
            return
        if argument.name in _TRAINING and value is False:
            return
    raise PlanError(f"{name} draws random numbers")
