"""The container of a graph's bytes, and constants: what is in them, exactly, in any process.

64 bytes, little-endian, then the document, then the constants' bytes:

    0   8s   magic "MMSBGRPH"
    8   u16  version, 1
    10  u8   1: every constant is inside; 0: only those without a path are
    11  5x   zero
    16  u64  bytes of the document, canonical JSON; zeros follow up to a multiple of 64
    24  u64  bytes of the constants, each at a multiple of 64
    32  16x  zero
    48  16s  xxh3-128 of bytes 0 to 47 and of all that follows

The checksum is looked at before anything it covers is believed; it proves integrity, not
authenticity.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import xxhash
from torch import Tensor

from mmsb_torch.errors import CorruptStoreError, SerializationError, UnsupportedError

from .ir_values import DTYPES

HEADER_BYTES = 64
VERSION = 1

_HEADER = struct.Struct("<8sHB5sQQ16s")
_MAGIC = b"MMSBGRPH"
_ALIGN = 64
_MAX_DOCUMENT = 256 << 20
_WHOLE = re.compile(r"bool|bfloat16|(float|complex|u?int)(8|16|32|64|128)|float8_\w+")
_DEVICE = re.compile(r"cpu|cuda:\d{1,3}")
_WHERE = "these bytes of a graph"


def dumps(document: Any) -> bytes:
    """Canonical JSON: sorted keys, no spaces, ASCII."""
    return json.dumps(
        document, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True
    ).encode()


def loads(raw: bytes) -> Any:
    """The document of canonical JSON; any other JSON is refused.

    Raises:
        CorruptStoreError: it is not what `dumps` writes.
    """
    try:
        document = json.loads(raw)
        canonical = dumps(document) == raw
    except (ValueError, RecursionError) as error:
        raise CorruptStoreError(f"{_WHERE} hold no JSON: {str(error)[:80]}.") from error
    if not canonical:
        raise CorruptStoreError(f"{_WHERE} hold JSON that is not in canonical form.")
    return document


@dataclass(frozen=True, slots=True)
class Constant:
    """A tensor that belongs to a graph: a parameter, a buffer, or one that its code made.

    `tensor` keeps the strides it had. `digest` is the xxh3-128 of dtype, shape, strides and bits.
    """

    path: str | None
    """Where the module has it; None for one that only the code has."""
    tensor: Tensor
    """On "meta" where the constant is not at hand."""
    digest: str
    device: str

    @classmethod
    def of(cls, value: Tensor, path: str | None) -> Constant:
        """A constant of a tensor; nothing is copied.

        Raises:
            UnsupportedError: no plain strided tensor.
        """
        tensor = value.detach()
        dtype = str(tensor.dtype).removeprefix("torch.")
        if not _WHOLE.fullmatch(dtype) or tensor.layout != torch.strided or tensor.is_meta:
            raise UnsupportedError(
                f"a graph cannot hold the constant {path!r}: expected a strided tensor on 'cpu' "
                f"or 'cuda', found {dtype}, {tensor.layout} on {str(tensor.device)!r}"
            )
        if tensor.is_conj() or tensor.is_neg():
            tensor = tensor.resolve_conj().resolve_neg()
        return cls(path, tensor, _digest(tensor), str(tensor.device))

    @property
    def key(self) -> tuple[str | None, str, str]:
        """Constants of equal keys are one."""
        return (self.path, self.digest, self.device)

    def data(self) -> list[Any]:
        """What the document says of it."""
        tensor = self.tensor
        return [
            self.digest,
            str(tensor.dtype).removeprefix("torch."),
            list(tensor.shape),
            list(tensor.stride()),
            self.device,
            self.path,
        ]

    def owned(self) -> Constant:
        """The same in memory of its own."""
        copied = _strided(_in_memory(self.tensor).clone(), self.tensor.shape, self.tensor.stride())
        return Constant(self.path, copied.to(self.device), self.digest, self.device)


def _span(tensor: Tensor) -> Tensor:
    """The elements as they lie in memory, on the CPU, from the first to the last; gaps are zero."""
    shape, stride = tensor.shape, tensor.stride()
    size = span_of(shape, stride)
    flat = torch.zeros(size, dtype=tensor.dtype)
    if size:
        at = torch.zeros((), dtype=torch.int64)
        for length, step in zip(shape, stride, strict=True):
            at = at.unsqueeze(-1) + step * torch.arange(length)
        flat.view(torch.uint8).view(size, -1)[at.flatten()] = _elements(tensor)
    return flat


def _elements(tensor: Tensor) -> Tensor:
    """The bytes of the elements in order, one row each, on the CPU."""
    flat = tensor.cpu().contiguous().flatten()
    return flat.view(torch.uint8).view(len(flat), -1)


def _is_dense(shape: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether the elements fill their span, each at a place of its own."""
    expected = 1
    for step, size in sorted(zip(stride, shape, strict=True)):
        if size > 1 and step != expected:
            return False
        expected *= size
    return expected > 0


