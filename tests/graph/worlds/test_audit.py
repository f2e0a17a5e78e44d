"""What nobody sees is a stale hit without an audit, and is found with one."""

import ctypes
import gc
import logging
import random

import numpy as np
import pytest
import torch
from torch import nn

import mmsb_torch as mmsb
from mmsb_torch.instrumentation.identity import LEDGER, barrier

LOG = logging.getLogger("runs of tests/graph/worlds")

needs_barrier = pytest.mark.skipif(
    barrier.capability() is not None, reason="this torch has no write barrier: every byte is read"
)


def apply(model, x):
    LOG.info("run")
    with torch.no_grad():
        return model(x)


def written_past(tensor):
    """What writes to a tensor's memory through an address taken now, as C code could keep one."""
    address, size = tensor.data_ptr(), tensor.nbytes
    return lambda: ctypes.memset(address, 0, size)


@pytest.fixture(autouse=True)
def _clean():
    gc.collect()  # tensors that other tests left are none of ours
    LEDGER.audit(lambda: True)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Linear(128, 128).requires_grad_(False)


X = torch.ones(4, 128)


@needs_barrier
def test_an_invisible_write_is_a_stale_hit_without(model, runs):
    """The documented limit; if this fails, the limit is gone: say so in the documents."""
    write = written_past(model.weight)
    with mmsb.open() as mem:
        f = mem.memo(apply)
        before = f(model, X)
        write()
        assert torch.equal(f(model, X), before)
        assert not torch.equal(apply(model, X), before)


@needs_barrier
def test_a_memoised_hit_is_caught(model, runs):
    write = written_past(model.weight)
    told = []
    with mmsb.open(audit=1.0) as mem:
        mem.subscribe(lambda event: told.append(event), [mmsb.EventType.ERROR])
        f = mem.memo(apply)
        f(model, X), f(model, X)
        assert mem.stats()["audit"] == {"checked": 1, "wrong": 0}
        assert not told
        write()
        with pytest.raises(mmsb.WrongHitError, match=r"apply.*\[128, 128\].*nobody sees"):
            f(model, X)
        assert mem.stats()["audit"] == {"checked": 2, "wrong": 1}
        assert told[0].fields["audit"] == "memo"
        assert torch.equal(f(model, X), model.bias.expand(4, 128))  # and right from now on
        assert torch.equal(f(model, X), apply(model, X))


@needs_barrier
def test_verify_of_one_function_does_the_same(model, runs):
    write = written_past(model.weight)
    with mmsb.open() as mem:
        f = mem.memo(apply, verify=1.0)
        f(model, X), f(model, X)
        write()
        with pytest.raises(mmsb.WrongHitError):
            f(model, X)


@needs_barrier
def test_a_hit_of_a_scope_is_caught(runs):
    weight = torch.rand(256, 256)
    write = written_past(weight)
    x = torch.rand(512, 256)

    def block():
        return x @ weight

    for share, caught in ((0.0, False), (1.0, True)):
        weight.uniform_()
        with mmsb.open(audit=share) as mem:
            for _ in range(2):
                with mem.incremental() as scope:
                    before = block()
            assert scope.counts["hit"] == 1
            write()
            if caught:
                with pytest.raises(mmsb.WrongHitError, match="mm"), mem.incremental():
                    block()
                assert mem.stats()["audit"]["wrong"] == 1
                with mem.incremental():
                    assert torch.equal(block(), torch.zeros(512, 256))
            else:
                with mem.incremental():
                    assert torch.equal(block(), before)


def test_a_fresh_page_that_its_recipe_no_longer_gives_is_caught(runs, tmp_path):
    """It reads a file, which nobody watches."""
    path = tmp_path / "number"
    path.write_text("2")
    for share in (0.0, 1.0):
        path.write_text("2")
        with mmsb.open(audit=share) as mem:
            mem.page("x", torch.ones(3))
            page = mem.derive(lambda x: x * float(np.loadtxt(path)), "x", name="y")
            assert mem.why(page).status == "new"
            assert torch.equal(page.tensor, torch.full((3,), 2.0))
            _ = page.tensor
            path.write_text("5")
            if not share:
                assert torch.equal(page.tensor, torch.full((3,), 2.0))
                continue
            with pytest.raises(mmsb.WrongHitError, match=r"'y'.*recomputed"):
                _ = page.tensor
            assert torch.equal(page.tensor, torch.full((3,), 5.0))  # computed anew
            assert mem.stats()["audit"]["wrong"] == 1


@needs_barrier
def test_an_audit_of_everything_reports(model, runs):
    write = written_past(model.weight)
    with mmsb.open() as mem:
        emb = mem.page("emb", torch.rand(8, 4))
        mem.page("other", torch.rand(3))
        mem.derive(lambda emb: emb.sum(1), name="sums")
        mem.propagate()
        f = mem.memo(apply)
        f(model, X)
        report = mem.audit()
        assert report
        assert (report.checked["page"], report.checked["derived page"]) == (2, 1)
        assert report.checked["tensor"] >= 1
        assert "all as they should be" in str(report)
        value = emb.clone()
        write()
        emb.tensor.numpy()[3] = 9.0  # a page, past its version counter
        report = mem.audit()
        assert not report
        assert [(w.kind, w.name) for w in report.wrong] == [
            ("tensor", "of 65536 bytes"), ("page", "'emb'")
        ]  # fmt: skip
        assert "2 wrong" in str(report)
        assert mem.stats()["audit"]["wrong"] == 2
        assert torch.equal(emb.tensor, value)  # put back
        assert torch.equal(mem["sums"].tensor, value.sum(1))
        assert torch.equal(f(model, X), model.bias.expand(4, 128))
        assert mem.audit()


