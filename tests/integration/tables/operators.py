"""Torch's own table of operations with their samples, and what running one gives."""

import contextlib
import itertools
import os

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmsb_torch.testing import tensors_in

op_db = pytest.importorskip("torch.testing._internal.common_methods_invocations").op_db

SOAK = bool(os.environ.get("MMSB_SOAK"))
ALL = [op for op in op_db if torch.float32 in op.supported_dtypes("cpu")]

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


class Bare(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def bare(op):
    """Where the plain run happens: within a mode that does nothing, if that makes a difference."""
    return Bare() if op.name in OTHERWISE_UNDER_MODES else contextlib.nullcontext()


def samples(op, count):
    """The first so many samples, the same each time."""
    torch.manual_seed(0)
    found = op.sample_inputs("cpu", torch.float32, requires_grad=op.supports_autograd)
    return list(itertools.islice(found, count))


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
