"""`log`: the transactions, newest last."""

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.runtime.store import FILES, Store
from mmsb_torch.runtime.store.logfile import list_logs


def test_log_for_programs(run, root):
    rows = run("log", root, "--json").json
    assert [row["tx"] for row in rows] == list(range(1, 10))
    assert [row["label"] for row in rows[4:]] == ["first", None, None, "second", "first"]
    assert [row["step"] for row in rows[4:]] == [10, None, None, 20, None]
    assert [row["pages"] for row in rows[4:]] == [
        ["w", "flags"],
        ["large"],
        ["late"],
        ["w"],
        ["late"],
    ]
    assert rows[1]["bytes"] > 600 * 600 * 4
    assert rows[3]["bytes"] < 4096
    assert rows == sorted(rows, key=lambda row: row["time_ns"])
    assert rows[0]["time"].endswith("+00:00")


def test_log_for_people(run, root):
    lines = run("log", root).out.splitlines()
    assert lines[0].split() == ["tx", "time", "label", "step", "bytes", "pages"]
    assert [int(line.split()[0]) for line in lines[1:]] == list(range(1, 10))
    assert "second" in lines[8]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 9, 10])
def test_the_newest_n(run, root, count):
    rows = run("log", root, "-n", count, "--json").json
    assert [row["tx"] for row in rows] == list(range(1, 10))[-count:]
    assert rows == run("log", root, "--json").json[-count:]


def test_the_newest_n_reads_no_more_files_than_it_takes(run, root, kit):
    kit.flip(kit.logs(root)[0], 100)
    assert [row["tx"] for row in run("log", root, "-n", 2, "--json").json] == [8, 9]
    refused = run("log", root)
    assert (refused.code, refused.out) == (2, "")
    assert "verify" in refused.err


def test_many_pages_are_counted(run, tmp_path):
    with mmsb.open(tmp_path / "many.mmsb") as mem:
        for number in range(7):
            mem.page(f"p{number}", torch.zeros(1))
        mem.update_many([(f"p{number}", None, torch.ones(1)) for number in range(7)])
    last = run("log", tmp_path / "many.mmsb", "-n", 1).out.splitlines()[-1]
    assert last.endswith("p0, p1, p2, p3, and 3 more")


def test_a_torn_tail_is_left_out(run, root, kit):
    kit.cut(kit.logs(root)[-1], 1)
    assert [row["tx"] for row in run("log", root, "--json").json] == list(range(1, 9))


def test_an_empty_log(run, tmp_path):
    mmsb.open(tmp_path / "new.mmsb").close()
    assert run("log", tmp_path / "new.mmsb", "--json").json == []


def test_without_the_beginning_the_log_is_what_is_left(run, root):
    list_logs(root)[0][1].unlink()
    rows = run("log", root, "--json").json
    assert [row["tx"] for row in rows] == [6, 7, 8, 9]
    assert rows[2]["pages"] == ["w"]  # named by the checkpoint


def test_the_newest_manifest_is_looked_for_again_when_a_writer_replaced_it(root, monkeypatch):
    from mmsb_torch.cli import history

    with mmsb.open(root) as mem, Store.open(root) as store:
        asked = []
        genuine = history.read_manifest

        def replaced(folder, files):
            asked.append(folder)
            if len(asked) == 1:
                mem.update("w", 0.0)
                mem.checkpoint(keep=1)
            return genuine(folder, files)

        monkeypatch.setattr(history, "read_manifest", replaced)
        assert history.newest_manifest(store.path, FILES).tx == 10
        assert len(asked) == 2
