"""What a call returned, as tensors and texts; and back, as new tensors that nobody shares.

Tensors keep their strides, and what shared memory shares it again: of each storage the bytes that
results reach are kept once. A contiguous tensor alone in its storage is kept as it is, under the name of
its place in the result, so that plain tools can read it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmsb_torch.device import copy_of
from mmsb_torch.errors import CorruptStoreError

_TREE = "mmsb.result"
_ATOMS = (type(None), bool, int, str)
_PLAIN: dict[type, Callable[[Any], dict[str, Any]]] = {
    **{kind: lambda value: {"v": value} for kind in _ATOMS},
    float: lambda value: {"f": value.hex()},
    complex: lambda value: {"c": [value.real.hex(), value.imag.hex()]},
    torch.Size: lambda value: {"s": list(value)},
    torch.dtype: lambda value: {"y": str(value).removeprefix("torch.")},
}
_MAX_DEPTH = 64


class Unkeepable(Exception):  # noqa: N818 - told, not raised to users
    """This result cannot be kept; the message says why."""


class Result(NamedTuple):
    """A result taken apart. Its tensors are its own: nobody writes to them."""

    tensors: dict[str, Tensor]
    texts: dict[str, str]

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def take_apart(value: object, arguments: Iterable[Tensor]) -> Result:
    """A result as tensors and texts, copied.

    Args:
        value: tensors, numpy arrays, numbers, texts and None, in lists, tuples and dicts.
        arguments: tensors of the caller, whose memory a result must not be.

    Raises:
        Unkeepable: it holds something else, or is an argument's memory, or carries gradients.
    """
    taken = _Taken({tensor.untyped_storage()._cdata for tensor in arguments})  # noqa: SLF001
    tree = taken.describe(value, "result", 0)
    return Result(taken.copied(), {_TREE: json.dumps(tree, separators=(",", ":"))})


def put_together(result: Result) -> Any:
    """The result again; every tensor is new memory.

    Raises:
        CorruptStoreError: the texts do not describe a result.
    """
    fresh: dict[str, Tensor] = {}

    def tensor_of(name: str) -> Tensor:
        if name not in fresh:
            fresh[name] = copy_of(result.tensors[name])
        return fresh[name]

    try:
        return _build(json.loads(result.texts[_TREE]), tensor_of)
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError, AttributeError) as error:
        raise CorruptStoreError(f"a stored result cannot be read: {error!r}") from error


class _Taken:
    def __init__(self, foreign: set[int]) -> None:
        self._foreign = foreign
        self._tensors: list[tuple[str, Tensor, dict[str, Any]]] = []

    def describe(self, value: Any, name: str, depth: int) -> Any:
        """The JSON of one value; tensors are noted for later."""
        cls = type(value)
        if depth > _MAX_DEPTH:
            raise Unkeepable("its result is nested too deeply")
        if cls in (list, tuple):
            parts = [self.describe(v, f"{name}.{n}", depth + 1) for n, v in enumerate(value)]
            return {"l" if cls is list else "t": parts}
        if cls is dict and all(type(key) in _ATOMS for key in value):
            items = [[k, self.describe(v, f"{name}.{k}", depth + 1)] for k, v in value.items()]
            return {"d": items}
        if cls is np.ndarray:
            return {"a": self._array(value, name)}
        if cls is Tensor:
            return {"x": self._tensor(value, name)}
        if cls in _PLAIN:
            return _PLAIN[cls](value)
        raise Unkeepable(f"its result holds {cls.__module__}.{cls.__qualname__}")

    def _array(self, value: np.ndarray[Any, Any], name: str) -> dict[str, Any]:
        if (
            not value.flags.c_contiguous
            or not value.dtype.isnative
            or value.dtype.names
            or value.dtype.kind not in "biufc"
        ):
            raise Unkeepable(f"its result holds an array of {value.dtype} that is no plain numbers")
        raw = torch.frombuffer(bytearray(value.tobytes() or b"\0"), dtype=torch.uint8)
        about = self._tensor(raw, name)
        return {"of": about, "dtype": value.dtype.str, "shape": list(value.shape)}

    def _tensor(self, value: Tensor, name: str) -> dict[str, Any]:
        if value.requires_grad:
            raise Unkeepable("its result carries a gradient")
        if value.layout is not torch.strided or value.is_quantized or value.is_nested:
            raise Unkeepable("its result holds a tensor that is not dense")
        if value.is_meta or value.is_conj() or value.is_neg() or vars(value):
            raise Unkeepable("its result holds a tensor of a kind that is not kept")
        if value.untyped_storage()._cdata in self._foreign:  # noqa: SLF001
            raise Unkeepable("its result is an argument's own memory")
        about = {
            "inference": value.is_inference(),
            "shape": list(value.shape),
            "stride": list(value.stride()),
            "dtype": str(value.dtype).removeprefix("torch."),
        }
        self._tensors.append((name, value, about))
        return about

    def copied(self) -> dict[str, Tensor]:
        """Copies of what the tensors need, by name; completes what was said of each."""
        by_storage: dict[int, list[tuple[str, Tensor, dict[str, Any]]]] = {}
        for item in self._tensors:
            by_storage.setdefault(item[1].untyped_storage()._cdata, []).append(item)  # noqa: SLF001
        kept: dict[str, Tensor] = {}
        for group in by_storage.values():
            name, first, about = group[0]
            if len(group) == 1 and first.is_contiguous():
                about |= {"in": name, "whole": True}
                kept[name] = copy_of(first.detach())
                continue
            start = min(_reach(tensor)[0] for _, tensor, _ in group)
            stop = max(_reach(tensor)[1] for _, tensor, _ in group)
            for _, tensor, said in group:
                at = tensor.storage_offset() * tensor.itemsize - start
                if at % tensor.itemsize:
                    raise Unkeepable("its result shares memory at odd places")
                said |= {"in": name, "whole": False, "offset": at // tensor.itemsize}
            span = torch.empty(0, dtype=torch.uint8, device=first.device)
            span.set_(first.untyped_storage(), start, (max(stop - start, 0),), (1,))
            kept[name] = copy_of(span)
        return kept


def _reach(tensor: Tensor) -> tuple[int, int]:
    """The bytes of its storage that a tensor reaches, from and to, on whole 16 bytes."""
    start = int(tensor.storage_offset()) * tensor.itemsize
    if tensor.numel() == 0:
        return start, start
    steps = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return start // 16 * 16, start + (steps + 1) * tensor.itemsize


def _build(tree: Mapping[str, Any], tensor_of: Callable[[str], Tensor]) -> Any:
    ((kind, value),) = tree.items()
    if kind == "v":
        return value
    if kind == "f":
        return float.fromhex(value)
    if kind == "c":
        return complex(float.fromhex(value[0]), float.fromhex(value[1]))
    if kind in {"l", "t"}:
        parts = [_build(part, tensor_of) for part in value]
        return parts if kind == "l" else tuple(parts)
    if kind == "d":
        return {key: _build(part, tensor_of) for key, part in value}
    if kind == "s":
        return torch.Size(value)
    if kind == "y":
        return _dtype(value)
    if kind == "a":
        raw = _tensor(value["of"], tensor_of).numpy()
        count = math.prod(value["shape"]) * np.dtype(value["dtype"]).itemsize
        return raw[:count].view(value["dtype"]).reshape(value["shape"])
    if kind == "x":
        return _tensor(value, tensor_of)
    raise ValueError(kind)


def _tensor(about: Mapping[str, Any], tensor_of: Callable[[str], Tensor]) -> Tensor:
    held = tensor_of(about["in"])
    dtype, shape, stride = _dtype(about["dtype"]), about["shape"], about["stride"]
    if about["whole"]:
        if held.dtype is not dtype or list(held.shape) != shape:
            raise ValueError(f"expected {about}, found {held.dtype}{list(held.shape)}")
        if list(held.stride()) == stride and not about["inference"]:
            return held
    with torch.inference_mode(mode=bool(about["inference"])):
        view = torch.empty(0, dtype=dtype, device=held.device)
        return view.set_(held.untyped_storage(), about.get("offset", 0), shape, stride)


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise TypeError(f"this torch has no dtype {name!r}")
    return found
