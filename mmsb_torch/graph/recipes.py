"""Recipes: how a derived page is made from its inputs, and how to tell that this changed.

A recipe is a callable with pages bound to its parameters, or a *kind*: a function
`fn(memory, page) -> Tensor` registered for all pages of that kind, whose inputs are the pages that
it reads.
"""

from __future__ import annotations

import abc
import inspect
import threading
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import xxhash
from torch import Tensor, nn

from mmsb_torch.errors import InvalidRecipeError
from mmsb_torch.instrumentation.code import Definition
from mmsb_torch.instrumentation.code.calling import runs_in_pieces
from mmsb_torch.runtime.state import Entry, Table


class Recipe(abc.ABC):
    """What the engine asks of a recipe. Immutable; `refreshed` makes another."""

    kind: str | None = None
    """The registered kind, if it is one."""
    definition: Definition | None = None
    """The user's code in it, if there is any."""
    worlds: tuple[str, ...] = ()
    """Registered worlds that it names."""
    label: str
    """For people: `scores (analysis.py:12)`."""
    inputs: tuple[Entry, ...]
    """Pages bound by declaration."""
    digest: str
    """Code, constants and binding; equal digests make equal values from equal inputs."""
    untracked: tuple[str, ...]
    """What the recipe refers to that cannot be watched: such a recipe runs at every read."""
    changed: Callable[[], str | None]
    """What differs from `digest` now, or None. Called at every read: cheap."""
    rows: bool | frozenset[int] | None = None
    """Whether row i of the result follows row i of inputs, as the user said: of all that have as many
    rows, or of those at the positions given. None: nothing was said."""
    exact = False
    """Rows are made apart only where that gives the same bits."""

    @abc.abstractmethod
    def refreshed(self) -> Recipe:
        """The same recipe with the digest of its code as it is now."""

    @abc.abstractmethod
    def run(self, values: Sequence[Tensor]) -> object:
        """Call the user's function with the values of `inputs`."""


class ByRows(NamedTuple):
    """What the user said of a recipe's rows; see `Recipe`."""

    rows: bool | frozenset[int] | None = None
    exact: bool = False


class CallRecipe(Recipe):
    """A callable with pages and constants bound to its parameters."""

    def __init__(
        self,
        function: Callable[..., Any],
        positional: tuple[Entry, ...],
        keywords: Mapping[str, Entry],
        constants: Mapping[str, Any],
        definition: Definition,
        by_rows: ByRows,
    ) -> None:
        self.function = function
        self.rows, self.exact = by_rows
        self.definition: Definition = definition
        self.label = definition.label
        self.inputs = (*positional, *keywords.values())
        self.untracked = definition.opaque
        self.changed = definition.changed
        self._count = len(positional)
        self._keywords = dict(keywords)
        self._constants = dict(constants)
        self.form = _digest(definition.digest, str(self._count), *keywords)
        """Code and constants, and how values are bound: the same for other pages."""
        binding = [*(entry.info.id for entry in positional), "|"]
        binding += [f"{name}={entry.info.id}" for name, entry in keywords.items()]
        self.digest = _digest(definition.digest, *map(str, binding))

    def refreshed(self) -> CallRecipe:
        """The same call under the function's present definition."""
        return CallRecipe(
            self.function,
            self.inputs[: self._count],
            self._keywords,
            self._constants,
            define(self.function, self._constants),
            ByRows(self.rows, self.exact),
        )

    def run(self, values: Sequence[Tensor]) -> object:
        """Call the function."""
        by_name = dict(zip(self._keywords, values[self._count :], strict=True))
        return self.function(*values[: self._count], **by_name, **self._constants)


class KindRecipe(Recipe):
    """The function registered for a kind of page, called with the memory and the page."""

    inputs = ()

    def __init__(self, kind: str, memory: Any, page: Any) -> None:
        self.kind: str = kind
        self.definition: Definition
        self._function, self.definition = _kind(kind)
        self._memory, self._page = memory, page
        self.label = self.definition.label
        # it has the memory at hand, and may read it anywhere
        self.untracked = self.definition.opaque + self.definition.starters
        self.digest = _digest(self.definition.digest, "kind", kind)
        self.changed = self._changed

    def _changed(self) -> str | None:
        registered = _KINDS.get(self.kind)
        if registered is not None and registered[0] is not self._function:
            if registered[1].digest != self.definition.digest or registered[1].changed():
                return f"kind {self.kind!r} was registered anew"
            self._function, self.definition = registered  # equal code: go on with that
        return self.definition.changed()

    def refreshed(self) -> KindRecipe:
        """The recipe of the kind as it is registered now."""
        definition = self.definition.refresh()
        with _kinds_lock:
            if _KINDS[self.kind][0] is self._function:
                _KINDS[self.kind] = (self._function, definition)
        return KindRecipe(self.kind, self._memory, self._page)

    def run(self, values: Sequence[Tensor]) -> object:
        """Call the function with the memory and the page; what it reads becomes its inputs."""
        del values
        return self._function(self._memory, self._page)


_KINDS: dict[str, tuple[Callable[..., Any], Definition]] = {}
_kinds_lock = threading.Lock()


