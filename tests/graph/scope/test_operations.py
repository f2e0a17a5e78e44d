"""Every operation that torch tests itself: in a scope, twice and after writes, what it is without.

`MMSB_SOAK=1` tries every sample of every operation; else the first samples of one in five.
"""

import contextlib
import itertools
import os

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import mmsb_torch as mmsb
from mmsb_torch.graph.scope import operations, opkeys
from mmsb_torch.instrumentation.identity import ledger
from mmsb_torch.testing import alike, tensors_in

op_db = pytest.importorskip("torch.testing._internal.common_methods_invocations").op_db

SOAK = bool(os.environ.get("MMSB_SOAK"))
ALL = [op for op in op_db if torch.float32 in op.supported_dtypes("cpu")]
CHOSEN = ALL if SOAK else ALL[2::5]
SAMPLES = None if SOAK else 3

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


@pytest.fixture(autouse=True)
def everything_counts(monkeypatch):
    monkeypatch.setattr(opkeys, "LEAST_ELEMENTS", 1)
    monkeypatch.setattr(ledger, "LEAST_BYTES", 1)
    monkeypatch.setattr(operations, "is_worth_keeping", lambda *_: True)


class Bare(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def samples(op):
    torch.manual_seed(0)
    grad = op.supports_autograd
    return list(
        itertools.islice(op.sample_inputs("cpu", torch.float32, requires_grad=grad), SAMPLES)
    )


def outcome(op, sample):
    """Results, gradients and the generator afterwards; or the error."""
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
        return type(error), None, torch.get_rng_state()
    return result, [g for g in grads if g is not None], torch.get_rng_state()


def write(sample):
    """Change every input in place, in a way that torch's version counter does not see."""
    for tensor in tensors_in([sample.input, sample.args, sample.kwargs]):
        if tensor.layout is torch.strided and tensor.dtype == torch.float32 and tensor.numel():
            with contextlib.suppress(RuntimeError):  # several elements in one place
                tensor.data.mul_(0.5)


@pytest.mark.parametrize("op", CHOSEN, ids=lambda op: f"{op.name}.{op.variant_test_name}")
def test_a_scope_equals_plain(op, record_property):
    if op.name in UNDEFINED:
        pytest.skip("it differs from itself")
    bare = Bare() if op.name in OTHERWISE_UNDER_MODES else contextlib.nullcontext()
    plain_samples, scoped_samples = samples(op), samples(op)
    record_property("samples", len(plain_samples))
    with mmsb.open() as memory:
        for plain, scoped in zip(plain_samples, scoped_samples, strict=True):
            for turn in range(3):
                with bare:
                    wanted = outcome(op, plain)
                with memory.incremental():
                    found = outcome(op, scoped)
                assert torch.equal(found[2], wanted[2]), turn
                assert alike(found[0], wanted[0]), turn
                assert alike(found[1], wanted[1]), turn
                if turn:
                    write(plain)
                    write(scoped)
