"""What cannot go on says why, names each difference, and changes nothing."""

import contextlib

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import mmsb_torch as mmsb


@pytest.fixture
def kept(path):
    """A store with a run: a model of two layers, its optimizer."""
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 4)).sum().backward()
    optimizer.step()
    with mmsb.open(path) as memory:
        mmsb.track(memory, model=model, optimizer=optimizer).commit(step=3, loss=1.0)
    return path


def refused(path, kit, model, optimizer, **more):
    """The message with which a resume is refused that leaves everything as it is."""
    with mmsb.open(path) as memory:
        run = mmsb.track(memory, model=model, optimizer=optimizer, **more)
        before = (
            kit.frozen([model.state_dict(), optimizer.state_dict()]),
            kit.generators(),
            memory.tx,
        )
        with pytest.raises(mmsb.MismatchError) as caught:
            run.resume()
        after = (
            kit.frozen([model.state_dict(), optimizer.state_dict()]),
            kit.generators(),
            memory.tx,
        )
        assert after == before
        with pytest.raises(mmsb.TrackError, match=r"at step 3.*run\.resume\(\)"):
            run.commit(step=1)
        assert memory.tx == before[2]
    return str(caught.value)


def test_each_difference_of_a_model_is_named(kept, kit):
    model = nn.Sequential(nn.Linear(4, 9), nn.Linear(8, 2).double())
    model.add_module("more", nn.Linear(1, 1, bias=False))
    model[1].bias = None
    text = refused(kept, kit, model, torch.optim.AdamW(model.parameters()))
    assert "'0.weight': the run kept float32[8, 4], found float32[9, 4]" in text
    assert "'1.weight': the run kept float32[2, 8], found float64[2, 8]" in text
    assert "'1.bias' was kept by the run, and is not in the module" in text
    assert "'more.weight' is in the module, and was not kept by the run" in text


def test_ties_are_compared(kit, path):
    def two():
        return nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})

    tied = two()
    tied["b"].weight = tied["a"].weight
    with mmsb.open(path) as memory:
        mmsb.track(memory, model=tied).commit(step=1)
    with (
        mmsb.open(path) as memory,
        pytest.raises(mmsb.MismatchError, match="one tensor in the run only"),
    ):
        mmsb.track(memory, model=two()).resume()


def test_optimizers_with_other_groups_or_of_another_kind(kept, kit):
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    given = list(model.parameters())
    text = refused(kept, kit, model, torch.optim.SGD(given, lr=0.1))
    assert "optimizer: the run kept a AdamW, found a SGD" in text
    groups = [{"params": given[:1]}, {"params": given[1:]}]
    text = refused(kept, kit, model, torch.optim.AdamW(groups))
    assert "the run kept 1 parameter groups, found 2" in text
    text = refused(kept, kit, model, torch.optim.AdamW([*given[1:], torch.zeros(3)]))
    assert "'0.weight' is missing, '#3' is new" in text
    text = refused(kept, kit, model, torch.optim.AdamW(given[::-1]))
    assert "the same parameters in another order" in text


def test_parts_that_are_missing_or_new(kept, kit):
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    optimizer = torch.optim.AdamW(model.parameters())
    text = refused(kept, kit, model, optimizer, extra={"ema": nn.Linear(1, 1)})
    assert "ema: given to mmsb.track, and not kept by the run" in text
    with mmsb.open(kept) as memory:
        run = mmsb.track(memory, model=model)
        with pytest.raises(mmsb.MismatchError, match="optimizer: kept by the run, and not given"):
            run.resume()


def test_a_commit_after_close(kept):
    memory = mmsb.open(kept)
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    run = mmsb.track(memory, model=model, name="other")
    run.commit(step=1)
    memory.close()
    for call in (
        lambda: run.commit(step=2),
        run.resume,
        lambda: run.restore(step=1),
        run.history,
        lambda: run.export("x"),
    ):
        with pytest.raises(mmsb.ClosedError):
            call()
    with pytest.raises(mmsb.ClosedError):
        mmsb.track(memory, model=model)


def test_a_reader_resumes_and_does_not_commit(kept, kit):
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    optimizer = torch.optim.AdamW(model.parameters())
    with mmsb.open(kept, mode="r") as memory:
        run = mmsb.track(memory, model=model, optimizer=optimizer)
        assert run.resume() == 3
        assert kit.octets(memory["model/0.weight"].tensor) == kit.octets(model[0].weight)
        with pytest.raises(mmsb.ReadOnlyError):
            run.commit(step=4)
        with pytest.raises(mmsb.ReadOnlyError):
            run.restore(step=3)


