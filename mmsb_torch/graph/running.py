"""A recipe at work: what it is given to read, what it reads, and what becomes of its result."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

import torch
from torch import Tensor

from mmsb_torch.device import (
    copy_of,
    is_own_memory,
    require_dense,
)
from mmsb_torch.errors import RecipeError
from mmsb_torch.graph.failures import Restart, Written
from mmsb_torch.graph.node import Node
from mmsb_torch.graph.recipes import Recipe
from mmsb_torch.instrumentation.context import GradKept, is_plain, plain_torch
from mmsb_torch.runtime.state import Entry, Router

if TYPE_CHECKING:
    from mmsb_torch.graph.engine import Engine

T = TypeVar("T")

_DEEPEST = 16
"""Recipes inside of recipes, before one begins at the bottom instead."""


class Reader(Protocol):
    """Who answers the reads of a running recipe."""

    engine: Engine
    tx: int

    def read_inside(self, frame: Frame, entry: Entry) -> Tensor:
        """The value of a page at the reader's moment."""
        ...


class Frame:
    """One run of a recipe: who answers its reads, and which pages it was seen to read."""

    __slots__ = ("_handed", "node", "peeked", "private", "reader", "reads", "restart", "unchecked")

    def __init__(
        self, reader: Reader, node: Node, *, private: bool = False, unchecked: bool = False
    ) -> None:
        self.reader = reader
        self.node = node
        self.private = private
        """It gets copies of its own: whoever writes into those is this recipe."""
        self.unchecked = unchecked
        """Nobody looked at the recipe's code yet."""
        self.reads: dict[Entry, int] = {}
        """Pages read beside those of the declaration, and their epochs."""
        self.restart: Restart | None = None
        """A read inside found that the moment cannot be held any more."""
        self.peeked = False
        """The recipe looked at the memory in a way that is not watched."""
        self._handed: list[tuple[Entry, Tensor, int]] = []

    def hand(self, entry: Entry, value: Tensor) -> Tensor:
        """Give the recipe a value to read, and note how it was."""
        if self.private:
            value = copy_of(value)
        self._handed.append((entry, value, value._version))  # noqa: SLF001 - the public counter
        return value

    def written(self) -> list[Entry]:
        """The pages that somebody wrote into since they were handed out."""
        handed = self._handed
        return [entry for entry, value, version in handed if value._version != version]  # noqa: SLF001


class _Here(threading.local):
    frame: Frame | None = None


class Runner:
    """Runs the recipes of one memory, and knows which one each thread is inside of."""

    def __init__(self, router: Router, device: torch.device) -> None:
        self._recipes = router.recipes
        self._device = device
        self._here = _Here()

    @property
    def frame(self) -> Frame | None:
        """The recipe that this thread is running, if any."""
        return self._here.frame

    @property
    def too_deep(self) -> bool:
        """Whether this thread should begin no further recipe inside of those it is running."""
        return self._recipes.depth > _DEEPEST

    def plain(self) -> AbstractContextManager[None]:
        """What recipes run under; entered once for many, it costs each of them next to nothing."""
        return plain_torch(self._device)

    def run(self, recipe: Recipe, values: list[Tensor], frame: Frame) -> Tensor:
        """Call the user's function: its reads go to `frame`, and it may change no page.

        Returns memory that nobody else can reach.

        Raises:
            RecipeError: it returned no dense tensor.
            Written: somebody wrote into what it was given to read.
        """
        given = [
            frame.hand(entry, value) for entry, value in zip(recipe.inputs, values, strict=True)
        ]
        try:
            result = self.inside(frame, lambda: self._result(recipe, given, frame))
        except (Exception, Restart) as error:
            written = frame.written()
            if written:
                raise Written(written) from error
            raise
        written = frame.written()
        if written:
            raise Written(written)
        return result

    @staticmethod
    def _result(recipe: Recipe, given: list[Tensor], frame: Frame) -> Tensor:
        return adopt(dense_result(recipe.run(given), frame.node.name))

    def inside(self, frame: Frame, work: Callable[[], T]) -> T:
        """Let a recipe, or something that calls it, work: its reads go to `frame`.

        No context manager: an interrupt before its exit would leave this thread inside for good.
        """
        here, recipes = self._here, self._recipes
        before, depth, peeked = here.frame, recipes.depth, recipes.peeked
        try:
            here.frame, recipes.depth, recipes.peeked = frame, depth + 1, False
            with GradKept(), nullcontext() if is_plain() else self.plain():
                return work()
        finally:
            frame.peeked = frame.peeked or recipes.peeked
            here.frame, recipes.depth, recipes.peeked = before, depth, peeked


def dense_result(result: object, name: str) -> Tensor:
    """A detached alias of a recipe's result.

    Raises:
        RecipeError: not one dense tensor.
    """
    problem = require_dense(result)
    if problem is not None:
        raise RecipeError(
            f"the recipe of page {name!r} returned {problem}: expected one dense torch.Tensor "
            "on 'cpu' or 'cuda'. Return a tensor; make a derived page for each of several results."
        )
    return cast("Tensor", result).detach()


def adopt(value: Tensor) -> Tensor:
    """An alias of a recipe's result as memory of our own: contiguous, reachable by nobody else.

    It is copied only when it is a view, is borrowed, or when the recipe kept a hold on it: the
    tensor object that the recipe returned is gone by now, unless somebody else has it.
    """
    if (
        value.is_contiguous()
        and not value.is_conj()
        and not value.is_neg()
        and not value.is_inference()
        and is_own_memory(value)
    ):
        return value
    return copy_of(value)
