"""Values in a graph as plain JSON data, and back: every type has its tag, nothing is guessed.

    None, True, 7        themselves
    0.5                  {"float": "0x1.0000000000000p-1"}; "nan", "inf", "-inf"
    1j                   {"complex": [two floats]}
    "mean"               {"str": "mean"}
    torch.float32        {"dtype": "float32"}; also device, layout, memory_format
    [..]                 [..]
    (..), slice, dict    {"tuple": [..]}, {"slice": [start, stop, step]}, {"dict": [[key, value], ..]}
    what a node gave     {"%": 3}
    an input             {"in": 0}
    a constant           {"const": 0}
    a sub-graph          {"graph": 1}

Equal data means: same type and same value, in any process. Dicts are sorted by key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from mmsb_torch.errors import CorruptStoreError, UnsupportedError


class Ref(NamedTuple):
    """Something that only the graph around a value knows."""

    kind: str
    """"%", "in", "const" or "graph"."""
    number: int

    def __repr__(self) -> str:
        return f"{self.kind}{self.number}"


REFS = ("%", "in", "const", "graph")
MAX_DEPTH = 50

_MAX_INT = 1 << 64


def _named(kind: type) -> dict[str, Any]:
    found = {item for item in vars(torch).values() if isinstance(item, kind)}
    return {str(item).removeprefix("torch."): item for item in found}


DTYPES: Mapping[str, torch.dtype] = _named(torch.dtype)
_LAYOUTS = _named(torch.layout)
_FORMATS = _named(torch.memory_format)


def to_data(value: object, ref: Callable[[object], Ref | None], *, keep_tuples: bool = True) -> Any:
    """A value as JSON data.

    Args:
        value: plain values and containers of them; whatever `ref` knows.
        ref: what stands for a value that is no plain one, or None.
        keep_tuples: False makes lists of tuples: torch's operators do not tell them apart.

    Raises:
        UnsupportedError: it has no such form; the message names its type.
    """
    return _Writing(ref, keep_tuples).data(value, MAX_DEPTH)


class _Writing:
    def __init__(self, ref: Callable[[object], Ref | None], keep_tuples: bool) -> None:
        self._ref = ref
        self._keep_tuples = keep_tuples

    def data(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if value is None or kind is bool:
            return value
        if kind is int and -_MAX_INT < value < _MAX_INT:
            return value
        if (known := self._ref(value)) is not None:
            return {known.kind: known.number}
        if (atom := _atom(value)) is not None:
            return atom
        if depth == 0:
            raise UnsupportedError("a graph cannot hold values nested this deeply")
        if isinstance(value, list) or (isinstance(value, tuple) and not self._keep_tuples):
            return [self.data(item, depth - 1) for item in value]
        if isinstance(value, tuple):
            return {"tuple": [self.data(item, depth - 1) for item in value]}
        if kind is slice:
            parts = (value.start, value.stop, value.step)
            return {"slice": [self.data(item, depth - 1) for item in parts]}
        if isinstance(value, Mapping) and all(type(key) is str for key in value):
            return {"dict": [[key, self.data(value[key], depth - 1)] for key in sorted(value)]}
        raise UnsupportedError(
            f"a graph cannot hold {value!r:.80} of type {kind.__module__}.{kind.__qualname__}: "
            "expected tensors, numbers, strings, dtypes, devices, slices, and tuples, lists and "
            "dicts (keys: str) of those. Pass what is in it instead."
        )


def _atom(value: Any) -> Any:
    kind = type(value)
    if kind is float:
        return {"float": value.hex()}
    if kind is complex:
        return {"complex": [value.real.hex(), value.imag.hex()]}
    if kind is str:
        value.encode()  # a lone surrogate has no UTF-8
        return {"str": value}
    if kind is torch.dtype or kind is torch.layout or kind is torch.memory_format:
        return {kind.__name__: str(value).removeprefix("torch.")}
    if kind is torch.device:
        return {"device": str(value)}
    return None


def from_data(data: Any, ref: Callable[[str, int], Any]) -> Any:
    """The value that `to_data` made `data` of; `ref` gives what references stand for.

    Raises:
        CorruptStoreError: no such data.
    """
    if data is None or type(data) in (bool, int):
        return data
    if type(data) is list:
        return [from_data(item, ref) for item in data]
    if type(data) is not dict or len(data) != 1:
        raise CorruptStoreError(f"this graph has a value that nothing writes: {data!r:.80}")
    [(tag, body)] = data.items()
    if tag in REFS and type(body) is int:
        return ref(tag, body)
    if tag in _CONTAINERS and type(body) is list:
        return _CONTAINERS[tag]([from_data(item, ref) for item in body])
    if tag == "dict" and type(body) is list:
        return {key: from_data(item, ref) for key, item in map(_pair, body)}
    if tag in _ATOMS:
        try:
            return _ATOMS[tag](body)
        except (ValueError, KeyError, TypeError, RuntimeError, OverflowError):
            pass
    raise CorruptStoreError(f"this graph has a {tag!s:.20} that nothing writes: {body!r:.80}")


def _pair(item: Any) -> tuple[str, Any]:
    if type(item) is list and len(item) == 2 and type(item[0]) is str:
        return item[0], item[1]
    raise CorruptStoreError(f"this graph has a dict with {item!r:.80} in it")


def _slice(parts: list[Any]) -> slice:
    if len(parts) != 3:
        raise CorruptStoreError("this graph has a slice that is none")
    return slice(*parts)


def _str(body: Any) -> str:
    if type(body) is not str:
        raise TypeError
    return body


def _complex(body: Any) -> complex:
    real, imaginary = body
    return complex(float.fromhex(real), float.fromhex(imaginary))


_CONTAINERS: Mapping[str, Callable[[list[Any]], Any]] = {"tuple": tuple, "slice": _slice}

_ATOMS: Mapping[str, Callable[[Any], Any]] = {
    "float": lambda body: float.fromhex(_str(body)),
    "complex": _complex,
    "str": _str,
    "dtype": lambda body: DTYPES[body],
    "layout": lambda body: _LAYOUTS[body],
    "memory_format": lambda body: _FORMATS[body],
    "device": lambda body: torch.device(_str(body)),
}


def text(data: Any) -> str:
    """Data for people: `[%3, 0.5, torch.float32]`."""
    value = from_data(data, Ref)
    return repr(value)
