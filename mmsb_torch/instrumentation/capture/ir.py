"""A graph of tensor operations as a value: canonical bytes, a digest, and something to run.

Equal graphs have equal bytes: names of nodes, the order in which independent nodes came, the order
of dicts, the process and its hash seed make no difference. Names of operators come with their
schemas, constants with the digest of their bits. There is no pickle, and nothing but operators of
torch can be named (`ir_ops`). docs/capture.md has the form.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import xxhash
from torch import Tensor, fx
from torch.utils._pytree import tree_map_only

from mmsb_torch.errors import CorruptStoreError, MMSBError, ReplayError, SerializationError

from . import ir_bytes, ir_ops
from .ir_bytes import Constant
from .ir_checks import Checks
from .ir_reader import read
from .ir_trees import flat_tree, flatten
from .ir_values import DTYPES, text
from .ir_writer import ABOUT, SCOPE, About, Source, known_of, write


class Value(NamedTuple):
    """What is inferred of a tensor. Sizes that vary are expressions, such as "s0" or "2*s0"."""

    dtype: torch.dtype
    shape: tuple[int | str, ...]
    stride: tuple[int | str, ...]
    device: torch.device

    def __repr__(self) -> str:
        sizes = ", ".join(map(str, self.shape))
        return f"{str(self.dtype).removeprefix('torch.')}[{sizes}]"


class NodeInfo(NamedTuple):
    """One node of a graph: `%3 = aten.add.Tensor(%0, in0)`."""

    name: str
    op: str
    args: Mapping[str, str]
    """As text; those that have their default are left out."""
    values: tuple[Value | str | None, ...]
    """What it gives: tensors, or "int", "float", "bool" for numbers; most operators give one."""
    scope: str
    """The path of the module that called it; "" if that is not known (it is not in the bytes)."""

    @property
    def value(self) -> Value | None:
        """The tensor, if it gives one."""
        first = self.values[0] if len(self.values) == 1 else None
        return first if isinstance(first, Value) else None

    @property
    def shape(self) -> tuple[int | str, ...] | None:
        """The shape, if it gives one tensor."""
        return self.value.shape if self.value is not None else None

    @property
    def dtype(self) -> torch.dtype | None:
        """The dtype, if it gives one tensor."""
        return self.value.dtype if self.value is not None else None

    @property
    def stride(self) -> tuple[int | str, ...] | None:
        """The strides in elements, if it gives one tensor."""
        return self.value.stride if self.value is not None else None


class IR:
    """A graph. Immutable and, like the module it runs, thread-safe; equal graphs are equal.

    Calling it runs torch's operators without grad and autocast: arguments as the captured
    function's, tensors of the dtype, shape, strides and device that it was captured with.

    Attributes:
        digest: 32 hexadecimal digits; equal graphs with equal constants, and only those, are equal.
        module: the executable `torch.fx.GraphModule`: tensors in, results as the function's. It
            checks nothing.
        inputs: what is inferred of the tensors it takes, in order.
        nodes: the calls, in the order they run.
        constants: parameters, buffers and tensors of the code's; not to be written.
        writes: whether some node writes in place (into memory of the graph's own).
        missing: paths of constants that were left outside and not given when it was read.
    """

    def __init__(
        self, document: Any, constants: Sequence[Constant], module: fx.GraphModule, **more: Any
    ) -> None:
        self._raw = ir_bytes.dumps(document)
        self._document = document
        self.digest: str = xxhash.xxh3_128_hexdigest(self._raw)
        self.module = module
        self.constants = tuple(constants)
        scopes: Sequence[str] = more.get("scopes", ())
        main = document["graphs"][0]
        self.inputs: tuple[Value, ...] = tuple(_value(spec) for spec in main["inputs"])
        self.nodes: tuple[NodeInfo, ...] = tuple(
            _info(index, data, scopes[index] if scopes else "")
            for index, data in enumerate(main["nodes"])
        )
        self.missing = tuple(str(c.path) for c in constants if c.tensor.is_meta)
        self._checks = Checks(document)
        self._call = module.forward
        self._memories = {_memory(c.tensor) for c in constants if not c.tensor.is_meta}
        self.writes = any(ir_ops.writes(n.target) for part in _parts(module) for n in _calls(part))

    @classmethod
    def of(cls, graph: fx.GraphModule | Source) -> IR:
        """The graph of a GraphModule whose nodes are calls of `torch.ops` with inferred shapes.

        That is what `torch.export` (`.module()` without guards), `make_fx` and IR itself make. The
        constants are copied.

        Raises:
            UnsupportedError: it holds what has no canonical form.
        """
        written = write(graph if isinstance(graph, Source) else source_of(graph))
        constants = [constant.owned() for constant in written.constants]
        namespaces = {name.partition(".")[0] for name in written.document["ops"]}
        module = read(written.document, constants, frozenset(namespaces))
        for node, scope in zip(_calls(module), written.scopes, strict=True):
            node.meta[SCOPE] = scope
        return cls(written.document, constants, module, scopes=written.scopes)

    @classmethod
    def from_bytes(
        cls,
        raw: bytes | bytearray | memoryview,
        constants: Mapping[str, Tensor] | None = None,
        *,
        namespaces: Iterable[str] = (),
    ) -> IR:
        """Read what `to_bytes` wrote.

        Reading runs nothing of what it reads, and takes as much memory as there are bytes. Running a
        graph runs torch's operators on what it says: that is no sandbox.

        Args:
            raw: all of the bytes.
            constants: tensors by path, for what was left outside; their bits are checked, and they
                are not copied.
            namespaces: namespaces of `torch.ops` that it may name besides torch's.

        Raises:
            SerializationError: no graph's bytes, or a constant is not the one that was there.
            CorruptStoreError: damaged, or not in canonical form.
            UnsupportedError: of a newer version, or with operators that are not here.
        """
        body, rest, inside = ir_bytes.unpack(raw)
        try:
            return cls._read(body, rest, constants or {}, frozenset(namespaces), inside)
        except (MMSBError, MemoryError):
            raise
        except Exception as error:
            raise CorruptStoreError(
                f"these bytes hold a graph that nothing writes: {type(error).__name__}: {error}"
            ) from error

    @classmethod
    def _read(
        cls,
        body: bytes,
        rest: memoryview,
        constants: Mapping[str, Tensor],
        namespaces: frozenset[str],
        inside: bool,
    ) -> IR:
        document = ir_bytes.loads(body)
        found = _constants(document, rest, constants, inside=inside)
        module = read(document, found, ir_ops.NAMESPACES | namespaces)
        again = write(source_of(module))
        if ir_bytes.dumps(again.document) != body:
            raise CorruptStoreError("these bytes hold a graph that is not in canonical form.")
        return cls(document, found, module)

    def to_bytes(self, *, weights: bool = True) -> bytes:
        """The canonical bytes.

        Args:
            weights: False leaves out constants that have a path (parameters, buffers); the reader
                needs them then, and checks that they are the same.

        Raises:
            SerializationError: constants are missing that should be in it.
        """
        if self.missing and weights:
            raise SerializationError(f"this graph was read without {', '.join(self.missing)}")
        return ir_bytes.pack(self._raw, self.constants, inside=weights)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it.

        Raises:
            ReplayError: the arguments, a value that it was captured for, or a setting differ; the
                function itself still takes them.
        """
        if self._checks.flat and not kwargs and all(map(_is_tensor, args)):
            return self.run(args)
        leaves, tree = flatten((args, kwargs))
        return self.run(leaves, tree)

    def run(self, leaves: Sequence[Any], tree: Any = None) -> Any:
        """As a call, with the tensors alone, in order; a tree of arguments is compared."""
        if self.missing:
            raise ReplayError(
                f"this graph was read without its constants {', '.join(self.missing)}: pass them, "
                "IR.from_bytes(raw, constants={path: tensor})"
            )
        self._checks.arguments(leaves, tree)
        with torch.no_grad(), _no_autocast():
            result = self._watched(leaves) if self.writes else self._call(*leaves)
            return tree_map_only(Tensor, self._own, result) if self._memories else result

    def _own(self, result: Tensor) -> Tensor:
        """A result that is not memory of a constant's, which its receiver might write into."""
        return result.clone() if _memory(result) in self._memories else result

    def _watched(self, leaves: Sequence[Tensor]) -> Any:
        """Run a graph that writes in place, into memory of its own as it should be."""
        given = [*leaves, *(constant.tensor for constant in self.constants)]
        before = [value._version for value in given]  # noqa: SLF001 - the public counter
        result = self._call(*leaves)
        if [value._version for value in given] != before:  # noqa: SLF001
            raise ReplayError(
                "this graph wrote into its inputs or constants, which capture refuses: do not use "
                "it, nor what it was given."
            )
        return result

    def text(self) -> str:
        """The graph for people, one node a line."""
        lines = [f"in{index}: {value}" for index, value in enumerate(self.inputs)]
        for index, (_, dtype, shape, _, _, path) in enumerate(self._document["constants"]):
            sizes = ", ".join(map(str, shape))
            lines.append(f"const{index}: {dtype}[{sizes}] {path or ''}".rstrip())
        for node in self.nodes:
            args = ", ".join(f"{name}={value}" for name, value in node.args.items())
            gives = ", ".join(map(str, node.values))
            lines.append(f"{node.name} = {node.op}({args}): {gives}")
        lines.append(f"return {text(self._document['graphs'][0]['out'])}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return (
            f"<IR {self.digest[:8]}: {len(self.inputs)} inputs, {len(self.nodes)} nodes, "
            f"{len(self.constants)} constants>"
        )

    def __str__(self) -> str:
        return self.text()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IR) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)