def test_what_cannot_be_tracked():
    model = nn.Linear(2, 2)
    data = TensorDataset(torch.zeros(4))
    with mmsb.open() as memory:
        for error, given in [
            (mmsb.TrackError, {}),
            (mmsb.TrackError, {"model": "model"}),
            (mmsb.TrackError, {"model": model, "optimizer": "adam"}),
            (mmsb.TrackError, {"model": model, "scheduler": 3}),
            (mmsb.TrackError, {"model": model, "barrier": "none"}),
            (mmsb.TrackError, {"model": model, "extra": {"model": {}}}),
            (mmsb.TrackError, {"model": model, "extra": {"a/b": {}}}),
            (mmsb.UnsupportedError, {"loader": DataLoader(data, shuffle=True)}),
            (mmsb.UnsupportedError, {"loader": [1, 2]}),
            (
                mmsb.UnsupportedError,
                {"loader": DataLoader(data, sampler=mmsb.ResumableSampler(data), num_workers=2)},
            ),
        ]:
            with pytest.raises(error):
                mmsb.track(memory, **given)
        with pytest.raises(mmsb.TrackError, match="takes a memory first"):
            mmsb.track(model, model=model)
        assert memory.tx == 0


@pytest.mark.parametrize(
    ("step", "metrics", "error"),
    [
        (-1, {}, mmsb.HistoryError),
        (1.5, {}, mmsb.HistoryError),
        (1, {"loss": "low"}, mmsb.TrackError),
        (1, {"loss": torch.zeros(2)}, mmsb.TrackError),
        (1, {"time": 3.0}, mmsb.TrackError),
    ],
)
def test_commits_that_are_refused_change_nothing(step, metrics, error):
    with mmsb.open() as memory:
        run = mmsb.track(memory, model=nn.Linear(2, 2))
        with pytest.raises(error):
            run.commit(step=step, **metrics)
        assert (memory.tx, len(memory)) == (0, 0)
        run.commit(step=1, loss=torch.tensor(0.5))


def test_state_that_is_no_data_is_named():
    class Odd:
        def state_dict(self):
            return {"inner": [1, {"f": len}]}

        def load_state_dict(self, state):
            raise AssertionError

    with mmsb.open() as memory:
        run = mmsb.track(memory, model=nn.Linear(2, 2), extra={"odd": Odd()})
        with pytest.raises(mmsb.UnsupportedError, match=r"'odd/inner/1/f' cannot be kept"):
            run.commit(step=1)
        lazy = mmsb.track(memory, model=nn.LazyLinear(3), name="lazy")
        with pytest.raises(mmsb.UnsupportedError, match="'model/weight' cannot be kept in a page"):
            lazy.commit(step=1)
        assert (memory.tx, len(memory)) == (0, 0)


def test_a_page_of_that_name_that_is_not_the_runs():
    with mmsb.open() as memory:
        memory.page("model/weight", torch.zeros(2, 2))
        run = mmsb.track(memory, model=nn.Linear(2, 2))
        with pytest.raises(mmsb.PageExistsError, match="not one of run 'run'"):
            run.commit(step=1)
        assert len(memory) == 1
        mmsb.track(memory, model=nn.Linear(2, 2), name="mine").commit(step=1)


def test_a_restore_that_was_cut_off_must_be_done_again(kept, kit, monkeypatch):
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    optimizer = torch.optim.AdamW(model.parameters())
    with mmsb.open(kept) as memory:
        run = mmsb.track(memory, model=model, optimizer=optimizer)
        find = run._parts[-1].load

        def load(saved, tensors):
            raise KeyboardInterrupt

        monkeypatch.setattr(run._parts[-1], "load", load)
        with pytest.raises(KeyboardInterrupt):
            run.resume()
        with pytest.raises(mmsb.TrackError, match="interrupted"):
            run.commit(step=4)
        monkeypatch.setattr(run._parts[-1], "load", find)
        assert run.resume() == 3
        run.commit(step=4)


def test_a_run_of_a_newer_form(kept):
    with mmsb.open(kept) as memory:
        page = memory["track/run"]
        text = bytes(page.tensor.tolist()).replace(b'"version":1', b'"version":9')
        memory.update(page, torch.tensor(list(text), dtype=torch.uint8))
        with pytest.raises(mmsb.UnsupportedError, match="version 9"):
            mmsb.track(memory, model=nn.Linear(2, 2)).resume()


def test_a_full_disk_is_told_and_loses_nothing(kit, path):
    from mmsb_torch.testing import FailingDisk, abandon, open_on

    disk = FailingDisk()
    memory = open_on(disk, path)
    loop = kit.Loop()
    run = kit.train(memory, loop, 4)[1]
    memory.sync()
    state = loop.state()
    disk.write = _full
    loop.step()
    with pytest.raises(mmsb.StoreError, match="No space left"):
        run.commit(step=5).wait()
    with pytest.raises(mmsb.StoreError, match="No space left"):
        run.commit(step=6)
    with contextlib.suppress(mmsb.StoreError):
        abandon(memory)
    memory._store.close()
    with mmsb.open(path) as memory:
        resumed = kit.Loop(number=1)
        assert mmsb.track(memory, **resumed.parts()).resume() == 4
        assert resumed.state() == state


def _full(*_):
    raise OSError(28, "No space left on device")
