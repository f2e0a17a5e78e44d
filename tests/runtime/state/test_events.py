"""Events: who is told what, in which order, and their binary form."""

import contextlib
import json
import logging
import struct
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mmsb_torch as mmsb
from mmsb_torch.errors import SerializationError
from mmsb_torch.runtime.state import EventBus
from mmsb_torch.types import Event, EventType

PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.lists(st.integers(), max_size=3),
)


# the binary form


@given(
    st.sampled_from(EventType),
    st.integers(0, 2**64 - 1),
    st.dictionaries(st.text(max_size=8), PLAIN, max_size=5),
)
def test_the_binary_form_leads_back(kind, time_ns, fields):
    event = Event(kind, time_ns, fields)
    data = event.to_bytes()
    assert Event.from_bytes(data) == event


def test_the_binary_form_is_the_stated_one():
    data = Event(EventType.CUT_OFF, 2**40 + 3, {"page": "é", "b": 1}).to_bytes()
    kind, time_ns, length = struct.unpack("<BQI", data[:13])
    assert (kind, time_ns, length) == (5, 2**40 + 3, len(data) - 13)
    assert json.loads(data[13:].decode("utf-8")) == {"b": 1, "page": "é"}
    assert list(json.loads(data[13:])) == ["b", "page"]


def test_the_numbers_of_the_types_never_change():
    assert {kind.name: kind.value for kind in EventType} == {
        "PAGE_CREATED": 1,
        "DELTA_COMMITTED": 2,
        "STALE": 3,
        "RECOMPUTED": 4,
        "CUT_OFF": 5,
        "CHECKPOINTED": 6,
        "WORLD_CHANGED": 7,
        "ERROR": 8,
        "DERIVED": 9,
        "COLLECTED": 10,
        "EVICTED": 11,
    }


def record(payload, kind=1, length=None):
    return struct.pack("<BQI", kind, 7, len(payload) if length is None else length) + payload


DAMAGED = {
    "nothing": b"",
    "half a head": record(b"{}")[:12],
    "no payload": record(b"{}")[:13],
    "cut payload": record(b'{"a": 1}')[:-1],
    "too long": record(b"{}") + b" ",
    "length too great": record(b"{}", length=2**32 - 1),
    "type 0": record(b"{}", kind=0),
    "type 255": record(b"{}", kind=255),
    "no JSON": record(b"{a}"),
    "no UTF-8": record(b'{"a": "\xff"}'),
    "a list": record(b"[]"),
    "a number": record(b"5"),
    "null": record(b"null"),
    "NaN": record(b'{"a": NaN}'),
    "deep": record(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_events_are_refused(data):
    with pytest.raises(SerializationError):
        Event.from_bytes(data)


@given(st.binary(max_size=60))
def test_noise_is_an_event_or_refused(data):
    try:
        event = Event.from_bytes(data)
    except SerializationError:
        return
    assert isinstance(event.type, EventType)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1}, b"x", torch.ones(1)])
def test_fields_that_are_no_plain_data_have_no_binary_form(value):
    with pytest.raises((SerializationError, TypeError, ValueError)):
        Event(EventType.ERROR, 1, {"value": value}).to_bytes()


# the bus


def test_subscribers_are_told_in_order_and_only_what_they_want():
    bus, told = EventBus(), []
    assert not bus.wanted
    bus.subscribe(lambda event: told.append(("all", event.type)))
    bus.subscribe(lambda event: told.append(("some", event.type)), [EventType.STALE])
    bus.subscribe(lambda event: told.append(("none", event.type)), [])
    assert bus.wanted == set(EventType)
    bus.emit(EventType.STALE, {"page": "x"})
    bus.emit(EventType.ERROR, {"page": "x"})
    assert told == [("all", EventType.STALE), ("some", EventType.STALE), ("all", EventType.ERROR)]


def test_one_event_is_one_object_with_a_time():
    bus, told = EventBus(), []
    bus.subscribe(told.append)
    bus.subscribe(told.append)
    bus.emit(EventType.STALE, {"page": "x"})
    first, second = told
    assert first is second
    assert first.fields == {"page": "x"}
    assert Event.from_bytes(first.to_bytes()) == first


def test_a_subscription_ends_once():
    bus, told = EventBus(), []
    end = bus.subscribe(told.append)
    end()
    end()
    bus.emit(EventType.STALE, {})
    assert not told
    assert not bus.wanted


def test_ending_one_subscription_leaves_another_of_the_same_function():
    bus, told = EventBus(), []
    listen = told.append
    end_first = bus.subscribe(listen, [EventType.STALE])
    bus.subscribe(listen, [EventType.ERROR])
    end_first()
    bus.emit(EventType.STALE, {})
    bus.emit(EventType.ERROR, {})
    assert [event.type for event in told] == [EventType.ERROR]


def test_a_subscriber_that_raises_is_removed_and_reported(caplog):
    bus, told = EventBus(), []

    def broken(event):
        raise ValueError("mine")

    bus.subscribe(broken)
    bus.subscribe(told.append)
    with caplog.at_level(logging.ERROR, logger="mmsb_torch"):
        bus.emit(EventType.STALE, {})
        bus.emit(EventType.STALE, {})
    assert [event.type.name for event in told] == ["STALE", "ERROR", "STALE"]
    assert "broken" in told[1].fields["subscriber"]
    assert told[1].fields["error"] == "ValueError: mine"
    assert len(caplog.records) == 1
    assert "broken" in caplog.text
    assert "mine" in caplog.text