def _memory(value: Tensor) -> int:
    return int(value.untyped_storage()._cdata)  # noqa: SLF001 - its identity while it lives


def source_of(module: fx.GraphModule) -> Source:
    """A GraphModule as something to write."""
    about = module.meta.get(ABOUT)
    if about is None:
        count = len(module.graph.find_nodes(op="placeholder"))
        default = str(torch.get_default_dtype()).removeprefix("torch.")
        about = About(flat_tree(count), [], default)
    return Source(module.graph, module, about, known=known_of(module))


def _is_tensor(item: object) -> bool:
    return isinstance(item, Tensor)


def _parts(module: fx.GraphModule) -> list[fx.GraphModule]:
    return [part for part in module.modules() if isinstance(part, fx.GraphModule)]


def _calls(module: fx.GraphModule) -> list[fx.Node]:
    return [node for node in module.graph.nodes if node.op == "call_function"]


def _constants(
    document: Any, rest: memoryview, given: Mapping[str, Tensor], *, inside: bool
) -> list[Constant]:
    listed = document.get("constants") if isinstance(document, dict) else None
    if type(listed) is not list:
        raise CorruptStoreError("this document of a graph has no constants")
    found = []
    for data in listed:
        elsewhere = not inside and type(data) is list and data[-1:] != [None]
        constant, size = ir_bytes.constant_of(data, None if elsewhere else rest)
        rest = rest[size:]
        path = constant.path
        if elsewhere and path is not None and path in given:
            other = Constant.of(given[path], path)
            if other.data() != data:
                raise SerializationError(
                    f"the constant {constant.path!r} is not the one that this graph was captured "
                    f"with: expected {data[1:4]} of digest {constant.digest}, found "
                    f"{other.data()[1:4]} of digest {other.digest}. Capture the function again."
                )
            constant = other
        found.append(constant)
    if len(rest):
        raise CorruptStoreError("these bytes of a graph run on after its constants.")
    return found


def _value(spec: Any) -> Value:
    dtype, shape, stride, device = spec["tensor"]
    return Value(DTYPES[dtype], tuple(shape), tuple(stride), torch.device(device))


def _info(index: int, data: Any, scope: str) -> NodeInfo:
    spec = data["spec"]
    specs = spec if isinstance(spec, list) else [spec]
    values = tuple(_value(item) if isinstance(item, dict) else item for item in specs)
    args = {name: text(value) for name, value in data["args"]}
    return NodeInfo(f"%{index}", data["op"], args, values, scope)


def _no_autocast() -> AbstractContextManager[Any]:
    if not torch.is_autocast_enabled("cpu") and not torch.is_autocast_enabled("cuda"):
        return nullcontext()
    from mmsb_torch.instrumentation.context import without_autocast  # noqa: PLC0415

    return without_autocast()
