"""Answers of two runs, compared: tensors with their layout and bits, in whatever they come."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor


def alike(a: Any, b: Any) -> bool:
    """Whether two answers are the same to the bit, layout and flags included; any NaN is a NaN."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return _described(a) == _described(b) and _same_numbers(a.detach(), b.detach())
    if type(a) is not type(b):
        return False
    if isinstance(a, Mapping):
        return list(a) == list(b) and alike(list(a.values()), list(b.values()))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(alike, a, b))
    if dataclasses.is_dataclass(a):
        return alike(_fields(a), _fields(b))
    return (
        isinstance(a, Tensor)
        or bool(a == b)
        or (isinstance(a, float) and math.isnan(a) and math.isnan(b))
    )


def tensors_in(value: Any) -> list[Tensor]:
    """Every tensor of an answer, or of arguments, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = value.values()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = _fields(value)
    elif isinstance(value, str) or not isinstance(value, Iterable):
        return []
    return [tensor for item in value for tensor in tensors_in(item)]


def _fields(value: Any) -> list[Any]:
    return [getattr(value, field.name) for field in dataclasses.fields(value)]


def _described(tensor: Tensor) -> tuple[object, ...]:
    dense = tensor.layout is torch.strided and not tensor.is_nested
    return (
        tensor.dtype,
        tensor.layout,
        None if tensor.is_nested else tensor.shape,
        tensor.stride() if dense else None,
        tensor.is_conj(),
        tensor.is_neg(),
        tensor.requires_grad,
        tensor.is_inference(),
    )


def _same_numbers(a: Tensor, b: Tensor) -> bool:
    if a.is_nested:
        return alike(list(a.unbind()), list(b.unbind()))
    if a.layout is not torch.strided:
        a, b = a.to_dense(), b.to_dense()
    if a.is_quantized:
        a, b = a.int_repr(), b.int_repr()
    if a.dtype == torch.complex32:  # torch cannot compare those
        a, b = a.to(torch.complex64), b.to(torch.complex64)
    if not (a.is_floating_point() or a.is_complex()):
        return torch.equal(a, b)
    parts = [torch.view_as_real(t.resolve_conj()) if t.is_complex() else t for t in (a, b)]
    one, other = parts
    nan = one.isnan()
    if not torch.equal(nan, other.isnan()):
        return False
    one, other = one.masked_fill(nan, 0), other.masked_fill(nan, 0)
    return torch.equal(one, other) and torch.equal(one.signbit(), other.signbit())
