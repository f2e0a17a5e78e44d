"""Every module that torch tests itself, recorded, in a scope and memoised: what it is without.

Each sample runs six times, with writes between that no version counter sees. `MMSB_SOAK=1` tries
every sample in training and in `eval()`; else one of each module. None is left out.
"""

import itertools
import os

import pytest
import torch
from torch import nn

from mmsb_torch.testing import alike, tensors_in

module_db = pytest.importorskip("torch.testing._internal.common_modules").module_db

SOAK = bool(os.environ.get("MMSB_SOAK"))
CASES = [
    (info, training)
    for place, info in enumerate(module_db)
    for training in (True, False)
    if SOAK or training is bool(place % 2)
]
FEW = 1

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(1800)]


class Twin:
    """A module with its inputs; those made of one sample are the same, and share nothing."""

    def __init__(self, info, training, sample):
        torch.manual_seed(0)
        made, given = sample.constructor_input, sample.forward_input
        self.module = info.module_cls(*made.args, **made.kwargs).train(training)
        self.args, self.kwargs = (given.args, given.kwargs) if given else ((), {})
        self.lazy = info.is_lazy

    def inputs(self):
        return tensors_in([self.args, self.kwargs])

    def weights(self):
        if self.lazy:
            return []
        return [*self.module.parameters(), *self.module.buffers()]

    def run(self):
        """Results, gradients, weights and the generator afterwards; or the error."""
        torch.manual_seed(1)
        try:
            result = self.module(*self.args, **self.kwargs)
        except Exception as error:
            return type(error), str(error).partition("\n")[0]
        outputs = [t for t in tensors_in(result) if t.grad_fn is not None]
        leaves = [t for t in [*self.inputs(), *self.module.parameters()] if t.requires_grad]
        ones = [torch.ones_like(t) for t in outputs]
        grads = torch.autograd.grad(outputs, leaves, ones, allow_unused=True) if outputs else ()
        return [result, list(grads), self.weights(), torch.get_rng_state()]

    def memoised(self, function):
        torch.manual_seed(1)
        try:
            with torch.no_grad():
                result = function(self.module, self.args, self.kwargs)
        except Exception as error:
            return type(error), str(error).partition("\n")[0]
        return [result, self.weights(), torch.get_rng_state()]


def call(module, args, kwargs):
    return module(*args, **kwargs)


def by_data(twin):
    for tensor in twin.weights():
        if tensor.is_floating_point():
            tensor.data.mul_(0.5)


def by_array(twin):
    for tensor in twin.inputs():
        if tensor.layout is torch.strided and tensor.is_floating_point() and tensor.numel():
            array = tensor.detach().numpy()
            array.flat[0] = array.flat[0] * 0.5


def by_array_of_before():
    """Through arrays that are taken the first time, and written through the second."""
    held = {}

    def write(twin):
        if twin in held:
            for array in held[twin]:
                array[...] = array * 0.25
        else:
            held[twin] = [
                t.detach().numpy() for t in twin.weights() if t.is_floating_point() and t.numel()
            ]

    return write


def samples(info, training, few):
    torch.manual_seed(0)
    found = info.module_inputs_func(
        info, device="cpu", dtype=torch.float32, requires_grad=True, training=training
    )
    found = list(found)
    return list(itertools.islice(found, 0, None, -(-len(found) // FEW))) if few else found


@pytest.mark.parametrize(
    ("info", "training"), CASES, ids=[f"{i.name}-{'train' if t else 'eval'}" for i, t in CASES]
)
def test_modules(info, training, ways, mem, soak, record_property):
    names = (*ways, "memoised", "unkept")
    chosen = [samples(info, training, few=not soak) for _ in names]
    record_property("samples", len(chosen[0]))
    function = mem.memo(call)
    for same in zip(*chosen, strict=True):
        twins = {n: Twin(info, training, sample) for n, sample in zip(names, same, strict=True)}
        later = by_array_of_before()
        for write in (None, None, by_data, by_array, later, later):
            for twin in twins.values() if write else ():
                write(twin)
            found = {}
            for name, way in ways.items():
                with way():
                    found[name] = twins[name].run()
            assert alike(found["recorded"], found["plain"])
            assert alike(found["scoped"], found["plain"])
            kept, unkept = twins["memoised"].memoised(function), twins["unkept"].memoised(call)
            assert alike(kept, unkept)


def test_the_table_is_whole():
    """What torch tests is tried, module by module."""
    assert len(CASES) >= 100
    tried = {info.module_cls for info, _ in CASES}
    assert {nn.Linear, nn.LSTM, nn.BatchNorm2d, nn.MultiheadAttention} <= tried
