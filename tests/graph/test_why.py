"""`mem.why(page)` names the edit, the way it came, what was done and what it cost."""

import json
import logging

import pytest
import torch

import mmsb_torch as mmsb

LOG = logging.getLogger("recipes of test_why")  # a digest knows a logger by its name alone
RATE = 2.0


@pytest.fixture
def mem():
    with mmsb.open() as memory:
        memory.page("x", torch.arange(8.0).view(4, 2))
        memory.page("y", torch.ones(4, 2))
        memory.derive(rated, "x", name="rated")
        memory.derive(lambda rated: (rated > 0).sum(0), name="signs")
        memory.derive(lambda signs: signs + 1, name="below")
        memory.derive(lambda y: y - 1, name="beside")
        yield memory


def rated(x):
    return x * RATE


def explained(mem, page):
    """The answer and its text; what holds for every answer is checked."""
    tx, stats = mem.tx, mem.stats()
    answer = mem.why(page)
    text = str(answer)
    assert text == repr(answer)
    assert repr(answer.page) in text.splitlines()[0]
    assert answer.status in text
    plain = json.loads(json.dumps(answer.as_dict(), allow_nan=False))
    _compare(plain, answer, plain["behind"])
    assert str(mem.why(page)) == text
    assert (mem.tx, mem.stats()) == (tx, stats)  # asking computes nothing
    return answer, text


def _compare(plain, answer, behind):
    assert plain["page"] == answer.page
    assert (plain["status"], plain["what"]) == (answer.status, answer.what)
    assert plain["reason"] == answer.reason
    assert [e["page"] for e in plain["edits"]] == [e.page for e in answer.edits]
    assert plain["inputs"] == list(answer.inputs)
    for name, via in zip(plain["through"], answer.through, strict=True):
        _compare(behind[name], via, behind)


def test_a_root_page(mem):
    answer, text = explained(mem, "x")
    assert (answer.status, answer.through) == ("root", ())
    assert "'x' created in transaction 1" in text
    with mem.commit("tidy up") as tx:
        tx.update("x", torch.zeros(2, 2), rows=[1, 3])
    answer, text = explained(mem, mem["x"])
    assert "transaction 3 ('tidy up')" in text
    assert "rows 1, 3" in text
    mem.restore(1)
    assert "restored in transaction 4" in explained(mem, "x")[1]


def test_new_pages(mem):
    answer, text = explained(mem, "below")
    assert answer.status == "new"
    assert answer.inputs == ("signs",)
    assert "next read" in text
    assert "'rated'" in text
    assert "'x' created" in text
    assert "'y'" not in text


def test_computed_for_the_first_time(mem):
    _ = mem["below"].tensor
    answer, text = explained(mem, "below")
    assert (answer.status, answer.what) == ("fresh", "computed")
    assert "for the first time" in text
    assert " ms" in text
    assert answer.seconds > 0


def test_stale_and_recomputed(mem):
    mem.propagate()
    with mem.commit("negate") as tx:
        tx.update("x", -torch.ones(1, 2), rows=[2])
    for name, status in [("rated", "stale"), ("signs", "stale"), ("below", "stale")]:
        answer, text = explained(mem, name)
        assert answer.status == status
        assert "'x' edited in transaction 3 ('negate'): rows 2" in text
        assert "created" not in text
        assert "'y'" not in text
    assert explained(mem, "beside")[0].status == "fresh"
    mem.propagate()
    answer, text = explained(mem, "below")
    assert (answer.status, answer.what) == ("fresh", "recomputed")
    assert [via.page for via in answer.through] == ["signs"]
    assert [via.page for via in answer.through[0].through] == ["rated"]
    found = answer.through[0].through[0]
    assert (found.what, found.rows) == ("recomputed", "rows 2 (1 of 4)")
    (edit,) = found.edits
    assert (edit.page, edit.tx, edit.epoch, edit.label) == ("x", 3, 1, "negate")
    assert (edit.region, edit.source) == ("rows 2 (1 of 4)", "user")
    assert "('negate')" in text


