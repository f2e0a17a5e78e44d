"""Containers and instances: what they hold, in order, with the class that gives it meaning."""

from __future__ import annotations

import collections
import types
import typing
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from . import libraries
from .encoding import frame, framed, text
from .walk import Label, Walk

# Set by the import system; they say where a module is, not what it does.
_MODULE_NAMES = {
    "__annotations__",
    "__builtins__",
    "__cached__",
    "__doc__",
    "__file__",
    "__loader__",
    "__name__",
    "__package__",
    "__path__",
    "__spec__",
}
_DICTS = (collections.OrderedDict, dict)
_SCALARS = (str, bytes, int, float, complex)


class _Raw:
    """Iterates over the elements of a builtin container whatever its subclass redefines."""

    def __init__(self, iterate: Callable[[Any], Iterator[object]], container: object) -> None:
        self._iterate = iterate
        self._container = container

    def __iter__(self) -> Iterator[object]:
        return self._iterate(self._container)


def visit_sequence(walk: Walk, value: Any, label: Label) -> None:
    """A list, tuple or deque, or an instance of a subclass, by its elements in order."""
    base = _builtin(value, list, tuple, collections.deque)
    elements = tuple(base.__iter__(value))
    if base is not tuple:
        exact = type(value) is base
        walk.guards.elements(value if exact else _Raw(base.__iter__, value), elements)
    bound = frame("bound", text(repr(value.maxlen))) if base is collections.deque else b""
    parts = (walk.refer(element, label) for element in elements)
    walk.write(label, framed(type(value).__name__, [bound, *parts]))


def visit_mapping(walk: Walk, value: Any, label: Label) -> None:
    """A dict, or an instance of a subclass, by its items in order."""
    parts = (walk.refer(part, label) for item in items_of(walk, value) for part in item)
    walk.write(label, framed(type(value).__name__, parts))
    if issubclass(type(value), collections.defaultdict):
        walk.guards.lookup(_factory, value, value.default_factory)
        walk.enter(label, "factory", value.default_factory)


def visit_set(walk: Walk, value: Any, label: Label) -> None:
    """A set or frozenset, or an instance of a subclass, by its elements in no order."""
    base = _builtin(value, set, frozenset)
    elements = tuple(base.__iter__(value))
    if base is set:
        exact = type(value) is base
        walk.guards.elements(value if exact else _Raw(base.__iter__, value), elements)
    walk.write(label, frame(base.__name__, walk.unordered(value, elements, label)))


def visit_scalar(walk: Walk, value: Any, label: Label) -> None:
    """An instance of a subclass of str, bytes or a number, by the plain value inside it."""
    base = _builtin(value, *_SCALARS)
    walk.write(label, frame("scalar", walk.refer(base.__getnewargs__(value), label)))


def visit_instance(walk: Walk, value: object, label: Label) -> None:
    """An object: class, plain base if it extends one, `__dict__` and slots; else by identity."""
    base = walk.layout(type(value)).base
    contents = _CONTENTS.get(base)
    if base is not object and contents is None:
        walk.identify(value, label)
        return
    visit_class_of(walk, value, label)
    if contents is not None:
        contents(walk, value, label)
    visit_attributes(walk, value, label)


def visit_class_of(walk: Walk, value: object, label: Label) -> None:
    """The class of an object, as an entry of its own."""
    walk.guards.type(value)
    cls = type(value)
    reference = walk.refer(cls, Label("class", cls.__name__))
    walk.write(label, frame("instance", text(cls.__name__), reference))


def visit_attributes(walk: Walk, value: object, label: Label) -> None:
    """The `__dict__` and the slots of an object."""
    for name, entry in dict_items(walk, value):
        part = label.attribute(str(name))
        walk.write(part, frame("attribute", walk.refer(name, part), walk.refer(entry, part)))
    visit_slots(walk, value, label)


def visit_slots(walk: Walk, value: object, label: Label) -> None:
    """The slots of an object."""
    for name, slot in walk.layout(type(value)).slots:
        part = label.attribute(name)
        entry = _slot((slot, value), _EMPTY)
        walk.guards.lookup(_slot, (slot, value), entry)
        data = b"empty" if entry is _EMPTY else walk.refer(entry, part)
        walk.write(part, frame("slot", text(name), data))


def visit_module(walk: Walk, module: types.ModuleType, label: Label) -> None:
    """A module that is used as a whole: a library by version, a user's by everything in it."""
    library = libraries.library_of(module.__name__)
    if library is not None:
        walk.write(label, libraries.located(library, module.__name__))
        return
    walk.write(label, b"module")
    for name, value in items_of(walk, vars(module)):
        if name not in _MODULE_NAMES:
            part = label.of("global", name)
            walk.write(part, frame("name", text(name), walk.refer(value, part)))


