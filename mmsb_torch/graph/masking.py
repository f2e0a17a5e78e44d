"""Engine 2: what an edit changes is followed through the function's graph, operator by operator.

It serves what mixes rows: attention over the rows of a page, sums over them after much work on each. The
graph is run instead of the user's function, and keeps what later edits will need (`rows.Kept`); an edit
then computes what it changed, and what that is mixed with. An appended token of a causal decoder reads
the keys and values of those before it: a cache of those comes out by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import gt
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mmsb_torch.device import take_rows
from mmsb_torch.errors import PlanError
from mmsb_torch.graph.costs import Costs
from mmsb_torch.graph.part import Part
from mmsb_torch.graph.rows.evenness import uneven
from mmsb_torch.graph.sample import beyond
from mmsb_torch.instrumentation.identity import LEDGER, Panel
from mmsb_torch.types import Form, Region

if TYPE_CHECKING:
    from mmsb_torch.graph.activations import Activations
    from mmsb_torch.graph.pull import Pull
    from mmsb_torch.graph.recipes import Recipe
    from mmsb_torch.graph.rows import Box, Kept, Plan

_SLACK = 1.1
"""A step may take this much of a run in full: it keeps what the next one needs."""
_SHARES = 1024
"""Steps are told apart by the part of the work that they do, in so many parts."""


class Masking:
    """The graph of one page's recipe, and what it keeps. For whoever holds the page's flight.

    Attributes:
        kept: what is kept, None if nothing is.
        exact: whether steps give the bits of a run in full, for all that is known.
        why_not: why the last edit was not followed.
    """

    def __init__(self, plan: Plan, dtypes: Sequence[torch.dtype], activations: Activations) -> None:
        self.kept: Kept | None = None
        self.exact = plan.exact and uneven(plan.graph, dtypes) is None
        self.why_not: str | None = None
        self._plan = plan
        self._activations = activations
        self._seen: tuple[int, ...] = ()
        """The epochs of the inputs that `kept` stands for. A step that was interrupted before it was
        published leaves it ahead of the value."""
        self._weights: list[bytes] = []
        self._panel: Panel | None = None
        """The evidence that the graph's constants are `_weights`."""
        self._costs = Costs()
        self._promise = 0.0
        self._trial: Tensor | None = None
        """What the first step gave, to be compared with a run in full."""
        self._trusted = False
        self._share = 0

    def step(
        self,
        pull: Pull,
        recipe: Recipe,
        seen: tuple[int, ...],
        now: tuple[int, ...],
        whole: Tensor,
    ) -> tuple[Tensor, Part | None] | None:
        """Compute what changed since the last time, if that is right and expected to be faster.

        `seen` are the epochs that `whole`, the value before, was computed from. Returns rows of the value and which these are (None: all of them), or None if it has to be
        made in full.
        """
        kept, self._trial = self.kept, None
        ahead = len(seen) != len(self._seen) or any(map(gt, self._seen, seen))
        changed = None if kept is None or ahead else self._changed(pull, recipe, now)
        if kept is None or changed is None or not self._has_its_weights():
            self.let_go()
            return None
        values = [pull.value(entry) for entry in recipe.inputs]
        try:
            step = kept.prepare(values, changed)
            self._share = int(_SHARES * step.share)
            if not self._costs.favour_rows(self._share, _SHARES, slack=_SLACK):
                self.why_not = f"{100 * self._share // _SHARES} % of the work would be done again"
                self.let_go()  # it would be of an earlier moment
                return None
            found = kept.take(values, step)
            self._seen = now
            self._activations.hold(self, kept.nbytes)
            made = _as_rows(found, whole)
        except PlanError as error:
            self.why_not = error.message
            self.let_go()
            return None
        except BaseException:
            self.let_go()  # it may be half way
            raise
        if not self._trusted:
            self._trial = _filled(made, whole)
            return None
        self.why_not = None
        return made

    def stepped(self, seconds: float) -> None:
        """Note what the last step took, to the end."""
        self._costs.ran_rows(self._share, seconds)

    def ran_in_full(
        self, pull: Pull, recipe: Recipe, now: tuple[int, ...], value: Tensor, seconds: float
    ) -> None:
        """The recipe ran in full: compare the first step with that, or begin to keep what steps need."""
        self._costs.ran_in_full(seconds)
        trial, self._trial = self._trial, None
        if trial is not None:
            self._judge(trial, value, recipe)
        elif self.kept is None and self._promise >= 2 * seconds:
            self._start(pull, recipe, now, value)

    def expect(self, rows: int, of: int) -> None:
        """An edit was made in full that changed so many rows."""
        self._promise += self._costs.promise(rows, of)

    def let_go(self) -> None:
        """Keep nothing; it may begin again."""
        if self.kept is not None:
            self.kept = None
            self._activations.drop(self)

    def _start(self, pull: Pull, recipe: Recipe, now: tuple[int, ...], value: Tensor) -> None:
        self._promise = 0.0
        values = [pull.value(entry) for entry in recipe.inputs]
        try:
            kept = self._plan.start(values, self._activations.limit, value)
        except PlanError as error:
            self.why_not = error.message
            return
        if tuple(kept.value.shape) != tuple(value.shape) or kept.value.dtype != value.dtype:
            self.why_not = "its graph gives another shape or dtype than it does itself"
            return
        if bool((beyond(kept.value[None], value[None]) > 1).any()):
            self.why_not = "its graph gives other values than it does itself"
            return
        self.exact = self.exact and kept.exact
        if recipe.exact and not self.exact:
            self.why_not = "exact=True, and steps may differ by rounding"
            return
        self.kept, self._seen = kept, now
        self._weights, self._panel = self._read_weights(), None
        self._activations.hold(self, kept.nbytes)

    def _judge(self, trial: Tensor, value: Tensor, recipe: Recipe) -> None:
        """Compare the first step with a run in full."""
        fits = trial.shape == value.shape and trial.dtype == value.dtype
        far = beyond(trial[None], value[None]) if fits else None
        if far is None or bool((far > 1).any()):
            self.let_go()
            self._promise = -float("inf")
            self.why_not = "a step gave other values than a run in full"
            return
        self.exact = self.exact and bool((far == 0).all())
        self._trusted = not recipe.exact or self.exact
        if not self._trusted:
            self.let_go()
            self._promise = -float("inf")
            self.why_not = "exact=True, and steps differ by rounding"

    def _has_its_weights(self) -> bool:
        """Whether the graph's constants have the bits that they had at the start."""
        constants, weights, panel = self._plan.graph.constants, self._weights, self._panel
        if panel is not None and LEDGER.stands(panel):
            return all(LEDGER.digest(constants[at]) == weights[at] for at in panel.others)
        if weights != self._read_weights():
            return False
        self._panel = Panel([LEDGER.evidence(constant) for constant in constants])
        return True

    def _read_weights(self) -> list[bytes]:
        """Digests of what the graph holds: another recipe of the same code may have brought it."""
        with LEDGER.watching():
            return [LEDGER.digest(constant) for constant in self._plan.graph.constants]

    def _changed(self, pull: Pull, recipe: Recipe, now: tuple[int, ...]) -> list[Box | None] | None:
        """For each input the box that changed since `kept`; None if that is not known."""
        found: list[Box | None] = []
        if len(now) != len(self._seen):
            return None
        with pull.engine.router.table.lock:
            for entry, before, after in zip(recipe.inputs, self._seen, now, strict=True):
                if before == after:
                    found.append(None)
                    continue
                if not 0 <= before < after or entry.spec is None:
                    return None
                region = entry.journal.since(before, entry.spec.shape)
                if region.form is Form.ALL:
                    return None
                found.append(box_of(region))
        return found


