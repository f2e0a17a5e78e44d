"""`compact`: a plan first, then the deed, and the same in JSON."""

import shutil

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.runtime.store import list_checkpoints


@pytest.fixture
def copy(root, tmp_path):
    """A store that may be changed."""
    return shutil.copytree(root, tmp_path / "copy.mmsb")


def bytes_of(path):
    return {item.stat().st_ino: item.stat().st_size for item in path.rglob("*") if item.is_file()}


def test_a_dry_run_changes_nothing_and_says_what_would_be(run, copy):
    before = bytes_of(copy)
    done = run("compact", copy, "--keep-last", 1, "--dry-run")
    assert done.code == 0
    assert bytes_of(copy) == before
    assert [line.split("  ")[0] for line in done.out.splitlines()] == [
        "checkpoint would be written",
        "checkpoints would be removed",
        "transactions would be removed",
        "files would be removed",
        "bytes",
    ]
    assert "5, 7" in done.out
    assert "1 to 9" in done.out
    planned = run("compact", copy, "--keep-last", 1, "--dry-run", "--json").json
    real = run("compact", copy, "--keep-last", 1, "--json").json
    assert (planned.pop("done"), real.pop("done")) == (False, True)
    for name in ("checkpoint", "checkpoints", "transactions"):
        assert planned[name] == real[name]
    assert [ref.tx for ref in list_checkpoints(copy)] == [9]
    assert run("verify", copy).code == 0
    with mmsb.open(copy, mode="r") as memory:
        assert memory.tx == 9
        assert torch.isnan(memory["w"].tensor[0]).all()
    assert run("compact", copy).out.startswith("checkpoint written    none, there is one")


def test_exceptions_and_a_budget(run, copy):
    data = run("compact", copy, "--keep-last", 1, "--tag", "fir*", "--every", 100, "--json").json
    assert data["checkpoints"] == [] or 5 not in data["checkpoints"]
    with mmsb.open(copy, mode="r") as memory:
        assert memory.at("first").tx == 9
    data = run("compact", copy, "--max-bytes", "1kB", "--json").json
    assert data["over_budget"] is True
    assert "too small" in run("compact", copy, "--max-bytes", "1kB").out


@pytest.mark.parametrize(("text", "count"), [("7", 7), ("2kB", 2000), ("1.5GiB", 3 << 29)])
def test_sizes(text, count):
    from mmsb_torch.cli.compaction import Size

    assert Size().convert(text, None, None) == count


def test_what_cannot_be_done_is_one_line(run, copy, tmp_path):
    assert run("compact", copy, "--max-bytes", "much").code == 2
    done = run("compact", copy, "--every", 3)
    assert done.code == 2
    assert "what counts as old" in done.err
    with mmsb.open(copy):
        done = run("compact", copy, "--keep-last", 1)
        assert done.code == 2
        assert "writing" in done.err
        assert run("compact", copy, "--keep-last", 1, "--dry-run").code == 0
    assert run("compact", tmp_path / "none").code == 2
    assert not (tmp_path / "none").exists()
