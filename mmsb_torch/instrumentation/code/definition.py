"""A definition: what a callable computes with, besides its arguments."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from torch import Tensor

from mmsb_torch.errors import InvalidRecipeError

from .identity import Serials
from .survey import survey
from .walk import Label, Walk

_NOTHING: Mapping[str, Any] = types.MappingProxyType({})


class Definition:
    """What a callable depends on besides its arguments, as it was at one moment.

    That is its code and constants, defaults and closure, every global, helper and module of the
    user's that this code names, and so on through those; of an nn.Module also parameters, buffers,
    flags, hooks and attributes. Tensors, arrays, containers and plain objects count by value.
    Libraries (the standard library, site-packages, this package) count by name and version.

    What it cannot see, and does not report: library code patched from outside, unless the user's
    code names the patched thing or it is a method of the class of an nn.Module at hand; the inner
    state of libraries (caches, registries, settings, the global random generators); type
    annotations; docstrings; what is read through a library (files, clocks, the network); C code.

    What it cannot see and reports in `opaque`: objects of compiled types it does not know, which
    it compares by identity only - if they are written in place, nobody notices; calls of `eval`,
    `exec`, `globals`, `open` and others that find things by name when they run. An owner that
    stores results should not trust an opaque definition across calls, let alone processes.

    A definition holds references to everything it depends on, replaced values included until
    `changed` finds everything as it was. Contiguous tensors in main memory are read where they
    are, past torch's dispatcher; all others are copied by torch operations first, which a recording
    dispatch mode would see, and on an accelerator this synchronises. All methods may be called from
    several threads at once; no code of the user's objects runs.

    Attributes:
        function: the callable.
        digest: 32 hexadecimal digits, equal for equal code, constants and referenced values, in
            every process with the same Python, torch and library versions.
        opaque: what made it not `portable`, for messages, such as
            "closure variable 'tok' (tokenizers.Tokenizer)".
        starters: what it begins threads with; of what those do, nobody knows that it is done for
            this definition.
        label: what to call it, such as "scores (analysis.py:12)".
    """

    __slots__ = (
        "__weakref__",
        "_constants",
        "_entries",
        "_guards",
        "_serials",
        "digest",
        "function",
        "label",
        "opaque",
        "starters",
    )

    def __init__(
        self, function: Callable[..., Any], constants: Mapping[str, Any], serials: Serials
    ) -> None:
        self.function = function
        self._constants = dict(constants)
        self._serials = serials
        walk = self._walk()
        self._entries = walk.entries
        self._guards = walk.guards
        self.digest: str = walk.digest.hex()
        self.opaque: tuple[str, ...] = tuple(walk.opaque)
        self.starters: tuple[str, ...] = tuple(walk.starters)
        self.label: str = _label(function)

    @classmethod
    def of(
        cls, function: Callable[..., Any], constants: Mapping[str, Any] = _NOTHING
    ) -> Definition:
        """The definition of `function` as it is now.

        Args:
            function: a function, method, partial, class, nn.Module or callable object.
            constants: arguments that belong to the definition, by name; not copied.

        Raises:
            InvalidRecipeError: `function` is not callable.
        """
        if not callable(function):
            raise InvalidRecipeError(
                f"cannot define {function!r}: expected a callable, got {type(function).__name__}. "
                "Pass a function, an nn.Module or another callable."
            )
        return cls(function, constants, Serials())

    @property
    def portable(self) -> bool:
        """Whether another process can have the same digest, and it means the same there."""
        return not self.opaque

    @property
    def cheap(self) -> bool:
        """Whether `changed` compares identities only, and reads no tensor."""
        return not self._guards.contents

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors whose bytes count, as the objects that the code refers to."""
        found = [getattr(item.read, "args", ()) for item in self._guards.contents]
        return [args[0] for args in found if args and isinstance(args[0], Tensor)]

    def changed(self) -> str | None:
        """What differs from the time of the digest, or None.

        Objects that were made again with the same contents (a cell of a notebook run twice) are no
        change; they are the ones that are watched from then on.

        Returns:
            None, or the first difference for people: "helper 'normalise' changed".
        """
        guards = self._guards
        if guards.intact():
            if not guards.contents:
                return None
            label = guards.written()
            return None if label is None else f"{label} changed"
        walk = self._walk()
        if walk.digest.hex() != self.digest:
            return _difference(self._entries, walk.entries)
        self._guards = walk.guards
        return None

    def difference(self, other: Definition) -> str | None:
        """What is different in `other`, which stands where this one stood; None if nothing is."""
        if other.digest == self.digest:
            return None
        return _difference(self._entries, other._entries)

    @property
    def home(self) -> tuple[str | None, str]:
        """Module and qualified name of the callable."""
        inner = _innermost(self.function)
        name = getattr(inner, "__qualname__", None)
        found = inner if isinstance(name, str) else type(inner)
        module = getattr(found, "__module__", None)
        return module if isinstance(module, str) else None, found.__qualname__

    @property
    def place(self) -> str | None:
        """Where a function of a module stands, if another one of its name would replace it."""
        if type(self.function) is not types.FunctionType:
            return None
        module, name = self.home
        return None if "<" in name else f"{module}.{name}"  # many lambdas have one name

    def refresh(self) -> Definition:
        """A definition of the same function and constants as they are now."""
        return Definition(self.function, self._constants, self._serials)

    def __repr__(self) -> str:
        opaque = f", opaque: {', '.join(self.opaque)}" if self.opaque else ""
        return f"<Definition {self.label} {self.digest[:8]}{opaque}>"

    def _walk(self) -> Walk:
        return survey(self.function, self._constants, self._serials, _name(self.function))


def _difference(before: Sequence[tuple[Label, bytes]], after: Sequence[tuple[Label, bytes]]) -> str:
    for (old, old_data), (new, new_data) in zip(before, after, strict=False):
        if old_data != new_data:
            if old.name == new.name:
                return f"{old} changed"
            gone = all(label != old for label, _ in after)
            return f"{old} removed" if gone else f"{new} added"
    if len(before) < len(after):
        return f"{after[len(before)][0]} added"
    return f"{before[len(after)][0]} removed"


def _name(function: Any) -> str:
    inner = _innermost(function)
    name = getattr(inner, "__name__", None)
    return name if isinstance(name, str) else type(inner).__name__


def _innermost(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _label(function: Any) -> str:
    name, inner = _name(function), _innermost(function)
    code = getattr(getattr(inner, "__func__", inner), "__code__", None)
    if not isinstance(code, types.CodeType):
        return name
    file = PurePath(code.co_filename)
    # A notebook's cells are files with meaningless names in a folder of the kernel's.
    place = "cell" if file.parent.name.startswith("ipykernel_") else file.name
    return f"{name} ({place}:{code.co_firstlineno})"
