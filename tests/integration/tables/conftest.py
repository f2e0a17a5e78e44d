"""What the tables of torch share: every tensor counts, however small, and how things are run."""

import contextlib
import os

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.graph.scope import operations, opkeys
from mmsb_torch.instrumentation.identity import ledger


@pytest.fixture(autouse=True)
def everything_counts(monkeypatch):
    monkeypatch.setattr(opkeys, "LEAST_ELEMENTS", 1)
    monkeypatch.setattr(ledger, "LEAST_BYTES", 1)
    monkeypatch.setattr(operations, "is_worth_keeping", lambda *_: True)


@pytest.fixture
def mem():
    with mmsb.open() as memory:
        yield memory


@pytest.fixture
def ways(mem):
    """By name: what a run happens inside of."""
    return {
        "plain": contextlib.nullcontext,
        "recorded": mem.record,
        "scoped": mem.incremental,
    }


@pytest.fixture(scope="session")
def soak():
    return bool(os.environ.get("MMSB_SOAK"))


@pytest.fixture(autouse=True)
def one_state_of_torch():
    """Whatever ran, torch's stacks and settings are afterwards as they were."""
    before = state()
    yield
    assert state() == before


def state():
    return (
        torch._C._len_torch_dispatch_stack(),
        torch._C._len_torch_function_stack(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_default_dtype(),
        torch.get_num_threads(),
    )
