"""The key of one operation of torch: its name, and its arguments by value or by what made them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmsb_torch.instrumentation.capture.schema import OpClass
from mmsb_torch.instrumentation.code.encoding import atom, digest, framed, text
from mmsb_torch.instrumentation.context import settings
from mmsb_torch.instrumentation.identity import LEDGER

_PLAIN = (Tensor, nn.Parameter, nn.Buffer)
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


def op_key(
    kind: OpClass, args: tuple[Any, ...], kwargs: Mapping[str, Any], taken: list[Tensor]
) -> bytes:
    """The key of a call of a pure operation; the tensors that it takes are added to `taken`.

    Raises:
        Unkeyed: an argument cannot be told, or they are too small to be worth it.
    """
    given = [args, *kwargs.items()]
    taken += _tensors(given)
    if sum(tensor.numel() for tensor in taken) < LEAST_ELEMENTS:
        raise Unkeyed
    with LEDGER.watching():
        parts = [_part(item) for item in given]
    context = repr((settings(), torch.is_inference_mode_enabled())).encode()
    return digest(framed("op", [text(kind.name), context, *parts]))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _part(value: Any) -> bytes:
    if isinstance(value, Tensor):
        return _tensor_part(value)
    if type(value) in (list, tuple):
        return framed(type(value).__name__, [_part(item) for item in value])
    data = atom(value)
    if data is None:
        raise Unkeyed
    return data


def _tensor_part(tensor: Tensor) -> bytes:
    if not is_plain(tensor):
        raise Unkeyed
    source = LEDGER.source(tensor)
    layout = (
        tensor.dtype,
        tuple(tensor.shape),
        tensor.stride(),
        tensor.device,
        tensor.is_conj(),
        tensor.is_neg(),
        None if source is None else tensor.storage_offset(),
    )
    known = LEDGER.digest(tensor) if source is None else source
    return framed("made" if source is not None else "tensor", [repr(layout).encode(), known])


def is_plain(tensor: Tensor) -> bool:
    """Whether it is a dense tensor with bytes that can be read."""
    return (
        type(tensor) in _PLAIN
        and tensor.layout is torch.strided
        and not tensor.is_quantized
        and not tensor.is_nested
        and not tensor.is_meta
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)  # noqa: SLF001
        and math.prod(tensor.shape) >= 0
    )


def storage_key(tensor: Tensor) -> int:
    """Which memory a tensor is in, while it lives."""
    return int(tensor.untyped_storage()._cdata)  # noqa: SLF001
