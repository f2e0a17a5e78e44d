"""Functions and other callables: what they do, and everything their code refers to."""

from __future__ import annotations

import _thread
import builtins
import collections
import concurrent.futures
import functools
import gc
import importlib
import importlib.util
import inspect
import os
import sys
import threading
import types
import weakref
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from . import classes, libraries, values
from .bytecode import Reference, normalise
from .encoding import atom, frame, text
from .identity import MISSING, pristine
from .walk import Label, Walk

# What makes a result depend on things that no walk can find.
_BLIND: tuple[tuple[object, str], ...] = (
    (builtins.eval, "runs code built when it is called"),
    (builtins.exec, "runs code built when it is called"),
    (builtins.compile, "runs code built when it is called"),
    (builtins.globals, "looks globals up by computed names"),
    (builtins.__import__, "imports by computed name"),
    (importlib.import_module, "imports by computed name"),
    (importlib.reload, "imports by computed name"),
    (sys.modules, "looks modules up by computed names"),
    (sys._getframe, "looks at its callers"),  # noqa: SLF001 - looked for, not used
    (inspect.currentframe, "looks at its callers"),
    (inspect.stack, "looks at its callers"),
    (gc.get_objects, "looks at all objects"),
    (builtins.open, "reads files"),
    (builtins.input, "reads the terminal"),
    (os.environ, "reads the environment"),
    (os.getenv, "reads the environment"),
)
_REASONS = {id(value): reason for value, reason in _BLIND}
# What begins work elsewhere: whoever reads pages there is not known to read them for this code.
_STARTERS = {
    id(value)
    for value in (
        threading.Thread,
        threading.Timer,
        _thread.start_new_thread,
        concurrent.futures.ThreadPoolExecutor,
        concurrent.futures.ProcessPoolExecutor,
    )
}
# What `functools.lru_cache` itself puts on its wrapper, beside `__wrapped__`.
_WRAPPER_NAMES = {*functools.WRAPPER_ASSIGNMENTS, "cache_parameters"}
_HELPERS = {"global", "closure variable"}
_CONTAINERS = (list, dict, set, frozenset, tuple, collections.deque, types.SimpleNamespace)
_LOOKED_AT = (
    Tensor,
    np.ndarray,
    type,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.MethodDescriptorType,
    functools.partial,
    type(functools.lru_cache(int)),
)


class Scope(NamedTuple):
    """Where the names of one function are looked up.

    Attributes:
        globals: its module's namespace.
        builtins: what is looked up after that.
        library: the library the code belongs to, or None for user code.
    """

    globals: Mapping[str, Any]
    builtins: Mapping[str, Any]
    library: str | None


class Place(NamedTuple):
    """Where a value was found: the library of its namespace (None: user code), dotted name."""

    library: str | None
    name: str


def visit_function(walk: Walk, function: types.FunctionType, label: Label) -> None:
    """A Python function: code, defaults, closure, attributes, and what its names refer to."""
    if blind(walk, function, label) or library_name(walk, function, label):
        return
    if label.kind in _HELPERS:
        label = Label("helper", label.name)
    # The guard first: what it remembers must not be newer than what is walked.
    walk.guards.function(function)
    code = normalise(function.__code__)
    walk.write(label, frame("function", code.digest))
    scope = _scope_of(function)
    if scope.library is None:
        walk.attributes.update(code.names)
    _visit_defaults(walk, function)
    _visit_attributes(walk, function, scope)
    _visit_closure(walk, function, code.references, scope)
    for reference in code.references:
        if reference.scope == "global":
            _visit_global(walk, reference, scope)
        elif reference.scope == "import":
            _visit_import(walk, reference, scope)


def visit_method(walk: Walk, method: types.MethodType, label: Label) -> None:
    """A bound method: its function and its object."""
    if library_name(walk, method, label):
        return
    function = label if label.is_root else Label("method", label.name)
    parts = (walk.refer(method.__func__, function), walk.refer(method.__self__, label))
    walk.write(label, frame("method", *parts))


def visit_builtin(walk: Walk, function: Any, label: Label) -> None:
    """A compiled function: by name and version, or as a method of the object it is bound to."""
    if blind(walk, function, label) or library_name(walk, function, label):
        return
    owner = getattr(function, "__self__", None)
    if owner is None or isinstance(owner, types.ModuleType):
        walk.identify(function, label, f"compiled function {function!r}")
    else:
        walk.write(label, frame("builtin", text(function.__name__), walk.refer(owner, label)))


