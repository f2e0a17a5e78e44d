"""Training loops for tests: what they are made of, a step, and everything that they would go on from."""

import hashlib
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, dropout
from torch.utils.data import DataLoader, TensorDataset

import mmsb_torch as mmsb
from mmsb_torch.device import copy_of, flat_words


def octets(tensor):
    """A tensor's dtype, shape and bits, to compare with `==`."""
    bits = flat_words(copy_of(tensor)).numpy().tobytes() if tensor.numel() else b""
    return str(tensor.dtype), tuple(tensor.shape), hashlib.sha256(bits).hexdigest()


def frozen(value):
    """Nested state as plain data that compares bit for bit."""
    if isinstance(value, torch.Tensor):
        return octets(value)
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes().hex()
    if isinstance(value, dict):
        return {repr(key): frozen(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value).__name__, [frozen(item) for item in value]
    return type(value).__name__, repr(value)


def seed(number):
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002 - the global generator is what is tested


def generators():
    return frozen([torch.get_rng_state(), random.getstate(), np.random.get_state()])  # noqa: NPY002 - the global generator is what is tested


def mlp(inputs=12, classes=4):
    return nn.Sequential(
        nn.Linear(inputs, 24),
        nn.BatchNorm1d(24),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(24, classes),
    )


class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.ReLU(),
            nn.Dropout2d(0.1),
            nn.Flatten(),
            nn.Linear(16 * 16, 10),
        )

    def forward(self, x):
        return self.body(x.view(-1, 1, 8, 8))


def made_up(inputs=12, classes=4, count=50):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(count, inputs, generator=generator)
    return x, torch.randint(0, classes, (count,), generator=generator)


def digits():
    from sklearn.datasets import load_digits

    found = load_digits()
    return torch.tensor(found.data, dtype=torch.float32) / 16, torch.tensor(found.target)


class Loop:
    """A model, its optimizer and the rest, and a step of training; `made` makes the optimizer."""

    def __init__(self, *, model=mlp, data=made_up, made=None, number=0, batch=8, scheduler=True):
        self.data = TensorDataset(*data())
        seed(number)
        self.model = model()
        made = made or (lambda params: torch.optim.AdamW(params, lr=1e-2))
        self.optimizer = made(self.model.parameters())
        self.scheduler = None
        if scheduler:
            self.scheduler = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, 0.05, 200)
        self.sampler = mmsb.ResumableSampler(self.data, seed=11)
        self.loader = DataLoader(self.data, batch_size=batch, sampler=self.sampler)
        self.batches = iter(())

    def parts(self):
        given = {"model": self.model, "optimizer": self.optimizer, "loader": self.loader}
        return given if self.scheduler is None else {**given, "scheduler": self.scheduler}

    def batch(self):
        for _ in range(2):
            for found in self.batches:
                return found
            self.batches = iter(self.loader)
        raise AssertionError("no data")

    def backward(self):
        x, y = self.batch()
        noise = float(np.random.rand()) + random.random()  # noqa: NPY002 - the global generator is what is tested
        loss = cross_entropy(self.model(dropout(x, 0.1)), y) * (1 + noise / 10)
        loss.backward()
        return loss.item()

    def step(self):
        self.optimizer.zero_grad()
        loss = self.backward()
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        return loss

    def state(self):
        """Everything that it would go on from."""
        rest = [part.state_dict() for part in (self.scheduler, self.sampler) if part is not None]
        return frozen([self.model.state_dict(), self.optimizer.state_dict(), rest]), generators()


def train(memory, loop, steps, until=None, each=None):
    """Go on in a memory to `steps`, or stop after `until`; returns the losses and the run."""
    run = mmsb.track(memory, **loop.parts())
    losses = []
    for step in range(run.resume(), steps if until is None else until):
        losses.append(loop.step())
        run.commit(step=step + 1, loss=losses[-1])
        if each is not None:
            each(step + 1)
    return losses, run


def made_kit():
    names = (octets, frozen, seed, generators, mlp, Cnn, made_up, digits, Loop, train)
    return SimpleNamespace(**{found.__name__: found for found in names})


@pytest.fixture(scope="session")
def kit():
    return made_kit()


@pytest.fixture
def path(tmp_path):
    """Where a store can be made."""
    return tmp_path / "run.mmsb"
