"""The ledger: digests of tensors' bytes, kept as long as nobody can have written to the memory.

One owner for all flags of the process: a second one would arm again what the first had seen written.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import torch
import xxhash
from torch import Tensor, nn

from mmsb_torch.device import held_elsewhere
from mmsb_torch.instrumentation.context import GradKept, plain_torch

from . import barrier
from .evidence import Evidence, Panel

LEAST_BYTES = 1 << 8
"""Smaller tensors are read each time: that takes about as long as asking whether they changed."""
_CHUNK = 1 << 20
_SWEPT = 1024
"""Records there are before those of memory that is gone are looked for."""
_TOKENS = 1 << 18
_DENSE = (Tensor, nn.Parameter, nn.Buffer)
_LOCAL = threading.local()

View = tuple[Any, ...]
"""How a tensor looks at its memory: dtype, shape, strides, offset, negated, conjugated."""
Views = dict[View, object]
"""A token for each way of looking at some bytes. Tokens are compared with `is`."""


class Record:
    """What is known of one storage since its flag was set.

    Its address is not given away while this lives.
    """

    __slots__ = ("_free", "digests", "key", "made", "open", "views")

    def __init__(self, storage: Any, views: Views | None = None) -> None:
        self.key: int = storage._weak_ref()  # noqa: SLF001 - as torch's StorageWeakRef does
        self._free = _free
        self.digests: dict[View, bytes] = {}
        self.made = views is not None
        """Whether `views` stands for all of its bytes, without their being read."""
        self.views: Views = {} if views is None else views
        self.open = False
        """Whether its flag is not to be set."""

    def expired(self) -> bool:
        """Whether the memory is gone."""
        return bool(_expired(self.key))

    def __del__(self) -> None:
        self._free(self.key)


_free: Callable[[int], None] = torch.UntypedStorage._free_weak_ref  # noqa: SLF001
_expired: Callable[[int], Any] = torch.UntypedStorage._expired  # noqa: SLF001


class Ledger:
    """Digests of the bytes of dense tensors.

    Thread safety: any thread may ask. Evidence is gathered and used in the main thread only, and
    only while no other thread is known that could touch tensors: elsewhere every byte is read. (The
    flag is not safe against writers in other threads: setting it while somebody writes can crash.)
    So records need no lock: nobody else touches them.
    """

    def __init__(self) -> None:
        self._records: dict[int, Record] = {}
        self._tokens: dict[Hashable, object] = {}
        self._sweep_at = _SWEPT
        self.read = 0
        """Bytes that were read so far."""
        barrier.NEWCOMERS.owners.add(self)

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
        view = view_of(tensor)
        found = record.digests.get(view)
        if found is None:
            found = self._read(tensor)
            if barrier.is_armed(tensor):
                record.digests[view] = found
        return found

    def watch(self, tensor: Tensor) -> None:
        """Set the flag of a tensor's memory, if that is sound; nothing is read.

        The caller has asked `barrier.is_alone`.
        """
        if not self.holds(tensor) and tensor.nbytes >= LEAST_BYTES and tensor.is_cpu:
            self._record(tensor, watch=True)

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
            storage = _alive(record) if due() else None
            if storage is None or not record.digests:
                continue
            checked += 1
            if self._is_false(key, record, storage):
                false.append(f"of {storage.nbytes()} bytes")
        return checked, false

    def _is_false(self, key: int, record: Record, storage: torch.UntypedStorage) -> bool:
        with GradKept(), plain_torch(torch.device("cpu")):
            for look, digest in list(record.digests.items()):
                dtype, shape, stride, offset = look[:4]
                view = torch.empty(0, dtype=dtype, device="cpu")
                view.set_(storage, offset, shape, stride)
                if not barrier.is_armed(view):
                    return False  # seen: the next to ask reads it
                if self._read(view) != digest and barrier.is_armed(view):
                    self._records.pop(key, None)
                    return True
        return False

    def release(self) -> None:
        """Clear every flag: another thread begins."""
        records, self._records = self._records, {}
        for record in records.values():
            storage = torch.UntypedStorage._new_with_weak_ptr(record.key)  # noqa: SLF001
            if storage is not None:
                storage.data_ptr()

    def leave_open(self, tensor: Tensor) -> None:
        """Clear the flag of a tensor's memory, and do not set it again."""
        if type(tensor) in _DENSE and tensor.layout is torch.strided and tensor.is_cpu:
            barrier.disarm(tensor)
            record = Record(tensor.untyped_storage())
            record.open = True
            self._records[record.key] = record

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor's memory is watched, and nobody can have written to it since."""
        key = tensor.untyped_storage()._cdata  # noqa: SLF001 - as below
        return key in self._records and barrier.is_armed(tensor)

    def name(self, tensor: Tensor, views: Views) -> Record | None:
        """Say what made the bytes of a new tensor's memory, of which nobody else knows yet.

        The caller has asked `barrier.is_alone`, and gives one `views` for the same bytes only.

        Returns:
            What is now known of the tensor's memory, if it can be watched.
        """
        if tensor.nbytes < LEAST_BYTES or not tensor.is_cpu or barrier.capability() is not None:
            return None
        if not (barrier.is_armed(tensor) or barrier.arm(tensor)):
            return None
        record = Record(tensor.untyped_storage(), views)
        self._records[record.key] = record
        if len(self._records) >= self._sweep_at:
            self._sweep()
        return record

    def known(self, tensor: Tensor) -> object | None:
        """The token of a tensor that had one before, if nobody can have written since.

        The caller has asked `barrier.is_alone`. A tensor that is not plain and dense has none: its
        memory cannot be asked for (sparse, wrapped), nor its shape (nested), it has no record (meta,
        other devices), or its dtype is one that no token is made for (quantised).
        """
        record = self._records.get(tensor.untyped_storage()._cdata)  # noqa: SLF001 - as below
        if record is None or not barrier.is_armed(tensor):
            return None
        dtype = tensor.dtype  # `view_of`, written out: this is asked of every tensor
        return record.views.get(
            (
                dtype,
                tensor.shape,
                tensor.stride(),
                tensor.storage_offset(),
                tensor.is_neg(),
                dtype.is_complex and tensor.is_conj(),
            )
        )

    def token(self, tensor: Tensor) -> object:
        """What stands for a plain dense tensor's bytes, layout and device in this process.

        Equal tensors have the same token, unless operations made them (`name`): then those that the
        same operation made of the same.
        """
        view = view_of(tensor)
        known = None
        if tensor.is_cpu and barrier.is_alone():
            known = self._record(tensor, watch=getattr(_LOCAL, "watching", False))
        if known is not None and known.made:
            return known.views.setdefault(view, object())
        ordered = _in_order(tensor)
        digest = self.digest(ordered)  # with the strides, it says as much as the order of elements
        look = (digest, *view[:3], *view[4:], tensor.device)
        if len(self._tokens) >= _TOKENS:
            self._tokens.clear()
        token = self._tokens.setdefault(look, object())
        read = view if ordered is tensor else view_of(ordered)
        if known is not None and read in known.digests and barrier.is_armed(tensor):
            known.views[view] = token
        return token

    def evidence(self, tensor: Tensor) -> Evidence | None:
        """What `doubtful` needs about a tensor whose digest was just taken; None if it is not watched."""
        if not tensor.is_cpu or not barrier.is_alone():
            return None
        record, view = self._record(tensor, watch=False), view_of(tensor)
        if record is None or view not in record.digests:
            return None
        return Evidence(tensor, record, view, tensor.requires_grad)

    def attest(self, tensor: Tensor) -> Evidence | None:
        """Set the flag of a tensor's memory: evidence that it is as it is now, and nothing is read.

        None if it cannot be watched.
        """
        if tensor.nbytes < LEAST_BYTES or not tensor.is_cpu or not barrier.is_alone():
            return None
        record = self._record(tensor, watch=True)
        if record is None:
            return None
        return Evidence(tensor, record, view_of(tensor), tensor.requires_grad)

    def doubtful(self, evidence: Sequence[Evidence | None]) -> list[int]:
        """Places of those tensors that may have changed since (None: always)."""
        if not barrier.is_alone():
            return list(range(len(evidence)))
        known, is_armed = self._records.get, barrier.is_armed
        doubtful = []
        for place, item in enumerate(evidence):
            if item is not None:
                tensor, record, view, requires_grad = item
                if (
                    known(tensor.untyped_storage()._cdata) is record  # noqa: SLF001 - as below
                    and is_armed(tensor)
                    and view_of(tensor) == view
                    and tensor.requires_grad is requires_grad
                ):
                    continue
            doubtful.append(place)
        return doubtful

    def stands(self, panel: Panel) -> bool:
        """Whether nothing that a panel speaks of is doubtful."""
        return barrier.is_alone() and panel.holds(self._records)

    def _record(self, tensor: Tensor, *, watch: bool) -> Record | None:
        """What is known of a tensor's memory and still holds."""
        # a record keeps its storage's address from being given away: this one is the tensor's
        key = tensor.untyped_storage()._cdata  # noqa: SLF001 - as StorageWeakRef does
        record = self._records.get(key)
        if record is not None and not barrier.is_armed(tensor):
            if record.open:
                return None
            self._records.pop(key, None)
            record = None
        return self._watch(tensor, key) if record is None and watch else record

    def _watch(self, tensor: Tensor, key: int) -> Record | None:
        """Set the flag, if nobody holds another way to the memory that the flag would not see."""
        if barrier.capability() is not None or held_elsewhere(tensor) or tensor.is_shared():
            return None
        if torch.cuda.is_initialized() and tensor.is_pinned():
            return None  # copies from the device may be on their way into it
        if not barrier.arm(tensor):
            record = self._records[key] = Record(tensor.untyped_storage())
            record.open = True  # of a file, of numpy, ...: it never can
            return None
        record = self._records[key] = Record(tensor.untyped_storage())
        if len(self._records) >= self._sweep_at:
            self._sweep()
        return record

    def _sweep(self) -> None:
        gone = [key for key, record in self._records.items() if record.expired()]
        for key in gone:
            del self._records[key]
        self._sweep_at = max(2 * len(self._records), _SWEPT)

    def _read(self, tensor: Tensor) -> bytes:
        self.read += tensor.nbytes
        return read_digest(tensor)


def _alive(record: Record) -> torch.UntypedStorage | None:
    """The storage of a record, if it lives."""
    found = torch.UntypedStorage._new_with_weak_ptr(record.key)  # noqa: SLF001 - as multiprocessing does
    return found if isinstance(found, torch.UntypedStorage) else None


def view_of(tensor: Tensor) -> tuple[Any, ...]:
    """How a tensor looks at its memory; takes 0.6 us."""
    dtype = tensor.dtype
    return (
        dtype,
        tensor.shape,
        tensor.stride(),
        tensor.storage_offset(),
        tensor.is_neg(),
        dtype.is_complex and tensor.is_conj(),
    )


def _in_order(tensor: Tensor) -> Tensor:
    """The same elements in the order of memory, if they are dense there: a transposed matrix as it was.

    Reading that is many times as fast.
    """
    if tensor.is_contiguous() or tensor.dim() < 2:
        return tensor
    strides = tensor.stride()
    plain = tensor.detach().permute(sorted(range(tensor.dim()), key=lambda axis: -strides[axis]))
    return plain if plain.is_contiguous() else tensor


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
