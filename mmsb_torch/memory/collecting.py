"""Collecting a memory's past: planned and recorded while nobody commits, removed afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmsb_torch.errors import StoreError
from mmsb_torch.runtime.store import DurableLog, Plan, Retention, Survey
from mmsb_torch.runtime.store.bodies import Place
from mmsb_torch.types import EventType

if TYPE_CHECKING:
    from mmsb_torch.memory.keeper import Keeper


def collect(memory: Keeper, rule: Retention | None, *, dry_run: bool) -> Plan:
    """What `Memory.collect` does; one at a time, and none while a checkpoint is written."""
    if memory._store is None:  # noqa: SLF001 - one facade
        raise StoreError(
            "this memory lives in RAM only: expected one opened with a path, "
            "mmsb.open('run.mmsb'). There is nothing to collect."
        )
    rule = rule or memory._retention or Retention()  # noqa: SLF001
    with memory._checkpointing:  # noqa: SLF001
        return plan(memory, rule) if dry_run else _collect(memory, rule)


def _collect(memory: Keeper, rule: Retention) -> Plan:
    store, router = memory._store, memory._router  # noqa: SLF001
    assert store is not None
    with router.committing:
        found = plan(memory, rule)
        if found.checkpoints:
            store.check_newest()
        log = _log(memory)
        if found.transactions:
            log.drop(found.transactions)
        log.forget([ref.tx for ref in found.checkpoints], found.transactions)
    store.remove(found)
    if not found.empty:
        fields = {"bytes": found.nbytes, "left": found.left}
        router.events.emit(EventType.COLLECTED, fields)
    return found


def plan(memory: Keeper, rule: Retention, *, checkpoint_bytes: int | None = None) -> Plan:
    """What the rule means now, or would if there were a checkpoint of the present of that size."""
    store, log = memory._store, _log(memory)  # noqa: SLF001
    assert store is not None
    log.reach_back()
    places = [place for place in log.places() if isinstance(place, Place)]
    named = {place.segment.name for place in places if place.segment is not None}
    tagged = log.moments_named(rule.is_tagged)
    survey = Survey(store.path, log.last, named, store.files, planned=checkpoint_bytes)
    return survey.plan(rule, tagged, log.last)


def _log(memory: Keeper) -> DurableLog:
    log = memory._router.log  # noqa: SLF001
    assert isinstance(log, DurableLog)
    return log