def visit_partial(walk: Walk, value: functools.partial[Any], label: Label) -> None:
    """A `functools.partial`: function, arguments, attributes."""
    values.visit_class_of(walk, value, label)
    walk.enter(label, "function", value.func)
    of = "" if label.is_root else f" of '{label.name}'"
    for position, argument in enumerate(value.args):
        walk.enter(Label("argument", str(position), of), "argument", argument)
    for name, argument in values.items_of(walk, value.keywords):
        part = Label("argument", name, of)
        walk.write(part, frame("keyword", text(name), walk.refer(argument, part)))
    values.visit_attributes(walk, value, label)


def visit_cached(walk: Walk, value: Any, label: Label) -> None:
    """A function under `functools.lru_cache`; what the cache holds is not part of it."""
    if library_name(walk, value, label):
        return
    walk.write(label, frame("cached", atom(tuple(value.cache_parameters().items())) or b""))
    for name, attribute in values.dict_items(walk, value):
        if name not in _WRAPPER_NAMES:
            part = label.attribute(name)
            walk.write(part, frame("attribute", text(name), walk.refer(attribute, part)))


def visit_operator(walk: Walk, value: Any, label: Label) -> None:
    """An operator of `torch.ops`: torch's and ours by name, any other by identity."""
    name = str(value)
    library = libraries.operators_of(name.partition(".")[0])
    if library is None:
        walk.identify(value, label, f"operator torch.ops.{name}")
    else:
        walk.write(label, libraries.located(library, f"torch.ops.{name}"))


def library_name(walk: Walk, value: object, label: Label) -> bool:
    """Writes the name and version of something that belongs to a library, if it does."""
    name = libraries.name_of(value)
    if name is not None:
        walk.write(label, name)
    return name is not None


def blind(walk: Walk, value: object, label: Label) -> bool:
    """Records what cannot be followed, if `value` is one of the known ways to it."""
    reason = _REASONS.get(id(value))
    if reason is not None:
        walk.hide(label, reason)
    return reason is not None


def _scope_of(function: types.FunctionType) -> Scope:
    library = None
    if libraries.is_library_file(function.__code__.co_filename):
        library = libraries.library_of(str(function.__globals__.get("__name__")))
    untyped: Any = function  # whether mypy knows `__builtins__` depends on what its cache holds
    return Scope(function.__globals__, untyped.__builtins__, library)


def _visit_defaults(walk: Walk, function: types.FunctionType) -> None:
    code, of = function.__code__, f" of '{function.__name__}'"
    defaults = function.__defaults__ or ()
    positional = code.co_varnames[: code.co_argcount]
    names = positional[len(positional) - len(defaults) :] if defaults else ()
    for name, value in zip(names, defaults, strict=True):
        walk.enter(Label("default", name, of), "default", value)
    keywords = function.__kwdefaults__
    if keywords is not None:
        for name, value in values.items_of(walk, keywords):
            part = Label("default", name, of)
            walk.write(part, frame("keyword", text(name), walk.refer(value, part)))


def _visit_attributes(walk: Walk, function: types.FunctionType, scope: Scope) -> None:
    attributes = function.__dict__
    if not attributes:  # the guard of the function itself looks at its size
        return
    for name, value in values.items_of(walk, attributes):
        part = Label("attribute", f"{function.__name__}.{name}")
        cached = scope.library is not None and _is_cache(value)
        data = b"cache" if cached else walk.refer(value, part)
        walk.write(part, frame("attribute", text(str(name)), data))


def _is_cache(value: object) -> bool:
    """Whether a library's wrapper keeps this to be fast, like `functools.singledispatch`."""
    owner = value.__self__ if isinstance(value, types.MethodType) else value
    return isinstance(owner, weakref.WeakKeyDictionary)


def _visit_closure(
    walk: Walk, function: types.FunctionType, references: tuple[Reference, ...], scope: Scope
) -> None:
    cells = function.__closure__ or ()
    for name, cell in zip(function.__code__.co_freevars, cells, strict=True):
        label = Label("closure variable", name)
        value = values.cell_contents(cell, MISSING)
        walk.guards.lookup(values.cell_contents, cell, value)
        chains = [r.chain for r in references if r.scope == "closure" and r.name == name]
        if value is MISSING:
            walk.write(label, b"empty")
        elif scope.library is not None and _is_cache(value):
            walk.write(label, b"cache")
        elif chains and isinstance(value, types.ModuleType):
            for chain in chains:
                _follow(walk, value, chain, label, scope)
        else:
            walk.enter(label, "cell", value)


