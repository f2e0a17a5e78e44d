"""Typed records of what happened, each with a binary form.

Binary form, little-endian: type u8, timestamp u64 (Unix nanoseconds), length u32, payload of that
many bytes (UTF-8 JSON of the fields, keys sorted).
"""

from __future__ import annotations

import enum
import json
import math
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

from mmsb_torch.errors import SerializationError

_HEAD = struct.Struct("<BQI")


class EventType(enum.IntEnum):
    """What an event tells. The numbers are part of the binary form and never change."""

    PAGE_CREATED = 1
    DELTA_COMMITTED = 2
    STALE = 3
    RECOMPUTED = 4
    CUT_OFF = 5
    CHECKPOINTED = 6
    WORLD_CHANGED = 7
    ERROR = 8
    DERIVED = 9
    COLLECTED = 10
    EVICTED = 11


class Event(NamedTuple):
    """One thing that happened in a memory."""

    type: EventType
    time_ns: int
    fields: Mapping[str, Any]
    """Plain data: page, epoch, tx, region and the like, by type."""

    def to_bytes(self) -> bytes:
        """The binary form.

        Raises:
            SerializationError: a time before 1970, or 4 GiB of fields or more.
        """
        payload = json.dumps(dict(self.fields), sort_keys=True, allow_nan=False).encode()
        try:
            return _HEAD.pack(self.type, self.time_ns, len(payload)) + payload
        except struct.error as error:
            raise SerializationError(
                f"an event at {self.time_ns} ns of {len(payload)} bytes: {error}"
            ) from error

    @classmethod
    def from_bytes(cls, data: bytes) -> Event:
        """Read back what `to_bytes` wrote.

        Raises:
            SerializationError: too short, too long, unknown type, or a payload that is no JSON.
        """
        if len(data) < _HEAD.size:
            raise SerializationError(
                f"an event has at least {_HEAD.size} bytes, found {len(data)}: the record is cut"
            )
        kind, time_ns, length = _HEAD.unpack_from(data)
        payload = data[_HEAD.size :]
        if len(payload) != length:
            raise SerializationError(
                f"the event's payload should have {length} bytes, found {len(payload)}"
            )
        try:
            fields = json.loads(
                payload, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_once
            )
            if not isinstance(fields, dict):
                raise TypeError(f"its fields are a {type(fields).__name__}")
            return cls(EventType(kind), time_ns, fields)
        except (ValueError, TypeError, RecursionError) as error:
            raise SerializationError(f"not an event: {error}") from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:24]} is too large")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found
