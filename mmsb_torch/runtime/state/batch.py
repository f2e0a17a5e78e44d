"""What is staged for one transaction: a delta a page, and what whole-page writes were compared with.

A page that is handed over whole, time and again, mostly did not change. It is compared where it is,
and only what differs is copied; an alias of what it was compared with stays, so that the whole can be
made again if somebody else changes the page before this transaction commits.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmsb_torch.device import copy_of, require_dense
from mmsb_torch.runtime.state.staging import at_size, next_delta_id, stage, stage_append
from mmsb_torch.runtime.state.table import Entry, Table
from mmsb_torch.types import (
    NARROW_BYTES,
    Delta,
    Region,
    Spec,
    compose_all,
    make_delta,
    narrow,
)

_LOOSE_BYTES = 1 << 20
_EACH_BYTES = 1 << 10  # what a delta takes beside its tensors


class Base(NamedTuple):
    """The value that a delta was compared with: an alias, its version, and the page's transaction."""

    value: Tensor
    version: int
    tx: int

    def is_unwritten(self) -> bool:
        """Whether nobody wrote to the value through another alias."""
        return self.value._version == self.version  # noqa: SLF001 - as in `Entry`


class Batch:
    """Staged changes, in order. For one thread; the router takes `bases` out of it."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._staged: dict[int, list[Delta]] = {}
        self._loose: dict[int, int] = {}
        """Page -> bytes of its deltas since they were last composed."""
        self._growing: set[int] = set()
        """Pages that get more rows here."""
        self.bases: dict[int, Base] = {}
        """Page -> what its delta, which says only what differs from that, was compared with."""

    def update(
        self, entry: Entry, values: Any, *, rows: Any = None, indices: Any = None, mask: Any = None
    ) -> None:
        """Stage a change as `stage` does, after those that were staged before.

        Raises:
            as `stage`; nothing was staged.
        """
        page = entry.info.id
        if rows is None and indices is None and mask is None and page not in self._growing:
            self.bases.pop(page, None)
            delta, base = compared(self._table, entry, values) or (stage(entry, values), None)
            if base is not None:
                self.bases[page] = base
            self._staged[page] = [delta]  # whatever came before is covered
            self._loose[page] = 0
            return
        spec = self._spec(entry)
        self._add(entry, stage(entry, values, rows=rows, indices=indices, mask=mask, spec=spec))

    def append(self, entry: Entry, values: Any) -> None:
        """Stage rows that come after the last, those staged before included, as `stage_append` does.

        Raises:
            as `stage_append`; nothing was staged.
        """
        self._add(entry, stage_append(entry, values, spec=self._spec(entry)))
        self._growing.add(entry.info.id)

    def _spec(self, entry: Entry) -> Spec | None:
        """What the page looks like after the changes that are staged here."""
        staged, spec = self._staged.get(entry.info.id), entry.info.spec
        if not staged or spec is None or (shape := staged[-1].region.shape) == spec.shape:
            return spec
        if entry.info.id in self._growing or entry.info.id in self.bases:
            return spec._replace(shape=shape)  # whatever others add meanwhile
        staged[:] = [at_size(entry, delta, spec.shape[0]) for delta in staged]
        return spec

    def _add(self, entry: Entry, delta: Delta) -> None:
        page = entry.info.id
        staged = self._staged.setdefault(page, [])
        staged.append(delta)
        loose = self._loose.get(page, 0) + delta.nbytes + _EACH_BYTES
        if loose > max(_LOOSE_BYTES, staged[0].nbytes):  # no more than twice what it comes to
            staged[:], loose = [compose_all(staged)], 0
        self._loose[page] = loose

    def take(self) -> list[Delta]:
        """A delta for each page, in the order in which they were first staged; none are left here."""
        staged, self._staged, self._growing = self._staged, {}, set()
        return [compose_all(deltas) for deltas in staged.values()]

    def clear(self) -> None:
        """Forget everything."""
        self._staged.clear()
        self._growing.clear()
        self.bases.clear()

    def __len__(self) -> int:
        return len(self._staged)


def compared(table: Table, entry: Entry, values: Any) -> tuple[Delta, Base | None] | None:
    """A whole-page write as what it changes in the present value, whose epoch it names.

    Without a base if it changes so much that all of it was copied. None if it cannot be compared:
    `stage` takes it, or says why it does not fit.
    """
    if torch.is_inference_mode_enabled():  # what is kept must have a version counter
        with torch.inference_mode(mode=False):
            return compared(table, entry, values)
    spec = entry.info.spec
    if (
        spec is None
        or require_dense(values) is not None
        or Spec.of(values) != spec
        or values.nbytes < NARROW_BYTES
        or not values.is_contiguous()
        or values.is_conj()
        or values.is_neg()
    ):
        return None
    with table.lock:
        if entry.tensor is None or not entry.is_unwritten():
            return None
        base, epoch = Base(entry.tensor.detach(), entry.version, entry.tx), entry.epoch
    region = Region.all(spec.shape)
    number, now = next_delta_id(), time.time_ns()
    whole = make_delta((number, entry.info.id, epoch, region, values.detach(), now, "user", None))
    delta = narrow(whole, base.value)
    if not base.is_unwritten():
        return None
    if delta is not whole:
        return delta, base
    return whole._replace(values=copy_of(whole.values, entry.recycled(spec.shape))), None
