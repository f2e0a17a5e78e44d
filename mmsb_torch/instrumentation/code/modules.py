"""nn.Module: everything its forward can depend on, named the way `state_dict` names it."""

from __future__ import annotations

import types
from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import nn

from . import libraries, values
from .encoding import frame, framed, text
from .walk import Label, Walk

_KINDS = {"_parameters": "parameter", "_buffers": "buffer", "_modules": "module"}
_HOOKS = frozenset(name for name in vars(nn.Module()) if name.endswith("hooks"))
# These run when a state dict is saved or loaded, never in forward.
_UNUSED_HOOKS = frozenset(name for name in _HOOKS if "state_dict" in name)
# Hooks for all modules have no public list; they are found by how their tables are named.
_GLOBAL_HOOKS = {
    name: table
    for name, table in vars(nn.modules.module).items()
    if name.startswith("_global_") and name.endswith("hooks") and isinstance(table, dict)
}


def visit_module(walk: Walk, module: nn.Module, label: Label) -> None:
    """A module: class, hooks, training flag, attributes, parameters, buffers, submodules."""
    own = Label("module", label.name)
    if walk.layout(type(module)).base is not object:
        walk.identify(module, own)
        return
    _visit_class(walk, module, own)
    items = values.dict_items(walk, module)
    if isinstance(module, torch.fx.GraphModule):
        # Its forward is compiled from the graph, and is what runs.
        items = tuple(item for item in items if item[0] != "_graph")
    numbers = _hook_numbers(dict(items))
    for name, value in items:
        if name in _KINDS and isinstance(value, dict):
            _visit_parts(walk, name, value, label)
        elif isinstance(value, dict) and _is_hooks(name, value):
            if name not in _UNUSED_HOOKS:
                _visit_hooks(walk, name, value, own, numbers)
        elif name == "training":
            part = own._replace(note=" training flag")
            walk.write(part, frame("training", walk.refer(value, part)))
        else:
            part = Label("attribute", name, f" of {own}")
            walk.write(part, frame("attribute", text(name), walk.refer(value, part)))
    values.visit_slots(walk, module, label)


def visit_global_hooks(walk: Walk) -> None:
    """The hooks that run for every module; a walk that meets a module includes them."""
    numbers = _hook_numbers(_GLOBAL_HOOKS)
    for name, table in _GLOBAL_HOOKS.items():
        _visit_hooks(walk, name, table, Label("module", "*"), numbers)


def _visit_parts(walk: Walk, table: str, parts: dict[str, Any], label: Label) -> None:
    kind = _KINDS[table]
    for name, value in values.items_of(walk, parts):
        part = label.of(kind, name)
        walk.write(part, frame(kind, text(name), walk.refer(value, part)))


def _visit_hooks(
    walk: Walk, name: str, table: dict[Any, Any], own: Label, numbers: Mapping[int, int]
) -> None:
    """Hooks in the order in which they run; their keys count all hooks of the process."""
    items = values.items_of(walk, table)
    if items:
        label = Label("hooks of", own.name)
        parts = ((b"%d" % numbers[key], walk.refer(hook, label)) for key, hook in items)
        walk.write(label, framed(name, chain.from_iterable(parts)))


def _hook_numbers(tables: Mapping[str, Any]) -> dict[int, int]:
    """A small number for each hook of a module, as one hook may stand in two tables."""
    keys = {key for name, table in tables.items() if _is_hooks(name, table) for key in table}
    return {key: number for number, key in enumerate(sorted(keys))}


def _is_hooks(name: str, value: object) -> bool:
    return (
        (name in _HOOKS or name in _GLOBAL_HOOKS)
        and isinstance(value, dict)
        and all(type(key) is int for key in value)
    )


def _visit_class(walk: Walk, module: nn.Module, own: Label) -> None:
    values.visit_class_of(walk, module, own)
    for cls in type(module).__mro__:
        if issubclass(cls, nn.Module) and libraries.name_of(cls) is not None:
            visit_patches(walk, cls)


def visit_patches(walk: Walk, cls: type) -> None:
    """Methods that somebody has put into a library's class; the others go by its version."""
    if not walk.first(cls):
        return
    for name, value in values.items_of(walk, cls.__dict__):
        if isinstance(value, types.FunctionType) and not _is_own(cls, name, value):
            label = Label("method", f"{cls.__name__}.{name}")
            walk.write(label, frame("patch", text(name), walk.refer(value, label)))


def _is_own(cls: type, name: str, function: types.FunctionType) -> bool:
    if not libraries.is_genuine(function):
        return False
    # Libraries add to the base of all modules what only they use.
    owners = (f"{owner.__qualname__}.{name}" for owner in cls.__mro__)
    return cls is nn.Module or function.__qualname__ in owners