def _visit_global(walk: Walk, reference: Reference, scope: Scope) -> None:
    label = Label("global", reference.name)
    value = scope.globals.get(reference.name, MISSING)
    walk.guards.name(scope.globals, reference.name, value)
    if value is MISSING:
        value = scope.builtins.get(reference.name, MISSING)
        walk.guards.name(scope.builtins, reference.name, value)
    if value is MISSING:
        walk.write(label, b"missing")
    elif isinstance(value, types.ModuleType):
        _follow(walk, value, reference.chain, label, scope)
    else:
        place = Place(scope.library, f"{scope.globals.get('__name__')}.{reference.name}")
        _enter_found(walk, value, label, place, scope)


def _visit_import(walk: Walk, reference: Reference, scope: Scope) -> None:
    name = reference.name
    if reference.level:
        package = scope.globals.get("__package__") or scope.globals.get("__name__") or ""
        name = importlib.util.resolve_name("." * reference.level + name, str(package))
    label = Label("global", name)
    module = sys.modules.get(name, MISSING)
    if isinstance(module, types.ModuleType):
        walk.guards.name(sys.modules, name, module)
        _follow(walk, module, reference.chain, label, scope)
        return
    place = ".".join((name, *reference.chain))
    label, library = Label("global", place), libraries.library_of(name)
    if library is not None:
        walk.write(label, libraries.located(library, place))
        return
    walk.guards.name(sys.modules, name, module)
    walk.write(label, b"missing")


def _follow(
    walk: Walk, module: types.ModuleType, chain: tuple[str, ...], label: Label, scope: Scope
) -> None:
    """Takes attributes of modules one by one; what is no module counts as a whole."""
    value: object = module
    place = Place(None, "")
    for name in chain:
        if not isinstance(value, types.ModuleType):
            break
        owner, label = value, Label(label.kind, f"{label.name}.{name}")
        place = Place(libraries.library_of(owner.__name__), f"{owner.__name__}.{name}")
        value = _attribute(owner, name, place)
        walk.guards.name(vars(owner), name, value)
        if value is MISSING and place.library is not None:
            walk.write(label, libraries.located(place.library, place.name))
            return
        if value is MISSING:
            _visit_absent(walk, owner, label)
            return
    if isinstance(value, types.ModuleType):
        walk.enter(label, "module", value)
    else:
        _enter_found(walk, value, label, place, scope)


def _attribute(module: types.ModuleType, name: str, place: Place) -> object:
    value = vars(module).get(name, MISSING)
    if value is MISSING and place.library is not None:
        # Libraries load parts of themselves when they are asked for.
        try:
            getattr(module, name)
        except Exception:  # noqa: BLE001 - the recipe will meet it when it runs
            return MISSING
        value = vars(module).get(name, MISSING)
    return value


def _visit_absent(walk: Walk, module: types.ModuleType, label: Label) -> None:
    walk.write(label, b"missing")
    fallback = vars(module).get("__getattr__", MISSING)
    walk.guards.name(vars(module), "__getattr__", fallback)
    if fallback is not MISSING:
        walk.enter(label, "fallback", fallback)


def _enter_found(walk: Walk, value: object, label: Label, place: Place, scope: Scope) -> None:
    """Refers to a value found under a name, which may be the own state of a library."""
    if scope.library is not None and id(value) in _REASONS:
        walk.write(label, libraries.located(scope.library, place.name))
    elif blind(walk, value, label):
        pass
    elif id(value) in _STARTERS and scope.library is None:
        walk.starters[f"{label} (starts threads, whose reads are not followed)"] = None
        walk.enter(label, "value", value)
    elif place.library is None or not _is_state(value, scope):
        walk.enter(label, "value", value)
    elif pristine(place.name, value):
        walk.write(label, libraries.located(place.library, place.name))
    else:
        walk.identify(value, label, f"replaced in {place.library}")


def _is_state(value: object, scope: Scope) -> bool:
    """Whether something in a library's namespace is the library's own business.

    Callables and plain data are looked at: they may be a user's patch. So are containers that user
    code names itself.
    """
    if isinstance(value, _LOOKED_AT) or atom(value) is not None:
        return False
    if isinstance(value, _CONTAINERS):
        return scope.library is not None
    return libraries.name_of(type(value)) is not None or not classes.is_python(type(value))
