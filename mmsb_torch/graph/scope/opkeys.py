"""The key of one operation: what it is, and its arguments by value or by what made them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmsb_torch.instrumentation.capture.schema import OpClass
from mmsb_torch.instrumentation.code.encoding import atom
from mmsb_torch.instrumentation.identity import LEDGER, barrier

_PLAIN = frozenset((Tensor, nn.Parameter, nn.Buffer))
_EXACT = frozenset((int, bool, str, type(None), torch.dtype, torch.device, torch.layout))
LEAST_ELEMENTS = 4096
"""Operations on fewer elements in all are run: that is faster than asking."""


class Unkeyed(Exception):  # noqa: N818 - told, not raised to users
    """This operation is to be executed."""


OpKey = tuple[object, ...]
"""Equal keys mean equal results, in this process."""


def is_worthwhile(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether the tensors that an operation takes are large enough for it to be asked about."""
    for value in args:
        if type(value) in _PLAIN and value.numel() >= LEAST_ELEMENTS:
            return True
    tensors = tensors_in((args, (*kwargs.values(),)))
    return sum([tensor.numel() for tensor in tensors]) >= LEAST_ELEMENTS


def tensors_in(values: Iterable[Any]) -> list[Tensor]:
    """The tensors among values, those in lists and tuples too."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += tensors_in(value)
    return found


def op_key(
    kind: OpClass,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    context: object,
    *,
    alone: bool,
) -> OpKey:
    """The key of a call of a pure operation, in a context.

    It can be read in one way only: a token is a tensor, a class goes before a plain value, a class
    and a length before the elements of a list, and a name before an argument that is given by name.

    Args:
        kind: the operation.
        args: as torch hands them to a mode.
        kwargs: in the order of the operation's schema, as torch hands them over.
        context: compared by identity.
        alone: what `barrier.is_alone` says.

    Raises:
        Unkeyed: an argument cannot be told.
    """
    parts: list[object] = [kind, context]
    _add(parts, args, alone)
    for name, value in kwargs.items():
        parts.append(name)
        _add(parts, (value,), alone)
    return tuple(parts)


def _add(parts: list[object], values: Iterable[Any], alone: bool) -> None:
    for value in values:
        cls = type(value)
        if cls in _PLAIN:
            token = LEDGER.known(value) if alone else None
            parts.append(_token(value) if token is None else token)
        elif cls in _EXACT:
            parts += (cls, value)  # 1 and True and 1.0 are not the same
        elif cls is float:
            parts += (float, value.hex())  # nor are 0.0 and -0.0
        elif cls is list or cls is tuple:
            parts += (cls, len(value))
            _add(parts, value, alone)
        else:
            data = atom(value)
            if data is None:
                raise Unkeyed
            parts += (bytes, data)


def _token(tensor: Tensor) -> object:
    if not is_plain(tensor):
        raise Unkeyed
    with LEDGER.watching():
        return LEDGER.token(tensor)


def watch(args: tuple[Any, ...]) -> None:
    """Watch the memory that a view is about to be taken of, while only one tensor has it."""
    for value in args:
        if type(value) in _PLAIN:
            try:
                if not LEDGER.holds(value) and barrier.is_alone() and is_plain(value):
                    LEDGER.watch(value)
            except (RuntimeError, NotImplementedError):
                return  # it has no memory, or none of its own


def is_plain(tensor: Tensor) -> bool:
    """Whether it is a dense tensor with bytes that can be read."""
    return (
        type(tensor) in _PLAIN
        and tensor.layout is torch.strided
        and not tensor.is_quantized
        and not tensor.is_nested
        and not tensor.is_meta
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)  # noqa: SLF001
    )


def storage_key(tensor: Tensor) -> int:
    """Which memory a tensor is in, while it lives."""
    return int(tensor.untyped_storage()._cdata)  # noqa: SLF001
