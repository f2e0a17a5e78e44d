"""The one door: order, all or nothing, the past, and who may pass."""

import threading

import pytest
import torch

from mmsb_torch.errors import (
    ClosedError,
    DerivedPageError,
    EpochConflictError,
    PageExistsError,
    PageMutatedError,
    PageNotFoundError,
    ReadOnlyError,
)
from mmsb_torch.runtime.state import Router, epoch_at, stage, value_at
from mmsb_torch.runtime.store import Log
from mmsb_torch.types import EventType, PageInfo, Spec, apply


def test_transactions_are_numbered_without_gaps(xy, kit):
    assert [record.tx for record in xy.log] == [1, 2]
    records = [kit.update(xy, "x", float(number)) for number in range(3)]
    assert [record.tx for record in records] == [3, 4, 5]
    assert [record.deltas[0].base_epoch for record in records] == [0, 1, 2]
    assert xy.tx == xy.log.last == 5
    assert xy.table.find("x").epoch == 3


def test_a_commit_of_several_pages_is_one_transaction(xy):
    deltas = [stage(xy.table.find("x"), 1.0), stage(xy.table.find("y"), 2)]
    record = xy.commit(deltas, label="both", step=4, metadata={"k": 1})
    assert (record.tx, record.label, record.step, record.metadata) == (3, "both", 4, {"k": 1})
    assert [xy.table.find(name).epoch for name in "xy"] == [1, 1]
    assert [xy.table.find(name).tx for name in "xy"] == [3, 3]


def test_a_conflict_anywhere_changes_nothing(xy, kit):
    deltas = [stage(xy.table.find("x"), 1.0), stage(xy.table.find("y"), 2)]
    with pytest.raises(EpochConflictError, match="'y'"):
        xy.commit(deltas, epochs={1: 0, 2: 3})
    assert not bool(kit.value(xy, "x").any())
    assert (xy.tx, xy.log.last, xy.table.find("x").epoch) == (2, 2, 0)
    assert xy.commit(deltas, epochs={1: 0, 2: 0}).tx == 3


def test_a_foreign_write_anywhere_changes_nothing_and_is_put_back(xy, kit):
    xy.read(xy.table.find("y")).add_(1)
    deltas = [stage(xy.table.find("x"), 1.0), stage(xy.table.find("y"), 2)]
    with pytest.raises(PageMutatedError, match="'y'"):
        xy.commit(deltas)
    assert not bool(kit.value(xy, "x").any())
    assert not bool(kit.value(xy, "y").any())
    assert (xy.tx, xy.log.last) == (2, 2)
    assert xy.commit(deltas).tx == 3


def test_a_commit_that_runs_out_of_memory_changes_nothing(xy, kit, monkeypatch):
    deltas = [stage(xy.table.find("x"), 1.0, rows=[0]), stage(xy.table.find("y"), 2, rows=[0])]
    entry = xy.table.find("y")
    held = xy.read(entry)

    def refuse(self):
        if self is entry:
            raise MemoryError
        return original(self)

    original = type(entry).writable
    monkeypatch.setattr(type(entry), "writable", refuse)
    with pytest.raises(MemoryError):
        xy.commit(deltas)
    monkeypatch.undo()
    assert (xy.tx, xy.log.last) == (2, 2)
    assert [xy.table.find(name).epoch for name in "xy"] == [0, 0]
    assert not bool(kit.value(xy, "x").any())
    assert not bool(held.any())
    assert xy.commit(deltas).tx == 3
    assert kit.value(xy, "x").tolist() == [1, 0, 0, 0, 0, 0]


def test_a_commit_only_at_a_moment(xy):
    delta = stage(xy.table.find("x"), 1.0)
    with pytest.raises(EpochConflictError, match=r"transaction 2.*1"):
        xy.commit([delta], only_at=1)
    assert (xy.tx, xy.log.last) == (2, 2)
    assert xy.commit([delta], only_at=2).tx == 3


