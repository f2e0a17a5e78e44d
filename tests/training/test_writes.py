"""What a commit writes, and when: only what changed, as it was when it was asked for."""

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, load_model, save_file
from torch import nn

import mmsb_torch as mmsb
from mmsb_torch.instrumentation.identity import LEDGER


def changed(memory, before):
    """Names of the pages of the state that transactions after `before` touched."""
    touched = memory._router.log.pages_between(before, memory.tx)
    names = {memory[number].name for number in touched}
    return {name for name in names if not name.startswith(("track/", "rng/"))}


def test_a_frozen_backbone_costs_a_look_at_its_flag(kit):
    backbone = nn.Linear(300, 300).requires_grad_(False)
    head = nn.Linear(300, 4)
    model = nn.Sequential(backbone, head)
    optimizer = torch.optim.AdamW(head.parameters())
    with mmsb.open() as memory:
        run = mmsb.track(memory, model=model, optimizer=optimizer)
        for step in range(1, 5):
            model(torch.randn(3, 300)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            before, read = memory.tx, LEDGER.read
            done = run.commit(step=step)
            if step > 2:
                assert not any("/0." in name for name in changed(memory, before))
                assert done.nbytes < backbone.weight.nbytes // 10
                assert LEDGER.read == read
                assert run._pages._known("model/0.weight") is not None


@pytest.mark.parametrize("barrier", ["auto", "hash"])
@pytest.mark.parametrize("how", ["add", "data", "numpy", "pointer", "fused", "other tensor"])
def test_every_way_of_writing_is_seen(how, barrier, kit):
    model = nn.Linear(40, 40)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    with mmsb.open() as memory:
        run = mmsb.track(memory, model=model, optimizer=optimizer, barrier=barrier)
        for step in range(3):
            run.commit(step=step)  # from the second on the flag is set
        with torch.no_grad():
            if how == "add":
                model.weight.add_(1)
            elif how == "data":
                model.weight.data[3] = 7
            elif how == "numpy":
                model.weight.detach().numpy()[3] = 7
            elif how == "pointer":
                import ctypes

                ctypes.memset(model.weight.data_ptr(), 1, 64)
            elif how == "other tensor":
                model.weight.data = torch.randn(40, 40)
        if how == "fused":
            model(torch.randn(2, 40)).sum().backward()
            optimizer.step()
        run.commit(step=3)
        assert kit.octets(memory["model/weight"].tensor) == kit.octets(model.weight)


def test_a_commit_never_has_later_bits(kit, path):
    loop, states = kit.Loop(), {}
    with mmsb.open(path) as memory:
        run = mmsb.track(memory, **loop.parts())
        run.resume()
        for step in range(1, 8):
            loop.step()
            states[step] = copy.deepcopy(loop.model.state_dict())
            run.commit(step=step)
            with torch.no_grad():  # at once, while it is being written
                for tensor in loop.model.state_dict().values():
                    tensor.fill_(9)
            loop.model.load_state_dict(states[step])
        for step, state in states.items():
            then = memory.at(step=step)
            for name, value in state.items():
                assert kit.octets(then[f"model/{name}"]) == kit.octets(value)


def test_rows_of_a_sparse_embedding(kit, path):
    table = nn.Embedding(2000, 16, sparse=True)
    optimizer = torch.optim.SparseAdam(table.parameters())
    with mmsb.open(path) as memory:
        run = mmsb.track(memory, model=table, optimizer=optimizer)
        for step in range(1, 4):
            optimizer.zero_grad()
            table(torch.tensor([3, 77, 1500])).square().sum().backward()
            optimizer.step()
            done = run.commit(step=step)
        assert memory["model/weight"].history()[-1].region.form is mmsb.Form.ROWS
        assert done.nbytes < table.weight.nbytes // 4


def test_memory_of_files_is_taken_over_once(tmp_path, kit):
    source = nn.Sequential(nn.Linear(50, 50), nn.Linear(50, 50))
    save_file(source.state_dict(), tmp_path / "a.safetensors")
    model = nn.Sequential(nn.Linear(50, 50), nn.Linear(50, 50))
    model.load_state_dict(load_file(tmp_path / "a.safetensors"), assign=True)
    model[0].bias = nn.Parameter(torch.from_numpy(np.ones(5000, np.float32))[:50])
    before = dict(model.named_parameters())
    expected = kit.frozen(model.state_dict())
    with mmsb.open() as memory:
        run = mmsb.track(memory, model=model)
        assert kit.frozen(model.state_dict()) == expected
        assert all(model.get_parameter(name) is tensor for name, tensor in before.items())
        run.commit(step=1)
        run.commit(step=2)
        for name in ("0.weight", "1.weight"):
            assert run._pages._known(f"model/{name}") is not None, name


def test_parameters_that_overlap_stay_as_they_are():
    whole = torch.from_numpy(np.zeros((2, 100), np.float32))
    model = nn.Module()
    model.a, model.b = nn.Parameter(whole), nn.Parameter(whole[0])
    with mmsb.open() as memory:
        run = mmsb.track(memory, model=model)
        run.commit(step=1)
        with torch.no_grad():
            model.a[0, 0] = 5
        assert model.b[0] == 5
        run.commit(step=2)
        assert memory["model/b"].tensor[0] == 5


def test_replaced_added_and_removed_parameters(kit):
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    with mmsb.open() as memory:
        run = mmsb.track(memory, model=model)
        run.commit(step=1)
        model[0].weight = nn.Parameter(torch.ones(8, 8))
        run.commit(step=2)
        assert kit.octets(memory["model/0.weight"].tensor) == kit.octets(torch.ones(8, 8))
        model.append(nn.Linear(2, 2))
        run.commit(step=3)
        assert "model/2.bias" in memory
        with pytest.raises(mmsb.MismatchError, match=r"'2\.bias' is in the module"):
            run.restore(step=2)
        model.pop(2)
        run.commit(step=4)
        run.restore(step=2)
        model[0].weight = nn.Parameter(torch.ones(9, 8))
        with pytest.raises(mmsb.MismatchError, match=r"float32\[8, 8\] at the commit before"):
            run.commit(step=5)


def test_somebody_else_writes_the_pages(kit):
    model = nn.Linear(30, 30)
    with mmsb.open() as memory:
        run = mmsb.track(memory, model=model)
        for step in range(3):
            run.commit(step=step)
        memory.update("model/weight", torch.zeros(30, 30))
        run.commit(step=3)
        assert kit.octets(memory["model/weight"].tensor) == kit.octets(model.weight)
        memory.update("model/weight", torch.zeros(30, 30))
        assert run.resume() == 3
        assert not model.weight.any()


def test_export(kit, tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
            self.b.weight = self.a.weight
            self.register_buffer("scratch", torch.zeros(3), persistent=False)

    model, ema = Tied(), nn.Linear(2, 2)
    with mmsb.open() as memory:
        run = mmsb.track(memory, model=model, extra={"ema": ema})
        with pytest.raises(mmsb.TrackError, match="no commit yet"):
            run.export(tmp_path)
        run.commit(step=1)
        first = copy.deepcopy(model.state_dict())
        nn.init.ones_(model.a.weight)
        run.commit(step=2)
        files = run.export(tmp_path / "now")
        assert [file.name for file in files] == ["model.safetensors", "ema.safetensors"]
        assert set(load_file(files[0])) == {"a.weight", "a.bias", "b.bias"}
        run.export(tmp_path / "then", step=1)
    other = Tied()
    assert load_model(other, files[0]) == (set(), [])
    assert kit.frozen(other.state_dict()) == kit.frozen(model.state_dict())
    load_model(other, tmp_path / "then" / "model.safetensors")
    assert kit.frozen(other.state_dict()) == kit.frozen(first)


def test_several_models_and_two_runs_in_one_memory(kit, path):
    def parts():
        models = {"gen": nn.Linear(3, 3), "dis": nn.Linear(3, 1)}
        optimizers = {name: torch.optim.Adam(model.parameters()) for name, model in models.items()}
        return models, {"model": models, "optimizer": optimizers}

    with mmsb.open(path) as memory:
        models, given = parts()
        other = nn.Linear(2, 2)
        first, second = mmsb.track(memory, **given), mmsb.track(memory, model=other, name="b")
        first.commit(step=1, loss=3.0)
        second.commit(step=1, loss=4.0)
        expected = kit.frozen(models["dis"].state_dict())
        with torch.no_grad():
            models["dis"].weight.zero_()
            other.weight.zero_()
        first.commit(step=2)
        second.commit(step=2)
        first.restore(step=1)
        assert kit.frozen(models["dis"].state_dict()) == expected
        assert not memory["b: model/weight"].tensor.any()
        assert [item.metrics for item in second.history()] == [{"loss": 4.0}, {}]
    with mmsb.open(path) as memory:
        models, given = parts()
        assert mmsb.track(memory, **given).resume() == 1
        assert kit.frozen(models["dis"].state_dict()) == expected


def test_history_and_restores_after_collecting(kit, path):
    retention = mmsb.Retention(keep_last=1)
    with mmsb.open(path) as memory:
        loop = kit.Loop()
        losses, run = kit.train(memory, loop, 6)
        memory.checkpoint()
        memory.collect(retention)
        state = loop.state()
        assert [item.metrics["loss"] for item in run.history()] == losses
        with pytest.raises(mmsb.HistoryError):
            run.restore(step=2)
        loop.step()
        run.commit(step=7)
        run.restore(step=6)
        assert loop.state() == state
    with mmsb.open(path) as memory:
        again = kit.Loop(number=1)
        assert mmsb.track(memory, **again.parts()).resume() == 6
        assert again.state() == state
