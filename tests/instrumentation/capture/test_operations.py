"""Every operation that torch tests itself gives the same bits recorded as plain, and the same RNG."""

import contextlib
import os

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import mmsb_torch as mmsb

op_db = pytest.importorskip("torch.testing._internal.common_methods_invocations").op_db

SOAK = bool(os.environ.get("MMSB_SOAK"))
CHOSEN = [op for op in op_db if torch.float32 in op.supported_dtypes("cpu")]
CHOSEN = CHOSEN if SOAK else CHOSEN[::6]
"""All of them with MMSB_SOAK=1, some ten minutes."""

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(600),
]


def first_sample(op):
    torch.manual_seed(0)
    return next(iter(op.sample_inputs("cpu", torch.float32)), None)


def run(op, sample):
    """The result, or the error, and the state of the generator afterwards."""
    torch.manual_seed(1)
    try:
        result = op(sample.input, *sample.args, **sample.kwargs)
    except Exception as error:
        return type(error), str(error).partition("\n")[0], torch.get_rng_state()
    return None, result, torch.get_rng_state()


def same(a, b):
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if a.layout is not torch.strided:
            return a.layout == b.layout and same(a.to_dense(), b.to_dense())
        meta = (a.dtype, a.shape, a.stride(), a.is_conj(), a.is_neg(), a.requires_grad)
        other = (b.dtype, b.shape, b.stride(), b.is_conj(), b.is_neg(), b.requires_grad)
        if a.dtype == torch.complex32:  # torch cannot compare those
            a, b = a.to(torch.complex64), b.to(torch.complex64)
        return meta == other and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and (isinstance(a, torch.Tensor) or a == b or a != a)


UNDEFINED = {
    "empty",
    "empty_like",
    "empty_permuted",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
}
# torch itself computes these another way whenever any dispatch mode is on (it may need vectors too)
OTHERWISE_UNDER_MODES = {"linalg.svdvals", "linalg.eigvalsh", "linalg.cond"}


class Bare(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("op", CHOSEN, ids=lambda op: f"{op.name}.{op.variant_test_name}")
def test_recorded_equals_plain(op):
    if first_sample(op) is None:
        pytest.skip("torch gives no sample")
    sample = first_sample(op)
    with Bare() if op.name in OTHERWISE_UNDER_MODES else contextlib.nullcontext():
        plain = run(op, sample)
    sample = first_sample(op)
    with mmsb.open() as memory, memory.record() as rec:
        seen = run(op, sample)
    assert not rec.dropped
    assert seen[0] == plain[0]
    assert torch.equal(seen[2], plain[2])
    if op.name not in UNDEFINED:
        assert same(seen[1], plain[1])
