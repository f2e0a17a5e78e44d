"""What cache_frozen executes, because rows of it could not be known again; and that it says why."""

import random

import numpy as np
import pytest
import torch
from torch import nn

import mmsb_torch as mmsb
from mmsb_torch.device import same_bits

pytestmark = pytest.mark.usefixtures("frozen_rows_pay")


def data(rows=16, seed=1):
    return torch.randn(rows, 12, generator=torch.Generator().manual_seed(seed))


class Of(nn.Module):
    """A layer, and what is done with its result."""

    def __init__(self, then):
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(12, 16)
        self.table = nn.Buffer(torch.zeros(16))
        self.then = then
        self.eval().requires_grad_(False)

    def forward(self, x):
        return self.then(self, self.inner(x))


def writes(module, h):
    module.table += 1
    return h


def in_input(module, h):
    return h.sub_(h.mean(0))


MIXES = {
    "a mean over the rows": (lambda m, h: h - h.mean(0), "mixes rows"),
    "a scale from all rows": (lambda m, h: h / h.abs().amax(), "mixes rows|rows"),
    "the number of rows": (lambda m, h: h * len(h), "number of rows"),
    "places of the rows": (lambda m, h: h + torch.arange(len(h))[:, None], "places"),
    "rows in another order": (lambda m, h: h.flip(0), "rows"),
    "a sort of the rows": (lambda m, h: h.sort(0).values, "rows"),
    "a sum in place": (in_input, "rows"),
    "a list of values": (lambda m, h: h * h.sum(1).tolist()[0], "tolist"),
    "an array": (lambda m, h: h + torch.from_numpy(h.numpy().mean(0)), "numpy"),
    "rows that are chosen": (lambda m, h: h[h[:, 0] > 0], "size depends on values"),
    "a sigmoid": (lambda m, h: h.sigmoid(), "place of an element"),
    "a vector": (lambda m, h: h @ m.inner.weight[:, 0], "vector"),
    "torch's random numbers": (lambda m, h: h + torch.randn(h.shape), "random numbers"),
    "Python's random numbers": (lambda m, h: h + random.random(), "random numbers"),
    "numpy's random numbers": (lambda m, h: h + np.random.rand(), "random numbers"),  # noqa: NPY002
    "a write to a buffer": (writes, "changed while it ran"),
    "its argument's memory": (lambda m, h: m.table, "holds"),
    "two views of one tensor": (lambda m, h: (h, h[:, 1:]), "share memory"),
    "a string among values": (lambda m, h: {"a": h, "b": object()}, "holds a builtins.object"),
    "a number for all": (lambda m, h: (h, torch.zeros(3)), "rows"),
}


@pytest.mark.parametrize("case", MIXES)
def test_it_runs_and_says_why(mem, case):
    then, why = MIXES[case]
    module = Of(then)
    frozen = mmsb.cache_frozen(mem, module)
    for seed in (1, 2, 1, 2, 1):
        x = data(seed=seed)
        torch.manual_seed(5)
        random.seed(5)
        np.random.seed(5)  # noqa: NPY002 - the generator of all
        before = module.table.clone()
        ours = frozen(x)
        after, state = module.table.clone(), torch.get_rng_state()
        torch.manual_seed(5)
        random.seed(5)
        np.random.seed(5)  # noqa: NPY002 - the generator of all
        module.table.copy_(before)
        theirs = module(x)
        assert same_bits(module.table, after)  # it ran as often as plain
        assert torch.equal(torch.get_rng_state(), state)
        for a, b in zip(tensors(ours), tensors(theirs), strict=True):
            assert same_bits(a, b)
        assert frozen.stats()["hits"] == 0
    found = frozen.why()
    assert any(part in found for part in why.split("|")), found


def tensors(value):
    return [one for one in torch.utils._pytree.tree_leaves(value) if isinstance(one, torch.Tensor)]


@pytest.mark.parametrize(
    ("layer", "why"),
    [(nn.Dropout(), "random numbers"), (nn.BatchNorm1d(16), "changed while it ran")],
    ids=["dropout", "batch norm"],
)
def test_training_mode_runs_and_has_its_effects_once(mem, layer, why):
    module = nn.Sequential(nn.Linear(12, 16), layer).requires_grad_(False).train()
    frozen = mmsb.cache_frozen(mem, module)
    for _ in range(4):
        state = {name: value.clone() for name, value in module.state_dict().items()}
        torch.manual_seed(3)
        ours = frozen(data())
        effects = {name: value.clone() for name, value in module.state_dict().items()}
        drawn = torch.get_rng_state()
        module.load_state_dict(state)
        torch.manual_seed(3)
        assert same_bits(ours, module(data()))
        assert torch.equal(drawn, torch.get_rng_state())
        assert all(same_bits(effects[n], v) for n, v in module.state_dict().items())
    assert frozen.stats()["hits"] == 0
    assert why in frozen.why()
    module.eval()
    for _ in range(3):
        assert same_bits(frozen(data()), module(data()))
    assert frozen.stats()["hits"] == 1