def test_of_many_threads_the_last_in_order_wins(xy, kit):
    def write(first):
        for number in range(first, first + 50):
            kit.update(xy, "x", float(number))
            kit.update(xy, "y", number, rows=[number % 4])

    threads = [threading.Thread(target=write, args=(1000 * n,)) for n in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert xy.tx == 2 + 4 * 100
    assert [record.tx for record in xy.log] == list(range(1, xy.tx + 1))
    for name, number in (("x", 1), ("y", 2)):
        found = [record.delta_of(number) for record in xy.log if record.delta_of(number)]
        assert [delta.base_epoch for delta in found] == list(range(-1, 200))
        replayed = torch.zeros_like(kit.value(xy, name))
        for delta in found:
            apply(replayed, delta)
        assert torch.equal(kit.value(xy, name), replayed)
        assert torch.equal(value_at(xy.log, number, xy.tx), replayed)
        assert xy.table.find(name).epoch == 200


def test_readers_never_see_half_of_a_delta(kit):
    router = kit.router(x=torch.zeros(50_000))
    stop = threading.Event()

    def write():
        number = 0
        while not stop.is_set():
            number += 1
            kit.update(router, "x", torch.full((49_999,), float(number)), rows=range(49_999))
            kit.update(router, "x", float(number), rows=[49_999])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        last = 0.0
        for _ in range(100):
            value = router.read(router.table.find("x"))
            first = value[0].item()
            assert bool((value[:-1] == first).all())
            assert value[-1].item() in {first, first - 1}
            assert first >= last
            last = first
    finally:
        stop.set()
        writer.join()


def test_the_past_is_read_from_the_log_and_the_present_from_the_table(xy, kit):
    entry = xy.table.find("x")
    kit.update(xy, "x", 1.0, rows=[0])
    kit.update(xy, "y", 5)
    kit.update(xy, "x", 2.0, indices=[5])
    expected = {1: [0, 0], 2: [0, 0], 3: [1, 0], 4: [1, 0], 5: [1, 2]}
    for tx, ends in expected.items():
        value = xy.read_at(entry, tx)
        assert [value[0].item(), value[5].item()] == ends
        assert epoch_at(xy.log, 1, tx) == {1: 0, 2: 0, 3: 1, 4: 1, 5: 2}[tx]
    assert epoch_at(xy.log, 2, 1) == -1
    with pytest.raises(PageNotFoundError, match="transaction 1"):
        value_at(xy.log, 2, 1)
    with pytest.raises(PageNotFoundError, match="transaction 1"):
        xy.read_at(xy.table.find("y"), 1)


def test_values_of_the_past_are_new_tensors(xy, kit):
    kit.update(xy, "x", torch.ones(6))
    for tx in (1, 3):
        value_at(xy.log, 1, tx).fill_(9)
    assert value_at(xy.log, 1, 1).tolist() == [0] * 6
    assert value_at(xy.log, 1, 3).tolist() == [1] * 6
    assert kit.value(xy, "x").tolist() == [1] * 6


def info(value, number, name):
    return PageInfo(number, name, Spec.of(value), False, {}, 0)


def test_a_page_is_made_by_a_transaction_of_its_own(xy):
    entry = xy.create(info(torch.ones(2), 3, "z"), torch.ones(2))
    assert (entry.epoch, entry.tx, xy.tx) == (0, 3, 3)
    assert [made.name for made in xy.log[3].created] == ["z"]
    assert xy.log[3].delta_of(3).source == "create"
    assert xy.read(entry).tolist() == [1, 1]


@pytest.mark.parametrize(("number", "name"), [(1, "z"), (3, "x")])
def test_a_page_that_is_there_is_not_made_again(xy, number, name):
    with pytest.raises(PageExistsError):
        xy.create(info(torch.ones(2), number, name), torch.ones(2))
    assert (xy.tx, xy.log.last, len(xy.table)) == (2, 2, 2)
    assert xy.create(info(torch.ones(2), 4, "z"), torch.ones(2)).tx == 3


def test_a_page_that_was_never_made_takes_no_delta(xy, kit):
    delta = stage(kit.entry(torch.zeros(3), 99, "stray"), 1.0)
    with pytest.raises(PageNotFoundError, match="99"):
        xy.commit([delta])
    assert (xy.tx, xy.log.last) == (2, 2)


def test_a_shut_door(xy):
    delta = stage(xy.table.find("x"), 1.0)
    assert xy.shut()
    assert not xy.shut()
    for call in (
        lambda: xy.commit([delta]),
        lambda: xy.create(info(torch.ones(2), 3, "z"), torch.ones(2)),
        xy.check_open,
        xy.check_writable,
    ):
        with pytest.raises(ClosedError, match="closed"):
            call()
    assert xy.log.last == 2


def test_a_door_for_readers(kit):
    router = Router(Log(), read_only=True)
    router.check_open()
    with pytest.raises(ReadOnlyError, match="mode='r'"):
        router.create(info(torch.ones(2), 1, "z"), torch.ones(2))
    with pytest.raises(ReadOnlyError):
        router.commit([])
    assert len(router.log) == 0


def test_inside_a_recipe_the_door_is_closed_for_its_thread_only(xy):
    delta = stage(xy.table.find("x"), 1.0)
    xy.recipes.depth += 1
    with pytest.raises(DerivedPageError, match="recipe"):
        xy.commit([delta])
    with pytest.raises(DerivedPageError, match="recipe"):
        xy.create(info(torch.ones(2), 3, "z"), torch.ones(2))
    other = threading.Thread(target=xy.commit, args=([delta],))
    other.start()
    other.join()
    assert xy.tx == 3
    xy.recipes.depth -= 1
    assert xy.commit([delta]).tx == 4


def test_each_delta_of_a_commit_is_told_in_order_and_after_it_is_there(xy):
    told = []

    def listen(event):
        told.append((event.fields["page"], event.fields["epoch"], event.fields["tx"], xy.tx))

    xy.events.subscribe(listen, [EventType.DELTA_COMMITTED])
    xy.commit([stage(xy.table.find(name), 1) for name in "yx" if name == "y"])
    xy.commit([stage(xy.table.find("x"), 1.0), stage(xy.table.find("y"), 2)])
    assert told == [("y", 1, 3, 3), ("x", 1, 4, 4), ("y", 2, 4, 4)]


def test_a_subscriber_may_use_the_door(xy, kit):
    done = threading.Event()

    def listen(event):
        if event.fields["page"] == "x":
            kit.update(xy, "y", 7)
            done.set()

    xy.events.subscribe(listen, [EventType.DELTA_COMMITTED])
    thread = threading.Thread(target=kit.update, args=(xy, "x", 1.0), daemon=True)
    thread.start()
    thread.join(20)
    assert done.is_set()
    assert kit.value(xy, "y").tolist() == [7] * 4


def test_watched_pages_tell_deltas_that_change_no_bit_apart(xy, kit):
    entry = xy.table.find("x")
    entry.watched = True
    kit.update(xy, "x", 1.0, rows=[2])
    assert (entry.epoch, entry.content) == (1, 1)
    for selection in (
        {"rows": [2]},
        {"indices": [2]},
        {"mask": torch.arange(6) == 2},
        {"rows": []},
    ):
        kit.update(xy, "x", 1.0, **selection)
    assert (entry.epoch, entry.content) == (5, 1)
    kit.update(xy, "x", torch.tensor([0.0, 0, 1, 0, 0, 0]))
    assert entry.content == 1
    kit.update(xy, "x", -0.0, rows=[0])
    assert entry.content == entry.epoch == 7
