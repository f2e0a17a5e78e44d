"""Where the state of an instance is kept: `__dict__`, slots, or memory only compiled code knows."""

from __future__ import annotations

import types
from typing import NamedTuple

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE
# Members that show the interpreter's own pointers; those of a partial move when it is called.
_INTERPRETER = {"__dictoffset__", "__vectorcalloffset__", "__weaklistoffset__"}
_POINTER = object.__basicsize__ // 2


class _WithDict:
    __slots__ = ("__dict__",)


class _WithWeakref:
    __slots__ = ("__weakref__",)


class _SizedWithDict(tuple[int]):  # noqa: SLOT001 - to see what a dict costs
    pass


# Nothing where the interpreter keeps them in front of the object.
_DICT_SIZE = _WithDict.__basicsize__ - object.__basicsize__
_SIZED_DICT_SIZE = _SizedWithDict.__basicsize__ - tuple.__basicsize__
_WEAKREF_SIZE = _WithWeakref.__basicsize__ - object.__basicsize__


class Layout(NamedTuple):
    """How instances of a class are built.

    Attributes:
        base: the nearest base whose instances hold state beside `__dict__` and slots; `object` for
            an ordinary class: then these are all there is.
        slots: names and descriptors of all slots, the inherited ones included.
    """

    base: type
    slots: tuple[tuple[str, types.MemberDescriptorType], ...]


def layout_of(cls: type) -> Layout:
    """The layout of `cls`."""
    base = cls
    while base is not object and adds_no_state(base):
        assert base.__base__ is not None
        base = base.__base__
    slots = tuple(
        (name, value)
        for owner in cls.__mro__
        for name, value in owner.__dict__.items()
        if isinstance(value, types.MemberDescriptorType) and name not in _INTERPRETER
    )
    return Layout(base, slots)


def adds_no_state(cls: type) -> bool:
    """Whether an instance is larger than its base's by slots, dict and weak references only."""
    base, own = cls.__base__, cls.__dict__
    if base is None or not cls.__flags__ & _HEAP_TYPE:
        return False
    size = base.__basicsize__
    size += _POINTER * sum(isinstance(v, types.MemberDescriptorType) for v in own.values())
    if "__dict__" in own:
        size += _SIZED_DICT_SIZE if cls.__itemsize__ else _DICT_SIZE
    if "__weakref__" in own:
        size += _WEAKREF_SIZE
    return cls.__basicsize__ == size
