"""A recipe's result on its way to publication: what of it is new."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mmsb_torch.device import changed_rows, same_bits, take_rows
from mmsb_torch.graph.part import Made
from mmsb_torch.graph.sample import beyond
from mmsb_torch.graph.slicing import Slicing
from mmsb_torch.types import Region


class Run(NamedTuple):
    """What a run of a recipe gave."""

    made: Made
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
        value, part, _, exact = self.made
        if part is None or old is None:
            return difference(old, value), value
        rows, _, of, _ = part
        here = int(torch.searchsorted(rows, len(old))) if of > len(old) else rows.numel()
        if not here:  # every one is new
            return Region.rows((of, *old.shape[1:]), rows), value
        before, after = take_rows(old, rows[:here]), value[:here]
        if exact:
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
        _, part, engine, _ = self.made
        if engine == "full":
            masking = self.slicing.masking
            why = masking.why_not if masking is not None else None
            return engine, 0, 0.0, why or self.slicing.why_not
        rows = part.rows.numel() if part is not None else len(self.made.value)
        return engine, rows, self.slicing.costs.saved(self.seconds), None


def difference(old: Tensor | None, new: Tensor) -> Region:
    """Where `new` differs from `old`, bit for bit, by rows; everything if it cannot be compared."""
    shape = tuple(new.shape)
    if old is None or old.dtype != new.dtype or old.shape != new.shape or old.device != new.device:
        return Region.all(shape)
    if new.dim() == 0 or new.numel() == 0:
        return Region.none(shape) if same_bits(old, new) else Region.all(shape)
    return Region.rows(shape, changed_rows(old, new))
