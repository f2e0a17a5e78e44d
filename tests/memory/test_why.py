"""`mem.why` names the page that was edited, however far away."""

import sys

import torch

A = torch.arange(15.0).view(5, 3)


def doubled(a):
    return a * 2


def first_row(a):
    return a[:1]


def test_why_names_the_page_that_was_edited(ab):
    page = ab.derive(doubled, "a", name="d")
    assert "to be computed" in str(ab.why(page))
    _ = page.tensor
    with ab.commit("tuning") as tx:
        tx.update("a", 1.0, rows=[2])
    assert "stale" in str(ab.why("d"))
    for _ in range(2):
        text = str(ab.why(page))
        assert all(word in text for word in ("'a'", "transaction 3", "'tuning'", "rows 2"))
        _ = page.tensor
    assert "fresh" in text or "fresh" in str(ab.why(page))


def test_why_names_it_through_a_chain(ab):
    ab.derive(doubled, "a", name="one")
    ab.derive(lambda one: one + 1, "one", name="two")
    last = ab.derive(lambda two, b: two[:4] * b[:, None], "two", "b", name="three")
    _ = last.tensor
    ab.update("a", 5.0, rows=[1])
    for _ in range(2):
        text = str(ab.why("three"))
        assert all(f"'{name}'" in text for name in ("a", "one", "two", "three"))
        assert "'b' " not in text
        assert "transaction 3" in text
        _ = last.tensor


def test_why_names_it_where_it_was_cut_off(ab):
    ab.derive(first_row, "a", name="head")
    last = ab.derive(doubled, "head", name="last")
    _ = last.tensor
    ab.update("a", 9.0, rows=[4])
    assert last.tensor.tolist() == [[0, 2, 4]]
    text = str(ab.why("last"))
    assert "cut off" in text
    assert all(word in text for word in ("'a'", "'head'", "transaction 3", "rows 4"))
    ab.update("a", ab["a"].clone())
    _ = last.tensor
    text = str(ab.why("head"))
    assert "cut off" in text
    assert "'a'" in text
    assert "transaction 4" in text


def test_why_of_a_page_of_ones_own_names_its_edits(ab):
    ab.update("a", 1.0)
    text = str(ab.why("a"))
    assert "'a'" in text
    assert "transaction 3" in text
    plain = ab.why("a").as_dict()
    assert plain["page"] == "a"
    assert plain["status"] == "root"


def test_why_says_what_changed_in_the_code(ab):
    factor = 2

    def scaled(a):
        return a * factor

    page = ab.derive(scaled, "a")
    _ = page.tensor
    factor = 3
    assert "factor" in str(ab.why(page))
    assert torch.equal(page.tensor, A * 3)
    assert "factor" in str(ab.why(page))


def test_why_of_a_long_chain_needs_no_deep_stack(ab, bounded):
    last = "a"
    for number in range(200):
        last = ab.derive(lambda x: x + 1, last, name=f"n{number}").name
    _ = ab[last].tensor
    ab.update("a", 1.0)
    limit = sys.getrecursionlimit()

    def explain():
        texts = []
        for _ in range(2):
            reason = ab.why(last)
            sys.setrecursionlimit(150)
            try:
                texts.append(str(reason))
                assert reason.as_dict()["page"] == last
            finally:
                sys.setrecursionlimit(limit)
            _ = ab[last].tensor
        return texts

    assert all("'a'" in text and "transaction 3" in text for text in bounded(explain))


def test_why_of_many_diamonds_tells_each_page_once(ab, bounded):
    last = "a"
    for number in range(24):
        left = ab.derive(lambda x: x + 1, last, name=f"left {number}")
        right = ab.derive(lambda x: x / 2, last, name=f"right {number}")
        last = ab.derive(torch.add, left, right, name=f"joined {number}").name
    _ = ab[last].tensor
    ab.update("a", 1.0)
    _ = ab[last].tensor

    def explain():
        return str(ab.why(last))

    text = bounded(explain)
    assert "'a'" in text
    assert len(text) < 100_000


def test_why_of_a_recipe_that_reads_pages_itself_names_the_edited_one(ab):
    page = ab.derive(lambda a: a[:4, 0] + ab["b"].tensor, "a", name="own")
    _ = page.tensor
    ab.update("b", 5, rows=[1])
    for _ in range(2):
        text = str(ab.why(page))
        assert "'b'" in text
        assert "transaction 3" in text
        assert page.tensor.tolist() == [0, 8, 8, 12]
