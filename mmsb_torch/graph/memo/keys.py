"""The key of a call: 128 bits that name everything its result depends on."""

from __future__ import annotations

import functools
import inspect
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import xxhash
from torch import Tensor, nn

from mmsb_torch.graph.memo.recall import PLAIN, Modes, Recall, modes
from mmsb_torch.instrumentation.code import Definition
from mmsb_torch.instrumentation.code.encoding import atom, digest, framed, text
from mmsb_torch.instrumentation.context import NAMES
from mmsb_torch.instrumentation.identity import LEDGER

_FORM = "mmsb memo 1"
_MODULES = 32


class Refused(Exception):  # noqa: N818 - told, not raised to users
    """This call cannot be keyed; the message says why."""


class Key(NamedTuple):
    """The key of a call, and its parts by name, for telling what differs."""

    digest: str
    parts: tuple[tuple[str, bytes], ...]

    def with_part(self, name: str, data: bytes) -> Key:
        """This key and one more part."""
        parts = (*self.parts, (name, data))
        return Key(_digest(parts), parts)


def difference(before: Key, after: Key) -> list[str]:
    """Names of the parts that differ."""
    old = dict(before.parts)
    return [name for name, data in after.parts if old.get(name) != data]


class Keying:
    """Makes the keys of one function's calls. Thread-safe.

    Args:
        function: what is called.
        ignored: names of parameters that do not count.
        version: stands for the code, if given: edits of the code then do not matter.
    """

    def __init__(
        self, function: Callable[..., Any], ignored: Sequence[str], version: str | None
    ) -> None:
        self._signature = _signature(function)
        self._ignored = frozenset(ignored)
        self._version = version
        self._function = function
        self.definition = Definition.of(function)
        self.reasons: dict[str, str] = {}
        """Part of a key -> what changed in it when it last did."""
        self._modules: dict[int, Definition] = {}
        self._last: tuple[Recall, Key] | None = None

    def refresh(self) -> str | None:
        """Look at the code as it is now; what changed, or None."""
        changed = self.definition.changed()
        if changed is not None:
            self.definition = self.definition.refresh()
            self.reasons["code"] = changed
        return changed

    def key(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Key:
        """The key of a call.

        Raises:
            Refused: something in it cannot be keyed.
            TypeError: the arguments do not fit the function.
        """
        with LEDGER.watching():
            code = self.definition if self._version is None else None
            last = self._last
            if last is not None and last[0].is_again(args, kwargs, code):
                return last[1]
            now = modes()
            parts = context(now)
            parts.append(("code", self._code()))
            for name, value in self.arguments(args, kwargs):
                if name.partition("[")[0] not in self._ignored:
                    parts.append((f"argument {name!r}", self._part(f"argument {name!r}", value)))
            found = tuple(parts)
            key = Key(_digest(found), found)
            code = self.definition if self._version is None else None
            recall = Recall(args, kwargs, now, code, self._modules)
            self._last = (recall, key) if recall.useful else None
        return key

    def arguments(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> list[tuple[str, object]]:
        """The arguments by name, defaults included; those of *args and **kwargs one by one.

        Raises:
            TypeError: they do not fit.
        """
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        found: list[tuple[str, object]] = []
        for name, value in bound.arguments.items():
            kind = self._signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_POSITIONAL:
                found += [(f"{name}[{n}]", item) for n, item in enumerate(value)]
            elif kind is inspect.Parameter.VAR_KEYWORD:
                found += sorted(value.items())
            else:
                found.append((name, value))
        return found

    def _code(self) -> bytes:
        if self._version is not None:
            return text(f"version {self._version} of {_name(self._function)}")
        self.refresh()
        if self.definition.opaque:
            raise Refused(
                f"its code depends on {self.definition.opaque[0]}, which nobody can watch"
            )
        return bytes.fromhex(self.definition.digest)

    def _part(self, name: str, value: object) -> bytes:
        if type(value) in PLAIN:
            assert isinstance(value, Tensor)
            return tensor_part(name, value)
        if isinstance(value, Path):
            return _file_part(name, value)
        data = atom(value)
        if data is not None:
            return data
        definition = self._definition(name, value)
        if definition.opaque:
            raise Refused(f"{name} holds {definition.opaque[0]}, which cannot be keyed")
        return bytes.fromhex(definition.digest)

    def _definition(self, name: str, value: object) -> Definition:
        """What an argument is by value; those of modules are kept, and only checked."""
        if not isinstance(value, nn.Module):
            return Definition.of(_nothing, {"value": value})
        kept = self._modules.get(id(value))
        if kept is None or kept.function is not value:
            if len(self._modules) >= _MODULES:
                self._modules.clear()
            kept = Definition.of(value)
        else:
            changed = kept.changed()
            if changed is not None:
                self.reasons[name] = changed
                kept = kept.refresh()
        self._modules[id(value)] = kept
        return kept


def _nothing() -> None:
    """Stands for no code where only a value counts."""


def tensor_part(name: str, tensor: Tensor) -> bytes:
    """A tensor by dtype, layout, device, flags and bytes.

    Raises:
        Refused: it is not dense, or carries attributes of the user's.
    """
    if not _is_dense(tensor):
        raise Refused(f"{name} is a tensor that is not dense ({tensor.layout}, {tensor.device})")
    if vars(tensor):
        raise Refused(f"{name} is a tensor with attributes ({', '.join(vars(tensor))})")
    layout = (
        tensor.dtype,
        tuple(tensor.shape),
        tensor.stride(),
        tensor.device,
        tensor.requires_grad,
        tensor.is_conj(),
        tensor.is_neg(),
        tensor.is_inference(),
        type(tensor).__name__,
    )
    return framed("tensor", [text(repr(layout)), LEDGER.digest(tensor)])


def _is_dense(tensor: Tensor) -> bool:
    return (
        tensor.layout is torch.strided
        and not tensor.is_quantized
        and not tensor.is_nested
        and not tensor.is_meta
    )


def _file_part(name: str, path: Path) -> bytes:
    """A file by what is in it."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise Refused(f"{name} is the path {str(path)!r}, which is no regular file")
        state = xxhash.xxh3_128()
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                state.update(piece)
    except OSError as error:
        raise Refused(f"{name} is the path {str(path)!r}: {error.strerror}") from error
    return framed("file", [text(str(path)), state.digest()])


def context(now: Modes) -> list[tuple[str, bytes]]:
    """Torch's settings and modes, by name.

    Raises:
        Refused: a mode is active that may change what operations do.
    """
    if now.dispatch:
        raise Refused("a dispatch mode is active")
    if now.function:
        raise Refused(
            "a function mode is active (torch.device as a context, or set_default_device)"
        )
    found = [(f"torch's setting of {n}", v) for n, v in zip(NAMES, now.settings, strict=True)]
    found += [
        ("grad mode", now.grad),
        ("inference mode", now.inference),
        ("autocast on cpu", now.autocast[0]),
        ("autocast on cuda", now.autocast[1]),
    ]
    return [(name, digest(repr(value).encode())) for name, value in found]


def _digest(parts: tuple[tuple[str, bytes], ...]) -> str:
    data = framed(_FORM, [item for name, data in parts for item in (text(name), data)])
    return digest(data).hex()


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function.forward if isinstance(function, nn.Module) else function)


def _name(function: Callable[..., Any]) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    module = getattr(function, "__module__", None)
    return f"{module}.{getattr(function, '__qualname__', type(function).__name__)}"
