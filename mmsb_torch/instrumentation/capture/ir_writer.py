"""From `torch.fx` to a document: one canonical form for all graphs that do the same calls.

Nodes are numbered as the results need them, depth first in the order of the operators' arguments,
whatever they were called and in whatever order they came. If a graph has calls whose place
matters (random numbers, writes, assertions, guards), the order it has is kept. What no result needs
is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from mmsb_torch.errors import UnsupportedError

from . import ir_ops
from .ir_bytes import Constant
from .ir_values import MAX_DEPTH, Ref, from_data, to_data

SPEC = "mmsb.spec"
"""Where a node that we made keeps what is inferred of its result."""
SCOPE = "mmsb.scope"
"""Where it keeps the path of the module that called it."""
ABOUT = "mmsb.ir"
"""Where a GraphModule that we made keeps what its graph does not say: `About`."""
CONSTANTS = "mmsb.constants"
"""Where it keeps its constants: attribute -> Constant."""

_MADE = re.compile(r"(_tensor_constant|_param_constant|lifted_tensor_|_lifted_tensor_constant)\d*")
"""Names that tracers make up."""
_ROOT = re.compile(r"^(L\['self'\]|L__self__|self)?\.?(captured_)?\.?")

_aten = torch.ops.aten
_ALWAYS_TRUE = frozenset({_aten._assert_tensor_metadata.default})  # noqa: SLF001 - the operator's name
"""Assertions on what the specs of the inputs imply."""
_SAME = {
    _aten.detach_.default: _aten.detach.default,  # graphs run without grad
    _aten.lift_fresh.default: _aten.lift_fresh_copy.default,  # a constant stays as it is
}


class About(NamedTuple):
    """What belongs to a graph beside its nodes."""

    inputs: Any
    """The tree of the arguments (args, kwargs), as data whose leaves are {"in": i}."""
    symbols: list[list[Any]]
    """Sizes that may vary: [name, least, most or None]."""
    default_dtype: str


class Source(NamedTuple):
    """A graph to write."""

    graph: fx.Graph
    module: torch.nn.Module
    """Where `get_attr` looks."""
    about: About
    bound: Mapping[str, Constant] = MappingProxyType({})
    """Placeholders that are constants, by name."""
    known: Mapping[str, Constant] = MappingProxyType({})
    """Attributes of the module that are constants, by path."""
    outputs: Any = None
    """The tree of the results, whose leaves {"in": i} are the graph's results."""


def known_of(module: fx.GraphModule) -> Mapping[str, Constant]:
    """The constants of a module that a reader made."""
    known: Mapping[str, Constant] = module.meta.get(CONSTANTS, {})
    return known


class Written(NamedTuple):
    """What the writer makes of a graph."""

    document: dict[str, Any]
    constants: list[Constant]
    scopes: list[str]
    """The path of the module that each node of the first graph was called in, or ""."""


def write(source: Source) -> Written:
    """The document of a graph.

    Raises:
        UnsupportedError: it holds what has no canonical form, or lacks inferred shapes.
    """
    writer = _Writer()
    writer.graphs.append({})
    scopes: list[str] = []
    writer.graphs[0] = writer.part(source, scopes)
    document = {
        "constants": [constant.data() for constant in writer.constants.values()],
        "default_dtype": source.about.default_dtype,
        "graphs": writer.graphs,
        "in": source.about.inputs,
        "ops": writer.ops,
        "symbols": source.about.symbols,
    }
    return Written(document, list(writer.constants.values()), scopes)


class _Call(NamedTuple):
    node: fx.Node
    operation: ir_ops.Operation
    given: dict[str, Any]
    pure: bool


