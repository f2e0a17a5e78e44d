"""A whole write as what it changes."""

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.device import same_bits
from mmsb_torch.testing import DTYPES, random_bits
from mmsb_torch.types import Delta, Form, Region, apply, narrow
from mmsb_torch.types import delta as delta_module


def whole(values):
    return Delta(1, 1, 0, Region.all(tuple(values.shape)), values, 0, "user")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("changed", ["nothing", "a row", "elements", "half", "everything"])
@pytest.mark.parametrize("large", [1, 1 << 20])
def test_it_does_what_the_whole_does(dtype, changed, large, monkeypatch):
    monkeypatch.setattr(delta_module, "_LARGE", large)
    old = random_bits((64, 130), dtype, 0)
    new = random_bits((64, 130), dtype, 0)
    other = random_bits((64, 130), dtype, 1)
    if changed == "a row":
        apply(new, Delta(1, 1, 0, Region.rows((64, 130), torch.tensor([5])), other[5:6], 0, ""))
    elif changed == "elements":
        where = torch.tensor([3, 77, 4000, 8319])
        region = Region.elements((64, 130), where)
        apply(new, Delta(1, 1, 0, region, region.pick(other), 0, ""))
    elif changed == "half":
        rows = torch.arange(0, 64, 2)
        apply(new, Delta(1, 1, 0, Region.rows((64, 130), rows), _rows(other, rows), 0, ""))
    elif changed == "everything":
        new = other
    delta = narrow(whole(new), old)
    found = random_bits((64, 130), dtype, 0)
    apply(found, delta)
    assert same_bits(found, new)
    assert delta.nbytes <= new.nbytes
    form = {"nothing": Form.NONE, "a row": Form.ROWS, "elements": Form.ELEMENTS}.get(changed)
    if form is not None and dtype.itemsize > 1:
        assert delta.region.form is form
        assert delta.region.count <= 130


def _rows(tensor, rows):
    from mmsb_torch.device import take_rows

    return take_rows(tensor, rows)


def test_small_and_other_deltas_stay_as_they_are():
    old = torch.zeros(512)
    delta = whole(torch.zeros(512))
    assert narrow(delta, old) is delta
    rows = Delta(1, 1, 0, Region.rows((4000,), torch.tensor([1])), torch.zeros(1), 0, "user")
    assert narrow(rows, torch.zeros(4000)) is rows


def test_a_training_step_writes_only_what_moved(tmp_path):
    frozen, head = torch.randn(1000, 64), torch.randn(64, 10)
    table = torch.randn(5000, 16)
    with mmsb.open(tmp_path / "m.mmsb") as mem:
        for name, value in (("frozen", frozen), ("head", head), ("table", table)):
            mem.page(name, value)
        watched = mem.derive(torch.sum, "frozen", name="sum")
        _ = watched.tensor
        before = sum(f.stat().st_size for f in tmp_path.rglob("*") if f.is_file())
        for step in range(1, 6):
            head = head + 1
            table[step * 10 : step * 10 + 4] += 1
            with mem.commit(step=step) as tx:
                tx.update("frozen", frozen)
                tx.update("head", head)
                tx.update("table", table)
        written = sum(f.stat().st_size for f in tmp_path.rglob("*") if f.is_file()) - before
        assert written < 5 * (head.nbytes + 4 * 16 * 4 + 2500)
        assert mem["frozen"].epoch == 5
        runs = mem.stats()["recomputed"]
        _ = watched.tensor
        assert mem.stats()["recomputed"] == runs
        assert str(mem["table"].history()[-1].region).startswith("rows 50, 51, 52, 53")
        assert torch.equal(mem.at(step=3)["table"][30:34], mem["table"].tensor[30:34])
        assert torch.equal(mem.at(step=5)["head"], head)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.4, 0.9])
def test_scattered_changes_of_a_long_page_cost_a_bit_an_element(share):
    old = torch.randn(40_000)
    new = old.clone()
    where = torch.rand(40_000, generator=torch.Generator().manual_seed(0)) < share
    new[where] += 1
    delta = narrow(whole(new.clone()), old)
    found = old.clone()
    apply(found, delta)
    assert same_bits(found, new)
    least = int(where.sum()) * 4
    assert delta.nbytes <= (old.nbytes if share > 0.5 else least + min(5000, 2 * least))
