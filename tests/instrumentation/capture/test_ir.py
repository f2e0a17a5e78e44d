"""Graphs as bytes: equal graphs have equal bytes, what is read runs as what was written."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import fx, nn

from mmsb_torch.errors import MMSBError, SerializationError
from mmsb_torch.instrumentation.capture.export import capture
from mmsb_torch.instrumentation.capture.ir import IR


def graph(function, *args, way="export"):
    return capture(function, *args, ways=[way]).ir


def run(function, args):
    torch.manual_seed(1)
    with torch.no_grad():
        return function(*args)


def test_what_is_read_runs_as_what_was_written(program, equal):
    function, args = program
    written = capture(function, *args).ir
    raw = written.to_bytes()
    read = IR.from_bytes(raw)
    assert read.to_bytes() == raw
    assert read == written
    assert hash(read) == hash(written)
    assert equal(run(read, args), run(written, args))


def test_capturing_again_gives_the_same_bytes(program):
    function, args = program
    assert capture(function, *args).ir.to_bytes() == capture(function, *args).ir.to_bytes()


def test_a_graph_module_of_a_graph_gives_the_same_bytes(program):
    function, args = program
    ir = capture(function, *args).ir
    assert IR.of(ir.module).to_bytes() == ir.to_bytes()


class Results(fx.Interpreter):
    """Keeps what each node gave."""

    def __init__(self, module):
        super().__init__(module)
        self.seen = {}

    def run_node(self, n):
        self.seen[n.name] = result = super().run_node(n)
        return result


@pytest.mark.parametrize("way", ["export", "make_fx", "tape"])
@pytest.mark.parametrize("name", ["mlp", "conv", "mha", "integers", "complexes", "inplace", "half"])
def test_every_node_says_what_it_gives(case, name, way):
    function, args = case(name)
    ir = graph(function, *args, way=way)
    interpreter = Results(ir.module)
    with torch.no_grad():
        interpreter.run(*args)
    for index, node in enumerate(ir.nodes):
        result = interpreter.seen[f"v{index}"]
        if isinstance(result, torch.Tensor):
            assert (node.shape, node.dtype) == (tuple(result.shape), result.dtype)
            assert (node.stride, node.value.device) == (result.stride(), result.device)
        else:
            assert len(node.values) == len(result)


# equal graphs


@pytest.mark.parametrize("name", ["mlp", "conv", "integers", "nested", "complexes", "several"])
@pytest.mark.parametrize("seed", range(3))
def test_names_and_order_make_no_difference(case, name, seed, shuffled):
    function, args = case(name)
    ir = capture(function, *args).ir
    assert IR.of(shuffled(ir.module, seed)).to_bytes() == ir.to_bytes()


def test_calls_that_no_result_needs_are_left_out():
    def wasteful(a):
        _ = a.sin() + 1
        return a.cos()

    assert graph(wasteful, torch.ones(3)) == graph(torch.cos, torch.ones(3))


def test_the_order_of_dicts_makes_no_difference():
    one, other = torch.ones(3), torch.zeros(2)
    function = lambda given: {"x": given["a"] + 1, "y": given["b"] * 2}
    turned = lambda given: {"y": given["b"] * 2, "x": given["a"] + 1}
    wanted = graph(function, {"a": one, "b": other}).to_bytes()
    assert graph(function, {"b": other, "a": one}).to_bytes() == wanted
    assert graph(turned, {"b": other, "a": one}).to_bytes() == wanted


def test_keywords_and_defaults_make_no_difference():
    x = torch.ones(3)
    wanted = graph(lambda a: torch.add(a, a), x)
    assert graph(lambda a: torch.add(a, a, alpha=1), x) == wanted
    assert graph(lambda a: torch.add(input=a, other=a), x) == wanted
    assert graph(lambda a: torch.add(a, a, alpha=2), x) != wanted


@pytest.mark.parametrize(
    "other",
    [
        lambda a: a * 1.0,
        lambda a: a * 2,
        lambda a: a * True,
        lambda a: 1 + a,
        lambda a: (a * 1,),
        lambda a: [a * 1],
        lambda a: a * torch.tensor(1),
        lambda a: a * 1 * 1,
    ],
)
def test_other_graphs_have_other_digests(other):
    x = torch.ones(3)
    one, two = graph(lambda a: a * 1, x), graph(other, x)
    assert one.digest != two.digest
    assert one != two
    assert one.to_bytes() != two.to_bytes()


def test_other_inputs_and_weights_have_other_digests():
    linear = nn.Linear(4, 4)
    before = graph(linear, torch.ones(2, 4))
    assert graph(linear, torch.ones(3, 4)) != before
    assert graph(linear, torch.ones(4, 2).t()) != before
    with torch.no_grad():
        linear.weight[0, 0] = -0.0
        zero = graph(linear, torch.ones(2, 4))
        linear.weight[0, 0] = 0.0
    assert graph(linear, torch.ones(2, 4)) != zero


def test_random_numbers_keep_their_order():
    def draw(a):
        first, second = torch.rand(2), torch.rand(2)
        return second - first + a

    ir = graph(draw, torch.zeros(2))
    torch.manual_seed(3)
    wanted = draw(torch.zeros(2))
    torch.manual_seed(3)
    assert torch.equal(ir(torch.zeros(2)), wanted)
    assert [node.op for node in ir.nodes][:2] == ["aten.rand.default"] * 2


SCRIPT = """
import torch
from torch import nn
from mmsb_torch.instrumentation.capture.export import capture