def span_of(shape: Sequence[int], stride: Sequence[int]) -> int:
    """How many elements of memory a strided tensor reaches over."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))


def _strided(flat: Tensor, shape: Sequence[int], stride: Sequence[int]) -> Tensor:
    if 0 in shape:
        return torch.empty_strided(tuple(shape), tuple(stride), dtype=flat.dtype)
    return flat.as_strided(tuple(shape), tuple(stride))


def _raw(flat: Tensor) -> memoryview:
    """The bytes of a flat tensor on the CPU; not copied."""
    if not flat.numel():
        return memoryview(b"")
    return flat.view(torch.uint8).numpy().data


def _digest(tensor: Tensor) -> str:
    head = dumps([str(tensor.dtype), list(tensor.shape), list(tensor.stride())])
    state = xxhash.xxh3_128(head)
    state.update(_raw(_in_memory(tensor)))
    return state.hexdigest()


def _in_memory(tensor: Tensor) -> Tensor:
    """As `_span`, without a copy where that has no gaps and no overlaps."""
    if tensor.device.type == "cpu" and _is_dense(tensor.shape, tensor.stride()):
        return tensor.as_strided((tensor.numel(),), (1,))
    return _span(tensor)


def pack(document: bytes, constants: Sequence[Constant], *, inside: bool) -> bytes:
    """The bytes of a graph."""
    parts = [document, bytes(-len(document) % _ALIGN)]
    size = 0
    for constant in constants:
        if inside or constant.path is None:
            raw = _raw(_in_memory(constant.tensor))
            parts += [raw, bytes(-len(raw) % _ALIGN)]  # type: ignore[list-item]
            size += len(raw) + -len(raw) % _ALIGN
    head = _HEADER.pack(_MAGIC, VERSION, inside, b"", len(document), size, b"")
    state = xxhash.xxh3_128(head)
    for part in parts:
        state.update(part)
    return b"".join([head, state.digest(), *parts])


def extent(raw: bytes | bytearray | memoryview) -> int:
    """How many bytes a graph takes that begins where `raw` begins, as its header says.

    Raises:
        SerializationError: no graph begins there, or it does not fit.
    """
    view = memoryview(raw).cast("B")
    if len(view) < HEADER_BYTES or bytes(view[:8]) != _MAGIC:
        raise SerializationError(f"expected the bytes of a graph, found {bytes(view[:8])!r} ...")
    _, _, _, _, size, nbytes, _ = _HEADER.unpack(view[:48])
    end = int(HEADER_BYTES + size + -size % _ALIGN + nbytes)
    if end > len(view):
        raise CorruptStoreError(f"{_WHERE} are cut: expected {end}, found {len(view)}.")
    return end


def unpack(raw: bytes | bytearray | memoryview) -> tuple[bytes, memoryview, bool]:
    """The document, the bytes of the constants, and whether all of them are inside.

    Raises:
        SerializationError: no graph's bytes at all.
        CorruptStoreError: cut, longer than they say, or not what was written.
        UnsupportedError: of a newer version.
    """
    view = memoryview(raw).cast("B")
    if len(view) < HEADER_BYTES or bytes(view[:8]) != _MAGIC:
        raise SerializationError(
            f"expected the bytes of a graph, which begin with {_MAGIC!r}, found {len(view)} bytes "
            f"that begin with {bytes(view[:8])!r}."
        )
    head, digest, rest = view[:48], bytes(view[48:HEADER_BYTES]), view[HEADER_BYTES:]
    _, version, inside, zeros, size, nbytes, more_zeros = _HEADER.unpack(head)
    if version > VERSION:
        raise UnsupportedError(
            f"{_WHERE} have format version {version}, this mmsb_torch knows {VERSION}."
        )
    state = xxhash.xxh3_128(head)
    state.update(rest)
    if state.digest() != digest:
        raise CorruptStoreError(
            f"{_WHERE} are damaged: expected xxh3-128 {digest.hex()}, found {state.hexdigest()}."
        )
    at = size + -size % _ALIGN
    if version != VERSION or inside > 1 or any(zeros) or any(more_zeros):
        raise UnsupportedError(f"{_WHERE} have features that this mmsb_torch does not know.")
    if size > _MAX_DOCUMENT or at + nbytes != len(rest) or any(rest[size:at]):
        raise CorruptStoreError(f"{_WHERE} are cut or run on.")
    return bytes(rest[:size]), rest[at:], bool(inside)


def constant_of(data: Any, rest: memoryview | None) -> tuple[Constant, int]:
    """A constant from what the document says and, unless it is elsewhere, its bytes.

    Returns it and how many bytes it took. Without bytes its tensor is one without storage.

    Raises:
        CorruptStoreError: they do not fit each other.
    """
    digest, dtype, shape, stride, device, path = _fields(data)
    kind, size = DTYPES[dtype], span_of(shape, stride)
    if rest is None:
        away = torch.empty_strided(shape, stride, dtype=kind, device="meta")
        return Constant(path, away, digest, device), 0
    nbytes = size * kind.itemsize
    if nbytes > len(rest):
        raise CorruptStoreError(
            f"{_WHERE} hold a constant of {nbytes} bytes, and {len(rest)} are there."
        )
    flat = torch.empty(size, dtype=kind)
    if nbytes:
        _raw(flat)[:] = rest[:nbytes]
    try:
        tensor = _strided(flat, shape, stride).to(device)
    except (RuntimeError, AssertionError) as error:
        raise UnsupportedError(f"a constant of this graph lives on {device!r}: {error}") from error
    if _digest(tensor) != digest or str(tensor.device) != device:
        raise CorruptStoreError(f"{_WHERE} hold a constant that is not what its digest says.")
    return Constant(path, tensor, digest, device), nbytes + -nbytes % _ALIGN


def _fields(data: Any) -> tuple[str, str, list[int], list[int], str, str | None]:
    if type(data) is list and len(data) == 6:
        digest, dtype, shape, stride, device, path = data
        sizes = [shape, stride]
        if (
            all(type(item) is str for item in (digest, dtype, device))
            and dtype in DTYPES
            and _WHOLE.fullmatch(dtype)
            and _DEVICE.fullmatch(device)
            and (path is None or type(path) is str)
            and all(type(item) is list and len(item) == len(shape) <= 64 for item in sizes)
            and all(type(size) is int and 0 <= size < 1 << 62 for size in (*shape, *stride))
        ):
            return digest, dtype, shape, stride, device, path
    raise CorruptStoreError(f"{_WHERE} describe a constant like this: {data!r:.100}")
