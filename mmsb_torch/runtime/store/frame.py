"""The bytes around a log's records: headers of files and of records, and the chain through them.

Little-endian; both headers have 64 bytes, records begin at multiples of 64. A length is never
trusted before the checksum of the header that holds it. `chain_n = xxh3_64(header_n)`, and header n
holds `chain_(n-1)` and the digest of its body: a splice, a reorder or stale bytes break it, and one
number names a history. That is integrity, not authenticity.
"""

from __future__ import annotations

import enum
import struct
import zlib
from typing import NamedTuple

import xxhash

ALIGNMENT = 64
HEADER_BYTES = 64
VERSION = 1

_FILE = struct.Struct("<8sHHI16sQQQ4xI")
_FILE_MAGIC = b"MMSBTLOG"
_RECORD = struct.Struct("<4sIQQBBHIQ16s8x")
_RECORD_MAGIC = b"MREC"
_CRC_FROM = 8  # the checksum covers a record's header from here on


class Kind(enum.IntEnum):
    """What a record says. The numbers are part of the format and never change."""

    COMMIT = 1
    CHECKPOINT = 2
    ROLLBACK = 3
    DROP = 4
    SEAL = 5
    EVENT = 6


SEGMENT = 1
"""Flag: the body names a segment file that holds the payload."""
KNOWN_FLAGS = SEGMENT


class FileHeader(NamedTuple):
    """The first 64 bytes of a log file."""

    version: int
    features: int
    """Required features, a bit each: a reader refuses what it does not know."""
    uuid: str
    """The store's, 32 hex digits."""
    first: int
    """Number of the first transaction in the file."""
    chain: int
    """The chain at the end of the file before."""
    created_ns: int

    def pack(self) -> bytes:
        """The header's bytes."""
        fields = (
            _FILE_MAGIC, self.version, self.features, 0, bytes.fromhex(self.uuid),
            self.first, self.chain, self.created_ns,
        )  # fmt: skip
        raw = _FILE.pack(*fields, 0)
        return raw[:-4] + zlib.crc32(raw[:-4]).to_bytes(4, "little")

    @classmethod
    def unpack(cls, raw: bytes) -> FileHeader | None:
        """The header in these bytes; None if they are no header."""
        if len(raw) < HEADER_BYTES or raw[:8] != _FILE_MAGIC:
            return None
        *_, version, features, _, uuid, first, chain, created, crc = _FILE.unpack(raw[:64])
        if crc != zlib.crc32(raw[:60]):
            return None
        return cls(version, features, uuid.hex(), first, chain, created)


class RecordHeader(NamedTuple):
    """The 64 bytes before a record's body."""

    length: int
    """Of the body, without padding."""
    tx: int
    kind: int
    flags: int
    items: int
    """Deltas in a COMMIT, pages in a CHECKPOINT."""
    before: int
    """The chain up to here."""
    digest: bytes
    """xxh3-128 of the body."""

    def pack(self) -> bytes:
        """The header's bytes."""
        rest = _RECORD.pack(
            _RECORD_MAGIC, 0, self.length, self.tx, self.kind, self.flags, 0, self.items,
            self.before, self.digest,
        )[_CRC_FROM:]  # fmt: skip
        return _RECORD_MAGIC + zlib.crc32(rest).to_bytes(4, "little") + rest

    @classmethod
    def unpack(cls, raw: bytes) -> RecordHeader | None:
        """The header in these bytes; None if they are no header."""
        if len(raw) < HEADER_BYTES or raw[:4] != _RECORD_MAGIC:
            return None
        _, crc, length, tx, kind, flags, _, items, before, digest = _RECORD.unpack(raw[:64])
        if crc != zlib.crc32(raw[_CRC_FROM:64]):
            return None
        return cls(length, tx, kind, flags, items, before, digest)

    @property
    def span(self) -> int:
        """Bytes of the whole record, padding included."""
        return HEADER_BYTES + self.length + padding(self.length)


def padding(length: int) -> int:
    """Zero bytes after a body of that length."""
    return -length % ALIGNMENT


def chain_of(header: bytes) -> int:
    """The chain after a record with this packed header."""
    return int(xxhash.xxh3_64_intdigest(header))


def digest_of(parts: list[bytes | memoryview]) -> bytes:
    """xxh3-128 of a body that is given in parts."""
    state = xxhash.xxh3_128()
    for part in parts:
        state.update(part)
    return state.digest()
