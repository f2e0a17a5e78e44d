"""Recipes whose code is a page: a derived page over an IR page runs the graph that is in it.

Nothing of the user's code is needed, so such pages are bound again whenever a store is opened; what
the registry keeps of them (their kind and their inputs) says everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import xxhash
from torch import Tensor

from mmsb_torch.errors import CorruptStoreError, InvalidPageError, RecipeError
from mmsb_torch.graph.recipes import Recipe
from mmsb_torch.runtime.state import Entry

if TYPE_CHECKING:
    from mmsb_torch.instrumentation.capture.ir import IR

_MARK = "mmsb.ir"
"""Key of an IR page's metadata, and the beginning of its dependants' kind."""

_STEP = 64 << 10


class IRRecipe(Recipe):
    """The graph in the page `inputs[0]`, called with the values of the other inputs.

    Args:
        inputs: the IR page and a page for each tensor that the graph takes.
        output: which of the results; None if there is one only.
    """

    untracked = ()

    def __init__(self, inputs: Sequence[Entry], output: int | None) -> None:
        self.inputs = tuple(inputs)
        self.kind: str = f"{_MARK}/{'' if output is None else output}"
        self.label = f"graph in {self.inputs[0].info.name!r}"
        ids = ",".join(str(entry.info.id) for entry in self.inputs)
        about = f"{self.kind} 1 {torch.__version__} {ids}"
        self.digest = xxhash.xxh3_128_hexdigest(about.encode())
        self.changed = self._changed
        self._output = output
        self._read: tuple[bytes, IR] | None = None

    def _changed(self) -> None:
        """Nothing can: the graph is an input."""
        return

    def refreshed(self) -> IRRecipe:
        """Itself."""
        return self

    def run(self, values: Sequence[Tensor]) -> object:
        """Run the graph."""
        result = self._graph(values[0]).run(values[1:])
        if self._output is None:
            return result[0] if isinstance(result, tuple) and len(result) == 1 else result
        try:
            return result[self._output]
        except (TypeError, IndexError, KeyError) as error:
            raise RecipeError(f"{self.label} has no result {self._output}: {error}") from error

    def _graph(self, value: Tensor) -> IR:
        from mmsb_torch.instrumentation.capture.ir import IR  # noqa: PLC0415 - loads when it is used

        raw = used_bytes(value)
        digest, read = bytes(raw[48:64]), self._read
        if read is None or read[0] != digest:
            read = self._read = (digest, IR.from_bytes(raw))
        return read[1]


def of_kind(kind: str | None, inputs: Sequence[Entry]) -> IRRecipe | None:
    """The recipe of a page over an IR page, from what the registry keeps; None for other kinds."""
    mark, slash, output = (kind or "").partition("/")
    if mark != _MARK or not slash or not inputs:
        return None
    return IRRecipe(inputs, int(output) if output.isdecimal() else None)


def is_ir(entry: Entry) -> bool:
    """Whether a page was made to hold a graph."""
    return _MARK in entry.info.metadata


def metadata() -> dict[str, Any]:
    """What says of a page that it holds a graph."""
    return {_MARK: 1}


def page_value(graph: IR, size: int | None = None) -> Tensor:
    """The bytes of a graph as a page's value: uint8[size], zeros after the graph.

    Args:
        graph: the graph; constants are inside.
        size: of the page, if it is there already; else there is some room for a larger graph.

    Raises:
        InvalidPageError: it does not fit.
    """
    raw = graph.to_bytes()
    if size is None:
        size = -(-(len(raw) + len(raw) // 8) // _STEP) * _STEP
    if len(raw) > size:
        raise InvalidPageError(
            f"this graph takes {len(raw)} bytes, and the page has {size}: expected one that fits. "
            "Make a page of another name for it."
        )
    value = torch.zeros(size, dtype=torch.uint8)
    value[: len(raw)] = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
    return value


def used_bytes(value: Tensor) -> memoryview:
    """The bytes of the graph in an IR page's value, not copied; their checksum was looked at.

    Raises:
        SerializationError: they are not those of a graph.
    """
    from mmsb_torch.instrumentation.capture import ir_bytes  # noqa: PLC0415 - as above

    raw = value.cpu().numpy().data
    end = ir_bytes.extent(raw)
    if bool(value[end:].any()):
        raise CorruptStoreError("an IR page holds something after its graph: write it again.")
    ir_bytes.unpack(raw[:end])
    return raw[:end]
