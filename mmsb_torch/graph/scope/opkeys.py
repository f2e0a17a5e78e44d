"""The key of one operation of torch: its name, and its arguments by value or by what made them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmsb_torch.instrumentation.capture.schema import OpClass
from mmsb_torch.instrumentation.code.encoding import atom
from mmsb_torch.instrumentation.context import settings
from mmsb_torch.instrumentation.identity import LEDGER, barrier

_PLAIN = (Tensor, nn.Parameter, nn.Buffer)
_EXACT = frozenset((int, bool, str, type(None), torch.dtype, torch.device, torch.layout))
_NAMESPACES = ("aten", "prims")
LEAST_ELEMENTS = 4096
"""Operations on fewer elements in all are run: that is faster than asking."""


class Unkeyed(Exception):  # noqa: N818 - told, not raised to users
    """This operation is to be executed."""


def is_pure(kind: OpClass, func: Any) -> bool:
    """Whether an operation's result follows from its arguments and is memory of its own."""
    return not (
        kind.writes
        or kind.view
        or kind.reads
        or kind.opaque
        or kind.factory
        or kind.marker
        or func.namespace not in _NAMESPACES  # what others do, nobody knows
        or torch.Tag.nondeterministic_bitwise in func.tags
        or torch.Tag.maybe_aliasing_or_mutating in func.tags
    )


OpKey = tuple[object, ...]
"""Equal keys mean equal results, in this process."""


def op_key(
    kind: OpClass, args: tuple[Any, ...], kwargs: Mapping[str, Any], taken: list[Tensor]
) -> OpKey:
    """The key of a call of a pure operation; the tensors that it takes are added to `taken`.

    Raises:
        Unkeyed: an argument cannot be told, or they are too small to be worth it.
    """
    _collect(args, taken)
    if kwargs:
        _collect(list(kwargs.values()), taken)
    if sum([tensor.numel() for tensor in taken]) < LEAST_ELEMENTS:
        raise Unkeyed
    alone = barrier.is_alone()
    with LEDGER.watching():
        parts = [_part(item, alone) for item in args]
        parts += [(name, _part(item, alone)) for name, item in kwargs.items()]
    return (kind.name, settings(), torch.is_inference_mode_enabled(), *parts)


def _collect(values: Any, taken: list[Tensor]) -> None:
    for value in values:
        if isinstance(value, Tensor):
            taken.append(value)
        elif isinstance(value, (list, tuple)):
            _collect(value, taken)


def _part(value: Any, alone: bool) -> object:
    if isinstance(value, Tensor):
        return _tensor_part(value, alone)
    cls = type(value)
    if cls in _EXACT:
        return cls, value  # 1 and True and 1.0 are not the same
    if cls is float:
        return value.hex()  # nor are 0.0 and -0.0
    if cls is list or cls is tuple:
        return cls, *[_part(item, alone) for item in value]
    data = atom(value)
    if data is None:
        raise Unkeyed
    return data


def _tensor_part(tensor: Tensor, alone: bool) -> object:
    if not is_plain(tensor):
        raise Unkeyed
    source = LEDGER.source(tensor) if alone else None
    return (
        LEDGER.digest(tensor) if source is None else source,
        tensor.dtype,
        tensor.shape,
        tensor.stride(),
        tensor.device,
        tensor.is_conj(),
        tensor.is_neg(),
        None if source is None else tensor.storage_offset(),
    )


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
