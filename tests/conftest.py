"""Hypothesis profiles, and determinism for torch."""

import os
import signal

import hypothesis
import pytest
import torch

import mmsb_torch as mmsb

hypothesis.settings.register_profile("dev", max_examples=60, deadline=None)
hypothesis.settings.register_profile("ci", max_examples=60, deadline=None, derandomize=True)
hypothesis.settings.register_profile("soak", max_examples=2000, deadline=None)
hypothesis.settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev")
)

# Whoever runs the tests in the background may ignore Ctrl-C, which processes inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Two test workers share two cores; a thread pool in each only fights over them.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="no CUDA device on this machine")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def modes_of_torch():
    """Whoever leaves a mode of torch's behind is told so, and not the tests after it."""
    yield
    left = [] if torch.is_grad_enabled() else ["grad is off"]
    left += ["inference mode is on"] if torch.is_inference_mode_enabled() else []
    left += ["autocast is on"] if torch.is_autocast_enabled("cpu") else []
    torch.set_grad_enabled(True)
    assert not left


@pytest.fixture
def mem():
    """An empty memory of this process."""
    with mmsb.open() as memory:
        yield memory


# What is decided by the clock, decided for a test: else its outcome would depend on the machine.


@pytest.fixture
def everything_counts(monkeypatch):
    """Small tensors are watched, and quick operations kept, as large and slow ones are."""
    monkeypatch.setattr("mmsb_torch.graph.scope.opkeys.LEAST_ELEMENTS", 1)
    monkeypatch.setattr("mmsb_torch.instrumentation.identity.ledger.LEAST_BYTES", 1)
    monkeypatch.setattr("mmsb_torch.graph.scope.operations.is_worth_keeping", lambda *_: True)


@pytest.fixture
def frozen_rows_pay(monkeypatch):
    """Rows of a frozen module are looked at, and read, however quick it is to run."""
    monkeypatch.setattr("mmsb_torch.graph.frozen.costs.Costs.may_look", lambda _: True)
    monkeypatch.setattr("mmsb_torch.graph.frozen.costs.Reads.pay", lambda _: True)


@pytest.fixture
def rows_pay(monkeypatch):
    """Values are made in part wherever that is right."""
    monkeypatch.setattr("mmsb_torch.graph.costs.Costs.may_pay", True)
    monkeypatch.setattr("mmsb_torch.graph.costs.Costs.favour_rows", lambda *_, **__: True)
    monkeypatch.setattr("mmsb_torch.graph.costs.Costs.promise", lambda *_: 1e9)


@pytest.fixture
def row_mem(rows_pay):
    """A memory that captures at once, too, and makes values in part wherever that is right."""
    torch.manual_seed(3)
    with mmsb.open() as memory:
        memory._engine.plans.seconds = 0.0
        yield memory
