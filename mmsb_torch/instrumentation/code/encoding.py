"""Canonical bytes of plain immutable values.

Equal bytes mean: same type and same value, in any process and under any hash seed. Python's own
equality is too coarse for that: `(1,) == (1.0,) == (True,)`, `0.0 == -0.0`, and nan differs from
itself.
"""

from __future__ import annotations

import datetime as dt
import decimal
import pathlib
import struct
from collections.abc import Callable, Iterable
from typing import Any, cast

import numpy as np
import torch
import xxhash

# Deeper nesting than this is left to the walk, which does not recurse.
_DEPTH = 8
# Longer encodings are replaced by their digest.
_INLINE = 64

_PATHS = (
    pathlib.PurePosixPath,
    pathlib.PureWindowsPath,
    pathlib.PosixPath,
    pathlib.WindowsPath,
)


def digest(data: Any) -> bytes:
    """The 16 bytes of xxh3-128 over `data` (bytes, or any contiguous buffer; not copied)."""
    return xxhash.xxh3_128_digest(data)


def frame(tag: str, *parts: bytes) -> bytes:
    """`parts` under `tag`, so that no two different calls give the same bytes."""
    return framed(tag, parts)


def framed(tag: str, parts: Iterable[bytes]) -> bytes:
    """`frame` of an iterable; a long result is replaced by its digest."""
    body = b"".join([b"%d:%b" % (len(part), part) for part in parts])
    return _short(b"%b(%b)" % (tag.encode(), body))


def text(value: str) -> bytes:
    """The bytes of a string, lone surrogates included."""
    return value.encode("utf-8", "surrogatepass")


def atom(value: object, depth: int = _DEPTH) -> bytes | None:
    """Canonical bytes of `value` if it is immutable plain data through and through, else None.

    Containers count only if they are exactly a tuple, frozenset, slice or torch.Size; whatever can
    be written in place, and every instance of a subclass, is left to the walk.

    Args:
        value: anything.
        depth: how deep to follow nested tuples before giving up with None.
    """
    encode = _ENCODERS.get(type(value))
    if encode is not None:
        return encode(value)
    parts = _PARTS.get(type(value))
    if parts is not None and depth > 0:
        return _compound(value, parts(value), depth - 1)
    # Not isinstance: it asks the object itself what its class is.
    if issubclass(type(value), np.generic):
        return _numpy_scalar(cast("np.generic", value))
    if issubclass(type(value), np.dtype):
        return frame("numpy.dtype", text(repr(value)))
    return None


def _compound(value: object, elements: Iterable[object], depth: int) -> bytes | None:
    encoded = []
    for element in elements:
        data = atom(element, depth)
        if data is None:
            return None
        encoded.append(data)
    if isinstance(value, frozenset):
        encoded.sort()
    return framed(type(value).__name__, encoded)


def _numpy_scalar(value: np.generic) -> bytes | None:
    if value.dtype.hasobject:
        return None
    # The padding bytes of a long double are not part of its value.
    data = text(repr(value)) if value.dtype.char in "gG" else value.tobytes()
    return frame("numpy", text(repr(value.dtype)), data)


def _short(data: bytes) -> bytes:
    return data if len(data) <= _INLINE else b"#" + digest(data)


def _integer(value: int) -> bytes:
    return b"int%d" % value if value.bit_length() < 64 else frame("int", text(hex(value)))


def _moment(value: Any) -> bytes | None:
    zone = getattr(value, "tzinfo", None)
    if zone is not None and type(zone) is not dt.timezone:
        return None
    return frame("datetime", text(repr(value)))


def _named(tag: str) -> Callable[[Any], bytes]:
    return lambda value: frame(tag, text(str(value)))


_ENCODERS: dict[type, Callable[[Any], bytes | None]] = {
    type(None): lambda _: b"None",
    type(...): lambda _: b"...",
    type(NotImplemented): lambda _: b"NotImplemented",
    bool: lambda value: b"True" if value else b"False",
    int: _integer,
    float: lambda value: b"float" + struct.pack("<d", value),
    complex: lambda value: b"complex" + struct.pack("<dd", value.real, value.imag),
    str: lambda value: _short(b"'" + text(value)),
    bytes: lambda value: _short(b'"' + value),
    range: lambda value: frame("range", text(repr(value))),
    decimal.Decimal: _named("Decimal"),
    dt.date: _moment,
    dt.time: _moment,
    dt.datetime: _moment,
    dt.timedelta: _moment,
    dt.timezone: lambda value: frame("timezone", text(repr(value))),
    torch.dtype: _named("torch"),
    torch.device: _named("torch.device"),
    torch.layout: _named("torch"),
    torch.memory_format: _named("torch"),
    **{path: _named(path.__name__) for path in _PATHS},
}

_PARTS: dict[type, Callable[[Any], Iterable[object]]] = {
    tuple: lambda value: value,
    frozenset: lambda value: value,
    torch.Size: lambda value: value,
    slice: lambda value: (value.start, value.stop, value.step),
}
