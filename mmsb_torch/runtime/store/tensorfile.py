"""Safetensors files, written durably and read with suspicion.

`safetensors.save_file` does not fsync, leaves mode 0600 and has no complex128, and its reader keeps
the last of two equal keys; hence this writer and reader. What is written here opens with plain
`safetensors` (its own view of mapped dtypes: see `dtypes`).

Order in the file: first the tensors whose size is a multiple of 64 bytes, then the rest by falling
element size. The format allows no holes, and so the former all start at multiples of 64, the latter
at multiples of their element.

All functions are re-entrant. The tensors of a write must not be changed before it returns: the
digest would then not match, and the file would be refused when it is read.
"""

from __future__ import annotations

import ctypes
import json
import operator
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

import torch

from mmsb_torch.device import empty
from mmsb_torch.errors import CorruptStoreError, SerializationError, StoreError, UnsupportedError
from mmsb_torch.runtime.store.dtypes import DTYPES_KEY, READABLE, Encoding, carried, encoding
from mmsb_torch.runtime.store.files import FILES, Files, StrPath
from mmsb_torch.runtime.store.header import (
    ALIGNMENT,
    LENGTH_BYTES,
    MAX_HEADER_BYTES,
    METADATA_KEY,
    Header,
    build_header,
    check_count,
    parse_header,
    parse_texts,
)
from mmsb_torch.runtime.store.streams import FileRecord, Source, new_file, open_file

T = TypeVar("T")
Spec: TypeAlias = tuple[torch.dtype, tuple[int, ...]]

_CPU = torch.device("cpu")
_PROGRESS_BYTES = 16 << 20
_COPIED_BYTES = 4096  # up to here a copy costs less than the views that lead to the memory

# Integers of the same width: copying them cannot quieten a signalling NaN.
_BY_PLACE = operator.attrgetter("place")
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class _Stored(NamedTuple):
    """A tensor and how it will be written."""

    place: tuple[bool, int]
    """What it is sorted by in the file."""
    name: str
    tensor: torch.Tensor | int
    encoding: Encoding
    shape: tuple[int, ...]
    nbytes: int


def check_tensor(name: str, tensor: torch.Tensor) -> None:
    """Check that this name and tensor can be written.

    Raises:
        SerializationError: the name is no str, or the format's own key.
        UnsupportedError: it is no plain dense tensor with data, or its dtype is quantised.
    """
    _stored(name, tensor)


def _stored(name: str, tensor: torch.Tensor | int) -> _Stored:
    if type(name) is not str:
        raise SerializationError(f"a tensor is named {name!r}: expected a str.")
    if name == METADATA_KEY:
        raise SerializationError(f"a tensor cannot be named {name!r}: safetensors uses that key.")
    if type(tensor) is int:
        return _Stored((True, -8), name, tensor, encoding(torch.int64), (1,), 8)
    if not isinstance(tensor, torch.Tensor):
        raise SerializationError(f"{name!r} is a {type(tensor).__name__}: expected a tensor.")
    plain = tensor.detach() if tensor.requires_grad or type(tensor) is not torch.Tensor else tensor
    if type(plain) is not torch.Tensor or plain.layout != torch.strided or plain.is_meta:
        raise UnsupportedError(
            f"tensor {name!r} cannot be stored: expected a plain dense tensor, got "
            f"{type(tensor).__name__} of layout {tensor.layout} on {tensor.device}. "
            "Store its dense parts instead."
        )
    kind, nbytes = encoding(plain.dtype), plain.nbytes
    shape = (*plain.shape, 2) if kind.paired else tuple(plain.shape)
    place = nbytes % ALIGNMENT != 0, -plain.dtype.itemsize
    return _Stored(place, name, plain, kind, shape, nbytes)


def write_tensors(
    path: StrPath,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
    files: Files = FILES,
    *,
    advance: Callable[[int], None] | None = None,
    sync: bool = True,
) -> FileRecord:
    """Write a new safetensors file, fsync it, and return its record.

    The file is streamed: at most one tensor is copied, and only if it is not contiguous or not on
    the CPU. The folder is not synced (see `files.sync_folder`).

    Args:
        path: where; nothing may be there.
        tensors: names to dense tensors of any device and dtype; aliases are written in full.
        metadata: texts for the file's `__metadata__`; the key "mmsb.dtypes" is taken.
        files: the disk.
        advance: called on this thread with the number of tensor bytes just written.
        sync: whether to fsync it.

    Raises:
        SerializationError: a bad name or metadata.
        UnsupportedError: a tensor that is not dense, or too many for one file.
        StoreError: the file exists or the disk fails; no file is left.
    """
    with new_file(Path(path), files, sync=sync) as sink:
        for part in encode_tensors(tensors, metadata):
            for start in range(0, len(part), _PROGRESS_BYTES):
                piece = part[start : start + _PROGRESS_BYTES]
                sink.write(piece)
                if advance is not None and isinstance(part, memoryview):
                    advance(len(piece))
    return sink.record()


