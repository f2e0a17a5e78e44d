"""The arguments of a call, as rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import xxhash
from torch import Tensor
from torch.utils import _pytree as pytree

from mmsb_torch.graph.memo.keys import Refused
from mmsb_torch.graph.memo.recall import PLAIN
from mmsb_torch.instrumentation.code.encoding import atom, framed, text

_ALIGNED = 64
"""Bytes: where torch's own memory begins, and what libraries choose other loops without."""


class Batch:
    """Arguments whose tensors all have one row (index of dimension 0) for each row of the batch.

    Attributes:
        tensors: those of the arguments, in order.
        rows: how many.
        look: what the arguments are but for the elements and the number of rows.
    """

    def __init__(
        self, tensors: list[Tensor], others: list[Any], spec: Any, places: Sequence[bool]
    ) -> None:
        self.tensors = tensors
        self.rows = int(tensors[0].shape[0])
        self._others, self._spec, self._places = others, spec, places
        self._given: tuple[Sequence[Any], Mapping[str, Any]] | None = None
        """The arguments as they came."""

    @classmethod
    def of(cls, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Batch:
        """The arguments of a call; nothing is copied.

        Raises:
            Refused: they are no rows, or nobody can tell what they are.
        """
        leaves, spec = pytree.tree_flatten((tuple(args), dict(kwargs)))
        places = [issubclass(type(leaf), Tensor) for leaf in leaves]
        tensors = [leaf for leaf, is_tensor in zip(leaves, places, strict=True) if is_tensor]
        others = [leaf for leaf, is_tensor in zip(leaves, places, strict=True) if not is_tensor]
        if not tensors or not tensors[0].dim() or not tensors[0].shape[0]:
            raise Refused("no argument is a tensor with rows")
        for tensor in tensors:
            _check(tensor, tensors[0].shape[0])
        if len({(x.untyped_storage()._cdata, x.storage_offset()) for x in tensors}) < len(tensors):  # noqa: SLF001
            raise Refused("two arguments are one tensor: pass x.clone()")
        made = cls(tensors, others, spec, places)
        made._given = args, kwargs
        return made

    @property
    def look(self) -> bytes:
        """What the arguments are but for the elements and the number of rows.

        Raises:
            Refused: one of them is nothing that can be compared.
        """
        parts = [text(repr(self._spec)), text(repr(self._places))]
        for tensor in self.tensors:
            outer = None if tensor.is_contiguous() else tensor.stride(0)
            inner = (tensor.dtype, tuple(tensor.shape[1:]), tensor.stride()[1:], outer)
            parts.append(text(repr((inner, tensor.is_inference()))))
        for other in self._others:
            data = atom(other)
            if data is None:
                raise Refused(f"an argument is a {type(other).__qualname__}, which cannot be keyed")
            parts.append(data)
        return framed("arguments", parts)

    def digests(self, prefix: bytes) -> list[str]:
        """A name for each row, by its bits and `prefix`: 32 hexadecimal digits."""
        state = [xxhash.xxh3_128(prefix) for _ in range(self.rows)]
        for tensor in self.tensors:
            flat = tensor.detach().clone(memory_format=torch.contiguous_format)
            lines = flat.reshape(self.rows, -1).view(torch.uint8).numpy() if flat.numel() else ()
            for row, line in zip(state, lines, strict=False):
                row.update(line.data)
        return [row.hexdigest() for row in state]

    def call(self, function: Callable[..., Any]) -> Any:
        """Call a function with these arguments."""
        if self._given is not None:
            return function(*self._given[0], **self._given[1])
        tensors, others = iter(self.tensors), iter(self._others)
        leaves = [next(tensors) if is_tensor else next(others) for is_tensor in self._places]
        args, kwargs = pytree.tree_unflatten(leaves, self._spec)
        return function(*args, **kwargs)

    def taken(self, order: Tensor) -> Batch:
        """Other rows of these, in memory of their own that is laid out like this.

        Args:
            order: int64[n], the rows.
        """
        return self._with([_taken(tensor, order) for tensor in self.tensors])

    def lively(self) -> Batch | None:
        """The same with random fractions for numbers that have fractions; None if none has."""
        if not any(tensor.is_floating_point() for tensor in self.tensors):
            return None
        chance = torch.Generator().manual_seed(1)
        made = []
        for tensor in self.tensors:
            same = _taken(tensor, torch.arange(self.rows))
            if tensor.is_floating_point():
                same.copy_(torch.randn(tensor.shape, generator=chance, dtype=torch.float32))
            made.append(same)
        return self._with(made)

    def _with(self, tensors: list[Tensor]) -> Batch:
        return Batch(tensors, self._others, self._spec, self._places)


def _check(tensor: Tensor, rows: int) -> None:
    """Raise Refused for what is no dense rows in main memory."""
    if type(tensor) not in PLAIN or tensor.layout is not torch.strided or not tensor.is_cpu:
        raise Refused(
            f"an argument is a {type(tensor).__name__} ({tensor.layout}, {tensor.device}): "
            "expected plain dense tensors on the CPU"
        )
    if tensor.is_quantized or tensor.is_nested or tensor.is_conj() or tensor.is_neg():
        raise Refused("an argument is a tensor of a kind that has no rows of plain bits")
    if vars(tensor):
        raise Refused(f"an argument is a tensor with attributes ({', '.join(vars(tensor))})")
    if not tensor.dim() or tensor.shape[0] != rows:
        raise Refused(
            f"an argument has shape {list(tensor.shape)}: expected {rows} rows, as of the first"
        )
    if tensor.requires_grad and torch.is_grad_enabled():
        raise Refused("gradients are on, and an argument requires them")
    if not tensor.is_contiguous() and tensor.stride(0) < _span(tensor):
        raise Refused("the rows of an argument lie interleaved: pass x.contiguous()")
    if tensor.is_floating_point() and tensor.data_ptr() % _ALIGNED:
        raise Refused(
            f"an argument's memory begins at no multiple of {_ALIGNED} bytes, as other libraries' "
            "does: pass x.clone()"
        )


def _span(tensor: Tensor) -> int:
    """Elements of memory that a row reaches over."""
    inner = zip(tensor.shape[1:], tensor.stride()[1:], strict=True)
    return 1 + sum((size - 1) * step for size, step in inner)


def _taken(tensor: Tensor, order: Tensor) -> Tensor:
    rows = tensor.detach().index_select(0, order)
    if tensor.is_contiguous():
        return rows
    made = torch.empty_strided(rows.shape, tensor.stride(), dtype=tensor.dtype)
    return made.copy_(rows)
