"""Plans of recipes: what is proved of a function's rows, when finding that out promises to pay.

Capturing a function takes tenths of seconds to seconds, so it is done once, and not before the edits
seen so far would together have saved as much as a capture takes.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from mmsb_torch.errors import PlanError
from mmsb_torch.types import Spec

if TYPE_CHECKING:
    from mmsb_torch.graph.recipes import CallRecipe
    from mmsb_torch.graph.rows import Plan

_MOST = 64


class Plans:
    """The plans of one memory, shared by pages that one function makes of inputs of one kind.

    Any thread may use it: two that need the same plan at once make it twice.
    """

    def __init__(self) -> None:
        self._plans: dict[Hashable, Plan | str] = {}
        self.seconds = 3.0
        """What making a plan takes: at first with loading torch.export, then as the last one did."""

    def of(
        self,
        recipe: CallRecipe,
        values: Sequence[Tensor],
        value: Tensor,
        changed: Sequence[int],
        promise: float,
    ) -> Plan | str | None:
        """The plan of a recipe, or why there is none; None if making one would not pay yet.

        Args:
            recipe: a function with pages and constants bound; it runs on tensors without values.
            values: of its inputs.
            value: what it gave; only its look counts.
            changed: the inputs, by position, whose rows are edited.
            promise: seconds that a plan would have saved so far.
        """
        specs = tuple(map(Spec.of, (*values, value)))
        key = recipe.form, specs, tuple(changed)
        plan = self._plans.get(key)
        if plan is None and promise >= self.seconds:
            if len(self._plans) >= _MOST:
                self._plans.clear()
            plan = self._plans[key] = self._make(recipe, values, value, changed)
        return plan

    def _make(
        self, recipe: CallRecipe, values: Sequence[Tensor], value: Tensor, changed: Sequence[int]
    ) -> Plan | str:
        from mmsb_torch.graph.rows import plan  # noqa: PLC0415 - torch.export loads when it is used

        try:
            held = recipe.definition.tensors
            made = plan(lambda *given: recipe.run(given), values, value, changed, held)
        except PlanError as error:
            return error.message
        self.seconds = max(made.seconds, 0.5)
        return made