def encode_tensors(
    tensors: Mapping[str, torch.Tensor | int], metadata: Mapping[str, str]
) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file: the header, then the tensors' memory, part by part.

    A number stands for an int64 tensor that holds it alone.

    Raises:
        SerializationError: a bad name or metadata.
        UnsupportedError: a tensor that is not dense, or too many for one file.
    """
    check_count(len(tensors))
    stored = [_stored(name, tensor) for name, tensor in tensors.items()]
    order = sorted(stored, key=_BY_PLACE)
    offsets, end = dict.fromkeys(tensors, 0), 0
    for _, name, _, _, _, nbytes in order:
        offsets[name] = end
        end += nbytes
    entries = [
        (name, kind.tag, shape, offsets[name], offsets[name] + nbytes)
        for _, name, _, kind, shape, nbytes in stored
    ]
    names = {name: kind.name for _, name, _, kind, _, _ in stored if kind.name}
    yield build_header(entries, _metadata(metadata, names))
    for _, _, tensor, _, _, nbytes in order:
        if nbytes:
            yield memory_of(tensor)


def decode_tensors(raw: memoryview, where: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read the bytes of a whole safetensors file: tensors that own their memory, and metadata.

    Raises:
        CorruptStoreError: they are no well-formed safetensors file.
        UnsupportedError: a dtype that torch cannot hold.
    """
    header, data = decode_header(raw, where)
    metadata = dict(header.metadata)
    specs = _specs(header, metadata.pop(DTYPES_KEY, "{}"), where)
    found: dict[str, torch.Tensor] = {}
    for name, entry in header.entries.items():
        memory = empty((entry.nbytes,), torch.uint8, _CPU)
        if entry.nbytes:
            _memory(memory)[:] = data[entry.start : entry.stop]
        found[name] = shaped(memory, specs[name], name, where)
    return found, metadata


def decode_header(raw: memoryview, where: str) -> tuple[Header, memoryview]:
    """The header of a safetensors file that `raw` is, checked, and the data after it."""
    length = int.from_bytes(raw[:LENGTH_BYTES], "little")
    left = len(raw) - LENGTH_BYTES
    if left < 0 or length > min(left, MAX_HEADER_BYTES):
        raise CorruptStoreError(f"{where} is no safetensors data: its header does not fit.")
    data = raw[LENGTH_BYTES + length :]
    return parse_header(bytes(raw[LENGTH_BYTES : LENGTH_BYTES + length]), len(data), where), data


def shaped(raw: torch.Tensor, spec: Spec, name: str, where: str) -> torch.Tensor:
    """Raw bytes as a tensor, which owns them as `raw` does.

    Raises:
        CorruptStoreError: they do not fit.
    """
    dtype, shape = spec
    try:
        # detach: what is returned shall be no view of `raw`, only the owner of its storage
        return raw.view(dtype).view(shape).detach()
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise CorruptStoreError(
            f"{where}: tensor {name!r} has an impossible shape {shape[:16]}: {error}"
        ) from error


