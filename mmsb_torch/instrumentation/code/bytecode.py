"""Normalised code objects: what they do, and what they refer to.

The normal form has neither file names, line numbers and docstrings, nor the order in which names
and constants happen to be stored: an instruction is its opcode with the constant or the name it
uses. Opcodes differ between Python versions, and so do digests.
"""

from __future__ import annotations

import dis
import inspect
import sys
import types
import weakref
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .encoding import atom, digest, frame, framed, text

_CONSTANT = frozenset(dis.hasconst)
_NAME = frozenset(dis.hasname)
_LOCAL = frozenset(dis.haslocal)
_FREE = frozenset(dis.hasfree)
_PADDING = {"CACHE", "EXTENDED_ARG"}
_GLOBAL_LOADS = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}
_CELL_LOADS = {"LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF"}
_ATTRIBUTE_LOADS = {"LOAD_ATTR", "LOAD_METHOD"}
# The bits of the argument beside the name: a method is loaded, the form of `super()`.
_VARIANTS = {"LOAD_ATTR": 1, "LOAD_SUPER_ATTR": 3} if sys.version_info >= (3, 12) else {}
# Constants are immutable and their nesting is bounded by the compiler's own recursion.
_ANY_DEPTH = 10_000


class Reference(NamedTuple):
    """A name that code looks up outside itself, and the attributes it takes of it at once.

    Attributes:
        scope: "global", "closure", or "import" for an import statement in the function's body.
        name: the variable, or the module imported.
        chain: the attributes; `a.b.c` is name `a`, chain `("b", "c")`.
        level: of a relative import.
    """

    scope: str
    name: str
    chain: tuple[str, ...] = ()
    level: int = 0


class Code(NamedTuple):
    """A code object in normal form.

    Attributes:
        digest: of the code and of the functions nested in it.
        references: what it and they look up, each once, in order of appearance.
        names: every global and attribute name in it and them.
    """

    digest: bytes
    references: tuple[Reference, ...]
    names: frozenset[str]


# By identity: equality of code objects leaves out the exception table in some versions.
_KNOWN: dict[int, tuple[weakref.ref[types.CodeType], Code]] = {}


def normalise(code: types.CodeType) -> Code:
    """The normal form of `code`, computed once for each code object."""
    known = _KNOWN.get(id(code))
    if known is not None and known[0]() is code:
        return known[1]
    found = dict.fromkeys(_references(code, frozenset(code.co_freevars)))
    form = Code(digest(_form(code)), tuple(found), frozenset(_names(code)))
    key = id(code)
    _KNOWN[key] = (weakref.ref(code, lambda gone: _forget(key, gone)), form)
    return form


def _forget(key: int, gone: weakref.ref[types.CodeType]) -> None:
    known = _KNOWN.get(key)
    if known is not None and known[0] is gone:
        del _KNOWN[key]


def _instructions(code: types.CodeType) -> list[dis.Instruction]:
    return [step for step in dis.get_instructions(code) if step.opname not in _PADDING]


def _form(code: types.CodeType) -> bytes:
    counts = (
        code.co_argcount,
        code.co_posonlyargcount,
        code.co_kwonlyargcount,
        code.co_flags & ~inspect.CO_NESTED,
    )
    variables = (code.co_varnames, code.co_cellvars, code.co_freevars)
    return frame(
        "code",
        text(code.co_name),
        text(repr(counts)),
        text(repr(variables)),
        code.co_exceptiontable,
        framed("steps", (_step(code, step) for step in _instructions(code))),
    )


def _step(code: types.CodeType, step: dis.Instruction) -> bytes:
    if step.arg is None:
        return b"%d" % step.opcode
    if step.opcode in _CONSTANT:
        operand = _constant(code.co_consts[step.arg])
    elif step.opcode in _NAME:
        operand = text(f"{step.argval} {step.arg & _VARIANTS.get(step.opname, 0)}")
    elif step.opcode in _LOCAL or step.opcode in _FREE:
        operand = text(step.argval)
    else:
        operand = b"%d" % step.arg
    return b"%d " % step.opcode + operand


def _constant(value: object) -> bytes:
    if isinstance(value, types.CodeType):
        return _form(value)
    data = atom(value, _ANY_DEPTH)
    assert data is not None, f"a constant of type {type(value)}"
    return data


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    return (value for value in code.co_consts if isinstance(value, types.CodeType))


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in _nested(code):
        yield from _names(inner)


def _references(code: types.CodeType, free: frozenset[str]) -> Iterator[Reference]:
    """What `code` looks up; `free` are its variables that are cells of the outermost function."""
    steps = _instructions(code)
    modules: dict[str, Reference] = {}
    for position, step in enumerate(steps):
        if step.opname == "IMPORT_NAME":
            for target, reference in _imported(steps, position):
                if target is not None and _assigned_once(steps, target):
                    modules[target] = reference
                else:
                    yield reference
    for position, step in enumerate(steps):
        start = _start(step, free, modules)
        if start is not None:
            yield start._replace(chain=start.chain + _chain(steps, position + 1))
    for inner in _nested(code):
        yield from _references(inner, free & frozenset(inner.co_freevars))


def _start(
    step: dis.Instruction, free: frozenset[str], modules: dict[str, Reference]
) -> Reference | None:
    if step.opname in _GLOBAL_LOADS:
        return Reference("global", step.argval)
    if step.opname in _CELL_LOADS and step.argval in free:
        return Reference("closure", step.argval)
    if step.opname.startswith("LOAD_FAST"):
        return modules.get(step.argval)
    return None


def _chain(steps: Sequence[dis.Instruction], position: int) -> tuple[str, ...]:
    chain = []
    while position < len(steps) and steps[position].opname in _ATTRIBUTE_LOADS:
        chain.append(steps[position].argval)
        position += 1
    return tuple(chain)


def _imported(
    steps: Sequence[dis.Instruction], position: int
) -> Iterator[tuple[str | None, Reference]]:
    """The local variable (None: another kind) and the meaning of each name an import binds."""
    name, level = steps[position].argval, steps[position - 2].argval
    if not steps[position - 1].argval:
        # `import a.b as c` goes on with IMPORT_FROM up to the last module; `import a.b` binds a.
        position += 1
        renamed = steps[position].opname == "IMPORT_FROM"
        while steps[position].opname in {"IMPORT_FROM", "SWAP", "POP_TOP"}:
            position += 1
        top = name if renamed else name.partition(".")[0]
        yield _local(steps[position]), Reference("import", top, (), level)
        return
    position += 1
    while steps[position].opname == "IMPORT_FROM":
        reference = Reference("import", name, (steps[position].argval,), level)
        yield _local(steps[position + 1]), reference
        position += 2


def _local(step: dis.Instruction) -> str | None:
    return str(step.argval) if step.opname == "STORE_FAST" else None


def _assigned_once(steps: Sequence[dis.Instruction], variable: str) -> bool:
    stores = (s for s in steps if s.opname == "STORE_FAST" and s.argval == variable)
    return len(list(stores)) == 1
