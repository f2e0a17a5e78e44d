"""The functions and plain values that a cell names, as they are now, and what differs in them.

Only explains: whether a result holds is decided by the operations' arguments. So it looks at code,
defaults and plain data, never at tensors.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import itertools
import types
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import nn

from mmsb_torch.instrumentation.code.bytecode import normalise
from mmsb_torch.instrumentation.code.encoding import atom
from mmsb_torch.instrumentation.code.libraries import is_library_file

_MOST = 400
"""Functions that are looked at."""


class Outline(NamedTuple):
    """One function."""

    label: str
    code: types.CodeType
    digest: bytes
    defaults: Mapping[str, Any]
    source: tuple[str, ...]


class Definitions(NamedTuple):
    """What a cell names: its functions by label, and plain values by name."""

    functions: Mapping[str, Outline]
    values: Mapping[str, Any]


def definitions(
    names: Iterable[str], namespace: Mapping[str, Any], stored: Collection[str]
) -> Definitions:
    """Follow the names of a cell to the user's functions, their helpers and globals.

    Args:
        names: what the cell's code names.
        namespace: the notebook's.
        stored: what the cell assigns: no values to compare.
    """
    functions: dict[str, Outline] = {}
    values: dict[str, Any] = {}
    seen: set[int] = set()
    waiting = [(name, namespace[name]) for name in names if name in namespace]
    while waiting and len(seen) < _MOST:
        name, value = waiting.pop()
        if atom(value) is not None:
            if name not in stored and not isinstance(value, type):
                values.setdefault(name, value)
            continue
        if id(value) in seen:
            continue
        seen.add(id(value))
        for function in _functions(value):
            outline = _outline(function)
            if outline is not None and outline.label not in functions:
                functions[outline.label] = outline
                waiting += _references(function)
    return Definitions(functions, values)


def _functions(value: Any) -> Iterator[types.FunctionType]:
    """The functions of the user's that a value brings along."""
    inner = inspect.unwrap(value) if callable(value) and hasattr(value, "__wrapped__") else value
    if isinstance(inner, types.FunctionType):
        yield inner
    elif isinstance(inner, types.MethodType):
        yield from _functions(inner.__func__)
    elif isinstance(inner, type):
        yield from _methods(inner)
    elif isinstance(inner, nn.Module):
        for cls in {type(module) for module in itertools.islice(inner.modules(), _MOST)}:
            yield from _methods(cls)


def _methods(cls: type) -> Iterator[types.FunctionType]:
    for item in list(vars(cls).values()):
        function = getattr(item, "__func__", item)
        if isinstance(function, types.FunctionType):
            yield function


def _outline(function: types.FunctionType) -> Outline | None:
    code = function.__code__
    if is_library_file(code.co_filename):
        return None
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    given = function.__defaults__ or ()
    last = dict(zip(names[code.co_argcount - len(given) : code.co_argcount], given, strict=True))
    defaults = {**last, **(function.__kwdefaults__ or {})}
    try:
        source = tuple(inspect.getsource(code).splitlines())
    except (OSError, TypeError, IndexError, SyntaxError):
        source = ()
    return Outline(function.__qualname__, code, normalise(code).digest, defaults, source)


def _references(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    closure = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    for reference in normalise(function.__code__).references:
        if reference.scope == "closure" and reference.name in closure:
            try:
                yield reference.name, closure[reference.name].cell_contents
            except ValueError:  # not filled yet
                continue
        elif reference.scope == "global" and reference.name in function.__globals__:
            yield reference.name, function.__globals__[reference.name]


def differences(before: Definitions, now: Definitions) -> dict[str, str]:
    """What was redefined, and how: {"scale()": "0.5 became 0.7"}; of plain values without ()."""
    found = {}
    for label, outline in now.functions.items():
        old = before.functions.get(label)
        change = _change(old, outline) if old is not None else ""
        if change:
            found[f"{label}()"] = change
    for name, value in now.values.items():
        if name in before.values and atom(before.values[name]) != atom(value):
            found[name] = became(before.values[name], value)
    return found


def _change(old: Outline, new: Outline) -> str:
    for name, value in new.defaults.items():
        if name not in old.defaults:
            return f"{name} has a default"
        then = old.defaults[name]
        if atom(then) != atom(value) or (atom(value) is None and then is not value):
            return f"default {name}: {became(then, value)}"
    if old.digest == new.digest:
        return ""
    pairs = list(zip(old.code.co_consts, new.code.co_consts, strict=False))
    if old.code.co_code == new.code.co_code and len(old.code.co_consts) == len(new.code.co_consts):
        for a, b in pairs[1:] if new.code.co_consts[:1] == old.code.co_consts[:1] else pairs:
            if not isinstance(b, types.CodeType) and atom(a) != atom(b):
                return became(a, b)
    for line in difflib.ndiff(old.source, new.source):
        if line.startswith("+ ") and line[2:].strip() and not line[2:].lstrip().startswith("#"):
            return f"now {_short(line[2:].strip(), 48)}"
    return "its code differs"


def became(old: Any, new: Any) -> str:
    """A change of a plain value, in a few words."""
    return f"{_short(repr(old))} became {_short(repr(new))}"


def _short(text: str, most: int = 24) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


class Named(NamedTuple):
    """What the code of a cell names."""

    names: tuple[str, ...]
    stored: frozenset[str]
    statements: Mapping[str, range]
    """Each statement that defines nothing, in a form without comments and places; its lines."""


def named(source: str) -> Named:
    """The names in a cell's code, functions within it included, and those that it assigns.

    Nothing where the code is no Python.
    """
    try:
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code = compile(source, "<cell>", "exec", flags=flags, dont_inherit=True)
    except (SyntaxError, ValueError):
        return Named((), frozenset(), {})
    names: dict[str, None] = {}
    waiting = [code]
    while waiting:
        part = waiting.pop()
        names |= dict.fromkeys(part.co_names)
        waiting += [item for item in part.co_consts if isinstance(item, types.CodeType)]
    tree = ast.parse(source)
    stored = {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)
    }
    statements = {
        ast.dump(item): range(item.lineno, (item.end_lineno or item.lineno) + 1)
        for item in tree.body
        if not isinstance(item, _DEFINE)
    }
    return Named(tuple(names), frozenset(stored), statements)


_DEFINE = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
