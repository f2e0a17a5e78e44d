"""Metadata, ids and names of pages."""

import contextlib

import pytest
import torch

import mmsb_torch as mmsb


def test_metadata_is_a_deep_read_only_copy(mem):
    given = {"unit": "m", "list": [1, {"deep": 2.5}], "none": None, "flag": True}
    page = mem.page("x", torch.zeros(1), metadata=given)
    given["unit"] = "km"
    given["list"][1]["deep"] = 0
    given["list"].append(3)
    expected = {"unit": "m", "list": [1, {"deep": 2.5}], "none": None, "flag": True}
    assert dict(page.metadata) == expected
    with pytest.raises(TypeError):
        page.metadata["unit"] = "km"
    for write in (
        lambda: page.metadata["list"].append(9),
        lambda: page.metadata["list"][1].update(deep=9),
    ):
        with contextlib.suppress(TypeError, AttributeError):
            write()
    assert dict(page.metadata) == expected
    assert dict(mem["x"].metadata) == expected


def test_metadata_is_kept(path):
    given = {"größe": "\U0001f600", "nested": {"a": [1, -2.5, None, True, "\ud800"]}, "": 2**70}
    with mmsb.open(path) as memory:
        memory.page("x", torch.zeros(1), metadata=given)
        memory.derive(lambda x: x, "x", name="d", metadata={"derived": True})
    with mmsb.open(path) as memory:
        assert dict(memory["x"].metadata) == given
        assert dict(memory["d"].metadata) == {"derived": True}
        assert dict(memory.page("x", torch.ones(1), metadata={"other": 1}).metadata) == given


def test_a_page_without_metadata_has_none(mem):
    assert dict(mem.page("x", torch.zeros(1)).metadata) == {}
    assert dict(mem.derive(lambda x: x, "x", name="d").metadata) == {}


def test_page_ids_count_from_one_and_may_be_chosen(mem):
    assert mem.page("one", torch.zeros(1)).id == 1
    assert mem.page("chosen", torch.zeros(1), page_id=40).id == 40
    assert mem.page("next", torch.zeros(1)).id == 41
    assert mem.page("low", torch.zeros(1), page_id=7).id == 7
    assert mem.derive(lambda one: one, "one", name="d").id == 42
    assert [mem[number].name for number in (1, 7, 40, 41, 42)] == [
        "one",
        "low",
        "chosen",
        "next",
        "d",
    ]
    assert mem.page("chosen", page_id=40) is mem["chosen"]


def test_pages_come_in_the_order_of_their_ids(path):
    with mmsb.open(path) as memory:
        memory.page("b", torch.zeros(1), page_id=40)
        memory.page("a", torch.zeros(1), page_id=7)
        memory.page("c", torch.zeros(1))
        assert [page.id for page in memory.pages()] == [7, 40, 41]
    with mmsb.open(path) as memory:
        assert [page.id for page in memory.pages()] == [7, 40, 41]
        assert memory.page("d", torch.zeros(1)).id == 42
        assert [memory[number].name for number in (7, 40, 41)] == ["a", "b", "c"]


def test_ids_are_never_given_twice_across_reopening(path):
    with mmsb.open(path) as memory:
        memory.page("a", torch.zeros(1), page_id=3)
        memory.derive(lambda a: a, "a", name="d")
    with mmsb.open(path) as memory:
        with pytest.raises(mmsb.PageExistsError, match="'a'"):
            memory.page("b", torch.zeros(1), page_id=3)
        assert memory.page("b", torch.zeros(1)).id == 5


NAMES = [
    *(
        "a/b",
        "..",
        ".",
        "/",
        "a\\b",
        "model.safetensors",
        "layers.0.weight",
        " ",
        "  x  ",
        "ß",
        "日本語",
    ),
    *(
        "\U0001f600",
        "e\u0301",
        "\u00e9",
        "\ufeff",
        "\uffff",
        "'\"",
        "{}",
        "%s",
        "x" * 1024,
        "é" * 1024,
    ),
    *("mmsb.registry", "format", "metadata", "None", "0", "LOCK", "$HOME", "<b>&amp;</b>"),
]


def test_odd_names_are_names(path, tmp_path):
    with mmsb.open(path) as memory:
        for number, name in enumerate(NAMES):
            page = memory.page(name, torch.zeros(1))
            assert page.name == name
            assert repr(name) in repr(page)
            memory.derive(lambda x: x + 1, page, name=f"d {name}"[:1024])
            memory.update(name, float(number))
        assert list(memory)[::2] == NAMES
        memory.propagate()
        assert str(memory.graph)
        assert memory.graph.svg()
    with mmsb.open(path) as memory:
        assert list(memory)[::2] == NAMES
        for number, name in enumerate(NAMES):
            assert memory[name].tensor.tolist() == [number]
            assert memory[f"d {name}"[:1024]].tensor.tolist() == [number + 1]
            assert memory.why(name).page == name
        mmsb.mmsb_stop(memory, tmp_path / "all.safetensors")


def test_equal_handles_mean_the_same_page(ab):
    again = {ab["a"], ab.page("a"), ab[1], ab.pages()[0]}
    assert len(again) == 1
    assert ab["a"] != ab["b"]
    assert ab["a"] != "a"
    with mmsb.open() as other:
        assert other.page("a", torch.zeros(1)) != ab["a"]


def test_a_memory_is_a_collection_of_names(ab):
    ab.derive(lambda a: a, "a", name="d")
    assert list(ab) == ["a", "b", "d"]
    assert len(ab) == 3
    assert "a" in ab
    assert "c" not in ab
    assert 5 not in ab
    assert [page.name for page in ab.pages()] == ["a", "b", "d"]
