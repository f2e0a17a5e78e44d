"""`info`, `show` and `diff`: what is in a store, at a moment, and between two."""

import pytest
import torch

import mmsb_torch as mmsb


def test_info_for_programs(run, root, kit):
    found = run("info", root, "--json").json
    with mmsb.open(root, mode="r") as mem:
        assert found["uuid"] == mem._store.identity.uuid
        assert found["pages"] == len(mem)
        assert found["last"] == mem.tx == 9
    assert found["first"] == 1
    assert [item["tx"] for item in found["checkpoints"]] == [5, 7]
    assert all(item["bytes"] > 600 * 600 * 4 for item in found["checkpoints"])
    assert [item["file"] for item in found["log"]] == [str(path) for path in kit.logs(root)]
    assert found["log_bytes"] == sum(path.stat().st_size for path in kit.logs(root))
    assert 600 * 600 * 4 < found["payload_bytes"] < found["bytes"]
    assert found["torn_tail"] is None
    assert found["problems"] == []


def test_info_for_people(run, root, kit):
    shown = run("info", root).out
    assert "1 to 9" in shown
    assert "none" in shown[shown.index("torn tail") :].splitlines()[0]
    assert str(kit.logs(root)[-1]) in shown


def test_info_of_a_torn_tail(run, root, kit):
    path = kit.logs(root)[-1]
    kit.cut(path, 70)
    found = run("info", root, "--json").json
    assert found["last"] == 8
    assert found["torn_tail"]["file"] == str(path)
    assert found["torn_tail"]["start"] + found["torn_tail"]["bytes"] == path.stat().st_size
    shown = run("info", root).out
    assert "cut off" in shown[shown.index("torn tail") :].splitlines()[0]


def test_info_says_what_is_damaged_and_the_rest(run, root, kit):
    manifest = root / "checkpoints" / f"{5:020d}" / "MMSB_CHECKPOINT.json"
    kit.flip(manifest, 200)
    kit.flip(kit.logs(root)[-1], 80)
    done = run("info", root, "--json")
    assert done.code == 0
    assert done.json["checkpoints"][0]["bytes"] is None
    assert done.json["last"] == 7  # of the newest checkpoint, which is whole
    first, second = done.json["problems"]
    assert str(manifest) in first
    assert str(kit.logs(root)[-1]) in second
    assert run("info", root).out.count("problem ") == 2


def test_info_of_an_empty_store(run, tmp_path):
    mmsb.open(tmp_path / "new.mmsb").close()
    found = run("info", tmp_path / "new.mmsb", "--json").json
    assert (found["first"], found["last"], found["pages"]) == (0, 0, 0)
    assert "none" in run("info", tmp_path / "new.mmsb").out


@pytest.mark.parametrize(
    ("text", "tx"),
    [
        ("1", 1),
        ("9", 9),
        ("first", 9),
        ("label:first", 9),
        ("second", 8),
        ("step:10", 5),
        ("step:20", 8),
    ],
)
def test_a_moment_is_a_number_a_label_or_a_step(run, root, text, tx):
    assert run("show", root, text, "--json").json["tx"] == tx


def test_a_label_that_looks_like_something_else(run, tmp_path):
    with mmsb.open(tmp_path / "odd.mmsb") as mem:
        mem.page("w", torch.ones(1))
        for label in ("1", "step:x", "label:y", "step:3"):
            with mem.commit(label, step=7) as tx:
                tx.update("w", 0.0)
    path = tmp_path / "odd.mmsb"
    assert run("show", path, "1", "--json").json["tx"] == 1
    assert run("show", path, "label:1", "--json").json["tx"] == 2
    assert run("show", path, "label:step:x", "--json").json["tx"] == 3
    assert run("show", path, "label:label:y", "--json").json["tx"] == 4
    assert run("show", path, "step:7", "--json").json["tx"] == 5
    refused = run("show", path, "step:x")
    assert refused.code == 2
    assert "label:step:x" in refused.err


@pytest.mark.parametrize(
    "text", ["10", "nothing", "label:", "step:11", "step:", "0", "-1", "9" * 30]
)
def test_a_moment_that_is_none(run, root, text):
    done = run("show", root, "--", text)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("mmsb: ")
    assert done.err.count("\n") == 1


