"""Classes: a library's by name and version, a user's by what their bodies hold."""

from __future__ import annotations

import enum
import types
from typing import Any

import torch

from . import libraries
from .encoding import frame, text
from .layout import adds_no_state
from .walk import Label, Walk

# Written by the interpreter, or of no effect when code runs.
_SKIPPED = {
    "__abstractmethods__",
    "__annotations__",
    "__dict__",
    "__doc__",
    "__module__",
    "__orig_bases__",
    "__parameters__",
    "__slotnames__",
    "__weakref__",
    "_abc_impl",
}
# The class of the backward node carries a number that counts the classes made before it.
_AUTOGRAD_SKIPPED = {"_backward_cls", "_autograd_function_id"}
_COMPILED = (
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
    types.WrapperDescriptorType,
)
_DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType)


def visit_class(walk: Walk, cls: type, label: Label) -> None:
    """A class."""
    name = libraries.name_of(cls)
    if name is not None:
        walk.write(label, name)
        return
    if not is_python(cls):
        _visit_compiled(walk, cls, label)
        return
    entries = tuple(cls.__dict__.items())
    walk.guards.elements(cls.__dict__.keys(), [key for key, _ in entries])
    walk.guards.elements(cls.__dict__.values(), [value for _, value in entries])
    walk.guards.lookup(_order, cls, cls.__mro__)
    walk.write(label, frame("class", text(cls.__name__)))
    for base in (*cls.__bases__, type(cls)):
        walk.enter(Label("class", base.__name__), "base", base)
    if issubclass(cls, enum.Enum):
        _visit_members(walk, cls)
        entries = tuple(entry for entry in entries if _is_enum_code(entry[1]))
    skipped = _SKIPPED
    if issubclass(cls, torch.autograd.Function):
        skipped = _SKIPPED | _AUTOGRAD_SKIPPED
    for key, value in entries:
        if key not in skipped:
            part = Label(_kind(value), f"{cls.__name__}.{key}")
            walk.write(part, frame("entry", text(key), walk.refer(value, part)))


def visit_descriptor(walk: Walk, value: Any, label: Label) -> None:
    """A method, property or slot as it stands in a class body."""
    if isinstance(value, (staticmethod, classmethod)):
        walk.enter(label, type(value).__name__, value.__func__)
    elif isinstance(value, property):
        parts = (value.fget, value.fset, value.fdel)
        walk.write(label, frame("property", *(walk.refer(part, label) for part in parts)))
    else:
        # A slot, or a method of a compiled class: its owner and name say all.
        walk.write(label, frame(type(value).__name__, text(value.__name__)))
        if not isinstance(value, _DESCRIPTORS):
            walk.enter(label, "owner", value.__objclass__)


def visit_member(walk: Walk, value: enum.Enum, label: Label) -> None:
    """An enum member: its class holds the values."""
    walk.write(label, frame("member", text(str(value.name)), walk.refer(type(value), label)))
    if isinstance(value, enum.Flag):
        walk.enter(label, "value", value.value)


def is_python(cls: type) -> bool:
    """Whether a class statement (or `type(...)`) made the class, rather than compiled code."""
    compiled = any(
        isinstance(value, _COMPILED) and value.__objclass__ is cls for value in vars(cls).values()
    )
    return adds_no_state(cls) and not compiled


def _order(cls: type, _default: object) -> object:
    return cls.__mro__


def _visit_compiled(walk: Walk, cls: type, label: Label) -> None:
    library = libraries.library_of(cls.__module__)
    if library is None:
        walk.identify(cls, label, f"compiled class {cls.__module__}.{cls.__qualname__}")
    else:
        walk.write(label, libraries.located(library, f"{cls.__module__}:{cls.__qualname__}"))


def _visit_members(walk: Walk, cls: type[enum.Enum]) -> None:
    for name, member in cls.__members__.items():
        part = Label("member", f"{cls.__name__}.{name}")
        walk.write(part, frame("member", text(name), walk.refer(member.value, part)))


def _is_enum_code(value: object) -> bool:
    return not isinstance(value, enum.Enum) and isinstance(
        value, (types.FunctionType, staticmethod, classmethod, property)
    )


def _kind(value: object) -> str:
    return (
        "method"
        if isinstance(value, (types.FunctionType, staticmethod, classmethod))
        else ("class attribute")
    )
