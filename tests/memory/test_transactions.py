"""What commits together, and what is acknowledged."""

import threading

import pytest
import torch

import mmsb_torch as mmsb

A = torch.arange(15.0).view(5, 3)


def doubled(a):
    return a * 2


def again(memory):
    memory.update("a", memory["a"].clone())


# transactions


def test_reads_inside_a_transaction_see_the_state_before_it(ab):
    ab.derive(doubled, "a", name="d")
    with ab.commit() as tx:
        tx.update("a", 5.0)
        assert torch.equal(ab["a"].tensor, A)
        assert torch.equal(ab["d"].tensor, A * 2)
        assert (ab["a"].epoch, ab.tx) == (0, 2)
        assert not bool(ab["a"].mask.any())
    assert bool((ab["a"].tensor == 5).all())
    assert bool((ab["d"].tensor == 10).all())


def test_several_updates_of_a_page_are_one_epoch_in_order(ab):
    with ab.commit("both") as tx:
        tx.update("a", 1.0)
        tx.update("a", torch.full((2, 3), 2.0), rows=[4, 0])
        tx.update("a", torch.tensor([3.0, 4.0]), indices=[0, 7])
        tx.update("a", 5.0, mask=A == 7)
        tx.update("b", 9)
    expected = torch.ones(5, 3)
    expected[[0, 4]] = 2
    expected.view(-1)[0] = 3
    expected.view(-1)[7] = 5
    assert torch.equal(ab["a"].tensor, expected)
    assert (ab["a"].epoch, ab["b"].epoch, ab.tx) == (1, 1, 3)
    assert len(ab["a"].history()) == 2
    assert ab["a"].history()[-1].label == "both"
    assert tx.number == 3
    assert "committed" in repr(tx)


def test_an_exception_leaves_everything_as_it_was(ab, picture_of):
    ab.derive(doubled, "a")
    before = picture_of(ab)

    def commit(tx, error):
        with tx:
            tx.update("a", 5.0)
            tx.update("b", 5)
            raise error

    for error in (ValueError("mine"), KeyboardInterrupt()):
        tx = ab.commit("never", step=3)
        with pytest.raises(type(error)):
            commit(tx, error)
        assert tx.number is None
        assert "committed" not in repr(tx)
    assert picture_of(ab) == before
    ab.update("a", 1.0)
    assert ab.tx == 3


def test_a_refused_update_inside_a_transaction_leaves_the_others(ab):
    with ab.commit() as tx:
        tx.update("b", 5)
        with pytest.raises(mmsb.InvalidDeltaError):
            tx.update("a", torch.ones(2, 3), rows=[1, 1])
    assert ab["b"].tensor.tolist() == [5, 5, 5, 5]
    assert ab["a"].epoch == 0


def test_a_transaction_is_used_once_and_inside_its_block(ab, picture_of):
    before = picture_of(ab)
    outside = ab.commit()
    with pytest.raises(mmsb.TransactionError, match="with mem"):
        outside.update("a", 1.0)
    with ab.commit() as done:
        pass
    with pytest.raises(mmsb.TransactionError) as caught:
        done.update("a", 1.0)
    assert isinstance(caught.value, RuntimeError)
    with pytest.raises(mmsb.TransactionError, match="new mem"), done:
        pass
    nested = ab.commit()
    with pytest.raises(mmsb.TransactionError), nested:  # noqa: SIM117 - the inner one raises
        with nested:
            pass
    assert picture_of(ab) == before


def test_a_transaction_that_conflicts_does_not_say_that_it_committed(ab):
    tx = ab.commit()
    with pytest.raises(mmsb.EpochConflictError), tx:
        tx.update("a", 1.0, epoch=9)
    assert tx.number is None
    assert "committed" not in repr(tx)
    with pytest.raises(mmsb.TransactionError):
        tx.update("a", 1.0)


def test_an_empty_transaction_is_none_unless_it_is_named(ab):
    with ab.commit() as tx:
        pass
    assert tx.number is None
    assert ab.tx == 2
    for options in ({"label": "here"}, {"step": 4}, {"metadata": {"loss": 0.5}}):
        with ab.commit(**options) as tx:
            pass
        assert tx.number == ab.tx
    assert ab.tx == 5
    assert (ab.at("here").tx, ab.at(step=4).tx) == (3, 4)
    assert torch.equal(ab.at("here")["a"], A)


