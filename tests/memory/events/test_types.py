"""Every type of event is told when it happens, with fields that have a binary form."""

import contextlib

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch import EventType

FACTOR = 1.0


def scaled(a):
    if a[0] < 0:
        raise ArithmeticError("below zero")
    return a.abs() * FACTOR


def make_a_page(mem, patch):
    mem.page("new", torch.zeros(2))


def commit_a_delta(mem, patch):
    mem.update("a", 2.0, rows=[1])


def derive_a_page(mem, patch):
    mem.derive(torch.neg, "a", name="negative")


def compute(mem, patch):
    mem.update("a", 2.0)
    _ = mem["scaled"].tensor


def cut_off(mem, patch):
    mem.update("a", mem["a"].clone())
    _ = mem["scaled"].tensor


def write_a_checkpoint(mem, patch):
    mem.checkpoint()


def change_code(mem, patch):
    patch.setitem(globals(), "FACTOR", 3.0)
    _ = mem["scaled"].tensor


def fail(mem, patch):
    mem.update("a", -1.0)
    with contextlib.suppress(mmsb.RecipeError):
        _ = mem["scaled"].tensor


def collect(mem, patch):
    mem.checkpoint()
    mem.update("a", 5.0)
    mem.checkpoint()
    mem.collect(mmsb.Retention(keep_last=1))


def overfill(mem, patch):
    kept = mem.memo(lambda n: torch.full((1000,), float(n)))
    for number in range(40):
        kept(number)


PROVOKED = {
    EventType.PAGE_CREATED: (make_a_page, {"page": "new", "tx": 2}),
    EventType.DELTA_COMMITTED: (commit_a_delta, {"page": "a", "tx": 2, "epoch": 1}),
    EventType.STALE: (commit_a_delta, {"page": "scaled", "tx": 2}),
    EventType.DERIVED: (derive_a_page, {"page": "negative", "inputs": ["a"]}),
    EventType.RECOMPUTED: (compute, {"page": "scaled", "what": "recomputed", "engine": "full"}),
    EventType.CUT_OFF: (cut_off, {"page": "scaled", "tx": 2}),
    EventType.CHECKPOINTED: (write_a_checkpoint, {"tx": 1}),
    EventType.WORLD_CHANGED: (change_code, {"page": "scaled"}),
    EventType.ERROR: (fail, {"page": "scaled", "tx": 2}),
    EventType.COLLECTED: (collect, {}),
    EventType.EVICTED: (overfill, {"where": "disk"}),
}


def test_the_table_has_every_type():
    assert set(PROVOKED) == set(EventType)


@pytest.mark.parametrize("kind", list(EventType), ids=lambda kind: kind.name.lower())
def test_it_is_told_when_it_happens(tmp_path, monkeypatch, kind):
    act, expected = PROVOKED[kind]
    with mmsb.open(tmp_path / "run.mmsb", budget="100 kB") as mem:
        mem.page("a", torch.ones(3))
        mem.derive(scaled)
        _ = mem["scaled"].tensor
        events = []
        end = mem.subscribe(events.append, [kind])
        act(mem, monkeypatch)
        end()
    first = events[0]
    assert first.type is kind
    assert {name: first.fields[name] for name in expected} == expected
    for event in events:
        assert mmsb.Event.from_bytes(event.to_bytes()) == event
