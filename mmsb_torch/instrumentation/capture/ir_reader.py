"""From a document to `torch.fx`. Whatever it says, it can only name what `ir_ops` resolves."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

from mmsb_torch.errors import CorruptStoreError, UnsupportedError

from . import ir_ops
from .ir_bytes import Constant
from .ir_values import DTYPES, MAX_DEPTH, Ref, from_data, to_data
from .ir_writer import ABOUT, CONSTANTS, SPEC, About

_SIZE = re.compile(r"[\w+\-*/(), ]{1,500}", re.ASCII)
_DEVICE = re.compile(r"(cpu|cuda|meta|xpu|mps|hpu|mtia)(:\d{1,3})?", re.ASCII)
_PARTS = ("constants", "default_dtype", "graphs", "in", "ops", "symbols")


def read(
    document: Any, constants: Sequence[Constant], namespaces: frozenset[str]
) -> fx.GraphModule:
    """The executable graph of a document; its results come as the document's tree says.

    The caller checks that the document is canonical, by writing the graph again.

    Raises:
        CorruptStoreError: it is no document of a graph.
        UnsupportedError: it needs operations that are not here, or not in this form.
    """
    _expect(isinstance(document, dict) and set(document) == set(_PARTS), "parts")
    default = document["default_dtype"]
    _expect(type(default) is str and default in DTYPES, "default dtype")
    _check_symbols(document["symbols"])
    graphs = document["graphs"]
    _expect(type(graphs) is list and len(graphs) > 0, "graphs")
    ops = _resolve(document["ops"], namespaces)
    made: dict[int, fx.GraphModule] = {}
    try:
        for index in reversed(range(len(graphs))):
            made[index] = _Part(graphs[index], constants, made, ops).module()
        _check_arguments(document["in"], graphs[0]["inputs"])
    except RecursionError as error:
        raise CorruptStoreError("this graph has values nested too deeply") from error
    made[0].meta[ABOUT] = About(document["in"], document["symbols"], default)
    return made[0]


def _expect(holds: object, what: str) -> None:
    if not holds:
        raise CorruptStoreError(f"this document of a graph has {what} that nothing writes")


def _resolve(ops: Any, namespaces: frozenset[str]) -> Mapping[str, ir_ops.Operation]:
    _expect(type(ops) is dict and all(type(item) is str for item in ops.values()), "operations")
    found = {name: ir_ops.find(name, namespaces) for name in ops}
    for name, operation in found.items():
        if ir_ops.schema_of(operation) != ops[name]:
            raise UnsupportedError(
                f"this graph was made for {ops[name]}, and torch {torch.__version__} has "
                f"{ir_ops.schema_of(operation)}. Capture the function again."
            )
    return found


def _check_arguments(tree: Any, inputs: Any) -> None:
    found: list[Ref] = []

    def note(kind: str, number: int) -> Ref:
        found.append(Ref(kind, number))
        return found[-1]

    args = from_data(tree, note)
    _expect(
        type(inputs) is list and found == [Ref("in", at) for at in range(len(inputs))], "inputs"
    )
    _expect(type(args) is tuple and list(map(type, args)) == [tuple, dict], "arguments")
    again = to_data(args, lambda item: item if isinstance(item, Ref) else None)
    _expect(repr(again) == repr(tree), "arguments")


def _check_symbols(symbols: Any) -> None:
    _expect(type(symbols) is list, "symbols")
    for symbol in symbols:
        _expect(type(symbol) is list and len(symbol) == 3, "symbols")
        name, least, most = symbol
        _expect(type(name) is str and _SIZE.fullmatch(name), "symbols")
        _expect(type(least) is int and (most is None or type(most) is int), "symbols")


class _Part:
    """One graph of a document on its way to a module."""

    def __init__(
        self,
        data: Any,
        constants: Sequence[Constant],
        made: Mapping[int, fx.GraphModule],
        ops: Mapping[str, ir_ops.Operation],
    ) -> None:
        _expect(type(data) is dict and set(data) == {"inputs", "nodes", "out"}, "a graph")
        _expect(type(data["inputs"]) is list and type(data["nodes"]) is list, "a graph")
        self._data, self._constants, self._made, self._ops = data, constants, made, ops
        self._root, self._graph = nn.Module(), fx.Graph()
        self._used: dict[str, Constant] = {}
        self._attributes: dict[str, fx.Node] = {}
        self._inputs: list[fx.Node] = []
        self._nodes: list[fx.Node] = []

    def module(self) -> fx.GraphModule:
        """The module, built as the data says."""
        for index, spec in enumerate(self._data["inputs"]):
            node = self._graph.create_node("placeholder", f"in{index}", name=f"in{index}")
            node.meta[SPEC] = check_spec(spec)
            self._inputs.append(node)
        for item in self._data["nodes"]:
            self._nodes.append(self._call(item))
        self._graph.output(from_data(self._data["out"], self._ref))
        module = fx.GraphModule(self._root, self._graph, "Graph")
        module.meta[CONSTANTS] = self._used
        return module

    def _call(self, item: Any) -> fx.Node:
        _expect(type(item) is dict and set(item) == {"op", "args", "spec"}, "a node")
        name, pairs = item["op"], item["args"]
        _expect(type(name) is str and name in self._ops and type(pairs) is list, "a node")
        given: dict[str, Any] = {}
        for pair in pairs:
            _expect(type(pair) is list and len(pair) == 2 and type(pair[0]) is str, "arguments")
            given[pair[0]] = from_data(pair[1], self._ref)
        operation = self._ops[name]
        args, kwargs = ir_ops.call(operation, given)
        label = f"v{len(self._nodes)}"
        try:
            node = self._graph.create_node("call_function", operation, args, kwargs, label)
        except (TypeError, NotImplementedError, AssertionError, RuntimeError) as error:
            raise CorruptStoreError(
                f"this graph has arguments that no call has: {error}"
            ) from error
        node.meta[SPEC] = check_spec(item["spec"])
        return node

    def _ref(self, kind: str, index: int) -> fx.Node:
        if kind == "const":
            return self._attribute(f"const{index}", self._item(self._constants, index, kind))
        if kind == "graph":
            _expect(index in self._made, "a reference to a graph before it")
            return self._attribute(f"graph{index}", self._made[index])
        found: fx.Node = self._item(self._nodes if kind == "%" else self._inputs, index, kind)
        return found

    def _item(self, items: Sequence[Any], index: int, kind: str) -> Any:
        _expect(0 <= index < len(items), f"a reference to {kind} {index}, which is not there,")
        return items[index]

    def _attribute(self, name: str, value: Constant | fx.GraphModule) -> fx.Node:
        if name not in self._attributes:
            if isinstance(value, Constant):
                self._root.register_buffer(name, value.tensor)
                self._used[name] = value
            else:
                self._root.add_module(name, value)
            self._attributes[name] = self._graph.create_node("get_attr", name, name=name)
        return self._attributes[name]


def check_spec(spec: Any, depth: int = MAX_DEPTH) -> Any:
    """A spec as data, checked.

    Raises:
        CorruptStoreError: it is none.
    """
    if spec is None or (type(spec) is str and spec in _NUMBERS):
        return spec
    if type(spec) is list and depth:
        return [check_spec(item, depth - 1) for item in spec]
    _expect(type(spec) is dict and list(spec) == ["tensor"], "a spec")
    body = spec["tensor"]
    _expect(type(body) is list and len(body) == 4, "a spec")
    dtype, shape, stride, device = body
    _expect(type(dtype) is str and dtype in DTYPES, "a spec")
    _expect(type(device) is str and _DEVICE.fullmatch(device), "a spec")
    for sizes in (shape, stride):
        _expect(type(sizes) is list and len(sizes) == len(shape), "a spec")
        _expect(all(map(_is_size, sizes)), "a spec")
    return spec


_NUMBERS = ("bool", "int", "float", "complex", "dtype")


def _is_size(size: Any) -> bool:
    return type(size) is int or (type(size) is str and _SIZE.fullmatch(size) is not None)
