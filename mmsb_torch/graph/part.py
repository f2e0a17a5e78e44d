"""What a run of a recipe gave: all of a value, or rows of it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Part(NamedTuple):
    """Rows of a value to be made again."""

    rows: Tensor
    """int64 [n], sorted."""
    computed: Tensor
    """The rows to compute: those, and as many more as it takes."""
    of: int
    """How many rows there are."""
    trial: bool = False
    """Find out whether the others were needed."""


class Made(NamedTuple):
    """A value, or rows of one."""

    value: Tensor
    part: Part | None = None
    """The rows that `value` holds; None: all of them."""
    engine: str = "full"
    """"full", "slice" (the recipe ran on some rows) or "mask" (its graph ran in part)."""
    exact: bool = True
    """It has the bits of a run in full; else it is equal up to rounding."""
