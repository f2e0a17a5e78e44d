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
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmsb_torch.device import rows_threshold, same_bits, take_rows
from mmsb_torch.errors import MMSBError, NotRowwiseError
from mmsb_torch.graph.costs import Costs
from mmsb_torch.graph.failures import Restart, said
from mmsb_torch.graph.part import Made, Part
from mmsb_torch.graph.recipes import CallRecipe, Recipe
from mmsb_torch.graph.running import Frame
from mmsb_torch.graph.sample import DiffersError, agreement

if TYPE_CHECKING:
    from mmsb_torch.graph.edits import Edits
    from mmsb_torch.graph.masking import Masking
    from mmsb_torch.graph.node import Node
    from mmsb_torch.graph.pull import Pull


class _NoRowsError(Exception):
    """A recipe must not be run on some rows; the argument says why."""


class Slicing:
    """What is known of the rows of one page under one code. For whoever holds the page's flight.

    Attributes:
        costs: what runs took.
        began: when the last run of some rows began.
        follows: positions of the inputs whose rows the result's rows follow; None: not looked at.
        least: how many rows to compute at least; 0: no sample was compared yet.
        fewer: numbers of rows below `least` that were tried, and whether the bits were the same.
        exact: rows computed apart have the bits of the whole; else they are equal up to rounding.
        masking: the recipe's graph, if it was captured, for edits that rows alone do not tell.
        trusted: the last run was in part, and its code as it had been: the next is likely the
            same, and looks at its code once only, afterwards.
        why_not: why the value is made in full.
    """

    __slots__ = (
        "_node",
        "_promise",
        "_recipe",
        "_sizes",
        "_uneven",
        "began",
        "costs",
        "exact",
        "fewer",
        "follows",
        "least",
        "masking",
        "trusted",
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
        self.masking: Masking | None = None
        self.trusted = False
        self.why_not: str | None = None
        self._promise = 0.0
        """Seconds that edits seen so far would have saved."""
        self._sizes: tuple[int, int | None] = (1, None)
        """Numbers of rows that the recipe was proved for."""
        self._uneven: str | None = None
        """What makes bits depend on where an element is, for all that is known."""
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

    def in_part(self, pull: Pull, edits: Edits, frame: Frame, now: tuple[int, ...]) -> Made | None:
        """What changed, made by rows or by the graph; None: it has to be made in full.

        Raises:
            NotRowwiseError: as `part`.
            Restart: it reads pages that it was not declared with, which came to light now.
        """
        whole = self._node.entry.value
        part = self.part(pull, edits)
        if part is not None:
            value = self.run(pull, part, frame, whole)
            if frame.reads or frame.peeked:
                self.never("it reads pages that it was not declared with")
                raise Restart
            return Made(value, part, "slice", self.exact)
        if self.masking is None:
            return None
        self.began = time.perf_counter()
        found = self.masking.step(pull, self._recipe, self._node.seen, now, whole)
        if found is None:
            self.masking.expect(*edits.share)
            return None
        return Made(*found, "mask", self.masking.exact)

    def published(self, made: Made, at: float) -> None:
        """A value was published at time `at`: note what making it took, to the end."""
        part, self.trusted = made.part, made.engine != "full"
        if made.engine == "mask" and self.masking is not None:
            self.masking.stepped(at - self.began)
        elif part is not None and not part.trial:
            self.costs.ran_rows(part.computed.numel(), at - self.began)

    def part(self, pull: Pull, edits: Edits) -> Part | None:
        """The rows to make again, if that is right and expected to be faster than all of them.

        Raises:
            NotRowwiseError: the user said that the recipe is row-wise, and a sample shows it is not.
        """
        whole, inputs = self._node.entry.value, self._recipe.inputs
        if self.follows is None and self._recipe.rows is None:
            self._prove(pull, whole, edits)
        elif self.follows is None and edits.of == len(whole):
            self._look(pull, whole)
        if not self.follows:
            return None
        if edits.rows is None or not edits.inputs <= self.follows:
            name = inputs[min(edits.inputs - self.follows or edits.inputs)].info.name
            self.why_not = f"{name!r} changed, which every row depends on"
            return None
        if any(len(pull.value(inputs[place])) != edits.of for place in self.follows):
            self.why_not = "its inputs have not the same number of rows"
            return None
        if self.least == 0:
            self._check(pull, whole, edits.rows)
            if not self.follows or self.least == 0:
                return None
        return self._chosen(edits.rows, edits.of)

    def _chosen(self, rows: Tensor, of_all: int) -> Part | None:
        """How many rows to compute for some that changed; None: all of them."""
        count, (least, most) = rows.numel(), self._sizes
        size = count if self.fewer.get(count) else max(count, self.least)
        if not least <= size <= of_all <= (most or of_all):
            self.why_not = (
                f"{count:,} of {of_all:,} rows changed, and it was proved for {self._sizes}"
            )
            return None
        if size >= of_all or not self.costs.favour_rows(size, of_all):
            self.why_not = f"{count:,} of {of_all:,} rows changed: all are as fast"
            return None
        self.why_not = None
        trial = size > count >= least and count not in self.fewer
        trial = trial and self.costs.is_dear(size, of_all)
        return Part(rows, _padded(rows, size), of_all, trial)

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

    def computed(self, pull: Pull, value: Tensor, seconds: float, now: tuple[int, ...]) -> None:
        """Note what a run in full took, and look at what the user said of its rows.

        Raises:
            NotRowwiseError: the recipe is not row-wise, though the user said so.
        """
        self.costs.ran_in_full(seconds)
        if self.masking is not None and len(now) == len(self._recipe.inputs):
            self.masking.ran_in_full(pull, self._recipe, now, value, seconds)
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
        if self._recipe.exact:
            self._uneven = "its graph was not looked at, for it was declared with rows="
        if not follows or not follows <= set(long):
            names = ", ".join(repr(inputs[place].info.name) for place in sorted(follows))
            raise self._error(f"its result has {count} rows, and {names or 'no input'} has not")

    def _prove(self, pull: Pull, whole: Tensor, edits: Edits) -> None:
        """Find out from the recipe's graph which inputs the rows follow, if that promises to pay."""
        from mmsb_torch.graph.masking import Masking  # noqa: PLC0415 - graphs load when they are used
        from mmsb_torch.graph.rows.evenness import uneven  # noqa: PLC0415

        plans, recipe, node = pull.engine.plans, self._recipe, self._node
        if not isinstance(recipe, CallRecipe):
            self.never("it is no plain function")
            return
        self._promise += self.costs.promise(*edits.share)
        if not self._promise:
            return
        frame = Frame(pull, node)
        values = [pull.value(entry) for entry in recipe.inputs]
        count = len(whole) if edits.rows is None else edits.of
        like = torch.empty((count, *whole.shape[1:]), dtype=whole.dtype, device="meta")
        plan = pull.engine.runner.inside(
            frame, lambda: plans.of(recipe, values, like, sorted(edits.inputs), self._promise)
        )
        if plan is None:
            return
        if isinstance(plan, str) or frame.reads or frame.peeked:
            read = "it reads pages that it was not declared with"
            self.never(plan if isinstance(plan, str) else read)
            return
        dtypes = [value.dtype for value in values]
        self.masking = Masking(plan, dtypes, pull.engine.activations)
        if plan.why_not is not None:
            self.never(plan.why_not)
        else:
            self.follows, self._sizes = plan.follows, (plan.least, plan.most)
            self._uneven = uneven(plan.graph, dtypes)

    def _check(self, pull: Pull, whole: Tensor, changed: Tensor | None) -> None:
        """Compare some rows computed apart with those of `whole`, which is right but for `changed`.

        Raises:
            NotRowwiseError: they differ by more than rounding, and the user said they would not.
        """
        first = max(rows_threshold(whole.device), self._sizes[0])
        try:
            self.least, self.exact = agreement(
                lambda rows: self._apart(pull, rows, whole), whole, first, changed
            )
        except _NoRowsError as error:
            self.never(str(error))
        except (DiffersError, NotRowwiseError) as error:
            if self._recipe.rows is None:
                self.never(f"its graph says that it is row-wise, and a sample not: {error}")
            elif isinstance(error, NotRowwiseError):
                raise
            else:
                raise self._error(str(error)) from None
        self.exact = self.exact and self._uneven is None
        if self.follows and self.least and self._recipe.exact and not self.exact:
            why = self._uneven or "in a sample some bits differ"
            self.never(f"exact=True, and rows computed apart may differ by rounding: {why}")

    def _apart(self, pull: Pull, rows: Tensor, whole: Tensor) -> Tensor:
        """The recipe on a sample; random numbers that it draws count as not drawn."""
        from mmsb_torch.graph.memo import randomness  # noqa: PLC0415 - loads when it is used

        before, saved = randomness.state(), randomness.save()
        frame = Frame(pull, self._node)
        try:
            result = self.run(pull, Part(rows, rows, len(whole)), frame, whole)
        except NotRowwiseError:
            raise
        except Exception as error:
            why = f"given {rows.numel()} rows of its inputs it raised {said(error)}"
            raise self._error(why) from error
        if randomness.state() != before:
            randomness.put_back(saved)
            raise _NoRowsError("it draws random numbers")
        if frame.reads or frame.peeked:
            raise _NoRowsError("it reads pages that it was not declared with")
        return result

    def check(self, recipe: Recipe, frame: Frame) -> None:
        """Look at the code now, if nobody did since the run began.

        Raises:
            Restart: it is another.
        """
        if frame.unchecked:
            self.trusted = frame.unchecked = False
            if recipe.changed() is not None:
                raise Restart

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