def visit_reference(walk: Walk, value: weakref.ref[Any], label: Label) -> None:
    """A weak reference, by what it refers to."""
    target = value()
    walk.guards.lookup(_target, value, target)
    walk.enter(label, "weak reference", target)


def visit_alias(walk: Walk, value: Any, label: Label) -> None:
    """A generic type such as `list[int]` or `Optional[Tensor]`, by its parts."""
    parts = (typing.get_origin(value), *typing.get_args(value))
    walk.write(label, framed("alias", (walk.refer(part, label) for part in parts)))


def visit_reduced(walk: Walk, value: Any, label: Label) -> None:
    """An immutable object of the standard library, by class and constructor arguments."""
    cls, arguments = value.__reduce__()[:2]
    walk.write(label, frame("reduced", walk.refer(cls, label), walk.refer(arguments, label)))


def visit_field(walk: Walk, value: Any, label: Label) -> None:
    """A field of a namedtuple, by its position."""
    walk.write(label, frame("field", walk.refer(value.__reduce__()[1][0], label)))


def visit_pattern(walk: Walk, value: Any, label: Label) -> None:
    """A compiled regular expression."""
    walk.write(label, frame("pattern", walk.refer((value.pattern, value.flags), label)))


def visit_proxy(walk: Walk, value: types.MappingProxyType[Any, Any], label: Label) -> None:
    """A read-only view of a mapping, by its items."""
    items = items_of(walk, value)
    walk.write(label, framed("proxy", (walk.refer(part, label) for item in items for part in item)))


def visit_by_name(walk: Walk, value: Any, label: Label) -> None:
    """A logger: its name is all that a result could depend on."""
    walk.write(label, frame(type(value).__name__, text(value.name)))


def visit_by_type(walk: Walk, value: object, label: Label) -> None:
    """A lock, or a hook's handle: it has no value that a result could depend on."""
    walk.write(label, frame("type", text(type(value).__qualname__)))


def visit_cell(walk: Walk, cell: types.CellType, label: Label) -> None:
    """A closure's cell."""
    contents = cell_contents(cell, _EMPTY)
    walk.guards.lookup(cell_contents, cell, contents)
    walk.write(
        label, b"empty" if contents is _EMPTY else frame("cell", walk.refer(contents, label))
    )


def items_of(walk: Walk, mapping: Any) -> tuple[tuple[Any, Any], ...]:
    """The items of a dict, of an instance of a subclass, or of a mapping proxy, guarded."""
    if type(mapping) in _DICTS and not mapping:
        walk.guards.empty(mapping)
        return ()
    # A builtin's own methods, whatever a subclass makes of them.
    base: Any = next((base for base in _DICTS if issubclass(type(mapping), base)), type(mapping))
    items = tuple(base.items(mapping))
    walk.guards.elements(base.keys(mapping), [key for key, _ in items])
    walk.guards.elements(base.values(mapping), [value for _, value in items])
    return items


def dict_items(walk: Walk, value: object) -> tuple[tuple[str, object], ...]:
    """The items of the `__dict__` of an object, guarded; none if it has no `__dict__`."""
    namespace = _dict(value, None)
    if not isinstance(namespace, dict):
        return ()
    walk.guards.lookup(_dict, value, namespace)
    return items_of(walk, namespace)


def cell_contents(cell: types.CellType, default: object) -> object:
    """What is in a cell, or `default` if it is empty."""
    try:
        return cell.cell_contents
    except ValueError:
        return default


_EMPTY = object()


def _dict(value: object, default: object) -> object:
    """The `__dict__` of an object, past what its class makes of attribute access."""
    try:
        return object.__getattribute__(value, "__dict__")
    except AttributeError:
        return default


def _slot(place: tuple[types.MemberDescriptorType, object], default: object) -> object:
    slot, value = place
    try:
        return slot.__get__(value, type(value))
    except AttributeError:
        return default


def _target(reference: weakref.ref[Any], _default: object) -> object:
    return reference()


def _factory(value: Any, _default: object) -> object:
    return value.default_factory


def _builtin(value: object, *bases: Any) -> Any:
    return next(base for base in bases if issubclass(type(value), base))


_CONTENTS: dict[type, Callable[[Walk, Any, Label], None]] = {
    list: visit_sequence,
    tuple: visit_sequence,
    collections.deque: visit_sequence,
    dict: visit_mapping,
    collections.OrderedDict: visit_mapping,
    collections.defaultdict: visit_mapping,
    set: visit_set,
    frozenset: visit_set,
    types.SimpleNamespace: lambda *_: None,
    **dict.fromkeys(_SCALARS, visit_scalar),
}
