"""Who is told what: filters, subscribers that raise, end or commit, and the order of what is told."""

import logging
import threading
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mmsb_torch as mmsb
from mmsb_torch import EventType


@pytest.fixture
def mem():
    with mmsb.open() as memory:
        memory.page("a", torch.zeros(3))
        memory.page("b", torch.zeros(3))
        memory.derive(lambda a: a + 1, "a", name="next")
        yield memory


def brief(events):
    return [(event.type.name, event.fields.get("page")) for event in events]


# filters


def test_types_and_pages_filter_together(mem):
    told = {name: [] for name in ("all", "stale", "a", "a's deltas", "page", "none")}
    mem.subscribe(told["all"].append)
    mem.subscribe(told["stale"].append, [EventType.STALE])
    mem.subscribe(told["a"].append, pages="a")
    mem.subscribe(told["a's deltas"].append, [EventType.DELTA_COMMITTED], pages=["a"])
    mem.subscribe(told["page"].append, pages=[mem["next"], "b"])
    mem.subscribe(told["none"].append, types=[])
    mem.update("a", 1.0)
    mem.update("b", 1.0)
    _ = mem["next"].tensor
    delta_a, delta_b = ("DELTA_COMMITTED", "a"), ("DELTA_COMMITTED", "b")
    stale, ran = ("STALE", "next"), ("RECOMPUTED", "next")
    assert brief(told["all"]) == [delta_a, stale, delta_b, ran]
    assert brief(told["stale"]) == [stale]
    assert brief(told["a"]) == brief(told["a's deltas"]) == [delta_a]
    assert brief(told["page"]) == [stale, delta_b, ran]
    assert told["none"] == []


def test_who_filters_by_page_is_not_told_of_what_concerns_none(tmp_path):
    with mmsb.open(tmp_path / "run.mmsb") as memory:
        memory.page("a", torch.zeros(3))
        of_a, of_all = [], []
        memory.subscribe(of_a.append, pages=["a"])
        memory.subscribe(of_all.append)
        memory.checkpoint()
    assert of_a == []
    assert brief(of_all) == [("CHECKPOINTED", None)]


@pytest.mark.parametrize(
    "types", [5, "STALE", EventType.STALE, [99], ["STALE"], [None], [EventType.STALE, 0]], ids=repr
)
def test_filters_that_name_no_type_are_refused(mem, types):
    with pytest.raises(mmsb.InvalidSubscriptionError, match="PAGE_CREATED, DELTA_COMMITTED"):
        mem.subscribe(print, types)
    assert not mem._router.events.wanted


@pytest.mark.parametrize("pages", ["c", ["a", "c"], [5], [None], mmsb.open().page("a", shape=(1,))])
def test_filters_that_name_no_page_are_refused(mem, pages):
    with pytest.raises(mmsb.PageNotFoundError):
        mem.subscribe(print, pages=pages)
    assert not mem._router.events.wanted


def test_what_is_no_list_of_pages_is_refused(mem):
    with pytest.raises(mmsb.InvalidSubscriptionError, match="expected pages"):
        mem.subscribe(print, pages=5)


# subscribers


def test_one_that_raises_is_removed_logged_and_told_to_others(mem, caplog):
    def broken(event):
        raise ValueError("mine")

    others = []
    mem.subscribe(broken, [EventType.DELTA_COMMITTED])
    mem.subscribe(others.append, [EventType.ERROR, EventType.DELTA_COMMITTED])
    with caplog.at_level(logging.ERROR, logger="mmsb_torch"):
        assert mem.update("a", 1.0) == 3
        mem.update("a", 2.0)
    assert brief(others) == [("DELTA_COMMITTED", "a"), ("ERROR", None), ("DELTA_COMMITTED", "a")]
    fields = others[1].fields
    assert fields["event"] == "DELTA_COMMITTED"
    assert fields["error"] == "ValueError: mine"
    assert "broken" in fields["subscriber"]
    assert mmsb.Event.from_bytes(others[1].to_bytes()) == others[1]
    assert caplog.text.count("raised and was removed") == 1


def test_those_that_raise_at_errors_are_all_removed(mem, caplog):
    def broken(event):
        raise ValueError("mine")

    for _ in range(3):
        mem.subscribe(broken)
    mem.update("a", 1.0)
    assert not mem._router.events.wanted
    assert caplog.text.count("raised and was removed") == 3


def test_one_that_ends_itself_hears_no_more_of_what_was_under_way(mem):
    told = []

    def once(event):
        told.append(event)
        end()

    end = mem.subscribe(once)
    mem.update_many([("a", None, 1.0), ("b", None, 1.0)])
    assert len(told) == 1


def test_an_interrupt_in_a_subscriber_loses_no_event(mem):
    told = []

    def interrupted(event):
        told.append(event.fields["page"])
        if len(told) == 1:
            raise KeyboardInterrupt

    mem.subscribe(interrupted, [EventType.DELTA_COMMITTED])
    with pytest.raises(KeyboardInterrupt):
        mem.update_many([("a", None, 1.0), ("b", None, 1.0)])
    mem.update("a", 2.0)
    assert told == ["a", "b", "a"]


# order


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 2)), max_size=12))
def test_every_transaction_is_told_once_in_order_whoever_commits(program):
    """Subscribers around one that commits itself, up to two deep, are told as it committed."""
    depths = iter([depth for _, depth in program])
    with mmsb.open() as memory:
        memory.page("a", torch.zeros(1))
        memory.page("b", torch.zeros(1))
        before, after, own = [], [], []

        def committing(event):
            own.append(event.fields["tx"])
            if event.fields["label"] != "own":
                for _ in range(next(depths)):
                    with memory.commit("own") as tx:
                        tx.update("b", float(len(own)))

        wanted = [EventType.DELTA_COMMITTED]
        memory.subscribe(lambda event: before.append(event.fields["tx"]), wanted)
        memory.subscribe(committing, wanted)
        memory.subscribe(lambda event: after.append(event.fields["tx"]), wanted)
        for page, _ in program:
            memory.update(page, 1.0)
        committed = list(range(3, memory.tx + 1))
    assert before == own == after == committed


@pytest.mark.parametrize("pause_s", [0.0, 0.0005])
def test_threads_that_commit_at_once_are_told_once_in_order(pause_s):
    with mmsb.open() as memory:
        for number in range(4):
            memory.page(f"p{number}", torch.zeros(1))
        told, small = [], []

        def listen(event):
            told.append(event.fields["tx"])
            time.sleep(pause_s)

        memory.subscribe(listen, [EventType.DELTA_COMMITTED])
        memory.subscribe(lambda e: small.append(e.fields["tx"]), pages=["p1"])

        def work(number):
            for value in range(200):
                memory.update(f"p{number}", float(value))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert told == list(range(5, memory.tx + 1))
        assert small == sorted(small)
        assert len(small) == 200


def test_who_waits_for_a_slow_subscriber_is_not_held_for_good(mem):
    """The subscriber waits for another thread that commits more than may wait."""
    told = []

    def listen(event):
        told.append(event.fields["tx"])
        if len(told) == 1:
            other = threading.Thread(
                target=lambda: [mem.update("a", float(n)) for n in range(1002)]
            )
            other.start()
            other.join(20)
            assert not other.is_alive()

    mem.subscribe(listen, [EventType.DELTA_COMMITTED])
    mem.update("b", 1.0)
    assert told == list(range(3, mem.tx + 1))
