"""Values are pulled: exactly what is stale is computed, once."""

import itertools
import logging

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.device import same_bits

LOG = logging.getLogger("recipes of the graph's tests")  # a digest knows it by its name alone
STATE = [0]


def test_a_page_is_computed_when_read_and_not_before_or_again(mem, spy, derive):
    page = derive(mem, "double", lambda x: x * 2, "x")
    assert spy.taken() == []
    assert torch.equal(page.tensor, torch.arange(6.0).view(3, 2) * 2)
    assert spy.taken() == ["double"]
    page.tensor, page.clone(), page.read(rows=[1]), page.epoch, repr(page)
    assert spy.taken() == []


def test_updates_between_two_reads_cost_one_computation(mem, spy, derive):
    page = derive(mem, "double", lambda x: x * 2, "x")
    for value in range(5):
        mem.update("x", float(value))
    assert torch.equal(page.tensor, torch.full((3, 2), 8.0))
    assert spy.taken() == ["double"]


def test_chain_is_computed_once_from_the_top(mem, spy, derive):
    names = ["x", *(f"c{i}" for i in range(20))]
    for above, name in itertools.pairwise(names):
        derive(mem, name, lambda v: v + 1, above)
    assert torch.equal(mem["c19"].tensor, mem["x"].tensor + 20)
    assert spy.taken() == sorted(names[1:])
    mem.update("x", torch.zeros(1, 2), rows=[1])
    assert torch.equal(mem["c9"].tensor, mem["x"].tensor + 10)
    assert spy.taken() == sorted(names[1:11])
    assert torch.equal(mem["c19"].tensor, mem["x"].tensor + 20)
    assert spy.taken() == sorted(names[11:])


def test_diamond_runs_each_page_once(mem, spy, derive):
    derive(mem, "l", lambda x: x + 1, "x")
    derive(mem, "r", lambda x: x * 10, "x")
    derive(mem, "j", lambda lv, rv: lv + rv, "l", "r")
    for value in (None, 2.0, 3.0):
        if value is not None:
            mem.update("x", value)
        x = mem["x"].clone()
        assert torch.equal(mem["j"].tensor, x + 1 + x * 10)
        assert spy.taken() == ["j", "l", "r"]


def test_only_the_cone_of_an_edit_is_computed_again(mem, spy, derive):
    derive(mem, "of x", lambda x: x + 1, "x")
    derive(mem, "of y", lambda y: y + 1, "y")
    derive(mem, "of both", lambda a, b: a + b, "of x", "of y")
    mem.propagate()
    spy.taken()
    mem.update("y", 5.0)
    assert [page.name for page in mem.propagate()] == ["of y", "of both"]
    assert spy.taken() == ["of both", "of y"]
    assert mem.propagate() == []
    assert spy.taken() == []


def test_equal_result_cuts_off_everything_below(mem, spy, derive):
    derive(mem, "sign", torch.sign, "x")
    derive(mem, "below", lambda s: s * 2, "sign")
    derive(mem, "further", lambda b: b + 1, "below")
    derive(mem, "beside", lambda b, x: b + x, "below", "x")
    mem.propagate()
    spy.taken()
    epochs = {name: mem[name].epoch for name in mem}
    mem.update("x", torch.arange(6.0).view(3, 2) * 7)
    assert [page.name for page in mem.propagate()] == ["beside"]
    assert spy.taken() == ["beside", "sign"]
    assert {n for n in mem if mem[n].epoch != epochs[n]} == {"x", "beside"}


def test_a_write_that_changes_no_bit_computes_nothing(mem, spy, derive):
    derive(mem, "p", lambda x: x + 1, "x")
    derive(mem, "q", lambda p: p + 1, "p")
    mem.propagate()
    spy.taken()
    mem.update("x", mem["x"].tensor)
    mem.update("x", mem["x"].tensor[:1], rows=[0])
    mem.update("x", 5.0, indices=[5])
    mem.update("x", 77.0, mask=torch.zeros(3, 2, dtype=torch.bool))
    assert mem["x"].epoch == 4
    assert torch.equal(mem["q"].tensor, torch.arange(6.0).view(3, 2) + 2)
    assert mem.propagate() == []
    assert spy.taken() == []


