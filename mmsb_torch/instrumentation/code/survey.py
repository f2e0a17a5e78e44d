"""Which visitor sees what; and one whole walk from a function and its constants."""

from __future__ import annotations

import array
import collections
import enum
import functools
import logging
import operator
import platform
import re
import threading
import types
import typing
import weakref
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from . import buffers, classes, functions, libraries, modules, values
from .encoding import frame, text
from .identity import Serials
from .walk import ROOT, Label, Walk

# A digest of another form must not equal one of this form: to be moved with the form.
_FORM = 1


class _Field(NamedTuple):
    position: int


_BY_TYPE: dict[type, Callable[[Walk, Any, Label], None]] = {
    types.FunctionType: functions.visit_function,
    types.MethodType: functions.visit_method,
    types.BuiltinFunctionType: functions.visit_builtin,
    types.MethodWrapperType: functions.visit_builtin,
    type(torch.ops.aten.add): functions.visit_operator,
    type(torch.ops.aten.add.Tensor): functions.visit_operator,
    functools.partial: functions.visit_partial,
    type(functools.lru_cache(int)): functions.visit_cached,
    staticmethod: classes.visit_descriptor,
    classmethod: classes.visit_descriptor,
    property: classes.visit_descriptor,
    types.MethodDescriptorType: classes.visit_descriptor,
    types.ClassMethodDescriptorType: classes.visit_descriptor,
    types.WrapperDescriptorType: classes.visit_descriptor,
    types.MemberDescriptorType: classes.visit_descriptor,
    types.GetSetDescriptorType: classes.visit_descriptor,
    types.CellType: values.visit_cell,
    types.MappingProxyType: values.visit_proxy,
    types.GenericAlias: values.visit_alias,
    types.UnionType: values.visit_alias,
    re.Pattern: values.visit_pattern,
    weakref.ref: values.visit_reference,
    operator.itemgetter: values.visit_reduced,
    operator.attrgetter: values.visit_reduced,
    operator.methodcaller: values.visit_reduced,
    type(_Field.__dict__["position"]): values.visit_field,
    bytearray: buffers.visit_bytes,
    array.array: buffers.visit_bytes,
    type(threading.Lock()): values.visit_by_type,
    type(threading.RLock()): values.visit_by_type,
    RemovableHandle: values.visit_by_type,
    **dict.fromkeys(buffers.GENERATORS, buffers.visit_generator),
}

_BY_BASE: tuple[tuple[type | tuple[type, ...], Callable[[Walk, Any, Label], None]], ...] = (
    (Tensor, buffers.visit_tensor),
    (nn.Module, modules.visit_module),
    (type, classes.visit_class),
    (types.ModuleType, values.visit_module),
    (enum.Enum, classes.visit_member),
    (np.ndarray, buffers.visit_array),
    (logging.Logger, values.visit_by_name),
)

_EXACT_CONTAINERS: dict[type, Callable[[Walk, Any, Label], None]] = {
    list: values.visit_sequence,
    tuple: values.visit_sequence,
    collections.deque: values.visit_sequence,
    dict: values.visit_mapping,
    collections.OrderedDict: values.visit_mapping,
    collections.defaultdict: values.visit_mapping,
    set: values.visit_set,
    frozenset: values.visit_set,
}


def survey(
    function: Callable[..., Any], constants: Mapping[str, Any], serials: Serials, name: str
) -> Walk:
    """Walks everything that calling `function` with these constants depends on."""
    walk = Walk(_visit, serials)
    root = Label(ROOT, name)
    versions = f"{_FORM} {platform.python_version()} {torch.__version__}"
    walk.write(root, frame("form", text(versions)))
    walk.enter(root, "definition", function)
    for key in sorted(constants):
        label = Label("constant", key)
        walk.write(label, frame("constant", text(key), walk.refer(constants[key], label)))
    walk.run()
    if any(issubclass(type(value), nn.Module) for value, _ in walk.seen):
        modules.visit_global_hooks(walk)
        walk.run()
    if "grad" in walk.attributes:
        _visit_gradients(walk)
    return walk


def _visit_gradients(walk: Walk) -> None:
    # Nobody reads the gradient of a gradient without naming the first one.
    for value, label in walk.seen:
        if issubclass(type(value), Tensor):
            buffers.visit_gradient(walk, cast("Tensor", value), label)
    walk.run()


def _visit(walk: Walk, value: object, label: Label) -> None:
    cls = type(value)
    visitor = _BY_TYPE.get(cls) or _EXACT_CONTAINERS.get(cls)
    if visitor is None and buffers.is_numpy_generator(cls):
        visitor = buffers.visit_generator
    if visitor is not None:
        visitor(walk, value, label)
        return
    for base, visit in _BY_BASE:
        if issubclass(cls, base):  # not isinstance: it asks the object what its class is
            visit(walk, value, label)
            return
    _visit_other(walk, value, label)


def _visit_other(walk: Walk, value: Any, label: Label) -> None:
    if functions.blind(walk, value, label):
        return
    cls = type(value)
    if libraries.name_of(cls) is None and classes.is_python(cls):
        values.visit_instance(walk, value, label)
    elif libraries.is_ours(cls) and callable(value) and hasattr(value, "__wrapped__"):
        walk.enter(label, "memoised", value.__wrapped__)  # it gives what that would give
    elif callable(value) and functions.library_name(walk, value, label):
        return
    elif libraries.is_ours(cls) and walk.layout(cls).base is object:
        # A memory or a page: what it holds is followed by the engine, not by value.
        walk.identify(value, label)
    elif typing.get_origin(value) is not None:
        values.visit_alias(walk, value, label)
    else:
        values.visit_instance(walk, value, label)
