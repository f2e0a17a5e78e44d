"""The last call of a function: whether the next one is the same is told without making its key.

A key is a digest of bytes that stand for everything the call depends on; here the same things are
looked at as they are. Whatever is not evidently the same makes a new key.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from weakref import ref

import torch
from torch import Tensor, nn

from mmsb_torch.instrumentation.code import Definition
from mmsb_torch.instrumentation.code.encoding import atom
from mmsb_torch.instrumentation.context import Settings, settings
from mmsb_torch.instrumentation.identity import LEDGER, Evidence

PLAIN = (Tensor, nn.Parameter, nn.Buffer)


class Modes(NamedTuple):
    """Torch's settings and modes at one moment."""

    dispatch: int
    """Modes that may change what operations do."""
    function: int
    settings: Settings
    grad: bool
    inference: bool
    autocast: tuple[object, ...]
    """Per kind of device: None, or its dtype and whether it caches."""


def modes() -> Modes:
    """Those of now."""
    return Modes(
        torch._C._len_torch_dispatch_stack(),  # noqa: SLF001
        torch._C._len_torch_function_stack(),  # noqa: SLF001
        settings(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        (_autocast("cpu"), _autocast("cuda")),
    )


def _autocast(kind: str) -> object:
    on = torch.is_autocast_enabled(kind)
    return (torch.get_autocast_dtype(kind), torch.is_autocast_cache_enabled()) if on else None


_NOTHING = object()


class _Seen(NamedTuple):
    """A tensor as it was; not held."""

    tensor: ref[Tensor]
    kind: type
    record: Any
    view: Any
    requires_grad: bool


class Recall:
    """A call as it was. It holds no tensors.

    Args:
        args, kwargs: what it was called with.
        now: the modes that it was called under.
        code: the definition of the function; None if a version stands for it.
        modules: definitions of arguments that are modules, by id.
    """

    __slots__ = ("_code", "_definitions", "_names", "_notes", "_now", "useful")

    def __init__(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        now: Modes,
        code: Definition | None,
        modules: Mapping[int, Definition],
    ) -> None:
        self._names, self._now, self._code = (len(args), *kwargs), now, code
        self._definitions: list[Definition] = []
        self._notes = [self._note(value, modules) for value in (*args, *kwargs.values())]
        self.useful = all(note is not _NOTHING for note in self._notes)
        """Whether `is_again` can ever be true."""

    def is_again(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], code: Definition | None
    ) -> bool:
        """Whether a call with these arguments now depends on what this one did, bit for bit."""
        if (len(args), *kwargs) != self._names or code is not self._code or modes() != self._now:
            return False
        evidence = []
        for value, note in zip((*args, *kwargs.values()), self._notes, strict=True):
            if type(note) is _Seen:
                tensor = note.tensor()
                if tensor is None or tensor is not value or type(value) is not note.kind:
                    return False
                if vars(tensor):
                    return False
                evidence.append(Evidence(tensor, note.record, note.view, note.requires_grad))
            elif note is not value:
                return False
        return (
            not LEDGER.doubtful(evidence)
            and (code is None or code.changed() is None)
            and all(definition.changed() is None for definition in self._definitions)
        )

    def _note(self, value: object, modules: Mapping[int, Definition]) -> object:
        """What shows that a value is the same one later, or `_NOTHING`."""
        if type(value) in PLAIN:
            assert isinstance(value, Tensor)
            found = LEDGER.evidence(value)
            return _NOTHING if found is None else _Seen(ref(value), type(value), *found[1:])
        if issubclass(type(value), nn.Module):  # not isinstance: it asks the object itself
            kept = modules.get(id(value))
            if kept is None or kept.function is not value:
                return _NOTHING
            self._definitions.append(kept)
            return value
        if issubclass(type(value), Path) or atom(value) is None:
            return _NOTHING
        return value  # immutable: `is` is enough
