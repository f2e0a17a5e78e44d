"""A module is an input in all its parts."""

import logging

import pytest
import torch
from torch import nn

LOG = logging.getLogger("recipes of the graph's tests")  # a digest knows it by its name alone


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.norm = nn.BatchNorm1d(2)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("shift", torch.zeros(2))
        self.gain = 1.0
        self.table = {"scale": [1.0]}

    def forward(self, x):
        LOG.info("forward")
        return self.drop(self.norm(self.inner(x))) * self.gain * self.table["scale"][0] + self.shift


def optimise(net, **options):
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, **options)
    net(torch.ones(3, 2)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def foreign_write(net):
    net.inner.weight.detach().numpy()[0, 0] += 1


def add_hook(net):
    net.inner.register_forward_hook(lambda module, args, result: result + 1)


def swap(net):
    net.inner = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 2))


def assign(net):
    state = {key: torch.ones_like(value) for key, value in net.state_dict().items()}
    net.load_state_dict(state, assign=True)


def replace_class_method(net):
    net.forward = lambda x: x * 3


MODULE_EDITS = {
    "in place": lambda net: net.inner.bias.data.add_(1),
    "no grad": lambda net: torch.no_grad()(lambda: net.inner.weight.mul_(2))(),
    "copy": lambda net: net.inner.weight.data.copy_(torch.ones(2, 2)),
    "data": lambda net: setattr(net.inner.weight, "data", torch.ones(2, 2)),
    "numpy": foreign_write,
    "loop optimizer": lambda net: optimise(net, foreach=False),
    "foreach optimizer": lambda net: optimise(net, foreach=True),
    "fused optimizer": lambda net: optimise(net, fused=True),
    "parameter": lambda net: setattr(net.inner, "bias", nn.Parameter(torch.ones(2))),
    "no parameter": lambda net: setattr(net.inner, "bias", None),
    "buffer": lambda net: net.shift.add_(1),
    "new buffer": lambda net: setattr(net, "shift", torch.ones(2)),
    "statistics": lambda net: net.norm.running_mean.add_(1),
    "attribute": lambda net: setattr(net, "gain", 2.0),
    "attribute within": lambda net: net.table["scale"].__setitem__(0, 3.0),
    "eps": lambda net: setattr(net.norm, "eps", 0.5),
    "hook": add_hook,
    "pre-hook": lambda net: net.register_forward_pre_hook(lambda module, args: (args[0] + 1,)),
    "swapped": swap,
    "assigned": assign,
    "load_state_dict": lambda net: net.load_state_dict(Net().state_dict()),
    "own forward": replace_class_method,
    "other dtype": lambda net: net.double() and net.float(),
    "reset": lambda net: net.inner.reset_parameters(),
}


@pytest.mark.parametrize("edit", MODULE_EDITS.values(), ids=MODULE_EDITS.keys())
def test_a_module_is_an_input_in_all_its_parts(mem, calls, edit):
    torch.manual_seed(0)
    net = Net().eval()
    page = mem.derive(net, "x", name="net")
    below = mem.derive(torch.abs, page, name="below")
    for wanted_runs in (1, 0):
        assert torch.equal(page.tensor, _plain(net, mem["x"].clone(), calls))
        assert calls() == ["forward"] * wanted_runs
    edit(net)
    calls()
    assert torch.equal(below.tensor, _plain(net, mem["x"].clone(), calls).abs())
    assert torch.equal(page.tensor, _plain(net, mem["x"].clone(), calls))
    assert len(calls()) <= 1
    assert mem.propagate() == []


def _plain(net, x, calls):
    """What calling the module gives, its report taken back."""
    before = calls()
    with torch.no_grad():
        result = net(x)
    calls()
    for name in before:
        LOG.info(name)
    return result


def test_train_and_eval_are_other_inputs(mem):
    net = Net().eval()
    net.drop.p = 0.0
    page = mem.derive(net, "x", name="net")
    in_eval = page.clone()
    net.train()
    with torch.no_grad():
        in_train = nn.functional.batch_norm(net.inner(mem["x"].clone()), None, None, training=True)
    assert torch.allclose(page.tensor, in_train, atol=1e-5)
    net.eval()
    assert not torch.equal(page.tensor, in_eval)  # the statistics moved while it trained
    with torch.no_grad():
        assert torch.equal(page.tensor, net(mem["x"].clone()))


def test_a_module_in_training_runs_at_each_read(mem, calls):
    net = nn.BatchNorm1d(2)
    net.register_forward_hook(lambda *_: LOG.info("run"))
    page = mem.derive(net, "x", name="net")
    for number in range(1, 4):
        assert page.tensor.shape == (3, 2)
        assert net.num_batches_tracked == number
        assert calls() == ["run"]


def test_hooks_for_all_modules_count(mem):
    page = mem.derive(nn.Linear(2, 2), "x", name="net")
    before = page.clone()
    handle = nn.modules.module.register_module_forward_hook(lambda m, args, result: result + 1)
    try:
        assert torch.equal(page.tensor, before + 1)
    finally:
        handle.remove()
    assert torch.equal(page.tensor, before)


def test_a_closure_over_a_module_counts_as_much_as_the_module(mem):
    net = nn.Linear(2, 2)
    page = mem.derive(lambda x: net(x) * 2, "x", name="p")
    _ = page.tensor
    with torch.no_grad():
        net.weight.fill_(1.0)
        assert torch.equal(page.tensor, net(mem["x"].clone()) * 2)