def box_of(region: Region) -> Box:
    """The smallest box around a region that is not everything."""
    shape = region.shape
    if region.form is Form.NONE:
        return (range(0),) * len(shape)
    if region.form is Form.ROWS:
        rows = region.touched_rows()
        assert rows is not None
        return (rows.cpu().numpy(), *(None,) * (len(shape) - 1))
    places = np.unravel_index(region.flat().cpu().numpy(), shape)
    return tuple(np.unique(place) for place in places)


def _as_rows(found: tuple[Tensor, Box] | None, whole: Tensor) -> tuple[Tensor, Part | None]:
    """What a step gave as rows of the value, or as all of it."""
    if found is None:
        none = torch.empty(0, dtype=torch.int64, device=whole.device)
        return whole[:0], Part(none, none, len(whole))
    value, box = found
    cuts = [(dim, part) for dim, part in enumerate(box) if part is not None]
    if not cuts:
        return value.clone(memory_format=torch.contiguous_format), None
    if cuts[0][0] != 0:
        made = whole.clone()
        _put(made, cuts, value)
        return made, None
    rows = _index(cuts[0][1], whole.device)
    inside = [(dim, part) for dim, part in cuts[1:]]
    if inside:
        made = take_rows(whole, rows)
        _put(made, inside, value)
        value = made
    of = max(len(whole), int(rows[-1]) + 1)
    return value.contiguous(), Part(rows, rows, of)


def _put(into: Tensor, cuts: Sequence[tuple[int, range | np.ndarray]], value: Tensor) -> None:
    from mmsb_torch.graph.rows import parts  # noqa: PLC0415 - loads when it is used

    where = [(dim, parts.of_index(part, into.device)) for dim, part in cuts]
    parts.put(into, sorted(where, key=lambda cut: not isinstance(cut[1], range)), value)  # type: ignore[arg-type]


def _index(part: range | np.ndarray, device: torch.device) -> Tensor:
    if isinstance(part, range):
        return torch.arange(part.start, part.stop, device=device)
    return torch.from_numpy(part).to(device)


def _filled(made: tuple[Tensor, Part | None], whole: Tensor) -> Tensor:
    """The whole value that a step stands for."""
    value, part = made
    if part is None:
        return value
    full = whole.new_empty((part.of, *whole.shape[1:]))
    full[: len(whole)] = whole
    full[part.rows] = value
    return full
