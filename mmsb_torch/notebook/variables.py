"""Variables as plain data and tensors, and back.

What a variable holds becomes a tree of plain data (what JSON holds) whose leaves may name tensors. Kept
are: plain data, its containers, dense tensors and numpy arrays by value, tensors that share memory as
ones that do; functions and classes as the objects they are, for this session; and the
parameters and buffers of an `nn.Module`, which are given back to that very module.
"""

from __future__ import annotations

import builtins
import math
import types
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmsb_torch.graph.scope.opkeys import is_plain, storage_key

Tree = dict[str, Any]
_PLAIN = (type(None), bool, int, str)
_MOST_ELEMENTS = 10_000
_MOST_TEXT = 1 << 20
_BY_REFERENCE = (types.FunctionType, types.BuiltinFunctionType, type)
_CONTAINERS: dict[type, Callable[[Any], Any]] = {
    list: list, tuple: tuple, set: set, frozenset: frozenset, torch.Size: torch.Size,
}  # fmt: skip
_NAMED = (torch.dtype, torch.device)


class Unkept(Exception):  # noqa: N818 - told in a log, not raised to users
    """A variable that cannot be kept; its text says why."""


class Objects:
    """What is kept as the object it is, by number, while the session lasts."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._held: list[Any] = []

    def number(self, thing: Any) -> int:
        """The number of an object; it is held from now on."""
        found = self._numbers.get(id(thing))
        if found is None:
            found = self._numbers[id(thing)] = len(self._held)
            self._held.append(thing)
        return found

    def get(self, number: int) -> Any:
        """The object of a number.

        Raises:
            Unkept: it was another session's.
        """
        if not 0 <= number < len(self._held):
            raise Unkept("it was an object of an earlier session")
        return self._held[number]


class Freezing:
    """Turns the variables of one moment into trees and tensors.

    Args:
        objects: of the session; with its mark, so that another session's are told apart.
        most_bytes: larger tensors are not kept.

    Attributes:
        tensors: what the trees name: the tensors themselves, not copies.
    """

    def __init__(self, objects: Objects, session: str, most_bytes: int) -> None:
        self._objects, self._session, self._most = objects, session, most_bytes
        self._shared: set[int] = set()
        self._count = 0
        self.tensors: dict[str, Tensor] = {}

    def freeze(self, variables: Mapping[str, Any]) -> tuple[dict[str, Tree], dict[str, str]]:
        """The trees of variables by name, and why others have none."""
        users = Counter(key for value in variables.values() for key in _storages(value))
        self._shared = {key for key, number in users.items() if number > 1}
        trees, unkept = {}, {}
        for name, value in variables.items():
            before, self._count = set(self.tensors), 0
            try:
                trees[name] = self._tree(value, name, 0)
            except Unkept as reason:
                unkept[name] = str(reason)
                self.tensors = {k: self.tensors[k] for k in self.tensors if k in before}
        return trees, unkept

    def _tree(self, value: Any, path: str, depth: int) -> Tree:
        self._count += 1
        if self._count > _MOST_ELEMENTS or depth > 16:
            raise Unkept(f"it has more than {_MOST_ELEMENTS:,} parts")
        cls = type(value)
        if cls in _PLAIN or cls is float:
            return self._plain(value)
        if cls in _CONTAINERS:
            items = list(value)
            return {"kind": cls.__name__, "of": self._trees(items, path, depth)}
        if cls is dict:
            keys = [self._tree(key, f"{path} key", depth + 1) for key in value]
            if any(key["kind"] not in {"plain", "float", "tuple"} for key in keys):
                raise Unkept("it is a dict with keys that are no plain data")
            names = [f"{path}[{key!r:.40}]" for key in value]
            pairs = zip(value.values(), names, strict=True)
            return {
                "kind": "dict",
                "keys": keys,
                "of": [self._tree(item, name, depth + 1) for item, name in pairs],
            }
        return self._special(value, path, depth)

    def _special(self, value: Any, path: str, depth: int) -> Tree:
        if isinstance(value, Tensor):
            return self._tensor(value, path)
        if type(value) is np.ndarray:
            if value.dtype.hasobject or value.dtype.fields or value.dtype.kind not in "biufc":
                raise Unkept(f"it is an array of {value.dtype}")
            return self._array(value, path)
        if isinstance(value, nn.Module):
            state = {**dict(value.named_parameters()), **dict(value.named_buffers())}
            trees = {key: self._tensor(item, f"{path}.{key}") for key, item in state.items()}
            return {"kind": "module", "object": self._number(value), "state": trees}
        if isinstance(value, _BY_REFERENCE):
            return {"kind": "object", "object": self._number(value)}
        if isinstance(value, _NAMED):
            return {"kind": "torch", "name": str(value), "class": type(value).__name__}
        if type(value) in (range, slice):
            parts = [value.start, value.stop, value.step]
            return {"kind": type(value).__name__, "of": self._trees(parts, path, depth)}
        if type(value) is bytes and len(value) <= _MOST_TEXT:
            return {"kind": "bytes", "hex": value.hex()}
        if type(value) is complex:
            return {"kind": "complex", "of": [value.real.hex(), value.imag.hex()]}
        raise Unkept(f"a {type(value).__module__}.{type(value).__qualname__} cannot be kept")

    def _trees(self, items: Iterable[Any], path: str, depth: int) -> list[Tree]:
        return [self._tree(item, f"{path}[{at}]", depth + 1) for at, item in enumerate(items)]

    def _plain(self, value: Any) -> Tree:
        if type(value) is float and not math.isfinite(value):
            return {"kind": "float", "hex": value.hex()}
        if type(value) is str and (len(value) > _MOST_TEXT or not _is_text(value)):
            raise Unkept("it is a long text, or one that is no unicode")
        if type(value) is int and value.bit_length() > 4000:
            raise Unkept("it is a very large number")
        return {"kind": "plain", "value": value}

    def _number(self, thing: Any) -> list[Any]:
        return [self._session, self._objects.number(thing)]

    def _array(self, value: np.ndarray[Any, Any], path: str) -> Tree:
        try:
            copy = torch.from_numpy(np.ascontiguousarray(value).copy())
        except TypeError:
            raise Unkept(f"it is an array of {value.dtype}") from None
        copy = copy.reshape(value.shape)
        return {"kind": "array", "tensor": self._put(copy, path)}

    def _tensor(self, value: Tensor, path: str) -> Tree:
        if not is_plain(value) or type(value) not in (Tensor, nn.Parameter, nn.Buffer):
            raise Unkept(f"a {type(value).__name__} of this kind cannot be kept")
        about: Tree = {"kind": "tensor", "class": type(value).__name__, "grad": value.requires_grad}
        if value.grad_fn is not None:
            about |= {"grad": False, "detached": True}
        plain = value.detach()
        storage = plain.untyped_storage()
        if storage_key(plain) in self._shared and storage.nbytes() <= 4 * max(plain.nbytes, 1):
            whole = torch.empty(0, dtype=torch.uint8, device=plain.device)
            whole.set_(storage, 0, (storage.nbytes(),), (1,))
            about["look"] = [
                str(plain.dtype), list(plain.shape), list(plain.stride()), plain.storage_offset()
            ]  # fmt: skip
            if plain.is_conj() or plain.is_neg():
                raise Unkept("it is a lazy view of another tensor")
            about["tensor"] = self._put(whole, f"memory {storage_key(plain)}", of=path)
            return about
        dense = plain.resolve_conj().resolve_neg()
        if not dense.is_contiguous():
            about["stride"] = list(dense.stride())
        about["tensor"] = self._put(dense, path)
        return about

    def _put(self, tensor: Tensor, path: str, of: str = "") -> str:
        if tensor.nbytes > self._most:
            raise Unkept(
                f"it has {tensor.nbytes:,} bytes, more than the {self._most:,} kept of one"
            )
        if of:  # one for all that share it, named for the first
            for name, known in self.tensors.items():
                if name.startswith("memory of ") and storage_key(known) == storage_key(tensor):
                    return name
            path = f"memory of {of}"
        self.tensors[path] = tensor
        return path


class Thawing:
    """Makes values of trees again.

    Args:
        read: gives the tensor of a name, as it was; it is copied.
        objects: of the session.
        session: its mark.

    Attributes:
        loads: what is to be written into parameters and buffers, when all else was made.
        detached: whether something came back without how it was computed (for backward).
    """

    def __init__(self, read: Callable[[str], Tensor], objects: Objects, session: str) -> None:
        self._read, self._objects, self._session = read, objects, session
        self._shared: dict[str, Tensor] = {}
        self.loads: list[tuple[Tensor, Tensor]] = []
        self.detached = False

    def thaw(self, tree: Tree) -> Any:
        """The value of a tree.

        Raises:
            Unkept: it cannot be made in this session.
        """
        kind = tree["kind"]
        if kind == "plain":
            return tree["value"]
        if kind == "dict":
            keys = [self.thaw(key) for key in tree["keys"]]
            return dict(zip(keys, map(self.thaw, tree["of"]), strict=True))
        if kind in {"range", "slice"}:
            return getattr(builtins, kind)(*map(self.thaw, tree["of"]))
        for cls, make in _CONTAINERS.items():
            if kind == cls.__name__:
                return make(map(self.thaw, tree["of"]))
        return getattr(self, f"_{kind}")(tree)

    def _float(self, tree: Tree) -> float:
        return float.fromhex(tree["hex"])

    def _bytes(self, tree: Tree) -> bytes:
        return bytes.fromhex(tree["hex"])

    def _complex(self, tree: Tree) -> complex:
        return complex(*map(float.fromhex, tree["of"]))

    def _torch(self, tree: Tree) -> Any:
        if tree["class"] == "device":
            return torch.device(tree["name"])
        return getattr(torch, tree["name"].removeprefix("torch."))

    def _object(self, tree: Tree) -> Any:
        session, number = tree["object"]
        if session != self._session:
            raise Unkept("it was an object of an earlier session: run the cell that makes it")
        return self._objects.get(number)

    def _module(self, tree: Tree) -> Any:
        module: nn.Module = self._object(tree)
        there = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        if there.keys() != tree["state"].keys():
            raise Unkept("its parameters are others now")
        for name, part in tree["state"].items():
            value, target = self._tensor(part), there[name]
            if value.shape != target.shape or value.dtype != target.dtype:
                raise Unkept(f"its {name!r} has another shape or dtype now")
            self.loads.append((target, value.detach()))
        return module

    def _array(self, tree: Tree) -> Any:
        return self._read(tree["tensor"]).clone().numpy()

    def _tensor(self, tree: Tree) -> Tensor:
        name = tree["tensor"]
        self.detached |= "detached" in tree
        if "look" in tree:
            dtype, shape, stride, offset = tree["look"]
            whole = self._shared.get(name)
            if whole is None:
                whole = self._shared[name] = self._read(name).clone()
            value = torch.empty(
                0, dtype=getattr(torch, dtype.removeprefix("torch.")), device=whole.device
            )
            value.set_(whole.untyped_storage(), offset, shape, stride)
        else:
            value = self._read(name)
            if "stride" in tree and not any(step == 0 for step in tree["stride"]):
                room = torch.empty_strided(
                    value.shape, tree["stride"], dtype=value.dtype, device=value.device
                )
                value = room.copy_(value)
            else:
                value = value.clone(memory_format=torch.contiguous_format)
        if tree["class"] == "Parameter":
            return nn.Parameter(value, requires_grad=tree["grad"])
        return value.requires_grad_(tree["grad"])


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _storages(value: Any, depth: int = 3) -> Iterable[int]:
    """The memory of the tensors in a value: which of it several variables share."""
    if isinstance(value, Tensor):
        if is_plain(value) and value.nbytes:
            yield storage_key(value)
    elif type(value) in (list, tuple, dict) and depth and len(value) <= _MOST_ELEMENTS:
        for item in value.values() if type(value) is dict else value:
            yield from _storages(item, depth - 1)
