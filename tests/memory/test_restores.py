"""Going back and forth: restores, walks through time, threads, and what reopening leaves."""

import random
import threading

import pytest
import torch

import mmsb_torch as mmsb

A = torch.arange(15.0).view(5, 3)


def state(moment):
    return {name: moment[name].tolist() for name in moment}


def test_a_restore_is_a_transaction_that_can_be_undone(history):
    expected = {tx: state(history.at(tx)) for tx in range(1, 7)}
    before = history.tx
    assert history.restore(3) == before + 1 == history.tx
    assert history["a"].tensor.tolist() == expected[3]["a"]
    assert history["b"].tensor.tolist() == expected[3]["b"]
    assert history["d"].tensor.tolist() == expected[3]["d"]
    assert history.restore(before) == before + 2
    assert state(history.at(history.tx)) == expected[6]
    for tx, values in expected.items():
        assert state(history.at(tx)) == values
    assert [change.source for change in history["a"].history()][-2:] == ["restore", "restore"]


def test_pages_made_later_keep_their_values(history):
    history.restore(1)
    assert history["c"].tensor.tolist() == [1, 1]
    assert history["c"].epoch == 1
    assert history["b"].tensor.tolist() == [0, 1, 7, 3]
    assert torch.equal(history["a"].tensor, A)


def test_a_restore_touches_only_what_differs(history):
    history.restore("rows")
    epochs = {name: history[name].epoch for name in "abc"}
    assert epochs == {"a": 3, "b": 2, "c": 1}
    assert history["b"].history()[-1].region.flat().tolist() == [2]
    history.restore(step=10)
    assert {name: history[name].epoch for name in "abc"} == epochs
    assert history.tx == 8


def test_a_restore_leaves_what_depends_on_nothing_else_alone(history):
    other = history.derive(lambda b: b + 1, "b", name="other")
    _ = other.tensor, history["d"].tensor
    recomputed = history.stats()["recomputed"]
    history.restore(4)
    _ = other.tensor, history["d"].tensor
    assert history.stats()["recomputed"] == recomputed + 1


def test_a_restored_page_is_not_the_past_itself(history):
    history.restore(1)
    history.update("a", 9.0)
    assert torch.equal(history.at(1)["a"], A)
    history.restore(1)
    alias = history["a"].tensor
    history.update("a", 9.0, rows=[0])
    assert torch.equal(alias, A)
    assert torch.equal(history.at(1)["a"], A)


def masked_commit(memory, number):
    with memory.commit() as tx:
        tx.update("x", float(number), indices=[number % 6])
        tx.update("y", float(number), mask=torch.arange(6) % 3 == number % 3)


STEPS = (
    lambda memory, number, tx: memory.update("x", float(number)),
    lambda memory, number, tx: memory.update("y", -1.0, rows=[number % 6, (number + 2) % 6]),
    lambda memory, number, tx: masked_commit(memory, number),
    lambda memory, number, tx: memory.restore(tx),
    lambda memory, number, tx: memory["total"].tensor,
)


def test_any_walk_through_time_agrees_with_a_list(mem):
    chance, names = random.Random(4), ["x", "y"]
    for name in names:
        mem.page(name, torch.zeros(6))
    mem.derive(lambda x, y: x + 10 * y, "x", "y", name="total")

    def values(source):
        return {name: source[name].tolist() for name in names}

    states = [{}, {}, values(mem.at(2))]
    for number in range(80):
        chance.choice(STEPS)(mem, number, chance.randrange(2, len(states)))
        if mem.tx == len(states):
            states.append({name: mem[name].tensor.tolist() for name in names})
        assert mem.tx == len(states) - 1
    for tx in range(2, len(states)):
        moment = mem.at(tx)
        assert values(moment) == states[tx]
        assert torch.equal(moment["total"], moment["x"] + 10 * moment["y"])
        for name, part in mem.diff(tx, mem.tx - tx + 2).items():
            pair = states[tx][name], states[mem.tx - tx + 2][name]
            assert (part.before.tolist(), part.after.tolist()) == pair
            assert part.region.mask().tolist() == [a != b for a, b in zip(*pair, strict=True)]


