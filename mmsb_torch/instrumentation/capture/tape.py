"""The tape: every call of a scope as a small record, and which depends on which.

A tensor's identity is that of its storage (kept from being reused by a weak reference) and its
geometry; a write makes a new version of the storage, so whatever is read through any of its views
afterwards depends on the write. No tensor is kept alive but small ones that came from outside.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from mmsb_torch.instrumentation.capture.frames import Locator, Site
from mmsb_torch.instrumentation.capture.schema import OpClass, op_class
from mmsb_torch.instrumentation.capture.values import (
    OUTSIDE,
    Storage,
    Value,
    counter,
    geometry,
    key,
    tensors,
)


class Call:
    """One operation that torch executed.

    Attributes:
        index: its place in the recording.
        kind: what is known of the operation; `op` is its name, such as "aten.add.Tensor".
        args, kwargs: its arguments, a `Value` for each tensor; None if they were not kept.
        read, made, wrote: values that it took, that it returned, and those that it changed.
        site: the user's function and line, and the module.
        seconds: how long it took; on an accelerator, how long it took to launch.
        phase: "forward", "backward" or "optimizer".
        sequence: autograd's number of the node that it was recorded under, or -1.
        forward: the index of the forward call that a backward call belongs to, or `OUTSIDE`.
        told: what it returned to Python, if that tells about elements (`.item()`).
        error: the type of the exception that it raised, or "".
    """

    __slots__ = (
        "args", "began", "error", "forward", "index", "kind", "kwargs", "made",
        "parents", "phase", "read", "seconds", "sequence", "site", "told", "wrote",
    )  # fmt: skip

    index: int
    kind: OpClass
    args: tuple[Any, ...] | None
    kwargs: dict[str, Any] | None
    read: tuple[Value, ...]
    made: tuple[Value, ...]
    wrote: tuple[Value, ...]
    parents: tuple[int, ...]
    site: Site
    began: int
    seconds: float
    phase: str
    sequence: int
    forward: int
    told: Any
    error: str

    @property
    def op(self) -> str:
        """The operation's name."""
        return self.kind.name

    @property
    def inputs(self) -> tuple[int, ...]:
        """Indices of the calls that it depends on, ascending."""
        return self.parents

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of what it returned, or else of what it wrote."""
        return tuple(value.shape for value in self.made or self.wrote)

    @property
    def nbytes(self) -> int:
        """Bytes of what it returned, or else of what it wrote; views count in full."""
        return sum(value.nbytes for value in self.made or self.wrote)

    @property
    def function(self) -> str:
        """Qualified name of the user's function."""
        return self.site.function

    @property
    def file(self) -> str:
        """The user's file."""
        return self.site.file

    @property
    def line(self) -> int:
        """The line in it."""
        return self.site.line

    @property
    def module(self) -> str:
        """Path of the module at work, such as "encoder.layer.3.attention"."""
        return self.site.module

    def __repr__(self) -> str:
        made = ", ".join(value.spec for value in self.made or self.wrote)
        where = f" {self.site}" if self.function else ""
        error = f", raised {self.error}" if self.error else ""
        return f"<Call {self.index} {self.op} -> {made or 'nothing'}{where}{error}>"


