"""The ledger: digests of tensors' bytes, kept as long as nobody can have written to the memory.

One owner for all flags of the process: a second one would arm again what the first had seen written.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
import xxhash
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from mmsb_torch.device import held_elsewhere
from mmsb_torch.instrumentation.context import plain_torch

from . import barrier

LEAST_BYTES = 1 << 14
"""Smaller tensors are read each time: that takes about as long as asking whether they changed."""
_CHUNK = 1 << 20
_SWEPT = 1024
"""Records there are before those of memory that is gone are looked for."""
_LOCAL = threading.local()
_View = tuple[Any, ...]
"""dtype, shape, stride and offset."""


class _Record:
    """What is known of one storage since its flag was set."""

    __slots__ = ("digests", "source", "storage")

    def __init__(self, storage: torch.UntypedStorage) -> None:
        self.storage = StorageWeakRef(storage)  # its address is not given away while this lives
        self.digests: dict[_View, bytes] = {}
        self.source: int | None = None
        """What made all of its bytes: a number that stands for them without their being read."""


class Ledger:
    """Digests of the bytes of dense tensors.

    Thread safety: any thread may ask. Evidence is gathered and used in the main thread only, and
    only while no other thread is known that could touch tensors: elsewhere every byte is read. (The
    flag is not safe against writers in other threads: setting it while somebody writes can crash.)
    """

    def __init__(self) -> None:
        self._records: dict[int, _Record] = {}
        self._guard = threading.Lock()
        self._sweep_at = _SWEPT
        self.read = 0
        """Bytes that were read so far."""

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Set the flags of what this thread asks about in this block: the next time is then cheap."""
        before = getattr(_LOCAL, "watching", False)
        _LOCAL.watching = True
        try:
            yield
        finally:
            _LOCAL.watching = before

    def digest(self, tensor: Tensor) -> bytes:
        """xxh3-128 of the elements in C order, conjugation and sign not applied.

        Args:
            tensor: dense, of any device; read, never written.
        """
        if tensor.nbytes < LEAST_BYTES or not tensor.is_cpu or not barrier.is_alone():
            return self._read(tensor)
        record = self._record(tensor, watch=getattr(_LOCAL, "watching", False))
        if record is None:
            return self._read(tensor)
        view = (tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset())
        found = record.digests.get(view)
        if found is None:
            found = self._read(tensor)
            if barrier.is_armed(tensor):
                record.digests[view] = found
        return found

    def watch(self, tensor: Tensor) -> None:
        """Set the flag of a tensor's memory, if that is sound; nothing is read."""
        if tensor.nbytes >= LEAST_BYTES and tensor.is_cpu and barrier.is_alone():
            self._record(tensor, watch=True)

    def name(self, tensor: Tensor, source: int) -> None:
        """Say what made the bytes of a new tensor's memory, of which nobody else knows yet.

        The caller has asked `barrier.is_alone`, and gives one number for the same bytes only.
        """
        if tensor.nbytes < LEAST_BYTES or not tensor.is_cpu or barrier.capability() is not None:
            return
        if barrier.is_armed(tensor) or barrier.arm(tensor):
            storage = tensor.untyped_storage()
            record = _Record(storage)
            record.source = source
            self._enter(storage._cdata, record)  # noqa: SLF001 - as StorageWeakRef does

    def source(self, tensor: Tensor) -> int | None:
        """What `name` said of a tensor's memory, if nobody can have written to it since.

        The caller has asked `barrier.is_alone`.
        """
        record = self._records.get(tensor.untyped_storage()._cdata)  # noqa: SLF001
        if record is None or record.source is None or not barrier.is_armed(tensor):
            return None
        return record.source

    def check(self, tensor: Tensor) -> bool:
        """Whether what is believed of a tensor's memory is so, by reading it; if not, forget it."""
        key = tensor.untyped_storage()._cdata  # noqa: SLF001 - as StorageWeakRef does
        record = self._records.get(key)
        return record is None or not self._is_false(key, record, tensor.untyped_storage())

    def audit(self, due: Callable[[], bool]) -> tuple[int, list[str]]:
        """Read memory that is believed unchanged: how much was, and what was written all the same.

        What is found is forgotten, so it is read at its next use.

        Args:
            due: whether to read the next one.
        """
        checked, false = 0, []
        for key, record in list(self._records.items()):
            storage = _alive(record.storage) if due() else None
            if storage is None or not record.digests:
                continue
            checked += 1
            if self._is_false(key, record, storage):
                false.append(f"of {storage.nbytes()} bytes")
        return checked, false

    def _is_false(self, key: int, record: _Record, storage: torch.UntypedStorage) -> bool:
        with plain_torch(torch.device("cpu")):
            for (dtype, shape, stride, offset), digest in list(record.digests.items()):
                view = torch.empty(0, dtype=dtype, device="cpu")
                view.set_(storage, offset, shape, stride)
                if not barrier.is_armed(view):
                    return False  # seen: the next to ask reads it
                if self._read(view) != digest and barrier.is_armed(view):
                    with self._guard:
                        self._records.pop(key, None)
                    return True
        return False

    def _record(self, tensor: Tensor, *, watch: bool) -> _Record | None:
        """What is known of a tensor's memory and still holds."""
        # a record keeps its storage's address from being given away: this one is the tensor's
        key = tensor.untyped_storage()._cdata  # noqa: SLF001 - as StorageWeakRef does
        record = self._records.get(key)
        if record is not None and not barrier.is_armed(tensor):
            with self._guard:
                self._records.pop(key, None)
            record = None
        return self._watch(tensor, key) if record is None and watch else record

    def _enter(self, key: int, record: _Record) -> None:
        with self._guard:
            self._records[key] = record
            if len(self._records) >= self._sweep_at:
                self._sweep()
                self._sweep_at = max(2 * len(self._records), _SWEPT)

    def _watch(self, tensor: Tensor, key: int) -> _Record | None:
        """Set the flag, if nobody holds another way to the memory that the flag would not see."""
        if barrier.capability() is not None or held_elsewhere(tensor) or tensor.is_shared():
            return None
        if torch.cuda.is_initialized() and tensor.is_pinned():
            return None  # copies from the device may be on their way into it
        if not barrier.arm(tensor):
            return None
        record = _Record(tensor.untyped_storage())
        self._enter(key, record)
        return record

    def _sweep(self) -> None:
        gone = [key for key, record in self._records.items() if record.storage.expired()]
        for key in gone:
            del self._records[key]

    def _read(self, tensor: Tensor) -> bytes:
        self.read += tensor.nbytes
        return read_digest(tensor)


