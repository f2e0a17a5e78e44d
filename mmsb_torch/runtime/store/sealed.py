"""Strict JSON, and small JSON files that notice every flipped bit.

A sealed file is one JSON object whose first line is exactly

    {"digest": "xxh3-128:<32 hex digits>",

and the digest is that of every byte after that line. So plain JSON tools read it, and any change,
white space included, is found before the text is parsed. The first line is the same in every
version of the format. The functions are re-entrant.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import xxhash

from mmsb_torch.errors import CorruptStoreError, SerializationError, UnsupportedError
from mmsb_torch.runtime.store.files import FILES, Files
from mmsb_torch.runtime.store.streams import read_file

MAX_JSON_BYTES = 256 << 20

# Python's parser gives up at a depth that depends on its caller's: stay well below on writing.
MAX_DEPTH = 100

_OPENING = b'{"digest": "xxh3-128:'
_HEX_DIGITS = 32
_CLOSING = b'",\n'
_BODY_AT = len(_OPENING) + _HEX_DIGITS + len(_CLOSING)

T = TypeVar("T")


def strict_loads(raw: bytes, where: str) -> Any:
    """Parse JSON as its grammar says: no NaN, no infinity, no key twice, UTF-8.

    Raises:
        CorruptStoreError: it is not that; `where` names it.
    """
    try:
        return json.loads(
            raw.decode(),
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except RecursionError as error:
        raise CorruptStoreError(f"{where} is JSON nested too deeply.") from error
    except ValueError as error:
        raise CorruptStoreError(f"{where} is not the JSON it should be: {error}.") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = counts.most_common(1)[0][0]
        raise ValueError(f"the key {twice!r} is there twice")
    return found


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:24]} is too large")
    return value


def check_json(value: object, where: str) -> None:
    """Check that `value` survives JSON unchanged: keys are str, no tuple, no NaN, no subclass.

    Raises:
        SerializationError: it does not; the message names the place, as `where['key'][3]`.
    """
    if (found := _first_problem(value, MAX_DEPTH)) is not None:
        place, problem = found
        raise SerializationError(
            f"{where}{place} {problem}. JSON gives back None, bool, int, finite float, str, list, "
            "and dict with str keys, as they were, and nothing else."
        )


def _first_problem(value: object, depth: int) -> tuple[str, str] | None:
    """Return (place, problem), or None. The place is put together only where there is one."""
    if value is None or type(value) in (bool, int, str):
        return None
    if type(value) is float and math.isfinite(value):
        return None
    if type(value) is not dict and type(value) is not list:
        return "", f"is {value!r:.80} of type {type(value).__name__}"
    if depth == 0:
        return "", "is nested too deeply"
    for key, item in value.items() if type(value) is dict else enumerate(value):
        if type(value) is dict and type(key) is not str:
            return "", f"has the key {key!r:.80}"
        if (found := _first_problem(item, depth - 1)) is not None:
            return f"[{key!r:.80}]{found[0]}", found[1]
    return None


def seal(fields: Mapping[str, Any]) -> bytes:
    """Return the bytes of a sealed file with `fields`, one line each; "digest" is not theirs.

    The caller has put what it does not know through `check_json`.

    Raises:
        SerializationError: a number that JSON cannot hold, or too large.
    """
    try:
        lines = (
            f"{json.dumps(name)}: {json.dumps(value, allow_nan=False, separators=(',', ':'))}"
            for name, value in fields.items()
        )
        body = (",\n".join(lines) + "\n}\n").encode()
    except (ValueError, RecursionError) as error:
        raise SerializationError(f"this cannot be written as JSON: {error}.") from error
    if len(body) + _BODY_AT > MAX_JSON_BYTES:
        raise SerializationError(
            f"this is {len(body)} bytes of JSON: expected at most {MAX_JSON_BYTES}. "
            "Large values belong into tensors."
        )
    return _OPENING + xxhash.xxh3_128_hexdigest(body).encode() + _CLOSING + body


def unseal(raw: bytes, where: str) -> dict[str, Any]:
    """Return the fields of a sealed file, without "digest".

    Raises:
        CorruptStoreError: it is no sealed file, or any byte of it changed.
    """
    first = raw[:_BODY_AT]
    if not (first.startswith(_OPENING) and first.endswith(_CLOSING)):
        raise CorruptStoreError(
            f"{where} was not written by mmsb_torch, or its first line is gone."
        )
    expected = first[len(_OPENING) : -len(_CLOSING)].decode("ascii", "replace")
    found = xxhash.xxh3_128_hexdigest(raw[_BODY_AT:])
    if expected != found:
        raise CorruptStoreError(f"{where} is damaged: expected xxh3-128 {expected}, found {found}.")
    fields = strict_loads(raw, where)
    del fields["digest"]
    return dict(fields)


def read_sealed(path: Path, files: Files = FILES) -> dict[str, Any]:
    """Return the fields of the sealed file at `path`.

    Raises:
        CorruptStoreError: it is missing, no regular file, foreign, or damaged.
        StoreError: it cannot be read.
    """
    return unseal(read_file(path, MAX_JSON_BYTES, files), repr(str(path)))


class Fields:
    """The fields of one JSON object, read with their types checked; `where` names the file."""

    def __init__(self, fields: Any, where: str) -> None:
        if type(fields) is not dict:
            raise CorruptStoreError(f"{where}: expected an object, found {fields!r:.40}.")
        self._fields: dict[str, Any] = fields
        self._where = where

    def get(self, name: str, kind: type[T]) -> T:
        """Return the field `name`, whose type is exactly `kind` (True is no int)."""
        value = self._fields.get(name)
        if type(value) is not kind:
            raise self.damage(f"{name!r}: expected {kind.__name__}, found {value!r:.40}")
        return value

    def optional(self, name: str, kind: type[T]) -> T | None:
        """As `get`, of a field that may be null."""
        return None if self._fields.get(name) is None else self.get(name, kind)

    def count(self, name: str) -> int:
        """Return the field `name`, an integer from 0 to 2**64 - 1."""
        value = self.get(name, int)
        if not 0 <= value < 1 << 64:
            raise self.damage(f"{name!r}: expected an unsigned 64-bit number, found {value}")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """Return the field `name`, a list of texts."""
        value = self.get(name, list)
        if not all(type(text) is str for text in value):
            raise self.damage(f"{name!r}: expected a list of texts")
        return tuple(value)

    def format(self, name: str, version: int, known: frozenset[str]) -> None:
        """Check "format", "version" and "required" against what this code knows.

        Raises:
            CorruptStoreError: it is another format.
            UnsupportedError: a newer version, or a required feature that is not in `known`.
        """
        if (found := self.get("format", str)) != name:
            raise self.damage(f"expected the format {name!r}, found {found!r:.40}")
        if (newer := self.count("version")) > version:
            raise UnsupportedError(
                f"{self._where} has format version {newer}, this mmsb_torch knows {version}. "
                "Open it with a newer mmsb_torch."
            )
        if newer < 1:
            raise self.damage("expected a version from 1 on")
        if unknown := [feature for feature in self.texts("required") if feature not in known]:
            raise UnsupportedError(
                f"{self._where} requires {', '.join(map(repr, unknown))}, which this mmsb_torch "
                "does not have. Open it with the version that wrote it."
            )

    def damage(self, problem: str) -> CorruptStoreError:
        """Return the error that says `problem` about this object."""
        return CorruptStoreError(f"{self._where}: {problem}.")