def test_a_keyboard_interrupt_passes_through():
    bus = EventBus()

    def interrupted(event):
        raise KeyboardInterrupt

    bus.subscribe(interrupted)
    with pytest.raises(KeyboardInterrupt):
        bus.emit(EventType.STALE, {})


def test_subscribing_and_ending_from_within_a_subscriber():
    bus, told = EventBus(), []

    def once(event):
        told.append("once")
        end()
        bus.subscribe(lambda event: told.append("later"))

    end = bus.subscribe(once)
    bus.emit(EventType.STALE, {})
    bus.emit(EventType.STALE, {})
    assert told == ["once", "later"]


# the events of a memory


@pytest.fixture
def heard():
    """A memory with `a`, and the events it tells from then on as (type, page or tx)."""
    with mmsb.open() as memory:
        memory.page("a", torch.arange(4.0))
        events = []
        memory.subscribe(events.append)
        yield memory, events


def told(events):
    return [(event.type.name, event.fields.get("page")) for event in events]


def test_what_happens_is_told_in_order(heard):
    memory, events = heard
    memory.page("b", torch.zeros(2))
    head = memory.derive(lambda a: a[:1], "a", name="head")
    last = memory.derive(lambda head: head + 1, "head", name="last")
    _ = last.tensor
    memory.update("a", 5.0, rows=[3])
    _ = last.tensor
    memory.update("a", 5.0, rows=[0])
    _ = last.tensor
    assert told(events) == [
        ("PAGE_CREATED", "b"),
        ("DERIVED", "head"),
        ("DERIVED", "last"),
        ("RECOMPUTED", "head"),
        ("RECOMPUTED", "last"),
        ("DELTA_COMMITTED", "a"),
        ("STALE", "head"),
        ("STALE", "last"),
        ("RECOMPUTED", "head"),
        ("CUT_OFF", "last"),
        ("DELTA_COMMITTED", "a"),
        ("STALE", "head"),
        ("STALE", "last"),
        ("RECOMPUTED", "head"),
        ("RECOMPUTED", "last"),
    ]
    times = [event.time_ns for event in events]
    assert times == sorted(times)
    assert head.epoch == 2
    assert all(Event.from_bytes(event.to_bytes()) == event for event in events)


def test_a_delta_is_told_with_what_it_was(heard):
    memory, events = heard
    with memory.commit("named") as tx:
        tx.update("a", 1.0, rows=[1, 2])
    fields = events[0].fields
    assert fields["page"] == "a"
    assert fields["tx"] == 2
    assert fields["epoch"] == 1
    assert fields["label"] == "named"
    assert fields["region"] == "rows 1, 2 (2 of 4)"
    assert fields["source"] == "user"
    assert fields["nbytes"] == 8 + 16


def test_errors_world_changes_and_checkpoints_are_told(tmp_path):
    factor = 1.0

    def scaled(a):
        if factor == 0:
            raise ZeroDivisionError
        return a * factor

    with mmsb.open(tmp_path / "run.mmsb") as memory:
        memory.page("a", torch.ones(2))
        page = memory.derive(scaled, "a")
        _ = page.tensor
        events = []
        memory.subscribe(
            events.append,
            [EventType.ERROR, EventType.WORLD_CHANGED, EventType.CHECKPOINTED],
        )
        factor = 2.0
        _ = page.tensor
        factor = 0
        with pytest.raises(mmsb.RecipeError):
            _ = page.tensor
        memory.checkpoint()
    kinds = [event.type.name for event in events]
    assert kinds == ["WORLD_CHANGED", "WORLD_CHANGED", "ERROR", "CHECKPOINTED"]
    assert "factor" in events[0].fields["reason"]
    assert "ZeroDivisionError" in events[2].fields["error"]
    assert events[3].fields["tx"] == 1


ON_DISK = {EventType.CHECKPOINTED, EventType.COLLECTED, EventType.EVICTED}
KINDS = [kind for kind in EventType if kind not in ON_DISK]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_subscriber_may_read_and_make_pages_whatever_it_is_told(kind):
    """No lock is held while a subscriber runs."""
    factor, told = 1.0, []

    def scaled(a):
        if factor == 0:
            raise ZeroDivisionError("nothing")
        return a[:1] * factor

    memory = mmsb.open()
    failures = []

    def listen(event):
        told.append(event)
        if len(told) > 20:
            return
        try:
            _ = memory["a"].tensor, memory.stats(), str(memory.graph), memory.tx
            with contextlib.suppress(mmsb.RecipeError, mmsb.PageNotFoundError):
                _ = memory["scaled"].tensor, memory["more"].tensor
            memory.page(f"log {len(told)}", torch.zeros(1))
        except BaseException as error:
            failures.append(error)

    def work():
        nonlocal factor
        memory.page("a", torch.arange(3.0))
        memory.subscribe(listen, [kind])
        memory.page("b", torch.zeros(1))
        page = memory.derive(scaled, "a")
        more = memory.derive(lambda scaled: scaled + 1, "scaled", name="more")
        _ = more.tensor
        memory.update("a", 1.0, rows=[2])
        _ = more.tensor
        memory.update("a", 1.0, rows=[2])
        _ = more.tensor
        factor = 2.0
        _ = more.tensor
        factor = 0
        with pytest.raises(mmsb.RecipeError, match="nothing"):
            _ = page.tensor

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), f"stuck while telling {kind.name}"
    assert not failures
    assert 1 <= len(told) <= 21
    memory.close()
