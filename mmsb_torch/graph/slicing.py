"""Engine 1: rows of a derived value that follow rows of its inputs are made again alone.

A recipe is *row-wise* in some inputs if row i of its result depends, of those, on row i only. The
user says so (`rows=`) or it is proved from the captured graph (`graph/rows`); either way a sample is
compared before anybody relies on it. Then the changed rows are gathered, the user's own function is
called on them, and what it gives is merged into the value: nothing is kept between edits.

Rows are computed at least `rows_threshold` at a time, so that they have the bits they would have
among all the others. Fewer are tried once beside as many as that; if the bits are the same, so many
are computed alone from then on.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from mmsb_torch.device import rows_threshold, same_bits, take_rows
from mmsb_torch.errors import MMSBError, NotRowwiseError
from mmsb_torch.graph.costs import Costs
from mmsb_torch.graph.failures import said
from mmsb_torch.graph.recipes import CallRecipe, Recipe
from mmsb_torch.graph.running import Frame
from mmsb_torch.graph.sample import choose, compare

if TYPE_CHECKING:
    from mmsb_torch.graph.edits import Edits
    from mmsb_torch.graph.node import Node
    from mmsb_torch.graph.pull import Pull

_MORE = 4
"""Rows differ by rounding only if they do in this many times the threshold, too."""


class Part(NamedTuple):
    """Rows of a value to be made again."""

    rows: Tensor
    """int64 [n], sorted."""
    computed: Tensor
    """The rows to compute: those, and as many more as it takes."""
    trial: bool = False
    """Find out whether the others were needed."""


class Slicing:
    """What is known of the rows of one page under one code. For whoever holds the page's flight.

    Attributes:
        costs: what runs took.
        began: when the last run of some rows began.
        follows: positions of the inputs whose rows the result's rows follow; None: not looked at.
        least: how many rows to compute at least; 0: no sample was compared yet.
        fewer: numbers of rows below `least` that were tried, and whether the bits were the same.
        exact: rows computed apart have the bits of the whole; else they are equal up to rounding.
        why_not: why the value is made in full.
    """

    __slots__ = (
        "_node",
        "_promise",
        "_recipe",
        "_sizes",
        "began",
        "costs",
        "exact",
        "fewer",
        "follows",
        "least",
        "why_not",
    )

    def __init__(self, node: Node, recipe: Recipe) -> None:
        self._node = node
        self._recipe = recipe
        self.costs = Costs()
        self.began = 0.0
        self.follows: frozenset[int] | None = None
        self.least = 0
        self.fewer: dict[int, bool] = {}
        self.exact = True
        self.why_not: str | None = None
        self._promise = 0.0
        """Seconds that edits seen so far would have saved."""
        self._sizes: tuple[int, int | None] = (1, None)
        """Numbers of rows that the recipe was proved for."""
        if recipe.rows is False:
            self.never("it was declared with rows=False")

    @classmethod
    def of(cls, node: Node, recipe: Recipe) -> Slicing:
        """What is known of a node's rows; begun anew when its code changed."""
        known = node.slicing
        if known is None or known._recipe.digest != recipe.digest:  # noqa: SLF001 - one of us
            known = node.slicing = cls(node, recipe)
        known._recipe = recipe
        return known

    def part(self, pull: Pull, edits: Edits) -> Part | None:
        """The rows to make again, if that is right and expected to be faster than all of them.

        Raises:
            NotRowwiseError: the user said that the recipe is row-wise, and a sample shows it is not.
        """
        whole, recipe = self._node.entry.value, self._recipe
        if self.follows is None:
            if recipe.rows is None:
                self._prove(pull, whole, edits)
            else:
                self._look(pull, whole)
        if not self.follows:
            return None
        if not edits.inputs <= self.follows:
            name = recipe.inputs[min(edits.inputs - self.follows)].info.name
            self.why_not = f"{name!r} changed, which every row depends on"
            return None
        if self.least == 0:
            self._check(pull, whole, edits.rows)
            if not self.follows or self.least == 0:
                return None
        count, of_all = edits.rows.numel(), whole.shape[0]
        size = count if self.fewer.get(count) else max(count, self.least)
        if not self._sizes[0] <= size <= (self._sizes[1] or size):
            self.why_not = f"{count:,} rows changed, and what was proved holds for {self._sizes}"
            return None
        if size >= of_all or not self.costs.favour_rows(size, of_all):
            self.why_not = f"{count:,} of {of_all:,} rows changed: all are as fast"
            return None
        self.why_not = None
        trial = (
            size > count >= self._sizes[0]
            and count not in self.fewer
            and self.costs.is_dear(size, of_all)
        )
        return Part(edits.rows, _padded(edits.rows, size), trial)

    def run(self, pull: Pull, part: Part, frame: Frame, whole: Tensor) -> Tensor:
        """Call the recipe on some rows of the inputs that its rows follow, and on the others whole.

        `whole` is a value in full, which what comes back is a part of.
        """
        count, self.began = part.computed.numel(), time.perf_counter()
        result = self._call(pull, part.computed, frame)
        if (result.dtype, result.device) != (whole.dtype, whole.device) or result.shape != (
            count,
            *whole.shape[1:],
        ):
            found = f"{str(result.dtype).removeprefix('torch.')}{list(result.shape)}"
            raise self._error(f"given {count} rows of its inputs it returned {found}")
        result = result[: part.rows.numel()]
        if part.trial:
            alone = self._call(pull, part.rows, frame)
            self.fewer[part.rows.numel()] = same_bits(alone, result)
        return result

    def _call(self, pull: Pull, rows: Tensor, frame: Frame) -> Tensor:
        given, follows = [], self.follows or frozenset()
        for place, entry in enumerate(self._recipe.inputs):
            value = pull.value(entry)
            given.append(take_rows(value, rows) if place in follows else value)
            del value
        return pull.engine.runner.run(self._recipe, given, frame)

    def computed(self, pull: Pull, value: Tensor, seconds: float) -> None:
        """Note what a run in full took, and look at what the user said of its rows.

        Raises:
            NotRowwiseError: the recipe is not row-wise, though the user said so.
        """
        self.costs.ran_in_full(seconds)
        if self._recipe.rows and self.least == 0 and self.follows != frozenset():
            self._look(pull, value)
            self._check(pull, value, None)

    def _look(self, pull: Pull, whole: Tensor) -> None:
        """Take the user's word for which inputs the rows follow."""
        said, inputs = self._recipe.rows, self._recipe.inputs
        assert said
        if whole.dim() == 0:
            raise self._error("its result is 0-dim")
        count = whole.shape[0]
        long = [place for place, entry in enumerate(inputs) if len(pull.value(entry)) == count]
        follows = self.follows = frozenset(long) if said is True else said
        if not follows or not follows <= set(long):
            names = ", ".join(repr(inputs[place].info.name) for place in sorted(follows))
            raise self._error(f"its result has {count} rows, and {names or 'no input'} has not")

    def _prove(self, pull: Pull, whole: Tensor, edits: Edits) -> None:
        """Find out from the recipe's graph which inputs the rows follow, if that promises to pay."""
        plans, recipe, node = pull.engine.plans, self._recipe, self._node
        if not isinstance(recipe, CallRecipe):
            self.never("it is no plain function")
            return
        self._promise += self.costs.promise(edits.rows.numel(), len(whole))
        if not self._promise:
            return
        frame = Frame(pull, node)
        values = [pull.value(entry) for entry in recipe.inputs]
        with pull.engine.runner.inside(frame):
            plan = plans.of(recipe, values, whole, sorted(edits.inputs), self._promise)
        if plan is None:
            return
        if isinstance(plan, str) or plan.why_not is not None:
            self.never(plan if isinstance(plan, str) else str(plan.why_not))
        elif frame.reads or frame.peeked:
            self.never("it reads pages that it was not declared with")
        else:
            self.follows, self._sizes = plan.follows, (plan.least, plan.most)

    def _check(self, pull: Pull, whole: Tensor, changed: Tensor | None) -> None:
        """Compare some rows computed apart with those of `whole`, which is right but for `changed`.

        Raises:
            NotRowwiseError: they differ by more than rounding, and the user said they would not.
        """
        first = max(rows_threshold(whole.device), self._sizes[0])
        few = min(first, whole.shape[0] // 2)
        for size in (few, first * _MORE):
            sample = choose(size, whole.shape[0], changed) if size else None
            if sample is None:
                break
            try:
                equal = self._agrees(pull, sample.to(whole.device), whole)
            except NotRowwiseError as error:
                if self._recipe.rows is not None:
                    raise
                self.never(f"its graph says that it is row-wise, and a sample not: {error}")
            if not self.follows:
                return
            if size >= first:
                self.least, self.exact = size, equal
            if equal:
                break
        if self.least and not self.exact:
            self.least = first
            if self._recipe.exact:
                self.never("rows computed apart differ from the whole in some bits (exact=True)")

    def _agrees(self, pull: Pull, rows: Tensor, whole: Tensor) -> bool:
        """Whether rows computed apart have the bits of the whole; else it is rounding.

        Raises:
            NotRowwiseError: they differ by more than that.
        """
        apart = self._apart(pull, rows, whole)
        if same_bits(apart, take_rows(whole, rows)):
            return True
        far = compare(apart, whole, rows)
        if not far.rounding:
            raise self._error(
                f"row {far.row} is another one when it is computed among {len(rows)} rows than "
                f"among {len(whole)}"
            )
        return False

    def _apart(self, pull: Pull, rows: Tensor, whole: Tensor) -> Tensor:
        """The recipe on a sample; random numbers that it draws count as not drawn."""
        from mmsb_torch.graph.memo import randomness  # noqa: PLC0415 - loads when it is used

        before, saved = randomness.state(), randomness.save()
        frame = Frame(pull, self._node)
        try:
            result = self.run(pull, Part(rows, rows), frame, whole)
        except NotRowwiseError:
            raise
        except Exception as error:
            why = f"given {rows.numel()} rows of its inputs it raised {said(error)}"
            raise self._error(why) from error
        if frame.reads or frame.peeked:
            self.never("it reads pages that it was not declared with")
        if randomness.state() != before:
            randomness.put_back(saved)
            self.never("it draws random numbers")
        return result

    def never(self, why: str) -> None:
        """Make the value in full from now on, as long as its code is the same."""
        self.follows, self.why_not = frozenset(), why

    def _error(self, what: str) -> MMSBError:
        name = self._node.name
        return NotRowwiseError(
            f"page {name!r} was declared with rows=, but its recipe {self._recipe.label} is not "
            f"row-wise: {what}. Leave rows= out, or name the inputs that its rows follow, as in "
            f"rows=['emb'].",
            page_id=self._node.id,
        )


def _padded(rows: Tensor, size: int) -> Tensor:
    """`rows`, and the last of them as often as it takes to make `size`."""
    missing = size - rows.numel()
    return rows if missing <= 0 else torch.cat([rows, rows[-1:].expand(missing)])
