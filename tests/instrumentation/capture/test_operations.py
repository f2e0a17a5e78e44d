"""Every operation that torch tests itself gives the same recorded as plain: results, gradients, RNG.

`MMSB_SOAK=1` tries every sample of every operation; else the first of one in six.
"""

import contextlib
import itertools
import os

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import mmsb_torch as mmsb
from mmsb_torch.testing import alike, tensors_in

op_db = pytest.importorskip("torch.testing._internal.common_methods_invocations").op_db

SOAK = bool(os.environ.get("MMSB_SOAK"))
ALL = [op for op in op_db if torch.float32 in op.supported_dtypes("cpu")]
CHOSEN = ALL if SOAK else ALL[::6]
SAMPLES = None if SOAK else 1

UNDEFINED = {
    "empty",
    "empty_like",
    "empty_permuted",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
    "linalg.lstsq",  # a few samples differ from run to run of plain torch
}
# torch itself computes these, or their gradients, another way whenever any dispatch mode is on
OTHERWISE_UNDER_MODES = {
    "linalg.svdvals", "linalg.eigvalsh", "linalg.cond", "prod", "masked.prod", "ormqr",
}  # fmt: skip

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(900)]


class Bare(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def samples(op):
    torch.manual_seed(0)
    found = op.sample_inputs("cpu", torch.float32, requires_grad=op.supports_autograd)
    return list(itertools.islice(found, SAMPLES))


def outcome(op, sample):
    """The error if there is one, results, gradients, and the generator's state afterwards."""
    torch.manual_seed(1)
    inputs = [t for t in tensors_in([sample.input, sample.args, sample.kwargs]) if t.requires_grad]
    try:
        result = op(sample.input, *sample.args, **sample.kwargs)
        if sample.output_process_fn_grad is not None:
            result = sample.output_process_fn_grad(result)
        outputs = [t for t in tensors_in(result) if t.requires_grad and t.grad_fn is not None]
        grads = []
        if outputs and inputs:
            ones = [torch.ones_like(t) for t in outputs]
            grads = torch.autograd.grad(outputs, inputs, ones, allow_unused=True)
    except Exception as error:
        return (type(error), str(error).partition("\n")[0]), None, None, torch.get_rng_state()
    return None, result, [g for g in grads if g is not None], torch.get_rng_state()


@pytest.mark.parametrize("op", CHOSEN, ids=lambda op: f"{op.name}.{op.variant_test_name}")
def test_recorded_equals_plain(op, record_property):
    plain_samples, recorded_samples = samples(op), samples(op)
    if not plain_samples:
        pytest.skip("torch gives no sample")
    record_property("samples", len(plain_samples))
    bare = Bare() if op.name in OTHERWISE_UNDER_MODES else contextlib.nullcontext()
    for plain, recorded in zip(plain_samples, recorded_samples, strict=True):
        with bare:
            error, result, grads, state = outcome(op, plain)
        with mmsb.open() as memory, memory.record() as rec:
            seen = outcome(op, recorded)
        assert not rec.dropped
        assert seen[0] == error
        assert torch.equal(seen[3], state)
        if op.name not in UNDEFINED:
            assert alike(seen[1], result)
            assert alike(seen[2], grads)
