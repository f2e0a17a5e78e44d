"""What a page tells of itself: its deltas, its mask, its repr, its numbers."""

import torch

import mmsb_torch as mmsb
from mmsb_torch.runtime.state import journal


def test_history_tells_each_delta(ab):
    before = ab["a"].history()
    assert [(c.tx, c.epoch, c.label, c.source) for c in before] == [(1, 0, None, "create")]
    with ab.commit("relabel") as tx:
        tx.update("a", torch.zeros(2, 3), rows=[3, 1])
    ab.update("b", 3)
    ab.update("a", torch.zeros(1), indices=[14])
    ab.restore(1)
    found = ab["a"].history()
    assert [(c.tx, c.epoch, c.label, c.source) for c in found] == [
        (1, 0, None, "create"),
        (3, 1, "relabel", "user"),
        (5, 2, None, "user"),
        (6, 3, None, "restore"),
    ]
    assert [str(c.region) for c in found[:3]] == [
        "everything",
        "rows 1, 3 (2 of 5)",
        "elements 14 (1 of 15)",
    ]
    assert [c.nbytes for c in found[:3]] == [60, 2 * 12 + 16, 4 + 8]
    times = [c.time_ns for c in found]
    assert times == sorted(times)
    assert repr(found[1]) == "<Change tx 3 'relabel' epoch 1: rows 1, 3 (2 of 5), user>"
    assert ab.derive(lambda a: a, "a", name="d").history() == []


def test_the_mask_collects_what_deltas_touched(ab):
    ab.update("a", 1.0, rows=[1])
    ab.update("a", torch.zeros(1), indices=[14])
    expected = torch.zeros(5, 3, dtype=torch.bool)
    expected[1] = True
    expected[4, 2] = True
    assert torch.equal(ab["a"].mask, expected)
    assert ab["a"].changed.count == 4
    ab["a"].mask.fill_(True)
    assert torch.equal(ab["a"].mask, expected)
    ab.update("a", 1.0)
    assert bool(ab["a"].mask.all())


def test_a_checkpoint_empties_the_mask_of_what_it_holds(path, monkeypatch):
    monkeypatch.setattr(journal, "_LONGEST", 32)
    monkeypatch.setattr(journal, "_COALESCED", 24)
    with mmsb.open(path) as memory:
        page = memory.page("x", torch.zeros(200))
        for row in range(10):
            memory.update(page, 1.0, rows=[row])
        memory.checkpoint()
        assert not bool(page.mask.any())
        for row in range(90, 190):
            memory.update(page, 2.0, rows=[row])
        assert page.mask.nonzero().view(-1).tolist() == list(range(90, 190))


def test_the_mask_is_exact_when_updates_arrive_while_a_checkpoint_is_written(path, monkeypatch):
    monkeypatch.setattr(journal, "_LONGEST", 32)
    monkeypatch.setattr(journal, "_COALESCED", 24)
    with mmsb.open(path) as memory:
        page = memory.page("x", torch.zeros(200))
        for row in range(10):
            memory.update(page, 1.0, rows=[row])
        arrived = []

        def meanwhile(done, total):
            if not arrived:
                for row in range(100, 170):
                    memory.update(page, 2.0, rows=[row])
                    arrived.append(row)

        memory.checkpoint(progress=meanwhile)
        assert page.mask.nonzero().view(-1).tolist() == arrived
        assert len(arrived) == 70
    with mmsb.open(path) as memory:
        assert int(memory["x"].tensor[100:170].sum()) == 140


def test_repr_tells_the_state(path):
    with mmsb.open(path) as memory:
        page = memory.page("w", torch.zeros(4, 2))
        assert repr(page) == (
            "<Page 'w' epoch 0 float32[4, 2] cpu, 0 deltas since the last checkpoint>"
        )
        memory.update(page, 1.0)
        assert repr(page).endswith("epoch 1 float32[4, 2] cpu, 1 delta since the last checkpoint>")
        memory.update(page, 2.0)
        assert "2 deltas since" in repr(page)
        derived = memory.derive(lambda w: w.sum(0), "w", name="d")
        assert repr(derived) == "<Page 'd' epoch 0 not computed yet, derived, new>"
        _ = derived.tensor
        assert repr(derived) == "<Page 'd' epoch 1 float32[2] cpu, derived, fresh>"
        memory.update(page, 3.0)
        assert repr(derived).endswith("derived, stale>")
        tx = memory.commit("named")
        assert repr(tx) == "<Changes new: 0 pages>"
        with tx:
            tx.update("w", 0.0)
            assert repr(tx) == "<Changes open: 1 pages>"
        assert repr(memory.at("named")) == "<Moment: transaction 5 'named', 2 pages>"
        assert repr(memory.diff(1, 2)["w"]) == "<PageDiff: everything>"
        assert repr(memory.diff(1, 2)).splitlines() == [
            "<Diff of transactions 1 and 2: 1 pages>",
            "  w: everything",
        ]
        assert repr(memory) == f"<Memory {str(path)!r}: 2 pages (1 derived), transaction 5>"
    assert "closed" in repr(memory)
    assert repr(mmsb.open()) == "<Memory in memory: 0 pages (0 derived), transaction 0>"


def test_asking_for_the_repr_computes_nothing(ab):
    ran = []

    def noted(a):
        ran.append(1)
        return a

    page = ab.derive(noted, "a")
    for _ in range(2):
        repr(page), str(ab.graph), str(ab.why(page)), ab.stats(), page.epoch, list(ab), repr(ab)
    assert not ran


def test_the_spec_of_a_derived_page_is_that_of_its_result(ab):
    page = ab.derive(lambda a: a[:2].to(torch.int8), "a", name="d")
    assert (page.dtype, page.shape, page.nbytes) == (torch.int8, (2, 3), 6)
    shrinking = ab.derive(lambda b: b[: int(b[0])], "b", name="cut")
    assert shrinking.shape == (0,)
    ab.update("b", 3)
    assert shrinking.tensor.tolist() == [3, 3, 3]
    assert shrinking.shape == (3,)
    assert shrinking.mask.shape == (3,)
    assert bool(shrinking.mask.all())


def test_numbers_about_the_memory(ab):
    page = ab.derive(lambda a: a * 2, "a", name="d")
    _ = page.tensor
    ab.update("a", 1.0)
    _ = page.tensor
    found = ab.stats()
    expected = {
        "pages": 3,
        "derived": 1,
        "edges": 1,
        "transaction": 3,
        "deltas": 3,
        "recomputed": 2,
        "failed": 0,
    }
    assert {key: found[key] for key in expected} == expected
    assert found["bytes"] == {"cpu": 60 + 32 + 60}


def test_a_zero_page_takes_torchs_default_dtype(mem):
    assert mem.page("x", shape=(2, 3)).dtype is torch.float32
    assert mem.page("y", shape=[2], dtype=torch.int16).dtype is torch.int16
    assert mem.page("z", shape=torch.Size([2])).shape == (2,)


def test_pages_live_on_the_memorys_device_or_the_one_asked_for():
    with mmsb.open(device="cpu") as memory:
        assert memory.page("x", torch.zeros(1)).device == torch.device("cpu")
        assert memory.page("y", shape=(1,), device="cpu").device == torch.device("cpu")
        assert memory.page("z", shape=(1,), device=mmsb.PageLocation.CPU).device.type == "cpu"
