"""Looking back at what was, and comparing moments."""

import contextlib
import time

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.device import same_bits

A = torch.arange(15.0).view(5, 3)


def state(moment):
    return {name: moment[name].tolist() for name in moment}


def test_every_moment_has_its_values(history):
    one = A.clone()
    one[1] = 100
    expected = [
        {"a": A, "d": A * 2},
        {"a": A, "b": torch.arange(4), "d": A * 2},
        {"a": one, "b": torch.arange(4), "d": one * 2},
        {"a": one, "b": torch.tensor([0, 1, 7, 3]), "d": one * 2},
        {"a": one, "b": torch.tensor([0, 1, 7, 3]), "c": torch.zeros(2), "d": one * 2},
        {
            "a": torch.zeros(5, 3),
            "b": torch.tensor([0, 1, 7, 3]),
            "c": torch.ones(2),
            "d": torch.zeros(5, 3),
        },
    ]
    for tx, values in enumerate(expected, 1):
        moment = history.at(tx)
        assert (moment.tx, set(moment), len(moment)) == (tx, set(values), len(values))
        for name, value in values.items():
            assert same_bits(moment[name], value), (tx, name)
            assert name in moment


def test_a_moment_is_found_by_number_label_and_step(history):
    for moment in (history.at(3), history.at("rows"), history.at(step=10)):
        assert (moment.tx, moment.label, moment.step) == (3, "rows", 10)
        assert state(moment) == state(history.at(3))
    assert (history.at(4).label, history.at(4).step) == (None, None)
    assert history.at(history.tx).tx == 6


def test_the_newest_of_two_equal_names_is_meant(history):
    with history.commit("rows", step=10) as tx:
        tx.update("b", 0)
    assert history.at("rows").tx == history.at(step=10).tx == 7
    assert history.at(3).label == "rows"


def test_a_moment_knows_epochs_and_times(history):
    assert [history.at(tx).epoch("a") for tx in range(1, 7)] == [0, 0, 1, 1, 1, 2]
    assert [history.at(tx).epoch("b") for tx in range(2, 7)] == [0, 0, 1, 1, 1]
    times = [history.at(tx).time_ns for tx in range(1, 7)]
    assert times == sorted(times)
    assert abs(times[-1] - time.time_ns()) < 120 * 10**9


def test_a_page_that_came_later_is_not_there(history):
    moment = history.at(4)
    with pytest.raises(mmsb.PageNotFoundError, match=r"'c'.*transaction 4"):
        _ = moment["c"]
    assert "c" not in moment
    assert moment.get("c") is None
    assert "nobody" not in moment


def test_a_derived_page_is_there_once_its_inputs_are(history):
    history.derive(lambda a, c: a.sum() + c, "a", "c", name="both")
    assert "both" not in history.at(4)
    with pytest.raises(mmsb.PageNotFoundError, match="transaction 4"):
        _ = history.at(4)["both"]
    assert history.at(5)["both"].tolist() == [393.0, 393.0]
    assert history.at(6)["both"].tolist() == [1.0, 1.0]


def test_a_failing_recipe_is_there_and_cannot_be_read(history):
    def choosy(a):
        if a.sum() > 200:
            raise ValueError("too much")
        return a

    history.derive(choosy, "a")
    assert "choosy" in history.at(3)
    assert "choosy" in list(history.at(3))
    with pytest.raises(mmsb.RecipeError, match=r"'choosy'.*transaction 3.*too much"):
        _ = history.at(3)["choosy"]
    assert torch.equal(history.at(1)["choosy"], A)


def test_derived_pages_of_the_past_follow_todays_recipe(history):
    assert torch.equal(history.at(1)["d"], A * 2)
    history.derive(lambda a: a * 3, "a", name="d")
    assert torch.equal(history.at(1)["d"], A * 3)
    assert torch.equal(history.at(6)["d"], torch.zeros(5, 3))


def test_a_chain_is_computed_for_the_past(history):
    history.derive(lambda d, b: d[:4, 0] + b, "d", "b", name="row")
    history.derive(lambda row, a: row[0] + a, "row", "a", name="last")
    assert history.at(2)["last"].tolist() == (A + 0).tolist()
    assert history.at(4)["row"].tolist() == [0, 201, 19, 21]
    assert history.at(6)["row"].tolist() == [0, 1, 7, 3]


def test_a_recipe_that_reads_pages_itself_reads_those_of_the_moment(history):
    page = history.derive(lambda b: b + history["a"].tensor[1, 0].long(), "b", name="own")
    assert page.tensor.tolist() == [0, 1, 7, 3]
    assert history.at(3)["own"].tolist() == [100, 101, 102, 103]
    assert history.at(2)["own"].tolist() == [3, 4, 5, 6]
    mmsb.register_recomputation("kind of the past", lambda memory, page: memory["a"].tensor[1])
    history.page("k", kind="kind of the past")
    assert history.at(3)["k"].tolist() == [100, 100, 100]
    assert history["k"].tensor.tolist() == [0, 0, 0]
    assert history.at(2)["k"].tolist() == [3, 4, 5]


def test_a_kind_that_chooses_its_inputs_chooses_those_of_the_moment(mem):
    mmsb.register_recomputation(
        "choosing in the past", lambda m, page: m["bc"[int(m["a"].tensor)]].tensor + 0
    )
    mem.page("a", torch.tensor(0))
    mem.page("b", torch.tensor(10))
    mem.page("c", torch.tensor(20))
    page = mem.page("chosen", kind="choosing in the past")
    for looked in (False, True):
        assert mem.at(2)["chosen"].item() == 10
        assert "chosen" in mem.at(2)
        if not looked:
            assert page.tensor.item() == 10
    mem.update("a", 1)
    assert page.tensor.item() == 20
    assert "chosen" in mem.at(2)
    assert mem.at(2)["chosen"].item() == 10
    assert mem.at(4)["chosen"].item() == 20


