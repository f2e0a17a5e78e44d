"""What the recorder's tests share: photographs of torch's state, and scopes that note names."""

import contextlib

import pytest
import torch
from torch.utils import _python_dispatch as dispatch

from mmsb_torch.instrumentation.capture import mode


def torch_state():
    """Everything of torch's that a scope must leave as it was, as plain data."""
    return {
        "dispatch modes": torch._C._len_torch_dispatch_stack(),
        "function modes": torch._C._len_torch_function_stack(),
        "flags": (
            dispatch._is_in_torch_dispatch_mode,
            dispatch._is_in_non_infra_torch_dispatch_mode,
            dispatch._is_in_any_mode_without_ignore_compile_internals,
        ),
        "rng": tuple(torch.get_rng_state().tolist()),
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "autocast": torch.is_autocast_enabled("cpu"),
        "dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "hooks": (
            len(torch.nn.modules.module._global_forward_hooks),
            len(torch.nn.modules.module._global_forward_pre_hooks),
        ),
        "scopes": len(mode._entered),
    }


@pytest.fixture
def state():
    return torch_state


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    before = torch_state()
    yield
    after = torch_state()
    before.pop("rng"), after.pop("rng")
    assert after == before


@contextlib.contextmanager
def noting(names, **options):
    """A scope that appends the name of every operation to `names`."""

    def handle(func, types, args, kwargs):
        names.append(func.__name__.split(".")[0])
        return func(*args, **kwargs)

    scope = mode.Scope(handle, **options)
    scope.enter()
    try:
        yield scope
    finally:
        scope.leave()


@pytest.fixture
def note():
    return noting
