"""Every optimizer that torch tests itself, recorded and in a scope: weights and state as without.

For-loop, foreach and fused, with every set of options that torch tries; steps, writes that no
version counter sees, more steps; then all of it again, from what is known. `MMSB_SOAK=1` tries every
set; else one in eight. Left out is `differentiable=True`, which asks for weights that are no leaves
and has a test of its own.
"""

import copy

import pytest
import torch
from torch import nn

from mmsb_torch.testing import alike

optim_db = pytest.importorskip("torch.testing._internal.common_optimizers").optim_db

STEPS = 3
SHARE = 8
KINDS = ("for-loop", "foreach", "fused")
CASES = [
    (info, kind)
    for info in optim_db
    for kind in KINDS
    if kind == "for-loop"
    or (kind in info.supported_impls and (kind != "fused" or "cpu" in info.supports_fused_on))
]

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(1800)]


class Sparse(nn.Module):
    """For the optimizer that takes sparse gradients only."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 5, sparse=True)

    def forward(self, x):
        return self.table((x[:, 0] > 0).long() + (x[:, 1] > 0).long() * 3).tanh()


def model_of(info):
    torch.manual_seed(2)
    if info.only_supports_sparse_grads:
        return Sparse()
    bias = info.name != "Muon"  # it takes matrices only
    return nn.Sequential(nn.Linear(6, 5, bias=bias), nn.Tanh(), nn.Linear(5, 3, bias=bias))


def options_of(info, kind):
    switches = {name: name == kind for name in ("foreach", "fused") if name in info.supported_impls}
    few = {"max_iter": 3} if info.step_requires_closure else {}
    return [
        {**copy.deepcopy(sample.kwargs), **switches, **few}
        for sample in info.optim_inputs_func(device="cpu")
        if not sample.kwargs.get("capturable")  # for accelerators
    ]


def train(info, options, way):
    """All weights and states after steps, writes that nobody sees, and more steps."""
    model = model_of(info)
    optimizer = info.optim_cls(model.parameters(), **copy.deepcopy(options))
    history, arrays = [], [p.detach().numpy() for p in list(model.parameters())[:1]]
    for turn in range(3):
        for step in range(STEPS):
            x = torch.randn(4, 6, generator=torch.Generator().manual_seed(step))

            def loss(x=x):
                optimizer.zero_grad()
                value = model(x).square().mean()
                value.backward()
                return value

            torch.manual_seed(step)
            with way():
                value = loss()
                optimizer.step(loss if info.step_requires_closure else None)
            history.append([value.detach().clone(), torch.get_rng_state()])
            history.append([p.detach().clone() for p in model.parameters()])
            history.append(states(optimizer))
        if turn == 0:
            for parameter in model.parameters():
                parameter.data.mul_(0.75)
        else:
            for array in arrays:
                array[...] = array * 0.5
    return history


def states(optimizer):
    found = copy.deepcopy(optimizer.state_dict())
    return [list(group.values()) for group in found["state"].values()] + [
        {k: v for k, v in group.items() if k != "params"} for group in found["param_groups"]
    ]


@pytest.mark.parametrize(("info", "kind"), CASES, ids=[f"{i.name}-{k}" for i, k in CASES])
def test_optimizers(info, kind, ways, soak, record_property):
    chosen = options_of(info, kind)[:: 1 if soak else SHARE]
    record_property("samples", len(chosen))
    for options in chosen:
        wanted = train(info, options, ways["plain"])
        assert alike(train(info, options, ways["recorded"]), wanted), options
        assert alike(train(info, options, ways["scoped"]), wanted), options
        assert alike(train(info, options, ways["scoped"]), wanted), (options, "again")


DIFFERENTIABLE = [info for info in optim_db if "differentiable" in info.supported_impls]


@pytest.mark.parametrize("info", DIFFERENTIABLE, ids=lambda info: info.name)
def test_a_step_that_is_differentiated(info, ways):
    """The gradient of what a step leads to, with respect to where it began."""

    def run(way):
        start = torch.randn(4, 5, generator=torch.Generator().manual_seed(1)).requires_grad_()
        with way():
            weight = start.clone()
            optimizer = info.optim_cls([weight], lr=0.01, differentiable=True)
            weight.grad = start.tanh()
            optimizer.step()
            (gradient,) = torch.autograd.grad(weight.square().sum(), start)
        return weight.detach(), gradient

    wanted = run(ways["plain"])
    assert alike(run(ways["recorded"]), wanted)
    for _ in range(2):
        assert alike(run(ways["scoped"]), wanted)


def test_the_table_is_whole():
    assert len({info.name for info, _ in CASES}) == len(optim_db) >= 15