def test_the_past_computes_once_and_publishes_nothing(history):
    runs = []

    def counted(a):
        runs.append(1)
        return a + 1

    page = history.derive(counted, "a")
    moment = history.at(3)
    for _ in range(3):
        assert torch.equal(moment["counted"], moment["a"] + 1)
    assert page.epoch == 0
    assert history.tx == 6
    assert torch.equal(page.tensor, torch.ones(5, 3))


def test_a_moment_does_not_move(history):
    moment, past = history.at(6), history.at(3)
    read = moment["a"]
    history.update("a", -1.0)
    history.update("b", -1)
    history.restore(1)
    assert bool((moment["a"] == 0).all())
    assert bool((read == 0).all())
    assert moment["b"].tolist() == [0, 1, 7, 3]
    assert bool((moment["d"] == 0).all())
    assert past["a"][1].tolist() == [100, 100, 100]


def test_writing_into_the_past_is_noticed_and_changes_nothing(history):
    for tx in (1, 6):
        expected = history.at(tx)["a"].clone()
        moment = history.at(tx)
        moment["a"].add_(1)
        with pytest.raises(mmsb.PageMutatedError, match=rf"'a'.*transaction {tx}"):
            _ = moment["a"]
        with contextlib.suppress(mmsb.PageMutatedError):
            _ = history["a"].tensor
        assert torch.equal(history.at(tx)["a"], expected)
        assert bool((history["a"].tensor == 0).all())


def test_writing_through_a_page_does_not_reach_a_moment(history):
    history.derive(lambda a, b: a[:4, 0] + b, "a", "b", name="both")
    history.update("b", 0)
    moment = history.at(6)
    assert moment["both"].tolist() == [0, 1, 7, 3]  # keeps the present `a` and the past `b`
    history["a"].tensor.add_(1)
    with pytest.raises(mmsb.PageMutatedError):
        _ = history["a"].tensor
    try:
        found = moment["a"]
    except mmsb.PageMutatedError:
        found = history.at(6)["a"]
    assert bool((found == 0).all())


def test_a_recipe_that_writes_fails_in_the_past_too(history):
    def writing(a):
        a.add_(1)
        return a * 1

    history.derive(writing, "a")
    for tx in (3, 6):
        moment = history.at(tx)
        with pytest.raises(mmsb.RecipeError, match="'writing'"):
            _ = moment["writing"]
        assert torch.equal(history.at(tx)["a"], history.at(tx)["d"] / 2)
    assert bool((history["a"].tensor == 0).all())


def test_recipes_of_the_past_change_no_page(history):
    def meddling(a):
        history.update("b", 1)
        return a

    history.derive(meddling, "a")
    with pytest.raises(mmsb.RecipeError, match="recipe tried to change a page"):
        _ = history.at(3)["meddling"]
    assert history.tx == 6


# diff


def test_a_diff_has_what_differs_and_nothing_else(history):
    found = history.diff(2, 4)
    assert (found.a, found.b, set(found)) == (2, 4, {"a", "b"})
    expected = torch.zeros(5, 3, dtype=torch.bool)
    expected[1] = True
    assert torch.equal(found["a"].region.mask(), expected)
    assert found["b"].region.mask().tolist() == [False, False, True, False]
    assert torch.equal(found["a"].before, A)
    assert found["a"].after[1].tolist() == [100, 100, 100]
    assert found["b"].after.tolist() == [0, 1, 7, 3]
    assert "d" not in found


def test_the_other_way_round_it_is_the_same_with_before_and_after_exchanged(history):
    there, back = history.diff(2, 4), history.diff(4, 2)
    assert (back.a, back.b, list(back)) == (4, 2, list(there))
    for name in there:
        assert torch.equal(there[name].before, back[name].after)
        assert torch.equal(there[name].after, back[name].before)
        assert there[name].region == back[name].region


def test_a_page_that_was_made_between_is_created_or_not_yet(history):
    made, unmade = history.diff(3, 6)["c"], history.diff(6, 3)["c"]
    assert made.before is None
    assert made.after.tolist() == [1, 1]
    assert unmade.after is None
    assert unmade.before.tolist() == [1, 1]
    assert repr(made) == "<PageDiff: created>"
    assert repr(unmade) == "<PageDiff: not created yet>"


def test_moments_that_are_equal_do_not_differ(history):
    assert len(history.diff(6, 6)) == 0
    history.update("b", history["b"].clone())
    assert len(history.diff(6, 7)) == 0
    history.update("a", 5.0)
    history.update("a", 0.0)
    assert len(history.diff(6, 9)) == 0
    assert list(history.diff(6, 8)) == ["a"]


def test_a_diff_takes_labels(history):
    assert list(history.diff("rows", "late")) == list(history.diff(3, 6))
    assert repr(history.diff("rows", 4)).splitlines()[0] == (
        "<Diff of transactions 3 and 4: 1 pages>"
    )


def test_what_a_diff_holds_is_not_the_page(history):
    found = history.diff(5, 6)["a"]
    found.before.fill_(-1)
    found.after.fill_(-1)
    assert bool((history["a"].tensor == 0).all())
    assert history.at(5)["a"][1].tolist() == [100, 100, 100]