def test_a_page_computed_from_a_value_written_unseen_is_found(runs):
    with mmsb.open() as mem:
        x = mem.page("x", torch.ones(4))
        x.tensor.numpy()[:] = 7.0
        page = mem.derive(lambda x: x * 2, name="page")
        assert page.tensor[0] == 14.0  # wrong: it should be twice what was committed
        report = mem.audit()
        assert {w.name for w in report.wrong} >= {"'x'"}
        assert page.tensor[0] == 2.0


def test_an_audit_of_a_store_and_of_readers(tmp_path, runs):
    path = tmp_path / "run.mmsb"
    with mmsb.open(path, audit=1.0) as mem:
        x = mem.page("x", torch.rand(64, 8))
        page = mem.derive(lambda x: torch.softmax(x, 1), name="page")
        for step in range(3):
            mem.update(x, torch.rand(2, 8), rows=[step, step + 5])
            _ = page.tensor, page.tensor
        assert mem.stats()["audit"] == {"checked": 3, "wrong": 0}
        report = mem.audit()
        assert report
        assert (report.checked["page"], report.checked["derived page"]) == (1, 1)
    for mode in ("r", "follow", "memo"):
        with mmsb.open(path, mode=mode, audit=1.0) as mem:
            assert "derived page" not in mem.audit().checked  # its recipe is not declared yet
            mem.derive(lambda x: torch.softmax(x, 1), name="page")
            assert mem.audit().checked["derived page"] == 1
            assert mem.audit(0.5)


def test_audits_leave_no_trace(runs):
    """Generators are as they were, nothing is published, no transaction, no epoch."""
    with mmsb.open(audit=1.0) as mem:
        mem.page("x", torch.ones(3))
        noisy = mem.derive(lambda x: x + 1, name="page")
        f = mem.memo(lambda x: x + 1)
        noisy.tensor, f(torch.ones(2))
        torch.manual_seed(1), random.seed(1), np.random.seed(1)  # noqa: NPY002
        state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes()  # noqa: NPY002
        epoch, tx, computed = noisy.epoch, mem.tx, mem.stats()["recomputed"]
        noisy.tensor, f(torch.ones(2)), mem.audit()
        assert (noisy.epoch, mem.tx, mem.stats()["recomputed"]) == (epoch, tx, computed)
        assert torch.equal(torch.get_rng_state(), state[0])
        assert (random.getstate(), np.random.get_state()[1].tobytes()) == state[1:]  # noqa: NPY002


def test_what_draws_random_numbers_is_told_and_the_generator_stays(runs):
    with mmsb.open() as mem:
        mem.page("x", torch.ones(3))
        _ = mem.derive(lambda x: x + torch.rand(3), name="noise").tensor
        state = torch.get_rng_state()
        report = mem.audit()
        assert torch.equal(torch.get_rng_state(), state)
        assert "does not compute the same twice" in str(report)


def test_a_share_is_a_sample(runs):
    with mmsb.open(audit=0.2) as mem:
        f = mem.memo(lambda x: x + 1)
        x = torch.ones(2)
        for _ in range(1001):
            f(x)
        assert 120 < mem.stats()["audit"]["checked"] < 280


def test_a_wrong_result_on_disk_is_removed(tmp_path, runs):
    state = tmp_path / "state"
    state.write_text("1")

    def impure(x):
        return x * float(np.loadtxt(state))

    with mmsb.open(tmp_path / "run.mmsb", audit=1.0) as mem:
        f = mem.memo(impure)
        f(torch.ones(2))
        state.write_text("2")
        with pytest.raises(mmsb.WrongHitError, match="something else"):
            f(torch.ones(2))
    with mmsb.open(tmp_path / "run.mmsb") as mem:
        assert mem.memo(impure)(torch.ones(2))[0] == 2.0


@pytest.mark.parametrize("share", [-0.1, 1.1, "1", None, True, float("nan"), [0.1]])
def test_shares_that_are_none(tmp_path, share):
    with pytest.raises(mmsb.UnsupportedError, match=r"from 0 to 1"):
        mmsb.open(audit=share)
    with pytest.raises(mmsb.UnsupportedError, match=r"from 0 to 1"):
        mmsb.open(tmp_path / "run.mmsb", audit=share)
    assert not (tmp_path / "run.mmsb").exists()
    with mmsb.open() as mem:
        with pytest.raises(mmsb.UnsupportedError, match=r"from 0 to 1"):
            mem.audit(share)
        with pytest.raises(mmsb.UnsupportedError, match=r"from 0 to 1"):
            mem.incremental(verify=share)
        with pytest.raises(mmsb.InvalidMemoError, match=r"from 0 to 1"):
            mem.memo(abs, verify=share)


@needs_barrier
def test_a_page_whose_weights_are_believed_unchanged_is_caught(model, runs):
    """A memoised function watches the weights, and a page of the same module believes the watch."""
    write = written_past(model.weight)
    for share in (0.0, 1.0):
        nn.init.ones_(model.weight)
        with mmsb.open(audit=share) as mem:
            mem.page("x", X)
            f = mem.memo(apply)
            f(model, X), f(model, X)
            page = mem.derive(model, "x", name="page")
            before = page.tensor.clone()
            assert torch.equal(page.tensor, before)
            write()
            if not share:
                assert torch.equal(page.tensor, before)  # the limit
                continue
            with pytest.raises(mmsb.WrongHitError, match="'page'"):
                _ = page.tensor
            assert torch.equal(page.tensor, model.bias.expand(4, 128))
