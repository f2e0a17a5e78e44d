"""nn.Module: what moves the digest, and how the reason names it."""

import copy
import types

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from mmsb_torch.instrumentation.code import Definition


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.drop = nn.Dropout(0.5)
        self.norm = nn.BatchNorm1d(4)
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.LayerNorm(4)])
        self.scale = nn.Parameter(torch.ones(4))
        self.register_buffer("mask", torch.ones(4), persistent=False)
        self.table = {"gain": [1.0]}
        self.act = nn.functional.gelu

    def forward(self, x):
        x = self.norm(self.drop(self.act(self.linear(x))))
        return self.layers[1](self.layers[0](x)) * self.scale * self.mask * self.table["gain"][0]


def block():
    torch.manual_seed(0)
    return Block()


def halve(module, args, output):
    return output / 2


class Doubled(nn.Module):
    def forward(self, weight):
        return weight * 2


def test_equal_modules_have_equal_digests():
    one, two = Definition.of(block()), Definition.of(block())
    assert one.portable, one.opaque
    assert one.digest == two.digest
    assert Definition.of(copy.deepcopy(one.function)).digest == one.digest
    assert not one.cheap
    assert one.label == "Block"


def fused_step(module):
    parameters = list(module.parameters())
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    # What AdamW(fused=True) calls; making one imports the compiler, which takes seconds.
    moments = [[torch.zeros_like(p) for p in parameters] for _ in range(2)]
    steps = [torch.ones(()) for _ in parameters]
    torch._fused_adamw_(
        [p.detach() for p in parameters], [p.grad for p in parameters], *moments, [], steps,
        lr=0.1, beta1=0.9, beta2=0.99, weight_decay=0.0, eps=1e-8, amsgrad=False, maximize=False,
    )  # fmt: skip


def patch_forward(module):
    module.drop.forward = types.MethodType(lambda self, x: x, module.drop)


EDITS = {
    "eval": (lambda m: m.eval(), "module 'Block' training flag changed"),
    "part eval": (lambda m: m.drop.eval(), "module 'drop' training flag changed"),
    "in place": (lambda m: m.scale.data.mul_(2), "parameter 'scale' changed"),
    "no grad": (
        lambda m: m.layers[1].weight.requires_grad_(False),
        "parameter 'layers.1.weight' changed",
    ),
    "numpy": (lambda m: m.linear.bias.detach().numpy().fill(1), "parameter 'linear.bias' changed"),
    "fused step": (fused_step, "parameter 'scale' changed"),
    "replaced": (
        lambda m: setattr(m.linear, "weight", nn.Parameter(torch.zeros(4, 4))),
        "parameter 'linear.weight' changed",
    ),
    "removed": (lambda m: setattr(m.linear, "bias", None), "parameter 'linear.bias' changed"),
    "added": (
        lambda m: m.register_parameter("extra", nn.Parameter(torch.zeros(1))),
        "parameter 'extra' added",
    ),
    "tied": (
        lambda m: setattr(m.layers[0], "weight", m.linear.weight),
        "parameter 'layers.0.weight' changed",
    ),
    "buffer": (lambda m: m.mask.zero_(), "buffer 'mask' changed"),
    "buffer replaced": (lambda m: setattr(m, "mask", torch.zeros(4)), "buffer 'mask' changed"),
    "statistics": (lambda m: m(torch.randn(3, 4)), "buffer 'norm.running_mean' changed"),
    "to half": (lambda m: m.half(), "parameter 'scale' changed"),
    "channels": (
        lambda m: setattr(m.linear.weight, "data", m.linear.weight.data.t()),
        "parameter 'linear.weight' changed",
    ),
    "p": (lambda m: setattr(m.drop, "p", 0.25), "attribute 'p' of module 'drop' changed"),
    "eps": (lambda m: setattr(m.norm, "eps", 1e-3), "attribute 'eps' of module 'norm' changed"),
    "new attribute": (
        lambda m: setattr(m.drop, "extra", 1),
        "attribute 'extra' of module 'drop' added",
    ),
    "deep attribute": (
        lambda m: m.table["gain"].append(2.0),
        "attribute 'table' of module 'Block' changed",
    ),
    "function": (
        lambda m: setattr(m, "act", nn.functional.relu),
        "attribute 'act' of module 'Block' changed",
    ),
    "forward hook": (lambda m: m.drop.register_forward_hook(halve), "hooks of 'drop' added"),
    "pre hook": (
        lambda m: m.drop.register_forward_pre_hook(lambda m, x: None),
        "hooks of 'drop' added",
    ),
    "backward hook": (
        lambda m: m.drop.register_full_backward_hook(lambda m, x, y: None),
        "hooks of 'drop' added",
    ),
    "patched forward": (patch_forward, "attribute 'forward' of module 'drop' added"),
    "swapped": (
        lambda m: setattr(m, "drop", nn.Identity()),
        "module 'drop' changed",
    ),
    "appended": (lambda m: m.layers.append(nn.ReLU()), "module 'layers.2' added"),
    "renamed": (
        lambda m: (m.__setattr__("dropout", m.drop), m.__delattr__("drop")),
        "module 'drop' removed",
    ),
    "class": (lambda m: setattr(m.drop, "__class__", nn.AlphaDropout), "module 'drop' changed"),
    "parametrized": (
        lambda m: parametrize.register_parametrization(m.linear, "weight", Doubled()),
        "module 'linear' changed",
    ),
    "weight norm": (lambda m: parametrizations.weight_norm(m.linear), "module 'linear' changed"),
    "gradient": (lambda m: m.scale.sum().backward(), None),
}