# threads


def test_restores_race_with_writers_and_each_is_whole(mem, bounded):
    for name in ("x", "y"):
        mem.page(name, torch.zeros(32, dtype=torch.int64))
    with mem.commit("home"):
        pass
    failures, writers = [], 3

    def write(first):
        try:
            for number in range(first, first + 40):
                mem.update_many([("x", None, number), ("y", None, -number)])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(100 * (n + 1),)) for n in range(writers)]

    def race():
        for thread in threads:
            thread.start()
        for _ in range(25):
            tx = mem.restore("home")
            moment = mem.at(tx)
            assert not bool(moment["x"].any())
            assert not bool(moment["y"].any())
        for thread in threads:
            thread.join()

    bounded(race)
    assert not failures
    assert mem.tx == 3 + writers * 40 + 25
    for tx in range(3, mem.tx + 1):
        moment = mem.at(tx)
        assert torch.equal(moment["x"], -moment["y"])
        assert bool((moment["x"] == moment["x"][0]).all())


# after reopening


def test_history_goes_back_beyond_the_checkpoint_that_was_opened(path):
    with mmsb.open(path) as memory:
        memory.page("a", A)
        with memory.commit("old", step=1) as tx:
            tx.update("a", 1.0)
        with memory.commit("kept", step=2) as tx:
            tx.update("a", 2.0, rows=[0])
    with mmsb.open(path) as memory:
        assert memory.tx == 3
        for moment in (memory.at(3), memory.at("kept"), memory.at(step=2)):
            assert moment["a"][:, 0].tolist() == [2, 1, 1, 1, 1]
            assert moment.epoch("a") == 2
        for moment in (memory.at(2), memory.at("old"), memory.at(step=1)):
            assert bool((moment["a"] == 1).all())
            assert (moment.tx, moment.label, moment.step, moment.epoch("a")) == (2, "old", 1, 1)
        assert torch.equal(memory.at(1)["a"], A)
        assert list(memory.diff(1, 3)) == ["a"]
        memory.update("a", 5.0, rows=[0])
        assert memory.tx == 4
        assert memory.at(3)["a"][0].tolist() == [2, 2, 2]
        memory.restore("old")
        assert bool((memory["a"].tensor == 1).all())
        changes = [(c.tx, c.epoch, c.label) for c in memory["a"].history()]
        assert changes == [(1, 0, None), (2, 1, "old"), (3, 2, "kept"), (4, 3, None), (5, 4, None)]
        for call in (lambda: memory.at(6), lambda: memory.at("new"), lambda: memory.at(step=9)):
            with pytest.raises(mmsb.HistoryError):
                call()


def test_pages_older_than_the_checkpoint_are_there_at_its_moment(path):
    with mmsb.open(path) as memory:
        memory.page("a", A)
        memory.page("b", torch.arange(4))
        memory.update("a", 1.0)
    with mmsb.open(path) as memory:
        assert set(memory.at(3)) == {"a", "b"}
        assert (memory.at(3).epoch("a"), memory.at(3).epoch("b")) == (1, 0)
        memory.page("c", torch.zeros(1))
        assert set(memory.at(3)) == {"a", "b"}
        assert set(memory.at(4)) == {"a", "b", "c"}
        assert list(memory.diff(3, 4)) == ["c"]


def test_a_store_without_a_transaction_opens_again(path):
    mmsb.open(path).close()
    with mmsb.open(path) as memory:
        assert (memory.tx, len(memory)) == (0, 0)
        with pytest.raises(mmsb.HistoryError):
            memory.at(0)
        memory.page("a", A)
        assert memory.at(1)["a"].shape == (5, 3)