def register_recomputation(kind: str, fn: Callable[[Any, Any], Tensor]) -> None:
    """Say how pages of `kind` are computed: `fn(memory, page) -> Tensor`.

    The pages that `fn` reads through `memory` become the page's inputs. Registering a kind again
    with other code makes its pages stale; equal code keeps their values. Process-wide and
    thread-safe; make such a page with `mem.page(name, kind=kind, metadata=...)`.

    Raises:
        InvalidRecipeError: `kind` is no non-empty string or `fn` is not callable.
    """
    if not isinstance(kind, str) or not kind:
        raise InvalidRecipeError(f"a kind is a non-empty string, found {kind!r}")
    if not callable(fn) or runs_in_pieces(fn):
        raise InvalidRecipeError(
            f"kind {kind!r}: expected fn(memory, page) -> Tensor, found {fn!r}"
        )
    definition = Definition.of(fn)
    with _kinds_lock:
        _KINDS[kind] = (fn, definition)


def is_registered(kind: str) -> bool:
    """Whether a function is registered for `kind` in this process."""
    return kind in _KINDS


def _kind(kind: str) -> tuple[Callable[..., Any], Definition]:
    try:
        return _KINDS[kind]
    except KeyError:
        names = sorted(_KINDS)
        known = ", ".join(map(repr, names[:6])) + ", ..." * (len(names) > 6) or "none"
        raise InvalidRecipeError(
            f"no recomputation is registered for kind {kind!r} (known: {known}). "
            f"Call mmsb.register_recomputation({kind!r}, fn) first."
        ) from None


def bind(
    function: Callable[..., Any],
    args: Sequence[Entry],
    keywords: Mapping[str, Any],
    table: Table,
    *,
    rows: object = None,
    exact: object = False,
) -> CallRecipe:
    """Bind pages to the parameters of `function`.

    With no pages given, each parameter names a page; one that names none keeps its default.
    `rows` is what `Memory.derive` takes.

    Raises:
        InvalidRecipeError: not callable, the arguments do not fit its signature, or `rows` names
            what is no input.
        PageNotFoundError: a parameter without a default names no page.
    """
    if not callable(function):
        raise InvalidRecipeError(f"a recipe is a callable or an nn.Module, found {function!r}")
    if runs_in_pieces(function):
        raise InvalidRecipeError(
            f"recipe {_name(function)} is a coroutine or generator function: expected one that "
            "returns a tensor. Declare the function that computes the values."
        )
    pages = {name: value for name, value in keywords.items() if isinstance(value, Entry)}
    constants = {name: value for name, value in keywords.items() if name not in pages}
    signature = _signature(function)
    if not args and not pages:
        if signature is None:
            raise InvalidRecipeError(
                f"{function!r} tells no parameters: name its pages, mem.derive(f, page, ...)"
            )
        pages = _by_parameter(signature, constants, table)
        constants = dict(constants)
    elif signature is not None:
        try:
            signature.bind(*args, **keywords)
        except TypeError as error:
            raise InvalidRecipeError(f"recipe {_name(function)}: {error}") from None
    inputs = (*args, *pages.values())
    by_rows = ByRows(_row_inputs(rows, inputs, (*("",) * len(args), *pages)), bool(exact))
    return CallRecipe(function, tuple(args), pages, constants, define(function, constants), by_rows)


def _row_inputs(
    rows: object, inputs: Sequence[Entry], parameters: Sequence[str]
) -> bool | frozenset[int] | None:
    """What `rows=` says, with positions for the names of pages or parameters."""
    if rows is None or isinstance(rows, bool):
        return rows
    names = [item.info.name for item in inputs]
    wanted = [rows] if isinstance(rows, str) else rows
    if not isinstance(wanted, Collection) or not wanted:
        raise InvalidRecipeError(
            f"rows= is True, False, or the names of inputs whose rows the result follows: {rows!r}"
        )
    found: set[int] = set()
    pairs = list(zip(names, parameters, strict=True))
    for name in wanted:
        places = {place for place, pair in enumerate(pairs) if name in pair}
        if not places:
            known = ", ".join(map(repr, names)) or "none"
            raise InvalidRecipeError(
                f"rows= names {name!r}: expected inputs of the recipe ({known})"
            )
        found |= places
    return frozenset(found)


_defined: weakref.WeakValueDictionary[int, Definition] = weakref.WeakValueDictionary()


def define(function: Callable[..., Any], constants: Mapping[str, Any]) -> Definition:
    """The definition of a callable as it is now; recipes of one function share one.

    So a chain of a thousand pages made by one function is checked by one look at that function.
    """
    if constants:
        return Definition.of(function, constants)
    kept = _defined.get(id(function))
    if kept is None or kept.function is not function:
        kept = _defined[id(function)] = Definition.of(function)
    elif kept.changed() is not None:
        kept = _defined[id(function)] = kept.refresh()
    return kept


def _by_parameter(
    signature: inspect.Signature, constants: Mapping[str, Any], table: Table
) -> dict[str, Entry]:
    pages = {}
    for name, parameter in signature.parameters.items():
        if name in constants or parameter.kind in {
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        }:
            continue
        entry = table.get(name)
        if entry is None and parameter.default is not parameter.empty:
            continue
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise InvalidRecipeError(
                f"parameter {name!r} is positional-only: name the pages, mem.derive(f, page, ...)"
            )
        pages[name] = entry if entry is not None else table.find(name)
    return pages


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(function.forward if isinstance(function, nn.Module) else function)
    except (TypeError, ValueError):
        return None


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", type(function).__name__)


def default_name(function: Callable[..., Any]) -> str | None:
    """The page name that a callable suggests; None for lambdas and the like."""
    name = getattr(function, "__name__", None)
    if name is None and isinstance(function, nn.Module):
        name = type(function).__name__.lower()
    return None if name is None or not name.isidentifier() else name


def _digest(*parts: str) -> str:
    return xxhash.xxh3_128_hexdigest("\0".join(parts).encode())