def test_no_updates_at_all_make_no_transaction(ab):
    assert ab.update_many([]) == ab.tx == 2


def test_update_many_is_one_transaction_in_order(ab):
    number = ab.update_many(
        [("a", [0, 1], torch.ones(2, 3)), (ab["b"], None, 4), ("a", [1], torch.zeros(1, 3))],
        label="all",
    )
    assert number == ab.tx == ab.at("all").tx == 3
    assert ab["a"].tensor[:, 0].tolist() == [1, 0, 6, 9, 12]
    assert (ab["a"].epoch, ab["b"].epoch) == (1, 1)


def test_a_label_and_a_step_name_the_moment(ab):
    with ab.commit("relabel", step=7) as tx:
        tx.update("a", 1.0)
    ab.update("a", 2.0)
    for moment in (ab.at("relabel"), ab.at(step=7), ab.at(3)):
        assert (moment.tx, moment.label, moment.step) == (3, "relabel", 7)
        assert bool((moment["a"] == 1).all())
    with ab.commit("relabel", step=7) as tx:
        tx.update("a", 3.0)
    assert ab.at("relabel").tx == ab.at(step=7).tx == 5


# what update and commit acknowledge


def test_when_update_returns_every_thread_sees_it(ab, bounded):
    number = ab.update("a", 4.0)

    def look():
        return ab.tx, ab["a"].epoch, ab["a"].tensor.sum().item(), ab.at(number)["a"].sum().item()

    assert bounded(look) == (number, 1, 60.0, 60.0)


# all at once


def test_an_update_beside_an_open_transaction_commits_by_itself(ab):
    with ab.commit() as tx:
        tx.update("a", 1.0, rows=[0])
        assert ab.update("a", 5.0) == 3
    assert ab.tx == 4
    assert ab["a"].tensor[:, 0].tolist() == [1, 5, 5, 5, 5]
    assert ab["a"].epoch == 2


ROUNDS = 40


def write(memory, name):
    for step in range(1, ROUNDS + 1):
        memory.update(name, float(step), rows=[step % 16, (step + 5) % 16])


def read(memory):
    last = torch.zeros(3)
    for _ in range(ROUNDS):
        now = memory["total"].tensor.amax(1)
        assert bool((now >= last).all())
        last = now


def declare(memory):
    for step in range(ROUNDS // 4):
        page = memory.derive(lambda x0: x0 * 2, name=f"d{step % 3}")
        memory.propagate()
        assert page.tensor.shape == (16,)


def look_back(memory):
    for _ in range(ROUNDS // 2):
        moment = memory.at(memory.tx)
        assert torch.equal(moment["total"][1], moment["x1"])
        memory.stats(), str(memory.graph), str(memory.why("total")), memory["x1"].mask


def keep(memory):
    for _ in range(3):
        memory.checkpoint(keep=2)


JOBS = [
    (write, "x0"),
    (write, "x1"),
    (write, "x2"),
    (read,),
    (read,),
    (declare,),
    (look_back,),
    (keep,),
]


def test_threads_that_do_everything_at_once_lose_nothing(path, bounded):
    memory, failures = mmsb.open(path), []
    for number in range(3):
        memory.page(f"x{number}", torch.zeros(16))
    memory.derive(lambda x0, x1, x2: torch.stack([x0, x1, x2]), name="total")

    def guarded(job, *args):
        try:
            job(memory, *args)
        except BaseException as error:
            failures.append(error)

    def all_at_once():
        threads = [threading.Thread(target=guarded, args=job, daemon=True) for job in JOBS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    bounded(all_at_once, 60)
    assert not failures
    expected = torch.zeros(16)
    for step in range(1, ROUNDS + 1):
        expected[[step % 16, (step + 5) % 16]] = float(step)
    assert all(torch.equal(memory[f"x{n}"].tensor, expected) for n in range(3))
    assert [memory[f"x{n}"].epoch for n in range(3)] == [ROUNDS] * 3
    assert memory.tx == 3 + 3 * ROUNDS
    assert torch.equal(memory["total"].tensor, expected.expand(3, 16))
    memory.close()
    with mmsb.open(path, mode="r") as again:
        assert torch.equal(again["total"].tensor, expected.expand(3, 16))
