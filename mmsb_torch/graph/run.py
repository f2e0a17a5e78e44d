"""A recipe's result on its way to publication: what of it is new."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mmsb_torch.device import changed_rows, same_bits, take_rows
from mmsb_torch.graph.sample import beyond
from mmsb_torch.graph.slicing import Part, Slicing
from mmsb_torch.types import Region


class Run(NamedTuple):
    """What a run of a recipe gave."""

    value: Tensor
    part: Part | None
    """The rows that `value` holds; None: all of them."""
    slicing: Slicing
    digest: str
    """What the code was when it began."""
    code: str
    """The same, or that it changed while it ran."""
    definition: str
    """Of the recipe that ran, as worlds name it."""
    world: int
    reason: str | None
    seconds: float

    def change(self, old: Tensor | None) -> tuple[Region, Tensor]:
        """What differs from the value before, and the new values: the whole, or of the region's rows."""
        if self.part is None or old is None:
            return difference(old, self.value), self.value
        (rows, _, of, _), value = self.part, self.value
        here = int(torch.searchsorted(rows, len(old))) if of > len(old) else rows.numel()
        before, after = take_rows(old, rows[:here]), value[:here]
        if self.slicing.exact:
            differs = changed_rows(before, after)
        else:  # what may be rounding is no change, and the value before stays
            differs = (beyond(after, before) > 1).nonzero().view(-1)
        if differs.numel() < here:
            new = torch.arange(here, rows.numel(), device=rows.device)
            kept = torch.cat([differs, new])
            rows, value = rows.index_select(0, kept), take_rows(value.contiguous(), kept)
        return Region.rows((of, *old.shape[1:]), rows), value

    def how(self) -> tuple[str, int, float, str | None]:
        """The engine, the rows that changed behind it, the seconds saved, and why it ran in full."""
        if self.part is None:
            return "full", 0, 0.0, self.slicing.why_not
        return "slice", self.part.rows.numel(), self.slicing.costs.saved(self.seconds), None


def difference(old: Tensor | None, new: Tensor) -> Region:
    """Where `new` differs from `old`, bit for bit, by rows; everything if it cannot be compared."""
    shape = tuple(new.shape)
    if old is None or old.dtype != new.dtype or old.shape != new.shape or old.device != new.device:
        return Region.all(shape)
    if new.dim() == 0 or new.numel() == 0:
        return Region.none(shape) if same_bits(old, new) else Region.all(shape)
    return Region.rows(shape, changed_rows(old, new))
