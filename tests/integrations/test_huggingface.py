"""The callback of Hugging Face's Trainer, in real trainings: stopped and begun again, they end the same."""

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import mmsb_torch as mmsb

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")


class Classifier(nn.Module):
    def __init__(self, stop_at=None, kill=False):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))
        self.stop_at, self.kill, self.steps, self.losses = stop_at, kill, 0, []

    def forward(self, x, labels):
        if self.steps == self.stop_at:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("stopped")
        self.steps += 1
        loss = nn.functional.cross_entropy(self.net(x), labels)
        self.losses.append(loss.item().hex())
        return {"loss": loss}


def train(folder, model, memory, *, epochs=3, go_on=True, **options):
    """Train on 40 shuffled rows, 5 steps an epoch; the trainer."""
    from mmsb_torch.integrations.huggingface import MMSBCallback

    transformers.utils.logging.set_verbosity_error()
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    rows = [{"x": row, "labels": int(row.sum() > 0)} for row in x]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arguments = transformers.TrainingArguments(
            output_dir=str(folder), num_train_epochs=epochs, per_device_train_batch_size=8,
            learning_rate=1e-2, save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True,
            logging_steps=2, seed=7, lr_scheduler_type="cosine",
        )  # fmt: skip
        callback = None if memory is None else MMSBCallback(memory, **options)
        trainer = transformers.Trainer(
            model, arguments, train_dataset=rows, callbacks=[callback] if callback else []
        )
        trainer.train(resume_from_checkpoint=callback.checkpoint() if callback and go_on else None)
    return trainer


def made(seed=3, **options):
    torch.manual_seed(seed)
    return Classifier(**options)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    model = made()
    trainer = train(tmp_path_factory.mktemp("plain"), model, None)
    return model.losses, model.state_dict(), trainer.optimizer.state_dict()["state"]


def test_the_callback_changes_nothing(uninterrupted, tmp_path):
    model = made()
    train(tmp_path, model, tmp_path / "run.mmsb", every=4)
    assert model.losses == uninterrupted[0]
    assert same(model.state_dict(), uninterrupted[1])


@pytest.mark.parametrize(("stop_at", "every"), [(1, 1), (7, 1), (7, 3), (5, 5), (10, 2), (14, 4)])
def test_a_training_that_stopped_goes_on(uninterrupted, tmp_path, stop_at, every):
    path = tmp_path / "run.mmsb"
    with mmsb.open(path) as mem, pytest.raises(RuntimeError, match="stopped"):
        train(tmp_path, made(stop_at=stop_at), mem, every=every)
    model = made(seed=99)
    trainer = train(tmp_path, model, path, every=every)
    begun = stop_at // every * every
    assert model.losses == uninterrupted[0][begun:]
    assert same(model.state_dict(), uninterrupted[1])
    slots = trainer.optimizer.state_dict()["state"]
    assert all(same(slots[key], uninterrupted[2][key]) for key in uninterrupted[2])


def test_a_training_that_was_killed_goes_on(uninterrupted, tmp_path):
    code = (
        "import sys; from test_huggingface import *\n"
        f"torch.set_num_threads({torch.get_num_threads()})\n"
        "train(sys.argv[1], made(stop_at=8, kill=True), sys.argv[1] + '/run.mmsb', every=3)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))},
    )
    assert done.returncode == -signal.SIGKILL
    model = made(seed=99)
    train(tmp_path, model, tmp_path / "run.mmsb", every=3)
    assert model.losses == uninterrupted[0][6:]
    assert same(model.state_dict(), uninterrupted[1])


def test_a_training_that_begins_anew_is_refused(tmp_path):
    train(tmp_path, made(), tmp_path / "run.mmsb", every=5)
    with mmsb.open(tmp_path / "run.mmsb") as mem:
        with pytest.raises(mmsb.TrackError, match="checkpoint"):
            train(tmp_path, made(), mem, go_on=False)
        with pytest.raises(mmsb.TrackError, match="integer from 1"):
            train(tmp_path, made(), mem, every=0)
