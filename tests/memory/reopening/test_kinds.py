"""Kinds and a store that is opened again."""

import torch

import mmsb_torch as mmsb

A = torch.arange(6.0).view(3, 2)


def doubled(a):
    return a * 2


def kind_of(name, function):
    mmsb.register_recomputation(name, function)
    return name


def sum_of_rows(memory, page):
    return memory["a"].tensor.sum(page.metadata["dim"])


def test_a_page_of_a_kind_is_bound_when_the_store_opens(path):
    kind = kind_of("reopened rows", sum_of_rows)
    with mmsb.open(path) as memory:
        memory.page("a", A)
        page = memory.page("rows", kind=kind, metadata={"dim": 1})
        assert page.tensor.tolist() == [1, 5, 9]
        assert page.metadata["dim"] == 1
    with mmsb.open(path) as memory:
        assert memory["rows"].tensor.tolist() == [1, 5, 9]
        assert memory.stats()["recomputed"] == 0
        memory.update("a", 0.0, rows=[1])
        assert memory["rows"].tensor.tolist() == [1, 0, 9]
        assert memory.page("rows", kind=kind) is memory["rows"]
        assert memory.stats()["recomputed"] == 1
    with mmsb.open(path, mode="r") as memory:
        assert memory["rows"].tensor.tolist() == [1, 0, 9]


def test_a_kind_registered_with_other_code_recomputes(path):
    kind = kind_of("reopened other", sum_of_rows)
    with mmsb.open(path) as memory:
        memory.page("a", A)
        page = memory.page("rows", kind=kind, metadata={"dim": 0})
        assert page.tensor.tolist() == [6, 9]
        kind_of(kind, sum_of_rows)
        assert page.tensor.tolist() == [6, 9]
        assert memory.stats()["recomputed"] == 1
        kind_of(kind, lambda memory, page: memory["a"].tensor.amax(0))
        assert page.tensor.tolist() == [4, 5]
        assert memory.stats()["recomputed"] == 2
    kind_of(kind, lambda memory, page: memory["a"].tensor.amin(0))
    with mmsb.open(path) as memory:
        assert memory["rows"].tensor.tolist() == [0, 1]
        assert memory.stats()["recomputed"] == 1


def test_a_kind_may_read_derived_pages_and_other_kinds(path):
    def on_top(memory, page):
        return memory["rows"].tensor + memory["d"].tensor[:, 0]

    with mmsb.open(path) as memory:
        memory.page("a", A)
        memory.derive(doubled, "a", name="d")
        memory.page("rows", kind=kind_of("below", sum_of_rows), metadata={"dim": 1})
        page = memory.page("top", kind=kind_of("on top", on_top))
        assert page.tensor.tolist() == [1, 9, 17]
        memory.update("a", 1.0, rows=[0])
        assert page.tensor.tolist() == [4, 9, 17]
    with mmsb.open(path) as memory:
        assert memory["top"].tensor.tolist() == [4, 9, 17]
        assert memory.stats()["recomputed"] == 0
        memory.derive(doubled, "a", name="d")
        memory.update("a", 0.0, rows=[0])
        assert memory["top"].tensor.tolist() == [0, 9, 17]


def test_a_kind_that_reads_other_pages_now_depends_on_those(mem):
    mem.page("a", torch.tensor(0))
    mem.page("b", torch.tensor(10))
    mem.page("c", torch.tensor(20))
    page = mem.page(
        "chosen",
        kind=kind_of("choosing", lambda m, page: m["bc"[int(m["a"].tensor)]].tensor + 0),
    )
    assert page.tensor.item() == 10
    mem.update("c", 21)
    assert page.tensor.item() == 10
    assert mem.stats()["recomputed"] == 1
    mem.update("a", 1)
    assert page.tensor.item() == 21
    mem.update("b", 11)
    assert page.tensor.item() == 21
    assert mem.stats()["recomputed"] == 2