class _Writer:
    def __init__(self) -> None:
        self.graphs: list[dict[str, Any]] = []
        self.constants: dict[object, Constant] = {}
        self.ops: dict[str, str] = {}
        self._sizes = Sizes()

    def part(self, source: Source, scopes: list[str]) -> dict[str, Any]:
        """One graph: its inputs, nodes and results."""
        graph, refs = source.graph, _Refs(self, source)
        inputs: list[Any] = []
        for node in graph.find_nodes(op="placeholder"):
            if node.name not in source.bound:
                refs.known[node] = Ref("in", len(inputs))
                inputs.append(self._sizes.spec(node))
        nodes = []
        for call in _ordered(graph):
            nodes.append(self._node(call, refs))
            refs.known[call.node] = Ref("%", len(nodes) - 1)
            scopes.append(scope_of(call.node))
        results = graph.output_node().args[0]
        if source.outputs is not None:
            leaves: Sequence[Any] = results  # type: ignore[assignment]
            results = from_data(source.outputs, lambda _, index: leaves[index])
        return {"inputs": inputs, "nodes": nodes, "out": to_data(results, refs)}

    def _node(self, call: _Call, refs: _Refs) -> dict[str, Any]:
        operation, spec = call.operation, self._sizes.spec(call.node)
        name = ir_ops.name_of(operation)
        ir_ops.check_call(operation, call.given)
        self.ops[name] = ir_ops.schema_of(operation)
        given = _with_dtype(operation, call.given, spec)
        plain = {key: to_data(value, refs, keep_tuples=False) for key, value in given.items()}
        default = ir_ops.defaults(operation)
        args = [
            [key, value]
            for key, value in plain.items()
            if key not in default or repr(value) != repr(_plain(default[key]))
        ]
        return {"op": name, "args": args, "spec": spec}


class _Refs:
    """What stands for the nodes of one graph."""

    def __init__(self, writer: _Writer, source: Source) -> None:
        self.known: dict[fx.Node, Ref] = {}
        self._writer = writer
        self._source = source

    def __call__(self, value: object) -> Ref | None:
        if not isinstance(value, fx.Node):
            return None
        if value not in self.known:
            self.known[value] = self._of_attribute(value)
        return self.known[value]

    def _of_attribute(self, node: fx.Node) -> Ref:
        if node.name in self._source.bound:
            return self._constant(self._source.bound[node.name])
        if node.op != "get_attr":
            raise UnsupportedError(f"a graph cannot hold the node {node.format_node()}")
        path = str(node.target)
        if path in self._source.known:
            return self._constant(self._source.known[path])
        value: Any = self._source.module
        for part in path.split("."):
            value = getattr(value, part)
        if isinstance(value, Tensor):
            return self._constant(Constant.of(value, None if _MADE.fullmatch(path) else path))
        if isinstance(value, fx.GraphModule):
            return self._graph(value)
        raise UnsupportedError(f"a graph cannot hold {path!r}, a {type(value).__name__}")

    def _constant(self, constant: Constant) -> Ref:
        constants = self._writer.constants
        constants.setdefault(constant.key, constant)
        return Ref("const", list(constants).index(constant.key))

    def _graph(self, module: fx.GraphModule) -> Ref:
        writer = self._writer
        index = len(writer.graphs)
        writer.graphs.append({})
        source = Source(module.graph, module, self._source.about, known=known_of(module))
        writer.graphs[index] = writer.part(source, [])
        return Ref("graph", index)


def _ordered(graph: fx.Graph) -> list[_Call]:
    """The calls that results or effects need, in canonical order."""
    calls: dict[fx.Node, _Call] = {}
    for node in graph.nodes:
        if node.op in {"placeholder", "get_attr", "output"} or node.target in _ALWAYS_TRUE:
            continue
        if node.op != "call_function":
            raise UnsupportedError(
                f"a graph cannot hold {node.format_node()}: expected calls of torch.ops. "
                "Capture the function with mmsb_torch's capture, which traces down to those."
            )
        operation: Any = node.target
        operation = _SAME.get(operation, operation)
        given = ir_ops.by_name(operation, node.args, node.kwargs)
        calls[node] = _Call(node, operation, given, ir_ops.is_pure(operation, given))
    effects = [call.node for call in calls.values() if not call.pure]
    needed = _depth_first([*effects, graph.output_node()], calls)
    if effects:
        wanted = set(needed)
        return [call for call in calls.values() if call.node in wanted]
    return [calls[node] for node in needed]


def _depth_first(roots: Sequence[fx.Node], calls: Mapping[fx.Node, _Call]) -> list[fx.Node]:
    """The calls that `roots` depend on, each after its arguments; without recursion."""
    done: dict[fx.Node, None] = {}
    for root in roots:
        stack = [(root, _needs(root, calls))]
        while stack:
            node, rest = stack[-1]
            following = next((item for item in rest if item in calls and item not in done), None)
            if following is not None:
                stack.append((following, _needs(following, calls)))
                continue
            stack.pop()
            if node in calls:
                done[node] = None
    return list(done)


