"""Which user function and line an operation comes from, and inside of which module.

`Walk` looks at the Python stack when an operation arrives: 0.1 us a frame, nothing in between, and
nothing is hooked. `trace.Trace` answers the same from call events.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path, PurePath
from types import CodeType, FrameType
from typing import Protocol
from weakref import ref

import torch
from torch import nn

from mmsb_torch.instrumentation.code.libraries import is_library_file

LIBRARY, USER, MODULE, OPTIMIZER, BACKWARD, COMPILED = range(6)
_OURS = str(Path(__file__).parents[2])
_TORCH = str(PurePath(torch.__file__).parent)
_OPTIMIZER_FILE = str(PurePath(_TORCH, "optim", "optimizer.py"))
_AUTOGRAD_FILE = str(PurePath(_TORCH, "autograd", "__init__.py"))
_COMPILED_FILE = str(PurePath(_TORCH, "_dynamo", "eval_frame.py"))


class Site:
    """Where in the user's code an operation comes from. One object a place; compare with `is`.

    Attributes:
        function: qualified name of the innermost function of the user's; "" if there is none.
        file: as Python names it.
        root: class name of the outermost module at work; "" outside of modules.
        module: path of the innermost module in it, such as "encoder.layer.3.attention".
        phase: "optimizer" in an optimizer's step, "backward" in what prepares autograd's run (what
            that run does is known from autograd), else "forward".
        compiled: it is part of a `torch.compile`d function, whose own kernels are not seen.
    """

    __slots__ = ("_code", "_offset", "compiled", "module", "phase", "root")

    def __init__(
        self,
        code: CodeType | None,
        offset: int,
        module: tuple[str, str] = ("", ""),
        *,
        phase: str = "forward",
        compiled: bool = False,
    ) -> None:
        self._code, self._offset = code, offset
        self.root, self.module = module
        self.phase = phase
        self.compiled = compiled

    @property
    def function(self) -> str:
        """Qualified name of the function."""
        return "" if self._code is None else self._code.co_qualname

    @property
    def file(self) -> str:
        """Its file."""
        return "" if self._code is None else self._code.co_filename

    @property
    def line(self) -> int:
        """The line; 0 if unknown."""
        if self._code is None:
            return 0
        positions = list(self._code.co_positions())
        place = self._offset // 2
        found = positions[place][0] if 0 <= place < len(positions) else None
        return found or self._code.co_firstlineno

    def __str__(self) -> str:
        if self._code is None:
            return ""
        file = PurePath(self.file)
        place = "cell" if file.parent.name.startswith("ipykernel_") else file.name
        return f"{self.function} ({place}:{self.line})"

    def __repr__(self) -> str:
        return f"<Site {self} {self.root}:{self.module}>"


NOWHERE = Site(None, 0)


class Locator(Protocol):
    """Says where the operation that is being handled comes from."""

    def check(self) -> None:
        """Raise RecordingError if it cannot be started."""
        ...

    def start(self, frame: FrameType | None) -> None:
        """Begin; `frame` is that of the `with` statement, the outermost of interest."""
        ...

    def site(self) -> Site:
        """The site of the operation at hand. The caller's caller is the mode's handler."""
        ...

    def stop(self) -> None:
        """End, and let go of everything but the sites."""
        ...


class Codes:
    """What kind of code each code object is; and the sites, one object each."""

    def __init__(self) -> None:
        self.kinds: dict[int, int] = {id(nn.Module._wrapped_call_impl.__code__): MODULE}  # noqa: SLF001
        self._held: list[CodeType] = []  # so that no id is used again
        self._sites: dict[tuple[object, ...], Site] = {}
        self._paths: dict[tuple[int, ...], tuple[list[ref[nn.Module]], tuple[str, str]]] = {}
        self._parts: dict[int, tuple[ref[nn.Module], dict[int, tuple[ref[nn.Module], str]]]] = {}

    def kind(self, code: CodeType) -> int:
        """What `kinds` lacks."""
        if code.co_filename == _OPTIMIZER_FILE:
            kind = OPTIMIZER if code.co_name == "wrapper" else LIBRARY
        elif code.co_filename == _AUTOGRAD_FILE:
            kind = BACKWARD
        elif code.co_filename == _COMPILED_FILE and code.co_name == "compile_wrapper":
            kind = COMPILED
        else:
            ours = code.co_filename.startswith(_OURS)
            kind = LIBRARY if ours or is_library_file(code.co_filename) else USER
        self._held.append(code)
        self.kinds[id(code)] = kind
        return kind

    def locate(self, frames: Sequence[tuple[int, FrameType]]) -> Site:
        """The site of what the innermost frame does; (kind, frame) from there, without libraries."""
        code, offset, name = None, 0, ""
        modules: list[nn.Module] = []
        phase, compiled = "forward", False
        for kind, frame in frames:
            if kind == USER:
                name = frame.f_code.co_name
                if code is None:
                    code, offset = frame.f_code, frame.f_lasti
            elif kind == MODULE:
                modules.append(frame.f_locals["self"])
            elif kind == OPTIMIZER:  # around torch's step, a user's own, or torch's with a closure
                if code is None or name == "step":
                    phase = "optimizer"
            elif kind == BACKWARD:
                if code is None:
                    phase = "backward"
            else:
                compiled = True
        path = self.path(modules) if modules else ("", "")
        key = (id(code), offset, path, phase, compiled)
        found = self._sites.get(key)
        if found is None:
            found = self._sites[key] = Site(code, offset, path, phase=phase, compiled=compiled)
        return found

    def path(self, modules: Sequence[nn.Module]) -> tuple[str, str]:
        """(class of the outermost module, path of the innermost in it)."""
        key = tuple(map(id, modules))
        found = self._paths.get(key)
        if found is not None and found[0][0]() is modules[0] and found[0][-1]() is modules[-1]:
            return found[1]
        names: list[str] = []
        outer = modules[-1]
        for inner in reversed(modules[:-1]):
            if inner is not outer:
                names.append(self._name(outer, inner))
                outer = inner
        path = (type(modules[-1]).__name__, ".".join(names))
        self._paths[key] = ([ref(module) for module in modules], path)
        return path

    def _name(self, outer: nn.Module, inner: nn.Module) -> str:
        """How `outer` calls `inner`: the shortest path; by its class if it is none of its parts."""
        known = self._parts.get(id(outer))
        if known is not None and known[0]() is outer:
            part = known[1].get(id(inner))
            if part is not None and part[0]() is inner:
                return part[1]
        parts = _parts(outer)  # it may have got new ones
        self._parts[id(outer)] = (ref(outer), parts)
        return parts[id(inner)][1] if id(inner) in parts else f"<{type(inner).__name__}>"

    def roots(self) -> list[nn.Module]:
        """The outermost modules that were seen at work and are still there."""
        found = (modules[-1]() for modules, _ in self._paths.values())
        return [*{id(module): module for module in found if module is not None}.values()]


def _parts(outer: nn.Module) -> dict[int, tuple[ref[nn.Module], str]]:
    """Every module in another one, with the shortest path to it."""
    found: dict[int, tuple[ref[nn.Module], str]] = {}
    for name, module in outer.named_modules(remove_duplicate=False):
        known = found.get(id(module))
        if known is None or name.count(".") < known[1].count("."):
            found[id(module)] = (ref(module), str(name))
    return found


class Walk:
    """Finds the site by walking up the Python stack."""

    def __init__(self, codes: Codes) -> None:
        self._codes = codes
        self._outermost: FrameType | None = None

    def check(self) -> None:
        """See `Locator`."""

    def start(self, frame: FrameType | None) -> None:
        """See `Locator`."""
        self._outermost = frame

    def stop(self) -> None:
        """See `Locator`."""
        self._outermost = None

    def site(self) -> Site:
        """See `Locator`."""
        kinds, outermost = self._codes.kinds, self._outermost
        frame: FrameType | None = sys._getframe(3)  # noqa: SLF001
        frames = []
        while frame is not None:
            kind = kinds.get(id(frame.f_code))
            if kind is None:
                kind = self._codes.kind(frame.f_code)
            if kind:
                frames.append((kind, frame))
            if frame is outermost:
                break
            frame = frame.f_back
        return self._codes.locate(frames)


class Unlocated:
    """Says nothing about where operations come from."""

    def check(self) -> None:
        """See `Locator`."""

    def start(self, frame: FrameType | None) -> None:
        """See `Locator`."""

    def stop(self) -> None:
        """See `Locator`."""

    def site(self) -> Site:
        """See `Locator`."""
        return NOWHERE