torch.manual_seed(0)
model = nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.GELU(), nn.Flatten(), nn.Linear(24, 5))
def call(given, mode="a"):
    names = {name: None for name in {"p", "q", "r"}}
    return {name: model(given["x"]) * len(mode) for name in names}
irs = [capture(call, {"x": torch.ones(2, 3, 8), "z": torch.ones(1)}, mode="b").ir]
irs.append(capture(model.eval(), torch.ones(2, 3, 8)).ir)
irs.append(capture(lambda a: a + 1 if a.sum() > 0 else a, torch.ones(2)).ir)
for ir in irs:
    print(ir.to_bytes().hex())
"""


def test_processes_and_hash_seeds_make_no_difference():
    script = textwrap.dedent(SCRIPT).replace("\nirs = ", "\nmodel.eval()\nirs = ")
    found = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "77")
    ]
    assert found[0] == found[1]
    assert len(found[0].splitlines()) == 3


# constants


def test_constants_keep_their_strides_and_bits(equal):
    base = torch.randn(6, 8)
    given = [base.t(), base[::2], base[:1].expand(4, 8), base[:0], torch.tensor(-0.0), base[:, 3:5]]
    given += [torch.tensor([float("nan"), 1j]), base.to(torch.float8_e4m3fn), base > 0]
    ir = graph(
        lambda a: tuple(
            a.new_zeros(()).to(value.dtype) + value
            if value.dtype != torch.float8_e4m3fn
            else value.to(torch.float32)
            for value in given
        ),
        torch.ones(()),
    )
    read = IR.from_bytes(ir.to_bytes())
    assert len(read.constants) == len(given)
    for constant, again in zip(ir.constants, read.constants, strict=True):
        assert equal(constant.tensor, again.tensor)
        assert constant.tensor.stride() == again.tensor.stride()


def test_weights_may_stay_outside(equal):
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    x = torch.randn(3, 8)
    ir = graph(model, x)
    raw = ir.to_bytes(weights=False)
    assert len(raw) < len(ir.to_bytes()) - 600
    alone = IR.from_bytes(raw)
    assert alone == ir
    assert alone.missing == ("0.weight", "0.bias", "2.weight", "2.bias")
    assert alone.nodes == IR.from_bytes(ir.to_bytes()).nodes
    with pytest.raises(MMSBError, match=r"without its constants 0\.weight"):
        alone(x)
    with pytest.raises(SerializationError, match="without"):
        alone.to_bytes()
    assert alone.to_bytes(weights=False) == raw
    whole = IR.from_bytes(raw, model.state_dict())
    assert equal(whole(x), run(model, (x,)))
    assert whole.to_bytes() == ir.to_bytes()


def test_other_weights_are_refused():
    model = nn.Linear(8, 2)
    raw = graph(model, torch.ones(3, 8)).to_bytes(weights=False)
    with torch.no_grad():
        model.bias[1] += 1
    with pytest.raises(SerializationError, match="'bias' is not the one"):
        IR.from_bytes(raw, model.state_dict())


def test_results_are_never_memory_of_a_constant():
    weight = torch.ones(2, 2)
    ir = graph(lambda a: (weight.t(), [weight[0] + 0, weight, a]), torch.zeros(2))
    first = ir(torch.zeros(2))
    first[0].fill_(7)
    first[1][1].fill_(8)
    assert ir(torch.zeros(2))[1][1].equal(torch.ones(2, 2))
    assert (
        ir.to_bytes()
        == graph(lambda a: (weight.t(), [weight[0] + 0, weight, a]), torch.zeros(2)).to_bytes()
    )


def test_tied_weights_are_kept_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(32, 32, bias=False)
            self.two = nn.Linear(32, 32, bias=False)
            self.two.weight = self.one.weight

        def forward(self, x):
            return self.two(self.one(x))

    for way in ("export", "make_fx", "tape"):
        assert len(graph(Tied(), torch.ones(1, 32), way=way).constants) == 1


# for people


def test_text_and_repr():
    ir = graph(lambda a: (a @ torch.ones(2, 3)).relu() * 0.5, torch.ones(4, 2))
    assert repr(ir) == f"<IR {ir.digest[:8]}: 1 inputs, 4 nodes, 0 constants>"
    assert str(ir) == ir.text()
    assert ir.text().splitlines()[0] == "in0: float32[4, 2]"
    assert "%3 = aten.mul.Tensor(self=%2, other=0.5): float32[4, 3]" in ir.text()
    assert ir.text().endswith("return %3")
    assert ir.nodes[1].args == {"self": "in0", "other": "%0"}


def test_nodes_know_the_module_that_called_them():
    ir = graph(nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU())), torch.ones(1, 2))
    assert [node.scope for node in ir.nodes] == ["0", "1.0"]
