"""Whether rows computed apart are the rows of the whole: looked at on a sample, never assumed."""

from __future__ import annotations

import random
from typing import NamedTuple

import torch
from torch import Tensor

from mmsb_torch.device import take_rows

_FACTOR = 512
"""Units of the last place, of float32 and float64, that rounding may make (up to 5e-5 were seen)."""
_FACTOR_SHORT = 4
"""Likewise of dtypes with short mantissas, whose sums are kept in float32."""


class Difference(NamedTuple):
    """How rows computed apart differ from those of the whole."""

    row: int
    """The row of the whole that differs most, by its number in it."""
    largest: float
    """By how much, as a multiple of what rounding may make; infinite if it is no number."""

    @property
    def rounding(self) -> bool:
        """Whether it may come from adding in another order."""
        return self.largest <= 1.0


def tolerance(dtype: torch.dtype) -> float:
    """What rounding may make of a value v, as a share of 1 + abs(v); 0 for what does not round."""
    if not (dtype.is_floating_point or dtype.is_complex) or dtype.itemsize < 2:
        return 0.0
    factor = _FACTOR if torch.finfo(dtype).eps < 1e-6 else _FACTOR_SHORT
    return factor * torch.finfo(dtype).eps


def beyond(a: Tensor, b: Tensor) -> Tensor:
    """How far two tensors [n, ...] are apart, row by row: float64 [n], in multiples of `tolerance`.

    Equal bits, and NaNs at the same places, are no distance.
    """
    allowed = tolerance(a.dtype)
    if not allowed:
        differs = (a != b).flatten(1).any(1) if a.dim() > 1 else a != b
        return torch.where(differs, float("inf"), 0.0).double()
    wide = torch.complex128 if a.dtype.is_complex else torch.float64
    one, other = a.to(wide), b.to(wide)
    far = (one - other).abs() / (allowed * (1.0 + torch.minimum(one.abs(), other.abs())))
    far = torch.where((one == other) | (one.isnan() & other.isnan()), 0.0, far).nan_to_num(
        nan=float("inf"), posinf=float("inf")
    )
    return (
        far.flatten(1).amax(1) if far.dim() > 1 and far.numel() else far.view(len(far), -1).sum(1)
    )


def compare(apart: Tensor, whole: Tensor, rows: Tensor) -> Difference:
    """Compare rows that were computed apart with rows `rows` of the whole."""
    far = beyond(apart, take_rows(whole, rows))
    at = int(far.argmax())
    return Difference(int(rows[at]), float(far[at]))


def choose(count: int, of: int, without: Tensor | None = None) -> Tensor | None:
    """Some rows of `of`, in no order, none of `without`: int64 [count]; None if there are not so many."""
    left = [*range(of)] if of <= 4 * count else None
    chance = random.Random(of)  # noqa: S311 - the same sample each time
    banned = set() if without is None else set(without.tolist())
    if left is not None:
        left = [row for row in left if row not in banned]
        return torch.tensor(chance.sample(left, count)) if len(left) >= count else None
    if of - len(banned) < 2 * count:
        return None
    found: dict[int, None] = {}
    while len(found) < count:
        row = chance.randrange(of)
        if row not in banned:
            found[row] = None
    return torch.tensor(list(found))
