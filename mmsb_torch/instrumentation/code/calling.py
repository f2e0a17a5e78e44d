"""What a call of something gives: its values, or something that runs in pieces later."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from torch import nn

_KINDS = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)


def runs_in_pieces(function: Any) -> bool:
    """Whether it is a coroutine or generator function: a call gives no values yet.

    Through partials, modules and objects with `__call__`.
    """
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, nn.Module):
        function = function.forward
    elif not (inspect.isroutine(function) or isinstance(function, type)):
        function = type(function).__call__
    return any(kind(function) for kind in _KINDS)
