"""What the tables of torch share: every tensor counts, however small, and how things are run."""

import contextlib
import os

import pytest
import torch


@pytest.fixture(autouse=True)
def _everything(everything_counts):
    """For each test here."""


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
