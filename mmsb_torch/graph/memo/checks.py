"""What can be memoised, and with which options."""

from __future__ import annotations

import inspect
import reprlib
from typing import Any, cast

from torch import Tensor, nn

from mmsb_torch.errors import InvalidMemoError
from mmsb_torch.instrumentation.code.calling import runs_in_pieces

_REPR = reprlib.Repr()
_REPR.maxother = _REPR.maxstring = 60


def check_function(function: Any) -> set[str]:
    """The names of the parameters of what is to be memoised.

    Raises:
        InvalidMemoError: it is no function of values: no callable, a class, a coroutine or
            generator, or it tells no parameters.
    """
    if not callable(function):
        raise InvalidMemoError(
            f"{said(function)} is not callable: expected a function or an nn.Module."
        )
    if isinstance(function, type):
        raise InvalidMemoError(
            f"{function.__qualname__} is a class: what it makes are objects, which cannot be kept. "
            "Memoise a function that returns tensors, arrays and plain data."
        )
    if runs_in_pieces(function):
        raise InvalidMemoError(
            f"{said(function)} is a coroutine or generator function: what it gives cannot be kept. "
            "Memoise the function that computes the values."
        )
    try:
        signature = inspect.signature(
            function.forward if isinstance(function, nn.Module) else function
        )
    except (TypeError, ValueError) as error:
        raise InvalidMemoError(
            f"{said(function)} tells no parameters (it has no Python code): wrap it, "
            "`lambda x: f(x)`."
        ) from error
    return set(signature.parameters)


def check_options(names: set[str], version: Any, ignore: Any, verify: Any) -> None:
    """Raise InvalidMemoError for options that say nothing.

    Args:
        names: of the function's parameters.
        version: a str, or None.
        ignore: a list, tuple or set of these names.
        verify: a number from 0 to 1.
    """
    listed = isinstance(ignore, (list, tuple, set, frozenset))
    if not listed or not all(isinstance(name, str) and name in names for name in ignore):
        raise InvalidMemoError(
            f"ignore={said(ignore)}: expected a list of names of parameters among {sorted(names)}."
        )
    if isinstance(verify, bool) or not isinstance(verify, (int, float)) or not 0 <= verify <= 1:
        raise InvalidMemoError(f"verify={said(verify)}: expected a share of the hits, from 0 to 1.")
    if version is not None and not isinstance(version, str):
        raise InvalidMemoError(f"version={said(version)}: expected a str.")


def said(value: object) -> str:
    """A short text for anything, whatever its `__repr__` does."""
    return _REPR.repr(value)


def requires_grad(value: object) -> bool:
    """Whether a tensor, or a parameter of a module, requires gradients."""
    if issubclass(type(value), nn.Module):
        return any(parameter.requires_grad for parameter in cast("nn.Module", value).parameters())
    return issubclass(type(value), Tensor) and cast("Tensor", value).requires_grad


def tensors_in(*values: Any) -> list[Tensor]:
    """The tensors in arguments: in lists, tuples, mappings and modules, too."""
    found: list[Tensor] = []
    waiting, seen = list(values), set[int]()
    while waiting:
        value = waiting.pop()
        cls = type(value)  # not isinstance: it asks the object what its class is
        if issubclass(cls, Tensor):
            found.append(value)
        elif issubclass(cls, nn.Module):
            found += [*value.parameters(), *value.buffers()]
        elif issubclass(cls, (list, tuple, dict)) and id(value) not in seen:
            seen.add(id(value))
            waiting += dict.values(value) if issubclass(cls, dict) else value
    return found
