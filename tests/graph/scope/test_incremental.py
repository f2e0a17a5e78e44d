"""Incremental scopes: plain code that runs again executes only what changed."""

import copy

import pytest
import torch
from torch import nn

import mmsb_torch as mmsb
from mmsb_torch.device import same_bits
from mmsb_torch.graph.scope import admission, operations
from mmsb_torch.graph.scope.operations import Operations
from mmsb_torch.instrumentation.identity import ledger

SIZE = 96


@pytest.fixture(autouse=True)
def everything_is_kept(monkeypatch):
    monkeypatch.setattr(operations, "is_worth_keeping", lambda *_: True)


def randn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def op_by_op():
    """Without the operation that is a whole encoder layer."""
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


def encoder(layers=2):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(64, 4, 256, batch_first=True, dropout=0.0)
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


def run(mem, function, **options):
    with mem.incremental(**options) as scope:
        value = function()
    return value, scope.counts


def test_an_unchanged_block_executes_nothing_that_costs(mem, op_by_op):
    model, x = encoder().eval(), randn(1, 4, 16, 64)
    with torch.no_grad():
        plain = model(x)
        first, counts = run(mem, lambda: model(x))
        assert counts["hit"] == 0
        kept = counts["kept"]
        assert kept > 10
        again, counts = run(mem, lambda: model(x))
    assert torch.equal(first, plain)
    assert torch.equal(again, plain)
    assert counts["hit"] == kept
    assert counts["kept"] == 0


def test_only_what_a_change_leads_to_is_executed(mem, op_by_op):
    model, x = encoder(3).eval(), randn(1, 4, 16, 64)
    with torch.no_grad():
        _, counts = run(mem, lambda: model(x))
        everything = counts["kept"]
        model.layers[2].linear2.weight.data.mul_(1.01)
        value, counts = run(mem, lambda: model(x))
        assert torch.equal(value, model(x))
        assert 0 < counts["kept"] <= 4
        model.layers[1].linear1.bias.numpy()[0] += 1
        value, counts = run(mem, lambda: model(x))
        assert torch.equal(value, model(x))
        assert everything / 3 < counts["kept"] < everything * 2 / 3
        same = x.clone()  # equal bits
        value, counts = run(mem, lambda: model(same))
        assert counts["kept"] == 0
        x[0, 0, 0] += 1
        value, counts = run(mem, lambda: model(x))
        assert torch.equal(value, model(x))
        assert counts["kept"] > everything * 2 / 3


@pytest.mark.parametrize("optimizer", ["for", "foreach", "fused", "sgd"])
def test_training_steps_are_what_they_are_without(mem, optimizer):
    def train(scoped):
        torch.manual_seed(7)
        model = nn.Sequential(nn.Linear(SIZE, SIZE), nn.Dropout(0.2), nn.ReLU(), nn.Linear(SIZE, 8))
        options = {
            "for": {"foreach": False},
            "foreach": {"foreach": True},
            "fused": {"fused": True},
        }
        if optimizer == "sgd":
            optim = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        else:
            optim = torch.optim.AdamW(model.parameters(), **options[optimizer])
        losses = []
        for step in range(4):
            x, y = randn(step % 2, 64, SIZE), randn(9, 64, 8)

            def body(x=x, y=y):
                loss = nn.functional.mse_loss(model(x), y) + 1e-3 * model[0].weight.square().sum()
                optim.zero_grad()
                loss.backward()
                optim.step()
                return loss.detach()

            losses.append(run(mem, body)[0] if scoped else body())
        return losses, list(model.state_dict().values()), torch.get_rng_state()

    for _ in range(2):  # the second time from what is known
        for found, wanted in zip(train(scoped=True), train(scoped=False), strict=True):
            assert all(map(torch.equal, found, wanted))


def test_gradients_through_hits(mem):
    weight = randn(2, SIZE, SIZE).requires_grad_()

    def first_and_second(x):
        x = x.detach().requires_grad_()
        y = torch.tanh(x @ weight).pow(3).sum()
        (g,) = torch.autograd.grad(y, x, create_graph=True)
        return g.detach(), torch.autograd.grad(g.square().sum(), weight)[0]

    x = randn(1, SIZE, SIZE)
    plain = first_and_second(x)
    for turn in range(3):
        found, counts = run(mem, lambda: first_and_second(x))
        assert all(map(torch.equal, found, plain))
        assert (counts["hit"] > 5) == (turn > 0)
    y = run(mem, lambda: torch.relu(x @ weight))[0]
    y.sum().backward()  # after the scope
    assert torch.equal(weight.grad, torch.autograd.grad(torch.relu(x @ weight).sum(), weight)[0])