def _needs(node: fx.Node, calls: Mapping[fx.Node, _Call]) -> Iterator[fx.Node]:
    found: list[fx.Node] = []
    given: Any = list(calls[node].given.values()) if node in calls else node.args
    fx.node.map_arg(given, found.append)
    return iter(found)


def _with_dtype(operation: ir_ops.Operation, given: dict[str, Any], spec: Any) -> dict[str, Any]:
    """Arguments with the dtype of what is made from nothing, which else is torch's setting."""
    if not ir_ops.is_factory(operation) or not isinstance(spec, dict):
        return given
    dtype, _, _, device = spec["tensor"]
    filled = {"dtype": getattr(torch, dtype), "device": torch.device(device)}
    known = {key: value for key, value in given.items() if value is not None}
    return ir_ops.by_name(operation, (), {**filled, **known})


def _plain(value: object) -> Any:
    return to_data(value, lambda _: None, keep_tuples=False)


def scope_of(node: fx.Node) -> str:
    """The path of the module that called a node; "" at the top or where that is not known."""
    if SCOPE in node.meta:
        return str(node.meta[SCOPE])
    stack = node.meta.get("nn_module_stack") or {}
    path = str(next(reversed(stack.values()))[0]) if stack else ""
    return _ROOT.sub("", path)


class Sizes:
    """Specs of results as data; sizes that vary get canonical names: s0, s1, .. and u0, u1, ..."""

    def __init__(self) -> None:
        self._names: dict[Any, Any] = {}

    def spec(self, node: fx.Node) -> Any:
        """What is inferred of a node's result.

        Raises:
            UnsupportedError: nothing is, or it is no strided tensor.
        """
        if SPEC in node.meta:
            return node.meta[SPEC]
        if "val" not in node.meta and node.op == "placeholder":
            raise UnsupportedError(
                f"the graph does not say what shape {node.name!r} has: expected node.meta['val']. "
                "Make it with torch.export or make_fx, or run ShapeProp over it."
            )
        return self.of(node.meta.get("val"), MAX_DEPTH)

    def of(self, value: Any, depth: int = MAX_DEPTH) -> Any:
        """The spec of a value: a tensor, a number, None, or several."""
        if value is None:
            return None
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, list | tuple) and depth:
            return [self.of(item, depth - 1) for item in value]
        for name, kinds in _NUMBERS.items():
            if type(value) in kinds:
                return name
        raise UnsupportedError(f"a graph cannot hold a result of type {type(value).__name__}")

    def _tensor(self, value: Tensor) -> Any:
        if value.layout != torch.strided:
            raise UnsupportedError(f"a graph cannot hold a tensor of layout {value.layout}")
        shape, stride = (list(map(self.size, sizes)) for sizes in (value.shape, value.stride()))
        dtype = str(value.dtype).removeprefix("torch.")
        return {"tensor": [dtype, shape, stride, str(value.device)]}

    def size(self, size: Any) -> int | str:
        """A size: a number, or an expression of canonical symbols."""
        if isinstance(size, int):
            return size
        expression = size.node.expr
        if expression.is_number:
            return int(expression)
        for symbol in sorted(expression.free_symbols, key=lambda item: (len(str(item)), str(item))):
            self.name(symbol)
        return str(expression.xreplace(self._names))

    def name(self, symbol: Any) -> str:
        """The canonical name of a symbol."""
        if symbol not in self._names:
            letter = "s" if str(symbol).startswith("s") else "u"
            taken = sum(str(name)[0] == letter for name in self._names.values())
            new: Callable[..., Any] = type(symbol)
            self._names[symbol] = new(f"{letter}{taken}", integer=True, positive=symbol.is_positive)
        return str(self._names[symbol])


_NUMBERS: Mapping[str, tuple[type, ...]] = {
    "bool": (bool, torch.SymBool),
    "int": (int, torch.SymInt),
    "float": (float, torch.SymFloat),
    "complex": (complex,),
    "dtype": (torch.dtype,),
}
