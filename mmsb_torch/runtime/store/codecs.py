"""Bytes made smaller: zstd, optionally of bytes sorted by their place in an element.

The places ("byte-shuffle"): of a block of elements of `width` bytes first go all first bytes, then
all second bytes, and so on; what is left over at its end follows as it is. The sign and exponent
bytes of floats, the upper bytes of ids, then stand together, which is what zstd can use.

zstd is the optional package `zstandard` (extra `zstd`). All functions are re-entrant.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmsb_torch.errors import CorruptStoreError, SerializationError, UnsupportedError

Part: TypeAlias = bytes | memoryview
Bytes: TypeAlias = NDArray[np.uint8]

NAMES = ("auto", "none", "zstd")
"""What a caller may ask for."""

BLOCK = 1 << 20
"""Bytes that are sorted at a time. Part of the format."""

WORTH = 0.9
"""What does not become a tenth smaller stays as it is."""

_ZSTD = 1
_WIDTHS = (1, 2, 4, 8)
_LEVEL = 1

_SPOTS, _SPOT = 16, 1 << 14  # 256 KiB of a body, from all over it, stand for the whole
_SORTING_WORTH = 0.95  # sorting costs time at both ends: it has to give a twentieth more


class Codec(NamedTuple):
    """How bytes are stored. The numbers are part of the format and never change."""

    number: int
    """0: as they are; 1: zstd."""
    width: int
    """Bytes of the elements whose places were sorted; 1: not sorted."""


PLAIN = Codec(0, 1)


def pack(parts: Sequence[Part], wanted: str) -> tuple[Codec, list[Part]]:
    """Store bytes, which are given in parts: smaller if `choose` says so.

    Plain parts are returned as they are, not copied. Compressing takes memory for one copy of all
    and for the result.

    Raises:
        SerializationError: `wanted` is none of `NAMES`.
        UnsupportedError: "zstd", and zstandard is not installed.
    """
    if wanted not in NAMES:
        raise SerializationError(f"codec={wanted!r:.40}: expected 'auto', 'none' or 'zstd'.")
    if wanted == "none" or (wanted == "auto" and _zstandard() is None):
        return PLAIN, list(parts)
    body = memoryview(b"".join(parts))
    codec = choose(body, always=wanted == "zstd")
    return codec, list(parts) if codec == PLAIN else compressed(body, codec.width)


def choose(body: memoryview, *, always: bool = False) -> Codec:
    """How `body` is stored best, judged by a sample of it (at most 256 KiB, in 16 places).

    The rule, from `benchmarks/bench_codecs.py` (docs/codecs.md has the table):

    1. zstd at level 1. Level 3 is slower and, once the bytes are sorted, larger: float32 weights to
       0.841 of their size at level 1, to 0.856 at level 3, at half the speed.
    2. The bytes are sorted by the width of 2, 4 or 8 that makes the sample smallest, if that is at
       least a twentieth smaller than unsorted: float32 weights 0.841 against 0.924, bfloat16 0.684
       against 0.780, int64 ids 0.117 against 0.143. What is mostly zero gains nothing (one-hot
       0.003 against 0.002) and reads four times as fast unsorted. The dtype is not asked: a delta
       holds values, positions and bits.
    3. Compressed at all only if a tenth is saved: random bits (1.000) and int8 weights (0.923) are
       not, and cost only the sample.

    Args:
        body: what is to be stored.
        always: compress even if nothing is saved.

    Raises:
        UnsupportedError: zstandard is not installed.
    """
    sample = _sample(body)
    sizes = {width: sum(map(len, compressed(sample, width, block=_SPOT))) for width in _WIDTHS}
    width = min(sizes, key=lambda width: sizes[width])
    if sizes[width] > _SORTING_WORTH * sizes[1]:
        width = 1
    if not always and sizes[width] > WORTH * len(sample):
        return PLAIN
    return Codec(_ZSTD, width)


def _sample(body: memoryview) -> memoryview:
    if len(body) <= _SPOTS * _SPOT:
        return body
    step = (len(body) - _SPOT) // (_SPOTS - 1) // 8 * 8  # whole elements of every width
    return memoryview(b"".join([body[n * step : n * step + _SPOT] for n in range(_SPOTS)]))


def compressed(body: memoryview, width: int, level: int = _LEVEL, block: int = BLOCK) -> list[Part]:
    """`body` as one zstd frame that knows its size, in parts; the bytes sorted by `width`.

    Only what was sorted in blocks of `BLOCK` bytes is read back.

    Raises:
        UnsupportedError: zstandard is not installed.
    """
    zstd = _required()
    stream = zstd.ZstdCompressor(level=level).compressobj(size=len(body))
    whole = np.frombuffer(body, np.uint8)
    parts: list[Part] = []
    for start in range(0, len(whole), block):
        some = whole[start : start + block]
        end = len(some) // width * width
        for place in range(width):
            parts.append(stream.compress(np.ascontiguousarray(some[place:end:width])))
            # each place has statistics of its own: zstd makes one table a block
            parts.append(stream.flush(zstd.COMPRESSOBJ_FLUSH_BLOCK))
        parts.append(stream.compress(some[end:]))
    parts.append(stream.flush())
    return parts


def unpack(stored: memoryview, codec: Codec, nbytes: int, where: str) -> memoryview:
    """The `nbytes` bytes that `pack` stored; `stored` itself if they are plain.

    Allocates nothing unless the stored bytes say `nbytes` too, and never more than twice that.

    Args:
        stored: what `pack` returned, joined.
        codec: likewise.
        nbytes: how many there should be; the caller has bounded it.
        where: what is read, for messages.

    Raises:
        CorruptStoreError: the stored bytes are not that.
        UnsupportedError: an unknown codec, or zstd without zstandard.
    """
    if codec == PLAIN:
        if len(stored) != nbytes:
            raise CorruptStoreError(
                f"{where}: expected a body of {nbytes} bytes, found {len(stored)}."
            )
        return stored
    if codec.number != _ZSTD or codec.width not in _WIDTHS:
        raise UnsupportedError(
            f"{where}: codec {codec.number} of width {codec.width} is unknown to this mmsb_torch. "
            "Read it with the version that wrote it."
        )
    body = _decompressed(stored, nbytes, where)
    if codec.width == 1:
        return memoryview(body)
    whole, found = np.frombuffer(body, np.uint8), np.empty(nbytes, np.uint8)
    for start in range(0, nbytes, BLOCK):
        _unsort(whole[start : start + BLOCK], found[start : start + BLOCK], codec.width)
    return found.data


def _decompressed(stored: memoryview, nbytes: int, where: str) -> bytes:
    zstd = _required(f"{where}: the body is compressed with zstd")
    try:
        said = zstd.get_frame_parameters(stored).content_size
        if said != nbytes:  # before anything of that size is allocated
            raise CorruptStoreError(f"{where}: expected {nbytes} bytes, the zstd frame has {said}.")
        decompressor = zstd.ZstdDecompressor()
        body = decompressor.decompress(stored, max_output_size=nbytes, allow_extra_data=False)
    except zstd.ZstdError as error:
        raise CorruptStoreError(f"{where}: no whole zstd frame: {error}.") from error
    if len(body) != nbytes:
        raise CorruptStoreError(f"{where}: expected {nbytes} bytes, decompressed {len(body)}.")
    return bytes(body)


def _unsort(block: Bytes, found: Bytes, width: int) -> None:
    count = len(block) // width
    for place in range(width):
        found[place : count * width : width] = block[place * count : (place + 1) * count]
    found[count * width :] = block[count * width :]


def _zstandard() -> ModuleType | None:
    try:
        import zstandard  # noqa: PLC0415 - an extra, loaded when it is used
    except ImportError:
        return None
    return zstandard


def _required(what: str = "codec='zstd'") -> ModuleType:
    found = _zstandard()
    if found is None:
        raise UnsupportedError(
            f"{what}: expected the package zstandard, which is not installed. "
            "Install the extra: pip install 'mmsb-torch[zstd]'."
        )
    return found
