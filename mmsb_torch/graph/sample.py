"""Whether rows computed apart are the rows of the whole: looked at on a sample, never assumed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mmsb_torch.device import same_bits, take_rows

_FACTOR = 512
"""Units of the last place, of float32 and float64, that rounding may make (up to 5e-5 were seen)."""
_MORE = 4
"""Rows differ by rounding only if they do in this many times the expected number, too."""
_ODD = 3
"""Added to a number of rows, so that no multiple of what a processor does at once comes out."""
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
    if far.dim() == 1:
        return far
    return far.flatten(1).amax(1) if far.numel() else far.new_zeros(len(far))


def compare(apart: Tensor, whole: Tensor, rows: Tensor) -> Difference:
    """Compare rows that were computed apart with rows `rows` of the whole."""
    far = beyond(apart, take_rows(whole, rows))
    at = int(far.argmax())
    return Difference(int(rows[at]), float(far[at]))


class Agreement(NamedTuple):
    """How rows computed apart agree with those of the whole."""

    least: int
    """How many rows to compute at least for that; 0: there are too few rows to tell."""
    exact: bool
    """They have the same bits; else they are equal up to rounding."""


class DiffersError(Exception):
    """Rows computed apart are others than those of the whole; the argument says which."""


def agreement(
    apart: Callable[[Tensor], Tensor], whole: Tensor, first: int, without: Tensor | None
) -> Agreement:
    """Compute some rows apart and compare them with those of the whole.

    Several numbers of rows are tried, for operators compute the last elements of a tensor, and of what
    each thread does of it, in another way than the others; such rows of the whole are in the sample.

    Args:
        apart: computes rows int64 [n], in no order, apart.
        whole: all rows, right but for `without`.
        first: a number of rows from which on they may be expected to have the same bits.
        without: rows to leave out.

    Raises:
        DiffersError: they differ by more than rounding.
    """
    of, least = whole.shape[0], 0
    if of < 2 * (first + _ODD):
        exact = of > 1 and _agree(apart, whole, of // 2, without)
        return Agreement(0, bool(exact))
    for size in (first, first * _MORE):
        found = [_agree(apart, whole, number, without) for number in (size, size + _ODD)]
        if all(found):
            return Agreement(size, exact=True)
        if None in found:
            break
        least = first
    return Agreement(least, exact=False)


def _agree(
    apart: Callable[[Tensor], Tensor], whole: Tensor, number: int, without: Tensor | None
) -> bool | None:
    """Whether so many rows have the same bits (else it is rounding); None if there are not so many."""
    rows = choose(number, whole.shape[0], without)
    if rows is None:
        return None
    rows = rows.to(whole.device)
    found = apart(rows)
    if same_bits(found, take_rows(whole, rows)):
        return True
    far = compare(found, whole, rows)
    if not far.rounding:
        raise DiffersError(
            f"row {far.row} is another one when it is computed among {number} rows than among "
            f"{len(whole)}"
        )
    return False


def choose(count: int, of: int, without: Tensor | None = None) -> Tensor | None:
    """Some rows of `of`, in no order, none of `without`: int64 [count]; None if there are not so many."""
    banned = set() if without is None else set(without.tolist())
    if of - len(banned) < 2 * count:
        return None
    chance = random.Random(of * 31 + count)  # noqa: S311 - the same sample each time
    threads = torch.get_num_threads()
    ends = [-(-of * part // threads) - 1 for part in range(1, threads + 1)]
    found = dict.fromkeys(row for row in ends[: count // 2] if row not in banned)
    while len(found) < count:
        row = chance.randrange(of)
        if row not in banned:
            found[row] = None
    rows = list(found)
    chance.shuffle(rows)
    return torch.tensor(rows)
