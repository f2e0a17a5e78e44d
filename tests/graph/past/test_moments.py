"""Derived pages of the past: right for their moment, published nowhere."""

import logging
import threading

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.device import same_bits

LOG = logging.getLogger("recipes of the graph's tests")  # a digest knows it by its name alone


def test_chains_and_diamonds_of_every_moment(mem, calls, present):
    def double(x):
        LOG.info("double")
        return x * 2

    mem.derive(double)
    mem.derive(lambda double: double + 1, name="left")
    mem.derive(lambda double, x: double - x, name="right")
    mem.derive(lambda left, right, s: left + right + s, name="joined")
    for fresh in (False, True):
        if fresh:
            mem.propagate()
            calls()
        before = present(mem)
        for value in range(1, 6):
            moment = mem.at(f"value {value}")
            assert moment["x"][0] == value
            wanted = torch.full((2,), 2.0 * value + 1 + value + value % 2)
            assert torch.equal(moment["joined"], wanted)
            assert torch.equal(moment["joined"], wanted)
            assert set(moment) == set(mem)
            assert {name: v.tolist() for name, v in moment.items()}["left"] == [2 * value + 1] * 2
        assert calls() == ["double"] * (4 if fresh else 5)
        assert present(mem) == before
    assert torch.equal(mem["joined"].tensor, torch.full((2,), 17.0))
    assert calls() == []


def test_moments_never_make_the_present_fresh_or_stale(mem):
    page = mem.derive(lambda x: x * 2, name="double")
    _ = mem.at(4)["double"], mem.at(7)["double"]
    assert mem.why(page).status == "new"
    assert torch.equal(page.tensor, torch.full((2,), 10.0))
    _ = mem.at(4)["double"]
    assert mem.why(page).status == "fresh"
    mem.update("x", 9.0)
    assert mem.at(mem.tx)["double"][0] == 18
    assert mem.at(7)["double"][0] == 10
    assert mem.why(page).status == "stale"


def test_a_value_cut_off_since_is_still_that_of_its_moment(mem):
    page = mem.derive(lambda x: (x > 2).float(), name="large")
    mem.derive(lambda large, x: large * 100 + x, name="mixed")
    for value in range(1, 6):
        assert mem.at(f"value {value}")["mixed"][0] == (value > 2) * 100 + value
    mem.propagate()
    assert page.tensor[0] == 1
    for value in (5, 1, 4, 2, 3):
        moment = mem.at(f"value {value}")
        assert (moment["large"][0], moment["mixed"][0]) == (value > 2, (value > 2) * 100 + value)


def test_recipes_of_today_for_the_inputs_of_then(mem):
    mem.derive(lambda x: x * 2, name="d")
    mem.propagate()
    old = mem.at(4)
    assert old["d"][0] == 4
    mem.derive(lambda x: x * 3, name="d")
    assert mem.at(4)["d"][0] == 6
    assert old["d"][0] == 4  # what a moment has given stays


def test_restored_moments(mem):
    page = mem.derive(lambda x: x * 2, name="d")
    mem.restore("value 2")
    assert page.tensor[0] == 4
    assert mem.at("value 5")["d"][0] == 10
    assert mem.at(mem.tx)["d"][0] == 4


# what was not there yet


def test_pages_that_did_not_exist(mem):
    mem.page("late", torch.ones(2))
    mem.derive(lambda x, late: x + late, name="d")
    mem.derive(lambda d: d + 1, name="below")
    moment = mem.at("value 2")
    for name in ("late", "d", "below"):
        assert name not in moment
        with pytest.raises(mmsb.PageNotFoundError, match="did not exist"):
            _ = moment[name]
    with pytest.raises(mmsb.PageNotFoundError, match="'nonsense'"):
        _ = moment["nonsense"]
    assert set(moment) == {"x", "s"}
    assert len(moment) == 2
    assert set(mem.at(mem.tx)) == {"x", "s", "late", "d", "below"}


def test_a_kind_that_reads_a_new_page_today_did_not_then(mem, kind):
    mem.page("late", torch.full((2,), 100.0))

    def function(memory, _):
        return memory["late" if memory["x"].tensor[0] > 5 else "x"].tensor + 1

    page = kind(mem, "k", function)
    mem.update("x", 6.0)
    assert page.tensor[0] == 101
    assert "k" in mem.at("value 3")
    assert mem.at("value 3")["k"][0] == 4