def test_unchanged_and_cut_off(mem):
    mem.propagate()
    mem.update("x", mem["x"].tensor * 3)
    mem.propagate()
    answer, text = explained(mem, "signs")
    assert (answer.status, answer.what) == ("fresh", "unchanged")
    assert "equal" in text
    assert "cut off" in text
    assert "'x' edited in transaction 3" in text
    answer, text = explained(mem, "below")
    assert (answer.status, answer.what) == ("fresh", "cut off")
    assert "cut off, not recomputed" in text
    assert "'signs'" in text
    assert "'x' edited in transaction 3" in text
    mem.update("y", mem["y"].tensor)
    assert mem.propagate() == []
    answer, text = explained(mem, "beside")
    assert (answer.status, answer.what) == ("fresh", "cut off")
    assert "'y' edited in transaction 4" in text


def test_failed_and_what_depends_on_it(mem):
    def picky(x):
        if x[0, 0] < 0:
            raise ArithmeticError("no negatives")
        return x

    mem.derive(picky, "x", name="picky")
    mem.derive(lambda picky: picky + 1, name="needs")
    mem.propagate()
    with mem.commit("mistake") as tx:
        tx.update("x", -1.0)
    with pytest.raises(mmsb.RecipeError):
        _ = mem["needs"].tensor
    answer, text = explained(mem, "picky")
    assert (answer.status, answer.what) == ("failed", "failed")
    assert "ArithmeticError: no negatives" in text
    assert "'x' edited in transaction 3 ('mistake')" in text
    answer, text = explained(mem, "needs")
    assert answer.status == "stale"
    assert "'picky' is failed" in text
    assert "no negatives" in text
    mem.update("x", 1.0)
    _ = mem["needs"].tensor
    answer, text = explained(mem, "needs")
    assert answer.status == "fresh"
    assert "no negatives" not in text


def test_changed_code(mem, monkeypatch):
    mem.propagate()
    monkeypatch.setitem(globals(), "RATE", 3.0)
    for name in ("rated", "signs", "below"):
        answer, text = explained(mem, name)
        assert answer.status == "stale"
        assert "global 'RATE' changed" in text
    assert explained(mem, "beside")[0].status == "fresh"
    mem.propagate()
    answer, text = explained(mem, "rated")
    assert (answer.status, answer.what) == ("fresh", "recomputed")
    assert answer.reason == "global 'RATE' changed"
    answer, text = explained(mem, "below")
    assert answer.what == "cut off"
    assert "global 'RATE' changed" in text


def test_declared_anew(mem):
    mem.propagate()
    mem.derive(rated, "x", name="rated")
    assert explained(mem, "rated")[0].status == "fresh"
    mem.derive(lambda x: x + 1, "x", name="rated")
    answer, text = explained(mem, "rated")
    assert answer.status == "stale"
    assert "other code" in text
    answer, text = explained(mem, "below")
    assert answer.status == "stale"
    assert "other code" in text
    mem.propagate()
    answer, text = explained(mem, "rated")
    assert answer.reason is not None
    assert "other code" in answer.reason


def test_a_kind_registered_anew(mem):
    mmsb.register_recomputation("test_why/kind", lambda memory, _: memory["x"].tensor + 1)
    page = mem.page("k", kind="test_why/kind")
    _ = page.tensor
    answer, text = explained(mem, page)
    assert (answer.what, answer.inputs) == ("computed", ("x",))
    mmsb.register_recomputation("test_why/kind", lambda memory, _: memory["y"].tensor + 2)
    answer, text = explained(mem, page)
    assert answer.status == "stale"
    assert "'test_why/kind'" in text
    _ = page.tensor
    answer, text = explained(mem, page)
    assert (answer.status, answer.inputs) == ("fresh", ("y",))
    assert "'test_why/kind'" in text


