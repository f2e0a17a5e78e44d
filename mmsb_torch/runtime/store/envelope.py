"""The envelope around what travels as bytes: what it is, how it is stored, and a checksum.

64 bytes, little-endian, then the stored body and nothing else:

    0   8s   magic "MMSBBLOB"
    8   u16  version, 1
    10  u8   kind, see `Kind`
    11  u8   codec of the body: 0 plain, 1 zstd
    12  u8   width by which the body's bytes were sorted before (see `codecs`); 1: they were not
    13  3x   zero
    16  u64  bytes stored
    24  u64  bytes of the body
    32  16x  zero
    48  16s  xxh3-128 of bytes 0 to 47 and the stored body

A plain body starts 64-byte aligned. The checksum is looked at before anything it covers is believed;
it proves integrity, not authenticity.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from typing import TypeAlias

from mmsb_torch.errors import CorruptStoreError, SerializationError, UnsupportedError
from mmsb_torch.runtime.store.codecs import Codec, Part, pack, unpack
from mmsb_torch.runtime.store.frame import digest_of

Raw: TypeAlias = bytes | bytearray | memoryview

HEADER_BYTES = 64
VERSION = 1
MAX_NBYTES = 4 << 30
"""How large what is compressed may say to be, unless the reader allows more: 4 GiB."""

_HEADER = struct.Struct("<8sHBBB3sQQ16s")
_MAGIC = b"MMSBBLOB"
_WHERE = "these bytes"


class Kind(enum.IntEnum):
    """What is inside. The numbers are part of the format and never change."""

    PAGE = 1
    DELTA = 2
    TRANSACTION = 3
    EVENT = 4
    TENSOR = 5


def wrap(kind: Kind, parts: Sequence[Part], codec: str) -> bytes:
    """Put a body, which is given in parts, into an envelope.

    Args:
        kind: what it is.
        parts: the body; must not be changed meanwhile, or the checksum will not match.
        codec: "auto", "none" or "zstd", see `codecs.choose`.

    Raises:
        SerializationError: no such codec.
        UnsupportedError: "zstd", and zstandard is not installed.
    """
    nbytes = sum(map(len, parts))
    (number, width), stored = pack(parts, codec)
    size = sum(map(len, stored))
    head = _HEADER.pack(_MAGIC, VERSION, kind, number, width, b"", size, nbytes, b"")
    return b"".join([head, digest_of([head, *stored]), *stored])


def unwrap(raw: Raw, expected: Kind | None, max_nbytes: int) -> tuple[Kind, memoryview]:
    """The kind and the body of an envelope; a plain body is a view of `raw`, not a copy.

    Args:
        raw: the bytes, all of them.
        expected: refuse another kind.
        max_nbytes: how large a compressed body may be.

    Raises:
        SerializationError: no envelope at all, another kind, or too large.
        CorruptStoreError: cut, longer than it says, or not what was written.
        UnsupportedError: of a newer version, or compressed with what is not installed.
    """
    view = _view(raw)
    if len(view) < HEADER_BYTES:
        raise CorruptStoreError(
            f"{_WHERE} are cut: expected at least {HEADER_BYTES}, found {len(view)}. "
            "Read the whole file or message again."
        )
    head, digest, stored = view[:48], view[48:HEADER_BYTES], view[HEADER_BYTES:]
    _, version, number, codec, width, zeros, size, nbytes, more_zeros = _HEADER.unpack(head)
    if version > VERSION:
        raise UnsupportedError(
            f"{_WHERE} have format version {version}, this mmsb_torch knows {VERSION}. "
            "Read them with a newer mmsb_torch."
        )
    if size != len(stored):
        raise CorruptStoreError(
            f"{_WHERE} are cut or run on: expected {size} after the first {HEADER_BYTES}, found "
            f"{len(stored)}. Read the whole file or message again."
        )
    if digest_of([head, stored]) != digest:
        raise CorruptStoreError(
            f"{_WHERE} are damaged: expected xxh3-128 {digest.hex()}, found "
            f"{digest_of([head, stored]).hex()}. Take another copy."
        )
    if version != VERSION or any(zeros) or any(more_zeros) or number not in list(Kind):
        raise UnsupportedError(
            f"{_WHERE} have version {version}, kind {number} and features that this mmsb_torch "
            "does not know. Read them with the version that wrote them."
        )
    kind = Kind(number)
    check_kind(kind, expected)
    if (codec, width) != (0, 1):
        check_size(nbytes, max_nbytes, f"{name_of(kind)}, compressed,")
    return kind, unpack(stored, Codec(codec, width), nbytes, _WHERE)


def check_kind(kind: Kind, expected: Kind | None) -> None:
    """Raise SerializationError if something else was expected."""
    if expected not in {None, kind}:
        assert expected is not None
        raise SerializationError(
            f"{_WHERE} hold {name_of(kind)}: expected {name_of(expected)}. "
            "deserialize_from_bytes reads whatever it is."
        )


def check_size(nbytes: int, max_nbytes: int, what: str) -> None:
    """Raise SerializationError if something that takes few bytes now would take too many."""
    if nbytes > max_nbytes:
        raise SerializationError(
            f"{_WHERE} hold {what} that says to take {nbytes} bytes in memory: expected at most "
            f"{max_nbytes}. If you trust where they came from, pass max_nbytes={nbytes}."
        )


def name_of(kind: Kind) -> str:
    """The kind in a message, with its article."""
    return f"{'an' if kind is Kind.EVENT else 'a'} {kind.name.lower()}"


def _view(raw: Raw) -> memoryview:
    """The bytes, flat; refused early if they do not begin like an envelope."""
    try:
        view = memoryview(raw).cast("B")
    except TypeError as error:
        raise SerializationError(
            f"expected bytes that mmsb_torch wrote, found a {type(raw).__name__}: {error}."
        ) from error
    start = bytes(view[: len(_MAGIC)])
    if not _MAGIC.startswith(start) or not start:
        raise SerializationError(
            f"{_WHERE} were not written by mmsb_torch's serialize functions: expected them to "
            f"begin with {_MAGIC!r}, found {start!r}."
        )
    return view
