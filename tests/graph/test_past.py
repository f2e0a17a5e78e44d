"""Derived pages of the past: right for their moment, published nowhere, the present undisturbed."""

import itertools
import logging
import random
import threading

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.device import same_bits

LOG = logging.getLogger("recipes of test_past")  # a digest knows a logger by its name alone


@pytest.fixture
def calls():
    """What recipes report, in order, noted where no digest looks; `calls()` takes it."""
    names = []

    def note(record):
        names.append(record.msg)
        return False

    def take():
        found, names[:] = list(names), []
        return found

    LOG.setLevel(logging.INFO)
    LOG.addFilter(note)
    yield take
    LOG.removeFilter(note)


@pytest.fixture
def mem():
    """`x` holds its transaction's number in 1 to 5, `s` alternates: transactions 3 to 7."""
    with mmsb.open() as memory:
        memory.page("x", torch.zeros(2))
        memory.page("s", torch.tensor(0))
        for value in range(1, 6):
            with memory.commit(f"value {value}") as tx:
                tx.update("x", float(value))
                tx.update("s", value % 2)
        yield memory


@pytest.fixture
def kind():
    """Makes pages of one-off kinds: kind(mem, name, fn)."""
    numbers = itertools.count()

    def make(mem, name, function, **options):
        new = f"test_past/{name}/{next(numbers)}"
        mmsb.register_recomputation(new, function)
        return mem.page(name, kind=new, **options)

    return make


def present(mem):
    """Everything that looking back must not move."""
    drawn = mem.graph
    stats = mem.stats()
    held = {name: stats[name] for name in ("recomputed", "unchanged", "cut_off", "failed")}
    why = {name: str(mem.why(name)) for name in mem}
    return mem.tx, [(n.name, n.epoch, n.status) for n in drawn.nodes], drawn.edges, held, why


def test_chains_and_diamonds_of_every_moment(mem, calls):
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


# kinds


def test_kinds_read_the_pages_of_the_moment(mem, kind):
    mem.derive(lambda x: x * 10, name="tens")

    def function(memory, _):
        name = "tens" if memory["s"].tensor == 1 else "x"
        return memory[name].tensor + memory.page("x").tensor

    page = kind(mem, "k", function)
    mem.derive(torch.neg, "k", name="below")
    for fresh in (False, True):
        if fresh:
            mem.propagate()
        before = present(mem)
        for value in (3, 1, 4, 2, 5):
            wanted = value * (11 if value % 2 else 2)
            assert mem.at(f"value {value}")["k"][0] == wanted
            assert mem.at(f"value {value}")["below"][0] == -wanted
        assert present(mem) == before
    assert page.tensor[0] == 55


def test_who_reads_whom_then_is_no_cycle_today(mem, kind):
    def read_if(turn, other):
        def function(memory, _):
            if int(memory["s"].tensor) == turn:
                return memory[other].tensor + 1
            return memory["x"].tensor

        return function

    kind(mem, "a", read_if(1, "b"))
    kind(mem, "b", read_if(0, "a"))
    assert (mem["a"].tensor[0], mem["b"].tensor[0]) == (6, 5)
    for value in (4, 3, 2):
        moment = mem.at(f"value {value}")
        wanted = (value + 1, value) if value % 2 else (value, value + 1)
        assert (moment["a"][0], moment["b"][0]) == wanted


def test_a_page_needed_today_but_not_then_may_fail(mem, kind):
    def fragile(x):
        if x[0] < 5:
            raise ArithmeticError
        return x

    mem.derive(fragile, "x", name="fragile")
    kind(
        mem,
        "k",
        lambda memory, _: memory["fragile" if memory["s"].tensor == 1 else "s"].tensor + 0.0,
    )
    assert mem["k"].tensor[0] == 5
    assert mem.at("value 4")["k"] == 0
    with pytest.raises(mmsb.RecipeError, match=r"'fragile'.*ArithmeticError"):
        _ = mem.at("value 3")["k"]


def test_a_cycle_of_the_past_is_refused(mem, kind):
    kind(mem, "a", lambda memory, _: memory["b"].tensor)
    kind(mem, "b", lambda memory, _: memory["a"].tensor)
    kind(mem, "self", lambda memory, page: memory[page.name].tensor)
    for name in ("a", "b", "self"):
        with pytest.raises(mmsb.CycleDetectedError, match=f"'{name}'"):
            _ = mem.at(4)[name]


