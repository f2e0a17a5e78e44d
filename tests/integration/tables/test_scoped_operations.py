"""Every operation that torch tests itself: in a scope, twice and after writes, what it is without.

`MMSB_SOAK=1` tries every sample of every operation; else the first samples of one in five.
"""

import contextlib

import pytest
import torch

from mmsb_torch.testing import alike, tensors_in

from .operators import ALL, SOAK, UNDEFINED, bare, outcome, samples

CHOSEN = [op for op in (ALL if SOAK else ALL[2::5]) if op.name not in UNDEFINED]
SAMPLES = None if SOAK else 3

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(900)]


def write(sample):
    """Change every input in place, in a way that torch's version counter does not see."""
    for tensor in tensors_in([sample.input, sample.args, sample.kwargs]):
        if tensor.layout is torch.strided and tensor.dtype == torch.float32 and tensor.numel():
            with contextlib.suppress(RuntimeError):  # several elements in one place
                tensor.data.mul_(0.5)


@pytest.mark.parametrize("op", CHOSEN, ids=lambda op: f"{op.name}.{op.variant_test_name}")
def test_a_scope_equals_plain(op, mem, record_property):
    plain_samples, scoped_samples = samples(op, SAMPLES), samples(op, SAMPLES)
    record_property("samples", len(plain_samples))
    for plain, scoped in zip(plain_samples, scoped_samples, strict=True):
        for turn in range(3):
            with bare(op):
                wanted = outcome(op, plain)
            with mem.incremental():
                found = outcome(op, scoped)
            assert torch.equal(found[3], wanted[3]), turn
            assert found[0] == wanted[0], turn
            assert alike(found[1], wanted[1]), turn
            assert alike(found[2], wanted[2]), turn
            if turn:
                write(plain)
                write(scoped)
