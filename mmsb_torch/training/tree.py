"""Nested Python data as JSON and tensors: the state that schedulers, samplers and the like give.

What JSON has is itself. The rest is an object with one more key, "$", that says what it is, so that it
comes back with the type it had: tuples, sets, bytes, complex numbers, infinities, counters, mappings
with keys of any kind. Tensors and arrays are named and kept beside the text, bit for bit. What is none of these is
refused: nothing is turned into bytes that only the right code can read.
"""

from __future__ import annotations

import base64
import math
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mmsb_torch.errors import UnsupportedError


class Keep(Protocol):
    """Takes the tensors of a state, by key."""

    def __call__(
        self, key: str, tensor: Tensor, *, fixed: bool = False, ours: bool = False
    ) -> None:
        """Take a tensor, as it is now.

        Args:
            key: unique in the run's state.
            tensor: it may go on changing when the state was looked at.
            fixed: whether it may never have another shape or dtype.
            ours: whether it was made for this, and nobody else has its memory.
        """


_ATOMS = (str, int, bool, type(None))
_DEPTH = 100


def encode(value: Any, name: str, keep: Keep) -> Any:
    """`value` as what JSON holds; its tensors are given to `keep`.

    Args:
        value: nested dicts, lists, tuples, sets, numbers, strings, bytes, tensors, arrays.
        name: where it is, for names of tensors and for errors.
        keep: called with each tensor's name (`name/...`) and the tensor.

    Raises:
        UnsupportedError: something in it is of another kind; the message says where.
    """
    return _encode(value, name, keep, 0)


def _encode(value: Any, name: str, keep: Keep, depth: int) -> Any:
    kind = type(value)
    if kind in _ATOMS:
        return value
    if depth > _DEPTH:
        raise _refused(name, "nested more than 100 deep, or in itself")
    inside = depth + 1
    if kind is float:
        return value if math.isfinite(value) else {"$": "float", "is": repr(value)}
    if kind is list:
        return [_encode(item, f"{name}/{i}", keep, inside) for i, item in enumerate(value)]
    if kind is dict and not (value.keys() and not _plain_keys(value)):
        return {key: _encode(item, f"{name}/{key}", keep, inside) for key, item in value.items()}
    if isinstance(value, Tensor):
        keep(name, value)
        where = "cpu" if value.is_cpu else str(value.device)
        return {"$": "tensor", "is": name, "on": where}
    if kind is np.ndarray:
        return {"$": "array", **_array(value, name, keep)}
    return _tagged(value, name, keep, inside)


def _plain_keys(value: Mapping[Any, Any]) -> bool:
    return all(type(key) is str for key in value) and "$" not in value


def _tagged(value: Any, name: str, keep: Keep, depth: int) -> dict[str, Any]:
    kind = type(value)
    if kind in _SEQUENCES:
        items = sorted(value, key=repr) if kind in (set, frozenset) else value
        each = [_encode(item, f"{name}/{i}", keep, depth) for i, item in enumerate(items)]
        return {"$": kind.__name__, "is": each}
    if kind in _MAPPINGS:
        pairs = [
            [
                _encode(key, f"{name} (a key)", keep, depth),
                _encode(item, f"{name}/{key}", keep, depth),
            ]
            for key, item in value.items()
        ]
        if kind is defaultdict and value.default_factory is not None:
            raise _refused(name, f"a defaultdict of {value.default_factory!r}")
        return {"$": kind.__name__, "is": pairs}
    if kind is bytes:
        return {"$": "bytes", "is": base64.b64encode(value).decode()}
    if kind is complex:
        return {"$": "complex", "is": [value.real.hex(), value.imag.hex()]}
    if kind in (torch.dtype, torch.device):
        return {"$": kind.__name__, "is": str(value).removeprefix("torch.")}
    if isinstance(value, np.generic) and value.dtype.kind in "biufc":
        return {"$": "number", "dtype": value.dtype.str, "is": value.tobytes().hex()}
    raise _refused(name, f"a {kind.__module__}.{kind.__qualname__}")


def _array(value: np.ndarray[Any, Any], name: str, keep: Keep) -> dict[str, Any]:
    if value.dtype.kind not in "biufc" or not value.dtype.isnative:
        raise _refused(name, f"an array of {value.dtype}")
    flat = np.frombuffer(np.ascontiguousarray(value).tobytes(), np.uint8).copy()
    keep(name, torch.from_numpy(flat), ours=True)
    return {"is": name, "dtype": value.dtype.str, "shape": list(value.shape)}


def _refused(name: str, found: str) -> UnsupportedError:
    return UnsupportedError(
        f"{name!r} cannot be kept: expected plain data (numbers, strings, bytes, lists, tuples, sets, "
        f"dicts, tensors, arrays), found {found}. Leave it out of the state, or give what it is made of."
    )


def decode(tree: Any, tensor: Callable[[str], Tensor]) -> Any:
    """What `encode` was given; `tensor` finds the tensors by name, for reading.

    Raises:
        UnsupportedError: it is of a kind that this version does not know.
    """
    if type(tree) is list:
        return [decode(item, tensor) for item in tree]
    if type(tree) is not dict:
        return tree
    kind = tree.get("$")
    if kind is None:
        return {key: decode(item, tensor) for key, item in tree.items()}
    found = tree["is"]
    if kind in _BY_NAME:
        return _BY_NAME[kind](decode(item, tensor) for item in found)
    if kind in _LEAVES:
        return _LEAVES[kind](found)
    if kind == "tensor":
        return tensor(found).clone().to(tree["on"])
    if kind == "array":
        flat = tensor(found).numpy().copy()
        return flat.view(np.dtype(tree["dtype"])).reshape(tree["shape"])
    if kind == "number":
        return np.frombuffer(bytes.fromhex(found), np.dtype(tree["dtype"]))[0]
    raise UnsupportedError(
        f"the run's state holds a {kind!r}, which this version does not know: "
        "expected a newer version of mmsb_torch."
    )


_SEQUENCES = (tuple, set, frozenset, torch.Size)
_MAPPINGS = (dict, Counter, OrderedDict, defaultdict)
_BY_NAME: dict[str, Callable[[Any], Any]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "Size": torch.Size,
    "dict": dict,
    "Counter": lambda pairs: Counter(dict(pairs)),
    "OrderedDict": OrderedDict,
    "defaultdict": lambda pairs: defaultdict(None, pairs),
}
_LEAVES: dict[str, Callable[[Any], Any]] = {
    "float": float,
    "bytes": base64.b64decode,
    "complex": lambda parts: complex(*map(float.fromhex, parts)),
    "dtype": lambda name: getattr(torch, name),
    "device": torch.device,
}