def test_a_page_that_runs_at_each_read_says_why(mem):
    held = []

    def counting(x):
        held.append(1)
        return x

    page = mem.derive(counting, "x", name="counting")
    _ = page.tensor
    answer, text = explained(mem, page)
    assert answer.status == "stale"
    assert "held" in text


def test_attached_and_unbound(tmp_path):
    path = tmp_path / "run.mmsb"
    with mmsb.open(path) as mem:
        mem.page("x", torch.ones(2))
        mem.derive(rated, "x", name="rated")
        mem.derive(lambda rated: rated + 1, name="below")
        mem.derive(lambda x: x + 1, name="never read")
        _ = mem["below"].tensor
    with mmsb.open(path) as mem:
        assert explained(mem, "below")[0].status == "fresh"
        assert explained(mem, "never read")[0].status == "unbound"
        mem.derive(rated, "x", name="rated")
        mem.derive(lambda rated: rated + 1, name="below")
        assert torch.equal(mem["below"].tensor, torch.full((2,), 3.0))
        assert mem.stats()["recomputed"] == 0
        answer, text = explained(mem, "rated")
        assert (answer.status, answer.what) == ("fresh", "attached")
        assert "kept" in text
    with mmsb.open(path) as mem:
        mem.update("x", 2.0)
        for name in ("rated", "below"):
            answer, text = explained(mem, name)
            assert answer.status == "unbound"
            assert "not declared" in text
            assert "'x' edited in transaction 2" in text


def test_written_through_the_alias(mem):
    mem.propagate()
    mem["rated"].tensor.zero_()
    with pytest.raises(mmsb.PageMutatedError):
        _ = mem["rated"].tensor
    answer, _ = explained(mem, "rated")
    assert answer.status in {"stale", "new"}
    assert torch.equal(mem["rated"].tensor, mem["x"].tensor * 2)
    assert explained(mem, "rated")[0].status == "fresh"


def test_only_recent_edits_are_told_and_newest_first(mem):
    mem.propagate()
    for step in range(20):
        mem.update("x", float(step))
    answer, text = explained(mem, "rated")
    numbers = [edit.tx for edit in answer.edits]
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[0] == mem.tx
    assert len(text.splitlines()) < 12


def test_two_inputs_and_only_the_one_that_moved_is_blamed(mem):
    mem.derive(lambda x, y: x + y, name="both")
    mem.propagate()
    mem.update("y", 5.0)
    for _ in range(2):
        text = explained(mem, "both")[1]
        assert "'y' edited in transaction 3" in text
        assert "'x'" not in text
        mem.propagate()


def test_a_ladder_is_told_once_a_page_not_once_a_path(mem):
    left = right = "rated"
    for rung in range(14):
        mem.derive(torch.maximum, left, right, name=f"left {rung}")
        mem.derive(torch.minimum, left, right, name=f"right {rung}")
        left, right = f"left {rung}", f"right {rung}"
    for _ in range(2):
        answer = mem.why(left)
        assert len(str(answer)) < 20_000
        assert len(json.dumps(answer.as_dict())) < 100_000
        assert "'x'" in str(answer)
        mem.propagate()


def test_pages_of_elsewhere_and_nothing(mem):
    with mmsb.open() as other, pytest.raises(mmsb.PageNotFoundError):
        mem.why(other.page("x", torch.ones(1)))
    with pytest.raises(mmsb.PageNotFoundError, match="'nothing'"):
        mem.why("nothing")


def test_the_graph_says_the_same(mem):
    def picky(y):
        raise ArithmeticError

    mem.derive(picky)
    with pytest.raises(mmsb.RecipeError):
        mem.propagate()
    mem.update("x", 1.0)
    mem.derive(lambda x: x, name="late")
    found = {node.name: node.status for node in mem.graph.nodes}
    assert found == {
        "x": "root",
        "y": "root",
        "rated": "stale",
        "signs": "stale",
        "below": "stale",
        "beside": "fresh",
        "picky": "error",
        "late": "new",
    }
    for name, status in found.items():
        assert mem.why(name).status == {"error": "failed"}.get(status, status)