def test_show_for_programs(run, root):
    found = run("show", root, "8", "--json").json
    assert (found["label"], found["step"], found["tx"]) == ("second", 20, 8)
    pages = {page["name"]: page for page in found["pages"]}
    assert list(pages) == ["w", "large", "total", "flags", "late"]
    w = pages["w"]
    assert (w["dtype"], w["shape"], w["epoch"], w["bytes"]) == ("float32", [10, 4], 3, 160)
    assert w["figures"] == {
        "min": 2.0, "max": 2.0, "mean": 2.0, "std": 0.0, "zeros": 0, "nan": 4, "inf": 0,
    }  # fmt: skip
    assert pages["flags"]["figures"]["mean"] == pytest.approx(1 / 6)
    assert pages["large"]["figures"]["zeros"] == 600
    assert pages["total"]["derived"]
    assert pages["total"]["epoch"] is None
    assert pages["total"]["figures"] is None  # computed at 7, and w changed at 8


def test_show_has_the_value_of_a_derived_page_where_it_is_stored(run, root):
    (total,) = (p for p in run("show", root, "7", "--json").json["pages"] if p["name"] == "total")
    assert total["figures"]["max"] == 80.0


def test_show_only_what_was_there(run, root):
    assert [p["name"] for p in run("show", root, "1", "--json").json["pages"]] == ["w", "total"]


def test_show_one_page(run, root):
    (page,) = run("show", root, "4", "w", "--json").json["pages"]
    assert (page["name"], page["epoch"]) == ("w", 1)
    shown = run("show", root, "4", "w").out
    assert "float32" in shown
    assert "large" not in shown


def test_show_a_page_that_is_not_there(run, root):
    assert "did not exist at transaction 4" in run("show", root, "4", "late").err
    missing = run("show", root, "4", "lat")
    assert missing.code == 2
    assert "'late'" in missing.err  # did you mean


def test_show_for_people(run, root):
    lines = run("show", root, "9").out.splitlines()
    assert "transaction 9" in lines[0]
    assert "'first'" in lines[0]
    assert lines[1].split()[:3] == ["page", "dtype", "shape"]
    assert len(lines) == 7
    assert "4 nan" in lines[2]


def test_diff_for_programs(run, root):
    found = run("diff", root, "step:10", "9", "--json").json
    assert (found["a"]["tx"], found["b"]["tx"]) == (5, 9)
    pages = {page.pop("name"): page for page in found["pages"]}
    assert set(pages) == {"w", "large", "late"}
    assert pages["w"] == {
        "change": "changed", "region": "rows 0 (1 of 10)", "elements": 4, "of": 40, "bytes": 16,
    }  # fmt: skip
    assert (pages["large"]["elements"], pages["large"]["bytes"]) == (600, 2400)
    assert (pages["late"]["change"], pages["late"]["bytes"]) == ("made", 6)
    back = run("diff", root, "9", "5", "--json").json["pages"]
    assert {page["name"]: page["change"] for page in back}["late"] == "not made yet"


def test_diff_for_people(run, root):
    shown = run("diff", root, "5", "9").out
    assert "rows 0 (1 of 10)" in shown
    assert "2.4 kB" in shown
    assert "no page differs" in run("diff", root, "9", "first").out
    assert run("diff", root, "9", "9", "--json").json["pages"] == []


def test_names_cannot_steer_the_terminal(run, tmp_path):
    path, name, label = (
        tmp_path / "evil.mmsb",
        "a\u202e[bold]b[/bold]",
        "line\nfeed \x1b]0;title\x07",
    )
    with mmsb.open(path) as mem:
        mem.page(name, torch.ones(2))
        with mem.commit(label) as tx:
            tx.update(name, 2.0)
    for args in (["log"], ["show", "2"], ["diff", "1", "2"], ["tail", "--once"]):
        done = run(args[0], path, *args[1:])
        assert done.code == 0
        assert not {"\x1b", "\x07", "\u202e"} & set(done.out)
    assert "a\\u202e[bold]b[/bold]" in run("show", path, "2").out
    assert run("log", path, "--json").json[1]["label"] == label
    assert run("show", path, "no\x1bsuch\nlabel").err.count("\n") == 1
