"""Every operation that torch tests itself gives the same recorded as plain: results, gradients, RNG.

`MMSB_SOAK=1` tries every sample of every operation; else the first of one in six.
"""

import pytest
import torch

from mmsb_torch.testing import alike

from .operators import ALL, SOAK, UNDEFINED, bare, outcome, samples

CHOSEN = ALL if SOAK else ALL[::6]
SAMPLES = None if SOAK else 1

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(900)]


@pytest.mark.parametrize("op", CHOSEN, ids=lambda op: f"{op.name}.{op.variant_test_name}")
def test_recorded_equals_plain(op, mem, record_property):
    plain_samples, recorded_samples = samples(op, SAMPLES), samples(op, SAMPLES)
    if not plain_samples:
        pytest.skip("torch gives no sample")
    record_property("samples", len(plain_samples))
    for plain, recorded in zip(plain_samples, recorded_samples, strict=True):
        with bare(op):
            error, result, grads, state = outcome(op, plain)
        with mem.record() as rec:
            seen = outcome(op, recorded)
        assert not rec.dropped
        assert seen[0] == error
        assert torch.equal(seen[3], state)
        if op.name not in UNDEFINED:
            assert alike(seen[1], result)
            assert alike(seen[2], grads)
