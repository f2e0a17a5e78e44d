"""`restore`: a moment as one plain safetensors file."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import mmsb_torch as mmsb


def test_the_file_opens_with_plain_safetensors_and_has_the_bits_of_then(run, root, tmp_path):
    out = tmp_path / "then.safetensors"
    done = run("restore", root, "4", "-o", out)
    assert done.code == 0
    assert str(out) in done.out
    found = load_file(out)
    with mmsb.open(root, mode="r") as mem:
        then = mem.at(4)
        assert set(found) == {"w", "large", "flags"}
        for name, tensor in found.items():
            assert torch.equal(tensor, then[name])
    assert "total" in done.out  # left out, and said so
    with safe_open(out, "pt") as file:
        about = json.loads(file.metadata()["mmsb.moment"])
    assert (about["tx"], about["label"]) == (4, None)


def test_a_derived_page_is_written_where_its_value_is_stored(run, root, tmp_path):
    out = tmp_path / "then.safetensors"
    data = run("restore", root, "7", "-o", out, "--json").json
    assert data["left_out"] == []
    assert load_file(out)["total"].item() == 80.0
    assert data["bytes"] == out.stat().st_size


def test_not_a_number_is_kept(run, root, tmp_path):
    out = tmp_path / "then.safetensors"
    run("restore", root, "second", "-o", out)
    assert load_file(out)["w"][0].isnan().all()


def test_it_does_not_overwrite(run, root, tmp_path):
    out = tmp_path / "then.safetensors"
    out.write_text("mine")
    refused = run("restore", root, "4", "-o", out)
    assert refused.code == 2
    assert "--force" in refused.err
    assert out.read_text() == "mine"
    assert run("restore", root, "4", "-o", out, "--force").code == 0
    assert set(load_file(out)) == {"w", "large", "flags"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.mmsb", "then.safetensors"]


def test_a_file_that_appears_meanwhile_is_not_overwritten(run, root, tmp_path, monkeypatch):
    from mmsb_torch.cli import export

    out, genuine = tmp_path / "then.safetensors", export.write_tensors

    def slow(*args):
        out.write_text("mine")
        return genuine(*args)

    monkeypatch.setattr(export, "write_tensors", slow)
    assert run("restore", root, "4", "-o", out).code == 2
    assert out.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.mmsb", "then.safetensors"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_what_was_there_and_nothing_else(run, root, tmp_path, monkeypatch, error):
    from mmsb_torch.cli import export

    def fails(path, *args):
        path.write_bytes(b"half")
        raise error

    out = tmp_path / "then.safetensors"
    out.write_text("mine")
    monkeypatch.setattr(export, "write_tensors", fails)
    done = run("restore", root, "4", "-o", out, "--force")
    assert done.code == (2 if isinstance(error, OSError) else 130)
    assert out.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.mmsb", "then.safetensors"]


def test_where_it_cannot_write(run, root, tmp_path):
    for out, why in [
        (tmp_path / "no" / "x.safetensors", "No such file"),
        (root / "x.safetensors", "inside of the store"),
        (root / "checkpoints" / ".." / "x.safetensors", "inside of the store"),
    ]:
        done = run("restore", root, "4", "-o", out)
        assert done.code == 2
        assert why in done.err
    assert run("restore", root, "4", "-o", tmp_path, "--force").code == 2  # a folder


def test_the_output_must_be_named(run, root):
    assert run("restore", root, "4").code == 2