@pytest.mark.parametrize(
    ("before", "after"),
    [(0.0, -0.0), (float("nan"), -float("nan")), (1.0, 1.0 + 2**-23)],
    ids=["zeros", "nans", "ulp"],
)
def test_one_bit_is_a_change(mem, before, after):
    mem.update("x", before)
    page = mem.derive(torch.signbit, "x", name="s")
    exact = mem.derive(lambda x: x.clone(), "x", name="exact")
    assert torch.equal(page.tensor, torch.signbit(torch.full((3, 2), before)))
    mem.update("x", after)
    assert torch.equal(page.tensor, torch.signbit(torch.full((3, 2), after)))
    assert same_bits(exact.tensor, torch.full((3, 2), after))


def test_there_and_back_between_reads_stops_at_the_first_page(mem, spy, derive):
    derive(mem, "p", lambda x: x + 1, "x")
    derive(mem, "q", lambda p: p + 1, "p")
    mem.propagate()
    spy.taken()
    before = mem["x"].clone()
    mem.update("x", 9.0)
    mem.update("x", before)
    assert mem.propagate() == []
    assert spy.taken() in ([], ["p"])


def test_restoring_makes_stale_and_right(mem):
    page = mem.derive(lambda x: x * 3, "x", name="p")
    first, number = page.clone(), mem.tx
    mem.update("x", 1.0)
    assert torch.equal(page.tensor, torch.full((3, 2), 3.0))
    mem.restore(number)
    assert torch.equal(page.tensor, first)


def test_one_page_twice_as_input_and_a_page_without_inputs(mem, spy, derive):
    twice = derive(mem, "twice", lambda a, b: a + b, "x", "x")
    alone = derive(mem, "alone", lambda: torch.ones(2))
    assert torch.equal(twice.tensor, mem["x"].tensor * 2)
    assert torch.equal(alone.tensor, torch.ones(2))
    mem.update("x", 1.0)
    assert torch.equal(twice.tensor, torch.full((3, 2), 2.0))
    assert torch.equal(alone.tensor, torch.ones(2))
    assert spy.taken() == ["alone", "twice", "twice"]


def test_a_recipe_that_changes_what_it_refers_to_runs_at_each_read(mem, spy, derive):
    def counted(x):
        LOG.info("counted")
        STATE[0] += 1
        return x + STATE[0]

    STATE[0] = 0
    page = mem.derive(counted, "x", name="counted")
    below = derive(mem, "below", lambda c: c[0, 0], "counted")
    for number in range(1, 4):
        assert page.tensor[0, 0] == number
        assert spy.taken() == ["counted"]
    assert below.tensor == 4
    assert spy.taken() == ["below", "counted"]


def test_a_recipe_that_runs_at_each_read_cuts_off_what_does_not_change(mem, spy, derive):
    def noisy(x):
        LOG.info("noisy")
        STATE.append(1)
        return x + 1

    mem.derive(noisy, "x", name="noisy")
    below = derive(mem, "below", lambda n: n + 1, "noisy")
    for number in range(3):
        assert below.tensor[0, 0] == 2
        assert spy.taken() == (["below", "noisy"] if number == 0 else ["noisy"])


def test_a_page_of_two_pages_that_change_at_each_read_comes_to_an_end(mem, spy):
    def counted(x):
        LOG.info("counted")
        STATE[0] += 1
        return x[0, 0] + STATE[0]

    mem.derive(counted, "x", name="counted")
    mmsb.register_recomputation("engine/copy", lambda memory, _: memory["counted"].tensor + 0)
    mem.page("copy", kind="engine/copy")
    mem.derive(lambda a, b: a - b, "counted", "copy", name="zero")
    assert mem["zero"].tensor == 0
    assert spy.taken() == ["counted"]
    assert mem["zero"].tensor == 0
    assert spy.taken() == ["counted"]


def test_a_subscriber_that_edits_during_a_pull_mixes_no_moments(mem):
    """It edits `x` between two pages of one pull: the pull's own page is of one moment."""
    mem.derive(lambda x: x.sign(), name="sign")
    mem.derive(lambda sign: sign + 0, name="same")
    mem.derive(lambda x: x * 1, name="one")
    mem.derive(lambda x, same, one: same - one.sign() + same - x.sign(), name="zero")
    mem.update("x", 1.0)
    assert not mem["zero"].tensor.any()
    values = [-1.0, 5.0, -7.0, -8.0, 9.0]

    def edit(event):
        if values:
            mem.update("x", values.pop())
            _ = mem["same"].tensor, mem["one"].tensor

    mem.subscribe(edit, [mmsb.EventType.RECOMPUTED, mmsb.EventType.CUT_OFF])
    for value in (2.0, 3.0, -4.0, 5.0):
        mem.update("x", value)
        assert not mem["zero"].tensor.any()
        assert not mem["zero"].tensor.any()
    assert values == []