def _alive(reference: StorageWeakRef) -> torch.UntypedStorage | None:
    """The storage of a weak reference, if it lives."""
    found = torch.UntypedStorage._new_with_weak_ptr(reference.cdata)  # noqa: SLF001 - as multiprocessing
    return found if isinstance(found, torch.UntypedStorage) else None


def read_digest(tensor: Tensor) -> bytes:
    """The digest of the elements as they are stored, read now.

    Raises:
        ValueError: the tensor's memory was freed.
    """
    if not tensor.is_cpu or not tensor.is_contiguous():
        tensor = tensor.detach().cpu().contiguous()
    if barrier.is_armed(tensor):  # asking for the address would clear the flag
        if not (tensor.is_conj() or tensor.is_neg()):
            flat = tensor.detach().view(-1)
            if flat.stride(0) != 1:  # of one element: it may have any
                flat = flat.as_strided(flat.shape, (1,))
            return _copied_digest(flat.view(torch.uint8))
        tensor = tensor.detach().clone()
    size = tensor.nbytes
    if tensor.untyped_storage().nbytes() < size + tensor.storage_offset() * tensor.itemsize:
        raise ValueError("the tensor's memory was freed")
    if not size:
        return b""
    # Not by way of numpy: asking for an array forbids resizing the tensor, for good.
    return xxhash.xxh3_128_digest((ctypes.c_char * size).from_address(tensor.data_ptr()))


def _copied_digest(flat: Tensor) -> bytes:
    """The digest by way of a buffer that stays in cache, filled without touching the source."""
    buffer = getattr(_LOCAL, "buffer", None)
    if buffer is None:
        buffer = _LOCAL.buffer = torch.empty(_CHUNK, dtype=torch.uint8, device="cpu")
    view: Any = buffer.numpy()
    state = xxhash.xxh3_128()
    for start in range(0, flat.numel(), _CHUNK):
        chunk = flat[start : start + _CHUNK]
        buffer[: chunk.numel()].copy_(chunk)
        state.update(view[: chunk.numel()])
    return state.digest()


LEDGER = Ledger()
"""The process's."""
