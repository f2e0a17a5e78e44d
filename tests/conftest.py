"""Hypothesis profiles, and determinism for torch."""

import os
import signal

import hypothesis
import pytest
import torch

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