class Tape:
    """Records calls, up to a budget; what exceeds it is executed and counted.

    Args:
        locator: says where calls come from.
        max_calls: how many calls are kept.
        keep_bytes: tensors from outside are kept alive up to so many bytes in all.

    Thread safety: `handle` may be called from several threads (autograd's).
    """

    def __init__(self, locator: Locator, *, max_calls: int, keep_bytes: int) -> None:
        self.calls: list[Call] = []
        self.values: list[Value] = []
        self.kept: dict[int, Tensor] = {}
        self.kept_bytes = 0
        self.unseen = 0
        """Writes that torch counted and no call was seen for: compiled kernels, other threads."""
        self.dropped: Counter[str] = Counter()
        self.max_calls = max_calls
        self.keep_bytes = keep_bytes
        self._locator = locator
        self._lock = threading.RLock()
        self._seen: dict[int, Value] = {}
        self._storages: dict[tuple[str, int], Storage] = {}
        self._by_sequence: dict[int, int] = {}
        self._first: int = _sequence()

    def close(self) -> None:
        """No more calls come; storages stay known, for `find`."""
        self._seen.clear()
        self._by_sequence.clear()

    def handle(self, func: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Execute a call and record it."""
        del types
        kind = op_class(func)
        if kind.marker:
            return func(*args, **kwargs)
        if len(self.calls) >= self.max_calls:
            self.dropped[kind.name] += 1
            return func(*args, **kwargs)
        call = Call()
        call.kind, call.error = kind, ""
        try:
            with self._lock:
                call.site = self._locator.site()
                self._take(call, args, kwargs)
                written = tuple(kind.written(args, kwargs)) if kind.writes else ()
        except Exception:  # noqa: BLE001 - whatever is strange about it, the call has to run
            self.dropped[kind.name] += 1
            return func(*args, **kwargs)
        call.began = began = time.perf_counter_ns()
        try:
            result = func(*args, **kwargs)
        except BaseException as error:
            call.seconds, call.error = _since(began), type(error).__name__
            self._enter(call, None, written)
            raise
        call.seconds = _since(began)
        self._enter(call, result, written)
        return result

    def find(self, tensor: Tensor) -> Value | None:
        """The value that a tensor holds as far as this tape saw; None if it never saw it."""
        storage = self._storages.get(key(tensor))
        if storage is None:
            return None
        found = storage.values.get(geometry(tensor, storage))
        if found is None or found.version == storage.version:
            return found
        return self._again(tensor, found)

    def _take(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note what a call reads, before it runs and changes that."""
        read: list[Value] = []
        call.args = tuple([self._template(item, read) for item in args])
        call.kwargs = {name: self._template(item, read) for name, item in kwargs.items()}
        if call.kind.opaque:
            call.args = call.kwargs = None
        call.read = tuple(read)

    def _template(self, item: Any, read: list[Value]) -> Any:
        if isinstance(item, Tensor):
            found = self._seen.get(id(item))
            if found is None or found.seen() is not item or found.version != found.storage.version:
                found = self._look(item)
            count = counter(item)
            if count != found.counter:
                if found.counter is not None:
                    found = self._written_unseen(item, found)
                found.counter = count
            read.append(found)
            return found
        if isinstance(item, (list, tuple)):
            return [self._template(part, read) for part in item]
        return item

    def _look(self, tensor: Tensor) -> Value:
        """The value of a tensor that a call reads."""
        storage = self._storage(tensor, OUTSIDE)
        layout = geometry(tensor, storage)
        found = storage.values.get(layout)
        if found is None:
            fresh = not storage.values
            value = self._value(tensor, storage, storage.maker)
            value.unseen = not fresh
            if fresh:
                self._keep(value, tensor)
        elif found.version != storage.version:
            value = self._again(tensor, found)
        else:
            value = found
            value.seen = ref(tensor)
        storage.values[layout] = value
        self._seen[id(tensor)] = value
        return value

    def _again(self, tensor: Tensor, before: Value) -> Value:
        """The value of a tensor whose memory was written since it was seen as `before`."""
        value = self._value(tensor, before.storage, before.call)
        value.source, value.unseen, value.kept = before.source, before.unseen, before.kept
        return value

    def _written_unseen(self, tensor: Tensor, before: Value) -> Value:
        """Somebody wrote into memory and torch counted it, but no call was seen."""
        self.unseen += 1
        before.storage.version += 1
        value = self._look(tensor)
        value.unseen = True
        return value

    def _keep(self, value: Value, tensor: Tensor) -> None:
        if value.nbytes + self.kept_bytes <= self.keep_bytes:
            self.kept[value.number] = tensor
            self.kept_bytes += value.nbytes

    def _storage(self, tensor: Tensor, maker: int) -> Storage:
        name = key(tensor)
        storage = self._storages.get(name)
        if storage is None or (
            # an object's id is used again when it is gone; a storage's is not while we watch it
            storage.object is not None and storage.object() is not tensor
        ):
            storage = Storage(tensor, maker, wrapper=not name[0])
            self._storages[name] = storage
        return storage

    def _value(self, tensor: Tensor, storage: Storage, call: int) -> Value:
        value = Value(len(self.values), tensor, storage, call)
        self.values.append(value)
        return value

    def _enter(self, call: Call, result: Any, written: Sequence[Tensor]) -> None:
        """Note what a call made and wrote."""
        call.made = call.wrote = call.parents = ()
        call.forward, call.sequence, call.phase = OUTSIDE, -1, call.site.phase
        call.told = None
        with self._lock:
            call.index = len(self.calls)
            self.calls.append(call)
            try:
                self._note(call, result, written)
            except Exception:  # noqa: BLE001 - as above
                self.dropped[call.op] += 1

    def _note(self, call: Call, result: Any, written: Sequence[Tensor]) -> None:
        index = call.index
        wrote: list[Value] = []
        for tensor in written:
            storage = self._storage(tensor, index)
            storage.version += 1
            storage.writer = index
            value = self._new(tensor, storage, index)
            value.source = (index, "wrote", len(wrote))
            wrote.append(value)
        made: list[Value] = []
        for tensor in tensors(result):
            known = self._seen.get(id(tensor))
            if known is not None and known.seen() is tensor and known.call == index:
                value = known
            else:
                value = self._new(tensor, self._storage(tensor, index), index)
                value.source = (index, "made", len(made))
            made.append(value)
        call.made, call.wrote = tuple(made), tuple(wrote)
        call.told = result if call.kind.reads else None
        parents = {value.call for value in call.read} | {value.writer for value in call.read}
        parents.discard(OUTSIDE)
        call.parents = tuple(sorted(parents))
        self._phase(call)

    def _new(self, tensor: Tensor, storage: Storage, index: int) -> Value:
        value = self._value(tensor, storage, index)
        if storage.maker == index and storage.writer != index:
            value.counter = counter(tensor)
        storage.values[geometry(tensor, storage)] = value
        self._seen[id(tensor)] = value
        return value

    def _phase(self, call: Call) -> None:
        node = _node()
        call.sequence = _sequence()
        if call.sequence > self._first:
            self._by_sequence.setdefault(call.sequence, call.index)
        if node is not None:
            call.phase = "backward"
            call.forward = self._by_sequence.get(node._sequence_nr() + 1, OUTSIDE)  # noqa: SLF001


def _since(began: int) -> float:
    return (time.perf_counter_ns() - began) * 1e-9


# private, and only for labels: where a release lacks them, backward calls are not told apart
_node = getattr(torch._C, "_current_autograd_node", lambda: None)  # noqa: SLF001
_sequence = getattr(torch._C._autograd, "_get_sequence_nr", lambda: 0)  # noqa: SLF001