def test_what_is_not_frozen_runs_with_gradients(mem):
    module = nn.Linear(12, 16)
    frozen = mmsb.cache_frozen(mem, module)
    frozen(data()).sum().backward()
    assert module.weight.grad is not None
    assert "'weight' requires gradients" in frozen.why()
    module.requires_grad_(False)
    x = data().requires_grad_()
    frozen(x).sum().backward()
    assert x.grad is not None
    assert "an argument requires them" in frozen.why()


def test_hooks_run(mem):
    module, seen = nn.Sequential(nn.Linear(12, 16)).requires_grad_(False), []
    frozen = mmsb.cache_frozen(mem, module)
    handle = module[0].register_forward_hook(lambda *_: seen.append(1))
    for _ in range(4):
        frozen(data())
    assert len(seen) == 4
    assert "module '0' has forward hooks" in frozen.why()
    handle.remove()
    frozen.register_forward_hook(lambda *_: seen.append(1))
    for _ in range(4):
        frozen(data())
    assert len(seen) == 8
    assert frozen.stats()["hits"] > 0


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ((), "no argument is a tensor"),
        ((torch.tensor(1.0),), "no argument is a tensor with rows"),
        ((data(), data(3)), "expected 16 rows"),
        ((data(), object()), "cannot be keyed"),
        ((torch.randn(12, 16).t(),), "interleaved"),
        ((torch.randn(16 * 12 + 1)[1:].view(16, 12),), "multiple of 64"),
        ((data().to_sparse(),), "dense"),
        ((data().to_mkldnn(),), "dense"),
    ],
)
def test_arguments_that_are_no_rows(mem, args, why):
    class Any_(nn.Module):
        def forward(self, *args):
            return args and args[0].clone()

    frozen = mmsb.cache_frozen(mem, Any_())
    for _ in range(3):
        frozen(*args)
    assert frozen.stats()["hits"] == 0
    assert why in frozen.why()


def test_one_tensor_as_two_arguments_runs(mem):
    frozen = mmsb.cache_frozen(mem, Added())
    x = data()
    for _ in range(3):
        assert same_bits(frozen(x, x), x + x)
    assert "one tensor" in frozen.why()


class Added(nn.Module):
    def forward(self, x, y):
        return x + y


def test_a_failing_run_raises_what_it_raises(mem):
    frozen = mmsb.cache_frozen(mem, nn.Linear(12, 4).requires_grad_(False))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        frozen(torch.zeros(4, 5))


def test_a_fixed_number_of_rows_runs(mem):
    class Fixed(nn.Module):
        def forward(self, x):
            return x.view(16, 3, 4).flatten(1) + 0

    frozen = mmsb.cache_frozen(mem, Fixed())
    for _ in range(3):
        frozen(data())
    assert "with 17 rows it raised" in frozen.why()


def test_rows_that_are_all_alike_prove_nothing(mem):
    frozen = mmsb.cache_frozen(mem, nn.Linear(12, 16).requires_grad_(False))
    for _ in range(12):
        frozen(torch.zeros(16, 12, dtype=torch.float32).round())
    assert frozen.stats()["hits"] > 0  # with random fractions instead, it shows
    ids = mmsb.cache_frozen(mem, nn.Embedding(5, 8).requires_grad_(False))
    for _ in range(12):
        ids(torch.zeros(16, 3, dtype=torch.int64))
    assert ids.stats()["hits"] == 0
    assert "too alike" in ids.why()


def test_values_that_are_read_choose_the_way(mem):
    """As Hugging Face's masks: where nothing is masked, attention takes another kernel."""

    class Chooses(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(12, 16)

        def forward(self, x, mask):
            if mask.all():
                return self.linear(x)
            return self.linear(x * mask) * 2

    module = Chooses().requires_grad_(False)
    frozen = mmsb.cache_frozen(mem, module)
    x, none = data(40), torch.ones(40, 1)
    some = none.clone()
    some[::2] = 0
    for seed in range(8):
        order = torch.randperm(40, generator=torch.Generator().manual_seed(seed))
        for at in order.split(16):
            for mask in (none, some):
                assert same_bits(frozen(x[at], mask[at]), module(x[at], mask[at]))
    assert frozen.stats()["hits"] > 20
    ones = (some[:, 0] == 1).nonzero()[:16, 0]  # nobody is masked: as if there were no mask
    assert same_bits(frozen(x[ones], some[ones]), module(x[ones], some[ones]))


def test_a_value_of_all_rows_that_is_read_counts_for_each(mem):
    module = Of(lambda _, h: h * h.max().item())
    frozen = mmsb.cache_frozen(mem, module)
    x = data(40)
    for seed in range(12):
        batch = x[torch.randperm(40, generator=torch.Generator().manual_seed(seed))[:16]]
        for _ in range(2):
            assert same_bits(frozen(batch), module(batch))