@pytest.mark.parametrize("seed", range(3))
def test_random_histories_of_random_graphs(kind, seed):
    chance = random.Random(seed)
    with mmsb.open() as mem:
        names = ["r0", "r1", "r2"]
        for name in names:
            mem.page(name, torch.tensor(0))
        plans = {}
        for i in range(12):
            plans[f"d{i}"] = chance.sample(names, 3)
            if i % 2:
                kind(
                    mem,
                    f"d{i}",
                    lambda memory, page: _choose(
                        lambda n: memory[n].tensor, page.metadata["inputs"]
                    ),
                    metadata={"inputs": plans[f"d{i}"]},
                )
            else:
                mem.derive(lambda a, b, c: a * 3 + b - c, *plans[f"d{i}"], name=f"d{i}")
            names.append(f"d{i}")
        states = {}
        for _ in range(30):
            mem.update(chance.choice(names[:3]), chance.randrange(-3, 4))
            states[mem.tx] = {name: int(mem[name].tensor) for name in names[:3]}
            if chance.random() < 0.4:
                _ = mem[chance.choice(names)].tensor
        for tx in chance.sample(list(states), 12):
            moment = mem.at(tx)
            for name in chance.sample(list(plans), 4):
                assert int(moment[name]) == _full(states[tx], plans, name)


def _choose(read, inputs):
    switch, left, right = inputs
    return read(left if read(switch) > 0 else right) + 1


def _full(state, plans, name):
    if name in state:
        return state[name]
    read = lambda n: _full(state, plans, n)
    if int(name[1:]) % 2:
        return _choose(read, plans[name])
    a, b, c = map(read, plans[name])
    return a * 3 + b - c


# what goes wrong


def test_a_recipe_that_fails_for_then_only(mem, calls):
    def picky(x):
        LOG.info("picky")
        if x[0] == 3:
            raise ArithmeticError("three")
        return x

    page = mem.derive(picky)
    mem.derive(lambda picky: picky + 1, name="below")
    mem.propagate()
    before = present(mem)
    moment = mem.at("value 3")
    for name in ("picky", "below", "picky"):
        with pytest.raises(mmsb.RecipeError, match=r"'picky'.* transaction 5.*three") as told:
            _ = moment[name]
        assert told.value.page_id == page.id
    assert mem.at("value 2")["below"][0] == 3
    assert moment["x"][0] == 3
    assert present(mem) == before
    assert page.tensor[0] == 5


def test_a_recipe_that_fails_today_only(mem):
    def picky(x):
        if x[0] == 5:
            raise ArithmeticError("five")
        return x

    page = mem.derive(picky)
    with pytest.raises(mmsb.RecipeError, match="five"):
        _ = page.tensor
    assert mem.at("value 3")["picky"][0] == 3
    assert mem.why("picky").status == "failed"


@pytest.mark.parametrize("at", [4, 7], ids=["then", "now"])
@pytest.mark.parametrize("input_name", ["x", "d"])
@pytest.mark.parametrize("sort", ["recipe", "kind"])
def test_a_recipe_that_writes_its_input_spoils_nothing(mem, kind, sort, input_name, at):
    mem.derive(lambda x: x.clone(), "x", name="d")
    mem.propagate()

    def writes(value):
        value.add_(100)
        return value.sum()

    if sort == "recipe":
        mem.derive(writes, input_name, name="w")
    else:
        kind(
            mem,
            "w",
            lambda memory, page: writes(memory[page.metadata["of"]].tensor),
            metadata={"of": input_name},
        )
    moment = mem.at(at)
    with pytest.raises(mmsb.RecipeError, match="'w'"):
        _ = moment["w"]
    value = at - 2.0
    assert torch.equal(moment[input_name], torch.full((2,), value))
    assert torch.equal(mem.at(at)[input_name], torch.full((2,), value))
    assert torch.equal(mem["x"].tensor, torch.full((2,), 5.0))
    assert torch.equal(mem["d"].tensor, torch.full((2,), 5.0))


def test_a_recipe_cannot_change_the_memory_from_the_past(mem):
    number = mem.tx

    def acting(x):
        mem.update("s", 3)
        return x

    mem.derive(acting)
    with pytest.raises(mmsb.MMSBError, match="a recipe tried to change a page"):
        _ = mem.at(4)["acting"]
    assert mem.tx == number
    mem.update("s", 3)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_leaves_the_moment_and_the_present_usable(mem, error):
    def interrupt(record):
        raise error

    def recipe(x):
        LOG.warning("run")
        return x * 2

    page = mem.derive(recipe, "x", name="d")
    moment = mem.at(4)
    LOG.addFilter(interrupt)
    try:
        with pytest.raises(error):
            _ = moment["d"]
    finally:
        LOG.removeFilter(interrupt)
    LOG.addFilter(silent)
    try:
        assert moment["d"][0] == 4
        assert page.tensor[0] == 10
        mem.update("x", 1.0)
    finally:
        LOG.removeFilter(silent)


def silent(_):
    return False


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

    mmsb.register_recomputation("test_past/plus one", plus_one)
    for i in range(300):
        of = f"deep{i - 1}" if i else "x"
        mem.page(f"deep{i}", kind="test_past/plus one", metadata={"of": of})
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