def test_what_is_handed_out_is_nobody_elses(mem):
    x = randn(1, SIZE, SIZE)
    wanted = x @ x
    first = run(mem, lambda: x @ x)[0]
    second = run(mem, lambda: x @ x)[0]
    first.zero_()
    array = second.numpy()
    array[...] = 7
    third, counts = run(mem, lambda: x @ x)
    assert counts["hit"] == 1
    assert torch.equal(third, wanted)
    assert not torch.equal(second, wanted)


def test_what_is_forgotten_while_it_is_held_stays_right():
    x = randn(1, SIZE, SIZE)
    with mmsb.open(budget=3 * x.nbytes) as mem:
        held = []
        for turn in range(12):
            held.append(run(mem, lambda turn=turn: (x * (turn % 5 + 1)) @ x)[0])
            held[turn // 2].add_(0)
        for turn, value in enumerate(held):
            assert torch.equal(value, (x * (turn % 5 + 1)) @ x)
        assert mem._operations.nbytes <= 3 * x.nbytes


def test_a_write_that_nobody_declares_is_seen(mem):
    library = torch.library.Library("mmsb_tests_lies", "DEF")
    library.define("lie(Tensor x) -> Tensor")

    def lie(x):
        x.detach().numpy()[0] += 1
        return x.sum()

    library.impl("lie", lie, "CPU")

    def body(x):
        before = (x * 2).sum()
        torch.ops.mmsb_tests_lies.lie(x)
        return before, (x * 2).sum()

    scoped, plain = randn(3, SIZE, SIZE), randn(3, SIZE, SIZE)
    for _ in range(3):
        found = run(mem, lambda: body(scoped))[0]
        wanted = body(plain)
        assert all(map(torch.equal, found, wanted))


def test_settings_and_modes_count(mem):
    x = randn(1, SIZE, SIZE)
    run(mem, lambda: x @ x)
    with torch.inference_mode():
        value, counts = run(mem, lambda: x @ x)
        assert counts["hit"] == 0
        assert value.is_inference()
        value, counts = run(mem, lambda: x @ x)
        assert counts["hit"] == 1
        assert value.is_inference()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert run(mem, lambda: x @ x)[0].dtype is torch.bfloat16
        assert run(mem, lambda: x @ x)[0].dtype is torch.bfloat16
    torch.set_num_threads(2)
    try:
        assert run(mem, lambda: x @ x)[1]["hit"] == 0
    finally:
        torch.set_num_threads(1)


def test_an_exception_keeps_what_was_completed(mem):
    x = randn(1, SIZE, SIZE)

    def body(fail):
        y = x @ x
        if fail:
            raise ArithmeticError
        return y + x

    with pytest.raises(ArithmeticError):
        run(mem, lambda: body(fail=True))
    value, counts = run(mem, lambda: body(fail=False))
    assert (counts["hit"], counts["kept"]) == (1, 1)
    assert torch.equal(value, x @ x + x)
    assert torch._C._len_torch_dispatch_stack() == 0


def test_compiled_and_higher_order(mem):
    x = randn(1, SIZE, SIZE)
    compiled = torch.compile(lambda x: torch.sin(x) @ x, backend="eager")
    wanted = compiled(x)
    for _ in range(2):
        assert torch.equal(run(mem, lambda: compiled(x))[0], wanted)

    def choose(x):
        return torch.cond(x.sum() > 0, lambda q: q + 1, lambda q: q - 1, (x,))

    plain = choose(x)
    for _ in range(2):
        assert torch.equal(run(mem, lambda: choose(x))[0], plain)


def test_strange_tensors_pass(mem):
    x = randn(1, SIZE, SIZE)
    sparse = x.relu().to_sparse()
    meta = torch.empty(SIZE, SIZE, device="meta")
    nested = torch.nested.nested_tensor([x[:3], x[:5]], layout=torch.jagged)

    def body():
        mapped = torch.func.vmap(lambda row: row @ x)(x)
        jacobian = torch.func.jacrev(lambda row: (row * 2).sum())(x)
        return (sparse @ x, (meta @ meta).shape, (nested * 2).values(), mapped, jacobian)

    for _ in range(2):
        for found, wanted in zip(run(mem, body)[0], body(), strict=True):
            assert found == wanted if isinstance(found, torch.Size) else torch.equal(found, wanted)


def test_a_sample_of_hits_is_run_again(mem):
    x = randn(1, SIZE, SIZE)
    run(mem, lambda: x @ x)
    assert run(mem, lambda: x @ x, verify=1.0)[1]["hit"] == 1
    for known in mem._operations._known.values():
        known.kept.result = known.kept.result + 1  # as if memory had rotted
    with pytest.raises(mmsb.WrongHitError, match="run again"):
        run(mem, lambda: x @ x, verify=1.0)
    assert run(mem, lambda: x @ x, verify=1.0)[1]["kept"] == 1  # it was forgotten


def test_the_state_of_torch_is_as_before(mem):
    x = randn(1, SIZE, SIZE)
    before = (torch.get_rng_state(), x.data_ptr(), x._version)
    kept = copy.copy(before)
    run(mem, lambda: (x @ x, torch.rand(3)))
    assert x.data_ptr() == before[1]
    assert x._version == kept[2]
    assert torch._C._len_torch_dispatch_stack() == 0
    torch.set_rng_state(before[0])


def test_tiny_operations_are_never_kept(mem):
    x = torch.ones(10)
    for _ in range(2):
        counts = run(mem, lambda: [x + 1 for _ in range(100)])[1]
        assert counts == {"passed": 100}


def test_what_is_cheap_for_its_size_is_kept_when_it_runs_again(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(admission, "touching", lambda: 1e-9)
    assert admission.is_worth_keeping(1 << 20, 2e-3, runs=1)
    assert not admission.is_worth_keeping(1 << 20, 1e-3, runs=1)
    assert admission.is_worth_keeping(1 << 20, 1e-3, runs=2)
    assert not admission.is_worth_keeping(0, admission.LEAST_SECONDS / 2, runs=9)
    monkeypatch.undo()
    assert 1e-11 < admission.touching() < 1e-7


def test_operations_within_the_budget():
    operations = Operations(10_000)

    def put(name, result):
        known = operations.enter((name,), 1)
        return operations.put(known, result, (result,), 0.1, alone=True)

    for number in range(20):
        assert put(number, torch.ones(500))
        assert operations.nbytes <= 10_000
    assert not put("large", torch.ones(5000))
    assert operations.get(("large",)).kept is None
    assert operations.get((19,)).kept is not None
    operations.clear()
    assert (len(operations), operations.nbytes) == (0, 0)


def test_settings_that_change_within_a_scope_count(mem):
    x = randn(1, SIZE, SIZE)

    def body(scope, precision):
        hits = []
        for _ in range(2):
            torch.set_float32_matmul_precision(precision)
            _ = x @ x
            hits.append(scope.counts["hit"])
            torch.set_float32_matmul_precision("highest")
        return hits

    with mem.incremental() as scope:
        _ = x @ x
        assert body(scope, "high") == [0, 1]
        assert body(scope, "highest") == [2, 3]


def test_equal_numbers_of_other_kinds_are_other_arguments(mem):
    x, whole = randn(1, SIZE, SIZE), torch.ones(SIZE, SIZE, dtype=torch.int64)

    def body(number):
        return whole * number, x / (x * 0 + number)

    for _ in range(2):
        for number in (1, 1.0, True, 0, 0.0, -0.0, False):
            found, wanted = run(mem, lambda number=number: body(number))[0], body(number)
            assert found[0].dtype is wanted[0].dtype
            assert all(map(same_bits, found, wanted))


def test_the_ledger_names_what_was_made(mem):
    x = randn(1, SIZE, SIZE)
    known, token = ledger.LEDGER.known, ledger.LEDGER.token
    with mem.incremental():
        y = x @ x
        assert known(y) is None  # nobody asked yet
        first = token(y)
        assert known(y) is token(y) is first
        part = token(y[3:])
        assert part is not first
        assert known(y[3:]) is part
        assert token(y.T) is not first
        assert token(x @ x) is first  # the same operation of the same
        y[0] = 1
        assert known(y) is None
        assert token(y) is not first
        assert known(y[3:]) is None