def _metadata(metadata: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    for key, text in metadata.items():
        if type(key) is not str or type(text) is not str or key == DTYPES_KEY:
            raise SerializationError(
                f"metadata {key!r}: {text!r:.40}: expected texts, and not the key {DTYPES_KEY!r}."
            )
    if not names:
        return dict(metadata)
    return {**metadata, DTYPES_KEY: json.dumps(names, ensure_ascii=False, separators=(",", ":"))}


def memory_of(tensor: torch.Tensor | int) -> memoryview:
    """The elements in order as bytes: the memory itself where that is possible."""
    if isinstance(tensor, int):
        return memoryview(tensor.to_bytes(8, "little"))
    if tensor.is_conj() or tensor.is_neg():
        tensor = tensor.resolve_conj().resolve_neg()
    plain = tensor.is_cpu and tensor.is_contiguous()
    if plain and tensor.nbytes <= _COPIED_BYTES:
        return memoryview(ctypes.string_at(tensor.data_ptr(), tensor.nbytes))
    if (word := _WORDS.get(tensor.dtype.itemsize)) is not None:
        tensor = tensor.view(word)
    if not plain:
        tensor = tensor.contiguous().cpu()
    flat = tensor.view(-1)
    if flat.stride(0) != 1:  # of one element: `contiguous` lets it have any
        flat = flat.as_strided(flat.shape, (1,))
    return _memory(flat.view(torch.uint8))


def _memory(raw: torch.Tensor) -> memoryview:
    """Return the memory of a uint8 CPU tensor itself, not a copy."""
    array: Any = raw.numpy()  # the stubs do not say that arrays are buffers
    return memoryview(array)


def read_tensors(
    path: StrPath, expected: FileRecord | None = None, files: Files = FILES
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read a safetensors file once, front to back, and return its tensors and metadata.

    Each tensor owns its memory: CPU, contiguous, writable, no view, no mapping. They come in the
    order of the header. "mmsb.dtypes" has been applied and is not in the metadata. Any safetensors
    file can be read, whoever wrote it.

    Args:
        path: the file.
        expected: what it must be. Its size is compared before anything is read, and its digest
            before anything is returned or complained about: bytes are read straight into the
            tensors' memory, whose size is bounded by the file's.
        files: the disk.

    Raises:
        CorruptStoreError: it is not what was expected, or no well-formed safetensors file, or,
            with `expected`, missing.
        UnsupportedError: a dtype that torch cannot hold.
        StoreError: it cannot be read, or, without `expected`, is missing.
    """
    missing = StoreError if expected is None else CorruptStoreError
    with open_file(Path(path), files, missing=missing) as source:
        if expected is None:
            return _parse(source)
        return _checked(source, expected, _parse)


def check_tensors(path: StrPath, expected: FileRecord, files: Files = FILES) -> tuple[str, ...]:
    """Check all that `read_tensors` checks, in little memory, and return the tensors' names.

    Raises:
        as `read_tensors`.
    """
    with open_file(Path(path), files) as source:
        return _checked(source, expected, lambda source: tuple(tensor_layout(source)[1]))


def _checked(source: Source, expected: FileRecord, parse: Callable[[Source], T]) -> T:
    check_size(source, expected)
    try:
        result = parse(source)
    except (CorruptStoreError, UnsupportedError):
        check_digest(source, expected)  # if it differs, that says more
        raise
    check_digest(source, expected)
    return result


def check_size(source: Source, expected: FileRecord) -> None:
    """Raise CorruptStoreError if the open file has not the expected size."""
    if source.nbytes != expected.nbytes:
        raise CorruptStoreError(
            f"{str(source.path)!r} is damaged: expected {expected.nbytes} bytes, found "
            f"{source.nbytes}."
        )


def check_digest(source: Source, expected: FileRecord) -> None:
    """Read the rest of the file; raise CorruptStoreError if it has not the expected digest."""
    if (found := source.digest()) != expected.digest:
        raise wrong_digest(source, expected, found)


def wrong_digest(source: Source, expected: FileRecord, found: str) -> CorruptStoreError:
    """The error for an open file of another digest."""
    return CorruptStoreError(
        f"{str(source.path)!r} is damaged: expected xxh3-128 {expected.digest}, found {found}."
    )


def read_header(source: Source) -> Header:
    """Read and check the header at the start of an open file; the data follows.

    Raises:
        CorruptStoreError: it is no header of exactly this file.
    """
    where = repr(str(source.path))
    if source.nbytes < LENGTH_BYTES:
        raise CorruptStoreError(
            f"{where} is no safetensors file: expected at least {LENGTH_BYTES} bytes, found "
            f"{source.nbytes}."
        )
    length = int.from_bytes(source.take(LENGTH_BYTES), "little")
    if length > min(source.left, MAX_HEADER_BYTES):
        raise CorruptStoreError(
            f"{where} is no safetensors file: its header would have {length} bytes, "
            f"expected at most {min(source.left, MAX_HEADER_BYTES)}."
        )
    raw = source.take(length)
    return parse_header(raw, source.left, where)


def tensor_layout(source: Source) -> tuple[Header, dict[str, Spec], dict[str, str]]:
    """Read the header; return it, each tensor's dtype and shape, and the caller's metadata."""
    header = read_header(source)
    metadata = dict(header.metadata)
    specs = _specs(header, metadata.pop(DTYPES_KEY, "{}"), repr(str(source.path)))
    return header, specs, metadata


def _parse(source: Source) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    header, specs, metadata = tensor_layout(source)
    found: dict[str, torch.Tensor] = {}
    for name in sorted(header.entries, key=lambda name: header.entries[name].start):
        entry = header.entries[name]
        raw = empty((entry.nbytes,), torch.uint8, _CPU)
        if entry.nbytes:
            source.fill(_memory(raw))
        found[name] = shaped(raw, specs[name], name, repr(str(source.path)))
    return {name: found[name] for name in header.entries}, metadata


def _specs(header: Header, mapping: str, where: str) -> dict[str, Spec]:
    """Return each tensor's torch dtype and shape, with the mapped dtypes put back."""
    specs = {name: (READABLE[entry.tag], entry.shape) for name, entry in header.entries.items()}
    for name, dtype_name in parse_texts(mapping, f"{where}: {DTYPES_KEY}").items():
        if name not in specs:
            raise CorruptStoreError(
                f"{where}: {DTYPES_KEY} names {name!r}, which is no tensor here."
            )
        dtype = carried(dtype_name)
        carrier, entry = encoding(dtype), header.entries[name]
        if entry.tag != carrier.tag or (carrier.paired and entry.shape[-1:] != (2,)):
            raise CorruptStoreError(
                f"{where}: tensor {name!r} of {dtype_name}: expected {carrier.tag}, found "
                f"{entry.tag}{list(entry.shape[:16])}."
            )
        specs[name] = (dtype, entry.shape[:-1] if carrier.paired else entry.shape)
    return specs
