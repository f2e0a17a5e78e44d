"""The header of a safetensors file: built aligned, read strictly.

Layout: 8 bytes of little-endian length, a JSON object, then the data without holes.
`json.loads` is not used for reading: it keeps the last of two equal keys, and a hostile header
could make it allocate many times its own size. The scanner here accepts the one shape a header can
have, so what it allocates is bounded by what it accepts.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import NamedTuple

from mmsb_torch.errors import CorruptStoreError, SerializationError, UnsupportedError
from mmsb_torch.runtime.store.dtypes import READABLE

MAX_TENSORS = 100_000
MAX_HEADER_BYTES = 32 << 20
ALIGNMENT = 64
LENGTH_BYTES = 8
METADATA_KEY = "__metadata__"

_WS = r"[ \t\r\n]*+"
_STRING = r'"((?:[^"\\\x00-\x1f]++|\\["\\/bfnrtu])*+)"'
_NUMBER = r"(?:0|[1-9][0-9]{0,18})"
_KEY = re.compile(f"{_WS}{_STRING}{_WS}:{_WS}")
_VALUE = re.compile(f"{_STRING}{_WS}([,}}])")
_FIELD = re.compile(
    f'{_WS}(?:"dtype"{_WS}:{_WS}"(?P<dtype>[A-Z0-9_]{{1,24}})"'
    rf'|"shape"{_WS}:{_WS}\[{_WS}(?P<shape>(?:{_NUMBER}(?:{_WS},{_WS}{_NUMBER})*+)?){_WS}\]'
    rf'|"data_offsets"{_WS}:{_WS}\[{_WS}(?P<start>{_NUMBER}){_WS},{_WS}(?P<stop>{_NUMBER}){_WS}\]'
    f"){_WS}([,}}])"
)
_OPEN = re.compile(rf"\{{{_WS}")
_NEXT = re.compile(f"{_WS}([,}}])")


class Entry(NamedTuple):
    """One tensor of a header: its tag, its shape, and its bytes `[start, stop)` of the data."""

    tag: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Header:
    """A header: entries in the order of the JSON text, and the free-form metadata."""

    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]


def check_count(tensors: int) -> None:
    """Raise UnsupportedError if that many tensors are too many for one file."""
    if tensors > MAX_TENSORS:
        raise UnsupportedError(
            f"one file holds at most {MAX_TENSORS} tensors, got {tensors}. "
            "Write a checkpoint, which spreads them over files."
        )


def build_header(
    entries: Sequence[tuple[str, str, tuple[int, ...], int, int]], metadata: Mapping[str, str]
) -> bytes:
    """Return length and JSON of a header, padded so that the data starts at a multiple of 64.

    Args:
        entries: of each tensor the name, and what an `Entry` says.
        metadata: texts.

    Raises:
        UnsupportedError: too long a header for one file.
        SerializationError: a name or a text is no valid unicode.
    """
    fields = [
        f"{_described(name, tag, shape)}[{start},{stop}]}}"
        for name, tag, shape, start, stop in entries
    ]
    if metadata:
        texts = [
            f"{encode_basestring(key)}:{encode_basestring(text)}" for key, text in metadata.items()
        ]
        fields.insert(0, f'"{METADATA_KEY}":{{{",".join(texts)}}}')
    try:
        text = f"{{{','.join(fields)}}}".encode()
    except UnicodeEncodeError as error:
        raise SerializationError(
            f"a tensor name or metadata text is no valid unicode: {error.object[error.start :][:40]!r}."
        ) from error
    return framed(text)


def framed(text: bytes) -> bytes:
    """The JSON of a header with its length before it, padded.

    Raises:
        UnsupportedError: it is too long for one file.
    """
    padding = -(LENGTH_BYTES + len(text)) % ALIGNMENT
    length = len(text) + padding
    if length > MAX_HEADER_BYTES:
        raise UnsupportedError(
            f"the header of one file has at most {MAX_HEADER_BYTES} bytes, this one would have "
            f"{length}. Use shorter names or less metadata, or more files."
        )
    return length.to_bytes(LENGTH_BYTES, "little") + text + b" " * padding


@functools.lru_cache(maxsize=1024)
def _described(name: str, tag: str, shape: tuple[int, ...]) -> str:
    """The text of an entry up to its offsets: all that changes from one commit to the next."""
    sizes = ",".join(map(str, shape))
    return f'{encode_basestring(name)}:{{"dtype":"{tag}","shape":[{sizes}],"data_offsets":'


def parse_header(raw: bytes, data_nbytes: int, where: str) -> Header:
    """Return the header whose JSON is `raw`, checked against `data_nbytes` of data after it.

    Args:
        raw: the JSON, without the length before it.
        data_nbytes: size of what follows the header in the file, in bytes.
        where: the file, for messages.

    Raises:
        CorruptStoreError: it is not exactly a header of exactly that data.
        UnsupportedError: a tensor has a dtype that has no torch dtype.
    """
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise CorruptStoreError(
            f"{where}: the header is no UTF-8 at byte {error.start}."
        ) from error
    header = _Scanner(text, where).header()
    _check_layout(header, data_nbytes, where)
    return header


def parse_texts(text: str, where: str) -> dict[str, str]:
    """Return the flat JSON object of texts that `text` is.

    Raises:
        CorruptStoreError: it is anything else, or has a key twice.
    """
    scanner = _Scanner(text, where)
    found = scanner.texts()
    scanner.end()
    return found


class _Scanner:
    """One pass over the text of a header."""

    def __init__(self, text: str, where: str) -> None:
        self._text = text
        self._where = where
        self._at = 0

    def header(self) -> Header:
        entries: dict[str, Entry] = {}
        metadata: dict[str, str] | None = None
        more = self._open_object()
        while more:
            name = self._key()
            if name == METADATA_KEY:
                if metadata is not None:
                    raise self._damage(f"the key {name!r} is there twice")
                metadata = self.texts()
            elif name in entries:
                raise self._damage(f"the tensor {name!r} is there twice")
            else:
                entries[name] = self._entry()
                if len(entries) > MAX_TENSORS:
                    raise self._damage(f"there are more than {MAX_TENSORS} tensors")
            more = self._match(_NEXT, "',' or '}'")[1] == ","
        self.end()
        return Header(entries, metadata or {})

    def end(self) -> None:
        if self._text[self._at :].strip(" "):
            raise self._damage("expected nothing but spaces after the last '}'")

    def texts(self) -> dict[str, str]:
        found: dict[str, str] = {}
        more = self._open_object()
        while more:
            key = self._key()
            if key in found:
                raise self._damage(f"the key {key!r} is there twice")
            match = self._match(_VALUE, "a text")
            found[key] = self._unescape(match[1])
            more = match[2] == ","
        return found

    def _entry(self) -> Entry:
        if not self._open_object():
            raise self._damage("a tensor has no fields")
        found: dict[str, str] = {}
        more = True
        while more:
            match = self._match(_FIELD, "dtype, shape or data_offsets")
            fields = {key: text for key, text in match.groupdict().items() if text is not None}
            if fields.keys() & found.keys():
                raise self._damage(f"the field {next(iter(fields))!r} is there twice")
            found |= fields
            more = match[5] == ","
        if len(found) != 4:
            raise self._damage("a tensor needs dtype, shape and data_offsets")
        shape = tuple(int(size) for size in found["shape"].split(",")) if found["shape"] else ()
        return Entry(found["dtype"], shape, int(found["start"]), int(found["stop"]))

    def _open_object(self) -> bool:
        """Step over '{', and over '}' if it follows; tell whether there is something inside."""
        self._match(_OPEN, "'{'")
        if self._text.startswith("}", self._at):
            self._at += 1
            return False
        return True

    def _key(self) -> str:
        return self._unescape(self._match(_KEY, "a key")[1])

    def _unescape(self, text: str) -> str:
        if "\\" not in text:
            return text
        try:
            plain = json.loads(f'"{text}"')
            plain.encode()  # a lone surrogate is no text
        except ValueError as error:
            raise self._damage("a text has a bad escape") from error
        return str(plain)

    def _match(self, pattern: re.Pattern[str], expected: str) -> re.Match[str]:
        if (match := pattern.match(self._text, self._at)) is None:
            found = self._text[self._at : self._at + 24]
            raise self._damage(f"expected {expected}, found {found!r}")
        self._at = match.end()
        return match

    def _damage(self, problem: str) -> CorruptStoreError:
        return CorruptStoreError(f"{self._where}: bad JSON at {self._at}: {problem}.")


def _fits(entry: Entry, itemsize: int) -> bool:
    """Tell whether the shape needs exactly the entry's bytes; never makes a huge number."""
    if 0 in entry.shape:
        return entry.nbytes == 0
    needed = itemsize
    for size in entry.shape:
        needed *= size
        if needed > entry.nbytes:
            return False
    return needed == entry.nbytes


def _check_layout(header: Header, data_nbytes: int, where: str) -> None:
    """Check that the entries tile the data exactly, each with the bytes its shape needs."""
    end = 0
    for name, entry in sorted(
        header.entries.items(), key=lambda item: (item[1].start, item[1].stop)
    ):
        if (dtype := READABLE.get(entry.tag)) is None:
            raise UnsupportedError(
                f"{where}: tensor {name!r} has dtype {entry.tag}, which has no torch dtype here."
            )
        if entry.start != end or entry.stop < entry.start:
            raise CorruptStoreError(
                f"{where}: tensor {name!r} has the bytes [{entry.start}, {entry.stop}): expected "
                f"them to begin at {end}."
            )
        if not _fits(entry, dtype.itemsize):
            raise CorruptStoreError(
                f"{where}: tensor {name!r} has {entry.nbytes} bytes, which is not what "
                f"{entry.tag}{list(entry.shape[:16])} needs."
            )
        end = entry.stop
    if end != data_nbytes:
        raise CorruptStoreError(f"{where}: expected {end} bytes of data, found {data_nbytes}.")
