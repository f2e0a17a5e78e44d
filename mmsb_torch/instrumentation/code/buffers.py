"""Tensors, arrays and generators: values that are written in place.

They are compared by content at each check. Version counters are not enough: fused optimizers,
`.data` and aliases through numpy write without moving them.
"""

from __future__ import annotations

import array
import functools
import random
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmsb_torch.instrumentation.identity import LEDGER

from .encoding import atom, digest, frame, framed, text
from .values import items_of
from .walk import Label, Walk

_PLAIN_TENSORS = (Tensor, torch.nn.Parameter, torch.nn.Buffer)


def visit_tensor(walk: Walk, tensor: Tensor, label: Label) -> None:
    """A dense tensor by dtype, layout in memory, device, flags and bytes; others by identity."""
    if type(tensor) not in _PLAIN_TENSORS or not _is_dense(tensor):
        walk.identify(tensor, label)
        return
    state = walk.guards.tensor(label, _read_tensor, tensor)
    walk.write(label, frame(type(tensor).__name__, text(repr(state))))
    for name, value in items_of(walk, vars(tensor)):
        part = label.attribute(name)
        walk.write(part, frame("attribute", text(name), walk.refer(value, part)))


def visit_gradient(walk: Walk, tensor: Tensor, label: Label) -> None:
    """The gradient of a tensor, for code that reads one."""
    if type(tensor) not in _PLAIN_TENSORS or not (tensor.is_leaf or tensor.retains_grad):
        return
    part = Label("gradient of", label.name)
    walk.guards.lookup(_gradient, tensor, tensor.grad)
    walk.enter(part, "gradient", tensor.grad)


def visit_array(walk: Walk, value: np.ndarray[Any, Any], label: Label) -> None:
    """An array by dtype, layout and bytes; an array of objects by its elements."""
    if value.dtype.hasobject and value.dtype.kind == "O" and type(value) is np.ndarray:
        elements = tuple(_Elements(value))
        walk.guards.elements(_Elements(value), elements)
        layout = walk.guards.content(label, functools.partial(_layout, value))
        described = text(repr(layout))
        parts = [walk.refer(element, label) for element in elements]
        walk.write(label, framed("objects", [described, *parts]))
    elif type(value) in {np.ndarray, np.memmap} and not value.dtype.hasobject:
        state = walk.guards.content(label, functools.partial(_read_array, value))
        walk.write(label, frame(type(value).__name__, text(repr(state))))
    else:
        walk.identify(value, label)


def visit_bytes(walk: Walk, value: bytearray | array.array[Any], label: Label) -> None:
    """A bytearray or an `array.array`."""
    state = walk.guards.content(label, functools.partial(_read_bytes, value))
    walk.write(label, frame(type(value).__name__, text(repr(state))))


def visit_generator(walk: Walk, value: Any, label: Label) -> None:
    """A random generator of torch, numpy or the standard library, by its state."""
    state = walk.guards.content(label, functools.partial(_reader(type(value)), value))
    walk.write(label, frame(type(value).__name__, text(repr(state))))


def _is_dense(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_nested


def _gradient(tensor: Tensor, _default: object) -> object:
    return tensor.grad


def _read_tensor(tensor: Tensor) -> Hashable:
    return (
        b"" if tensor.is_meta else LEDGER.digest(tensor),
        tensor.dtype,
        tensor.shape,
        tensor.stride(),
        tensor.device,
        tensor.requires_grad,
        tensor.is_conj(),
        tensor.is_neg(),
    )


def _read_array(value: np.ndarray[Any, Any]) -> Hashable:
    data = np.ascontiguousarray(value).reshape(-1).view(np.uint8) if value.size else b""
    return digest(data), _layout(value)


def _layout(value: np.ndarray[Any, Any]) -> Hashable:
    return repr(value.dtype), value.shape, value.strides


class _Elements:
    """The elements of an array of objects, as they are at each iteration."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self._array = array

    def __iter__(self) -> Iterator[object]:
        return iter(self._array.ravel().tolist())


def _read_bytes(value: bytearray | array.array[Any]) -> Hashable:
    return digest(value), len(value), getattr(value, "typecode", "")


def _torch_state(value: torch.Generator) -> Hashable:
    return LEDGER.digest(value.get_state()), value.device


def _numpy_state(value: Any) -> Hashable:
    state = value.get_state(legacy=False) if hasattr(value, "get_state") else None
    return _state_bytes(value.bit_generator.state if state is None else state)


def _state_bytes(state: object) -> bytes:
    if isinstance(state, dict):
        return framed("state", (_state_bytes(part) for item in state.items() for part in item))
    if isinstance(state, np.ndarray):
        return digest(np.ascontiguousarray(state))
    data = atom(state)
    if data is None:
        raise TypeError(f"a generator's state holds {type(state)}")
    return data


def _python_state(value: random.Random) -> Hashable:
    return digest(atom(value.getstate()))


def _reader(cls: type) -> Callable[[Any], Hashable]:
    if cls is torch.Generator:
        return _torch_state
    return _python_state if cls is random.Random else _numpy_state


GENERATORS = (torch.Generator, random.Random)


def is_numpy_generator(cls: type) -> bool:
    """Whether `cls` is one of numpy's generators, told without loading `numpy.random` (8 ms)."""
    return (cls.__module__, cls.__name__) in {
        ("numpy.random._generator", "Generator"),
        ("numpy.random.mtrand", "RandomState"),
    }
