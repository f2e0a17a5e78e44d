"""What calls take and make: a tensor's identity is that of its memory and its geometry.

A storage is kept from being taken for another one by a weak reference; a write makes a new version
of it, for all tensors that share it.
"""

from __future__ import annotations

from typing import Any
from weakref import ref

import torch
from torch import Tensor, UntypedStorage

OUTSIDE = -1
"""In place of a call's index: the value came from outside."""


class Storage:
    """Memory that calls read and wrote."""

    __slots__ = ("_weak", "maker", "object", "values", "version", "wrapper", "writer")

    def __init__(self, tensor: Tensor, maker: int, *, wrapper: bool) -> None:
        self.wrapper = wrapper
        """It is no memory, but a tensor that acts like one: sparse, nested, a subclass."""
        self._weak = None if wrapper else tensor.untyped_storage()._weak_ref()  # noqa: SLF001
        self.object = ref(tensor) if wrapper else None
        """The wrapper."""
        self.maker = maker
        """The call that it first appeared from."""
        self.version = 0
        self.writer = OUTSIDE
        """The last call that wrote it."""
        self.values: dict[tuple[object, ...], Value] = {}

    def __del__(self, free: Any = UntypedStorage._free_weak_ref) -> None:  # noqa: SLF001
        if self._weak is not None:
            free(self._weak)


class Value:
    """A tensor as some call saw it.

    Attributes:
        number: its place in `Tape.values`.
        source: what names the tensor itself, in whatever version: (call, "made" or "wrote", place).
        call: index of the call that made it, or `OUTSIDE`.
        writer: the last call that wrote into its storage before it was seen, or `OUTSIDE`.
        unseen: no call that was seen made it of that memory: an alias, or somebody wrote into it.
        counter: torch's version counter when it was last read; None if a call wrote it since.
        kept: the tensor, if it came from outside: weakly, and in `Tape.kept` if it is small.
    """

    __slots__ = (
        "call", "counter", "dtype", "kept", "nbytes", "number", "seen", "shape", "source",
        "storage", "unseen", "version", "writer",
    )  # fmt: skip

    def __init__(self, number: int, tensor: Tensor, storage: Storage, call: int) -> None:
        self.number = number
        self.storage = storage
        self.version = storage.version
        self.writer = storage.writer
        self.call = call
        self.source: tuple[int, str, int] = (OUTSIDE, "", number)
        self.unseen = False
        self.counter: int | None = None
        self.seen = self.kept = ref(tensor)
        self.dtype = tensor.dtype
        self.shape: tuple[int, ...] = ()
        self.nbytes = 0
        if not storage.wrapper:  # a wrapper's shape may be symbols, and reading them tells
            self.shape, self.nbytes = tuple(tensor.shape), tensor.nbytes

    @property
    def spec(self) -> str:
        """Such as `float32[8, 64]`."""
        return f"{str(self.dtype).removeprefix('torch.')}{list(self.shape)}"


def counter(tensor: Tensor) -> int:
    """Torch's count of writes into a tensor's memory; tensors of inference mode have none."""
    return 0 if tensor.is_inference() else tensor._version  # noqa: SLF001 - documented


def tensors(result: Any) -> list[Tensor]:
    """The tensors of a result, in order."""
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, (list, tuple)):
        return [tensor for item in result for tensor in tensors(item)]
    return []


def key(tensor: Tensor) -> tuple[str, int]:
    """What stands for a tensor's memory: its storage, or itself where it has none of its own."""
    return ("storage", tensor.untyped_storage()._cdata) if is_plain(tensor) else ("", id(tensor))  # noqa: SLF001


def is_plain(tensor: Tensor) -> bool:
    """Whether it is a dense tensor with memory of its own: no wrapper that acts like one."""
    return (
        type(tensor).__torch_dispatch__ is _NO_DISPATCH
        and tensor.layout is torch.strided
        and not tensor.is_nested
    )


_NO_DISPATCH = Tensor.__torch_dispatch__


def geometry(tensor: Tensor, storage: Storage) -> tuple[object, ...]:
    """How a tensor lies in its memory."""
    if storage.wrapper:
        return ()
    return (
        tensor.dtype,
        tensor.shape,
        tensor.stride(),
        tensor.storage_offset(),
        tensor.is_conj(),
        tensor.is_neg(),
    )
