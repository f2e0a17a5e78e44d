"""A recipe at work: under which flags it runs, what it reads, and what becomes of its result."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Protocol, cast

import torch
from torch import Tensor

from mmsb_torch.device import (
    changed_rows,
    copy_of,
    is_own_memory,
    require_dense,
    same_bits,
)
from mmsb_torch.errors import RecipeError
from mmsb_torch.graph.node import Node
from mmsb_torch.graph.pull import Pull
from mmsb_torch.runtime.state import Entry
from mmsb_torch.types import Region


class Reader(Protocol):
    """Who answers the reads of a running recipe."""

    def read_inside(self, frame: Frame, entry: Entry) -> Tensor:
        """The value of a page at the frame's moment."""
        ...


class Frame:
    """One run of a recipe: the moment it sees, and the pages it was seen to read."""

    __slots__ = (
        "_handed",
        "engine",
        "node",
        "overtaken",
        "peeked",
        "pull",
        "reader",
        "reads",
        "tx",
    )

    def __init__(
        self, engine: object, reader: Reader, node: Node, tx: int, pull: Pull | None = None
    ) -> None:
        self.pull = pull
        self.engine = engine
        self.reader = reader
        self.node = node
        self.tx = tx
        self.reads: dict[Entry, int] = {}
        self.overtaken = False
        """A read inside found that the moment cannot be held any more."""
        self.peeked = False
        """The recipe looked at the memory in a way that is not watched."""
        self._handed: list[tuple[Entry, Tensor, int]] = []

    def hand(self, entry: Entry, value: Tensor) -> Tensor:
        """Give the recipe a value to read, and note how it was."""
        self._handed.append((entry, value, value._version))  # noqa: SLF001 - the public counter
        return value

    def written(self) -> list[Entry]:
        """The pages that the recipe wrote into."""
        handed = self._handed
        return [entry for entry, value, version in handed if value._version != version]  # noqa: SLF001


class Running(threading.local):
    """The recipe that this thread is running, if any."""

    frame: Frame | None = None


@contextmanager
def plain_torch() -> Iterator[None]:
    """What recipes run under: no grad, no inference mode, no autocast."""
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(mode=False))
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(torch.no_grad())
        yield


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


def difference(old: Tensor | None, new: Tensor) -> Region:
    """Where `new` differs from `old`, bit for bit, by rows; everything if it cannot be compared."""
    shape = tuple(new.shape)
    if old is None or old.dtype != new.dtype or old.shape != new.shape or old.device != new.device:
        return Region.all(shape)
    if new.dim() == 0 or new.numel() == 0:
        return Region.none(shape) if same_bits(old, new) else Region.all(shape)
    return Region.rows(shape, changed_rows(old, new))
