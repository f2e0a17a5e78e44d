"""The callback of Lightning, in real fits: stopped anywhere and begun again, they end as if never stopped."""

import logging
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import mmsb_torch as mmsb

pl = pytest.importorskip("lightning.pytorch")


class Classifier(pl.LightningModule):
    def __init__(self, stop_at=None, kill=False):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3)
        )
        self.stop_at, self.kill = stop_at, kill
        self.losses = {}

    def training_step(self, batch, batch_idx):
        if self.global_step == self.stop_at:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("stopped")
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.losses[self.global_step] = loss.item().hex()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), 1e-2)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)]


def fit(model, memory, epochs=5, **options):
    """Fit on shuffled rows; what the callback tracked, and the module."""
    from mmsb_torch.integrations.lightning import MMSBCallback

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(40, 6, generator=chance)
    data = TensorDataset(x, (x.sum(1) > 0).long())
    callbacks = [] if memory is None else [MMSBCallback(memory, **options)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, callbacks=callbacks,
        )  # fmt: skip
        trainer.fit(model, DataLoader(data, batch_size=8, shuffle=True))
    return model, trainer


def made(seed=3, **options):
    torch.manual_seed(seed)
    return Classifier(**options)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def uninterrupted():
    model, trainer = fit(made(), None)
    return model.losses, model.state_dict(), trainer.optimizers[0].state_dict()["state"]


def test_the_callback_changes_nothing(uninterrupted, tmp_path):
    model, _ = fit(made(), tmp_path / "run.mmsb")
    assert model.losses == uninterrupted[0]
    assert same(model.state_dict(), uninterrupted[1])


@pytest.mark.parametrize("stop_at", [0, 3, 5, 12, 24])
def test_a_fit_that_stopped_goes_on(uninterrupted, tmp_path, stop_at):
    path = tmp_path / "run.mmsb"
    with pytest.raises(RuntimeError, match="stopped"):
        fit(made(stop_at=stop_at), path)
    model, trainer = fit(made(seed=99), path)  # other weights, other generators: all are set
    begun = stop_at // 5 * 5
    assert model.losses == {k: v for k, v in uninterrupted[0].items() if k >= begun}
    assert same(model.state_dict(), uninterrupted[1])
    slots = trainer.optimizers[0].state_dict()["state"]
    assert all(same(slots[key], uninterrupted[2][key]) for key in uninterrupted[2])


def test_a_fit_that_ended_can_be_made_longer(tmp_path):
    longer, _ = fit(made(), None, epochs=6)
    fit(made(), tmp_path / "run.mmsb", epochs=4)
    model, trainer = fit(made(seed=99), tmp_path / "run.mmsb", epochs=6)
    assert trainer.current_epoch == 6
    assert model.losses == {k: v for k, v in longer.losses.items() if k >= 20}
    assert same(model.state_dict(), longer.state_dict())


def test_epochs_between_commits_and_metrics(tmp_path):
    with mmsb.open(tmp_path / "run.mmsb") as mem:
        fit(made(), mem, every=2, name="mine")
        run = mmsb.track(mem, model=made(), name="mine")
        steps = run.history()
        assert [step.step for step in steps] == [0, 10, 20, 25]
        assert "loss" in steps[-1].metrics
        assert not mem.closed
    with pytest.raises(mmsb.TrackError, match="integer from 1"):
        fit(made(), mem, every=0)


def test_a_fit_that_was_killed_goes_on(uninterrupted, tmp_path):
    code = (
        "import sys; from test_lightning import *\n"
        f"torch.set_num_threads({torch.get_num_threads()})\n"
        "fit(made(stop_at=17, kill=True), sys.argv[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "run.mmsb"],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))},
    )
    assert done.returncode == -signal.SIGKILL
    model, _ = fit(made(seed=99), tmp_path / "run.mmsb")
    assert model.losses == {k: v for k, v in uninterrupted[0].items() if k >= 15}
    assert same(model.state_dict(), uninterrupted[1])