@pytest.mark.parametrize(("edit", "reason"), EDITS.values(), ids=EDITS)
def test_an_edit_and_its_reason(edit, reason):
    module = block()
    definition = Definition.of(module)
    assert definition.changed() is None
    edit(module)
    assert definition.changed() == reason
    renewed = definition.refresh()
    assert renewed.portable, renewed.opaque
    assert (renewed.digest == definition.digest) == (reason is None)
    assert renewed.changed() is None


@pytest.mark.parametrize("edit", ["eval", "p", "forward hook"])
def test_an_edit_taken_back(edit):
    module = block()
    definition = Definition.of(module)
    handle = EDITS[edit][0](module)
    assert definition.changed() is not None
    if edit == "forward hook":
        handle.remove()
    module.train()
    module.drop.p = 0.5
    assert definition.changed() is None


def test_hook_numbers_do_not_matter_but_order_does():
    def quarter(module, args, output):
        return output / 4

    modules = [nn.Linear(2, 2, device="meta") for _ in range(3)]
    for number, module in enumerate(modules):
        for hook in [halve, quarter] if number < 2 else [quarter, halve]:
            module.register_forward_hook(hook, with_kwargs=False)
    digests = [Definition.of(m).digest for m in modules]
    assert digests[0] == digests[1] != digests[2]
    always = nn.Linear(2, 2, device="meta")
    always.register_forward_hook(halve, always_call=True)
    always.register_forward_hook(quarter)
    assert Definition.of(always).digest not in digests


def test_a_users_dict_named_like_hooks_keeps_its_keys():
    module = nn.Linear(2, 2)
    module.my_hooks = {3: halve}
    definition = Definition.of(module)
    module.my_hooks = {5: halve}
    assert definition.changed() == "attribute 'my_hooks' of module 'Linear' changed"


def test_hooks_for_all_modules_count():
    module = block()
    definition = Definition.of(module)
    handle = nn.modules.module.register_module_forward_hook(halve)
    try:
        assert definition.changed() == "hooks of '*' added"
    finally:
        handle.remove()
    assert definition.changed() is None


def test_the_code_of_hooks_counts(cell, rerun):
    space = cell("K = 2\ndef hook(module, args, output): return output * K")
    module = nn.Linear(2, 2)
    module.register_forward_hook(space["hook"])
    definition = Definition.of(module)
    rerun(space, "K = 3")
    assert definition.changed() == "global 'K' changed"


CLASS = """
    import torch
    from torch import nn
    GAIN = 2.0
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 2, device="meta")
        def helper(self, x): return x * GAIN
        def forward(self, x): return self.helper(self.linear(x))
    net = Net()
"""


def test_a_users_class_counts_by_its_methods(cell, rerun):
    space, again = cell(CLASS), cell(CLASS)
    definition = Definition.of(space["net"])
    assert definition.digest == Definition.of(again["net"]).digest
    rerun(space, "GAIN = 3.0")
    assert definition.changed() == "global 'GAIN' changed"
    rerun(space, "GAIN = 2.0\nNet.helper = lambda self, x: x / GAIN")
    assert definition.changed() == "method 'Net.helper' changed"
    rerun(space, "Net.helper = Net.helper\nNet.extra = 1")
    assert definition.refresh().changed() is None