def test_results_of_the_past_are_nobody_elses_memory(mem):
    held = torch.zeros(2)
    mem.derive(lambda x: held, "x", name="held")
    mem.derive(lambda x: x, "x", name="same")
    moment = mem.at(7)
    values = {name: moment[name] for name in ("held", "same", "x")}
    before = {name: value.clone() for name, value in values.items()}
    held.numpy()[:] = 9
    mem.update("x", 8.0)
    mem.update("x", torch.ones(1), rows=[0])
    for name, value in values.items():
        assert same_bits(value, before[name]), name
        assert same_bits(moment[name], before[name]), name


def test_writing_to_a_moment_is_noticed(mem):
    mem.derive(lambda x: x * 2, "x", name="d")
    for name in ("d", "x"):
        moment = mem.at(4)
        moment[name].zero_()
        with pytest.raises(mmsb.PageMutatedError, match=f"'{name}'"):
            _ = moment[name]
        assert mem.at(4)[name].all()


def test_moments_outlive_the_memory(mem):
    mem.derive(lambda x: x * 2, "x", name="d")
    moment, seen = mem.at(4), mem.at(5)
    assert seen["d"][0] == 6
    mem.close()
    assert seen["d"][0] == 6
    assert moment["x"][0] == 2
    assert moment["d"][0] == 4


def test_kinds_in_moments_outlive_the_memory(mem, kind):
    kind(mem, "k", lambda memory, _: memory["x"].tensor * 2)
    moment = mem.at(4)
    mem.close()
    assert moment["k"][0] == 4


def test_differences_leave_derived_pages_out(mem):
    mem.derive(lambda x: x * 2, "x", name="d")
    mem.propagate()
    assert set(mem.diff(4, 6)) == {"x"}
    assert mem.diff(4, 6)["x"].after[0] == 4


def test_a_moment_named_while_it_is_committed_is_of_one_piece(mem, monkeypatch):
    page = mem.derive(lambda x: x * 1, "x", name="same")
    _ = page.tensor
    log, found, threads = mem._router.log, [], []

    def look():
        moment = mem.at("coming")
        found.append((moment["same"].clone(), moment["x"].clone()))

    def append(transaction, kept, original=log.append):
        original(transaction, kept)
        threads.append(threading.Thread(target=look, daemon=True))
        threads[0].start()
        threads[0].join(0.2)

    monkeypatch.setattr(log, "append", append)
    with mem.commit("coming") as tx:
        tx.update("x", 50.0)
    threads[0].join(5)
    assert not threads[0].is_alive()
    for same, x in found:  # or there is no such moment yet
        assert torch.equal(same, x)
    assert mem.at("coming")["same"][0] == 50


def test_a_long_chain_of_kinds_in_the_past(mem):
    def plus_one(memory, page):
        return memory[page.metadata["of"]].tensor + 1

    mmsb.register_recomputation("past/plus one", plus_one)
    for i in range(300):
        of = f"deep{i - 1}" if i else "x"
        mem.page(f"deep{i}", kind="past/plus one", metadata={"of": of})
    moment = mem.tx
    x = mem["x"].clone()
    mem.update("x", 7.0)
    assert torch.equal(mem.at(moment)["deep299"], x + 300)
    assert torch.equal(mem["deep299"].tensor, torch.full_like(x, 307.0))
    assert torch.equal(mem.at(moment)["deep150"], x + 151)


def test_the_past_takes_only_what_it_needs(mem, caplog):
    caplog.set_level(logging.INFO)
    log = logging.getLogger("test_past")

    def step(x):
        log.info("step")
        return x + 1

    name = "x"
    for i in range(5):
        name = mem.derive(step, name, name=f"step{i}").name
    _ = mem[name].tensor
    mem.page("other", torch.ones(1))
    assert len(caplog.messages) == 5
    moment = mem.at(mem.tx - 1)
    assert torch.equal(moment[name], mem["x"].tensor + 5)
    assert torch.equal(moment["step2"], mem["x"].tensor + 3)
    assert len(caplog.messages) == 5


def test_other_code_between_two_looks_at_one_past(mem):
    mem.derive(lambda x: x + 1, "x", name="one")
    mem.derive(lambda one: one + 1, "one", name="two")
    assert torch.equal(mem["two"].tensor, mem["x"].tensor + 2)
    past = mem.at(mem.tx)
    assert torch.equal(past["two"], mem["x"].tensor + 2)
    mem.derive(lambda x: x + 10, "x", name="one")
    assert torch.equal(past["one"], mem["x"].tensor + 10)
    assert torch.equal(past["two"], mem["x"].tensor + 2)  # computed once, and kept
    assert torch.equal(mem.at(mem.tx)["two"], mem["x"].tensor + 11)
