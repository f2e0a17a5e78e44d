"""What an import costs, and what the package shows."""

import importlib
import os
import subprocess
import sys

import pytest

import mmsb_kernels

LIGHT = """
import sys, torch
before = set(sys.modules)
import mmsb_kernels, mmsb_kernels.reference
mmsb_kernels.reference.delta_merge(torch.zeros(2), torch.ones(2), torch.tensor([True, False]))
new = {name.partition(".")[0] for name in set(sys.modules) - before}
assert "triton" not in new, sorted(new)
assert "mmsb_torch" not in sys.modules
assert "delta_merge" in dir(mmsb_kernels)
mmsb_kernels.delta_merge
assert "triton" in sys.modules
"""

ENVIRONMENT = """
import torch, mmsb_kernels
base = torch.zeros(3)
mmsb_kernels.delta_merge(base, torch.ones(3), torch.tensor([True, False, True]))
assert base.tolist() == [1, 0, 1]
try:
    mmsb_kernels.compile_all()
except RuntimeError as error:
    assert "found TRITON_INTERPRET=1" in str(error)
else:
    raise AssertionError
"""


def run(program, **environment):
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_the_reference_loads_no_triton():
    run(LIGHT)


def test_triton_interpret_in_the_environment():
    run(ENVIRONMENT, TRITON_INTERPRET="1")


@pytest.mark.parametrize("name", mmsb_kernels.__all__)
def test_every_public_name_has_one_home(name):
    value = getattr(mmsb_kernels, name)
    home = importlib.import_module(f"mmsb_kernels.{mmsb_kernels._HOMES[name]}")
    assert value is getattr(home, name)
    assert value.__module__ == home.__name__
    assert value.__doc__


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'delta_merges'"):
        mmsb_kernels.delta_merges  # noqa: B018 - the look-up itself is what fails