def test_a_patched_library_class_is_seen(monkeypatch):
    module = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    definition = Definition.of(module)
    monkeypatch.setattr(nn.Tanh, "forward", lambda self, x: x)
    assert definition.changed() == "method 'Tanh.forward' added"
    monkeypatch.setattr(nn.Tanh, "forward", nn.Sigmoid.forward)
    assert definition.changed() == "method 'Tanh.forward' added"
    monkeypatch.undo()
    assert definition.changed() is None


def test_modules_that_code_refers_to(cell):
    space = cell("def f(x): return model(x).sum() * scale", model=block(), scale=torch.ones(1))
    definition = Definition.of(space["f"])
    space["model"].linear.bias.data.add_(1)
    assert definition.changed() == "parameter 'model.linear.bias' changed"
    space["model"].linear.bias.data.sub_(1)
    space["scale"].numpy()[0] = 3
    assert definition.changed() == "global 'scale' changed"


def test_methods_and_submodules_as_recipes():
    module = block()
    whole, method = Definition.of(module), Definition.of(module.forward)
    assert whole.digest != method.digest
    module.layers[0].bias.data.add_(1)
    assert whole.changed() == method.changed() == "parameter 'layers.0.bias' changed"


def test_tied_and_equal_parameters_differ():
    tied, equal = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), None
    tied[1].weight = tied[0].weight
    equal = copy.deepcopy(tied)
    assert Definition.of(equal).digest == Definition.of(tied).digest
    equal[1].weight = nn.Parameter(equal[0].weight.detach().clone())
    assert Definition.of(equal).digest != Definition.of(tied).digest


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Transformer(8, 2, 1, 1, 16, batch_first=True),
        lambda: nn.LSTM(4, 4, 2, bidirectional=True),
        lambda: nn.MultiheadAttention(8, 2),
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Softmax(-1)),
        lambda: parametrizations.weight_norm(nn.Linear(2, 2)),
        lambda: parametrizations.spectral_norm(nn.Linear(2, 2)),
        lambda: nn.EmbeddingBag(4, 2),
        lambda: nn.ParameterDict({"a": nn.Parameter(torch.ones(1))}),
        lambda: nn.CrossEntropyLoss(weight=torch.ones(2)),
    ],
)
def test_library_modules_are_portable(make):
    torch.manual_seed(0)
    one = Definition.of(make())
    torch.manual_seed(0)
    two = Definition.of(make())
    assert one.opaque == ()
    assert one.digest == two.digest
    assert one.changed() is None


def test_running_in_eval_mode_changes_nothing():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    module = nn.TransformerEncoder(layer, 2).eval()
    definition = Definition.of(module)
    with torch.no_grad():
        module(torch.randn(2, 3, 8))
    assert definition.changed() is None


def test_gradients_count_for_code_that_reads_them(cell):
    space = cell("def f(x): return model.weight.grad * x", model=nn.Linear(2, 2))
    definition = Definition.of(space["f"])
    space["model"](torch.ones(1, 2)).sum().backward()
    assert definition.changed() == "gradient of 'model.weight' changed"
    definition = definition.refresh()
    space["model"].weight.grad.add_(1)
    assert definition.changed() == "gradient of 'model.weight' changed"


def test_captured_and_compiled_modules():
    linear = nn.Linear(2, 2, device="meta")
    graphs = [torch.fx.symbolic_trace(nn.Sequential(linear, act)) for act in (nn.ReLU(), nn.Tanh())]
    definitions = [Definition.of(graph) for graph in [*graphs, torch.fx.symbolic_trace(linear)]]
    assert all(d.portable for d in definitions)
    assert len({d.digest for d in definitions}) == 3
    node = next(node for node in graphs[0].graph.nodes if node.op == "call_module")
    graphs[0].graph.inserting_after(node)
    node.replace_all_uses_with(next(iter(graphs[0].graph.nodes)))
    assert definitions[0].changed() is None
    graphs[0].recompile()
    assert definitions[0].changed() == "attribute '_code' of module 'Sequential' changed"
