"""Who depends on whom: through views, in-place writes, out=, lists; and what a tape keeps."""

import contextlib
import gc
import weakref

import pytest
import torch
from torch import nn

from mmsb_torch.device import held_elsewhere
from mmsb_torch.instrumentation.capture.frames import Codes, Walk
from mmsb_torch.instrumentation.capture.mode import Scope
from mmsb_torch.instrumentation.capture.schema import op_class
from mmsb_torch.instrumentation.capture.tape import Tape

X = torch.arange(6.0).view(2, 3)


@contextlib.contextmanager
def taping(max_calls=10_000, keep_bytes=1 << 20):
    walk = Walk(Codes())
    tape = Tape(walk, max_calls=max_calls, keep_bytes=keep_bytes)
    scope = Scope(tape.handle)
    walk.start(scope.enter())
    try:
        yield tape
    finally:
        scope.leave()
        walk.stop()
        tape.close()
        assert not tape.dropped or max_calls < 10_000


def graph(tape):
    """[(short name, indices it depends on)]."""
    return [(call.op.split(".")[1], call.parents) for call in tape.calls]


def test_edges_follow_tensors():
    with taping() as tape:
        a = X + 1
        b = X * 2
        torch.stack([a, b, a])
    assert graph(tape) == [("add", ()), ("mul", ()), ("stack", (0, 1))]


def test_a_write_is_seen_through_every_view():
    with taping() as tape:
        y = X.clone()  # 0
        row = y[0]  # 1
        other = y.view(-1)  # 2
        row.add_(1)  # 3
        other.sum()  # 4
        y.mul_(2)  # 5
        row.sum()  # 6
    assert graph(tape)[3:] == [
        ("add_", (1,)),
        ("sum", (2, 3)),
        ("mul_", (0, 3)),
        ("sum", (3, 5)),
    ]


def test_a_write_into_what_came_from_outside_orders_what_follows():
    x = X.clone()
    with taping() as tape:
        x.sum()
        x.add_(1)
        x.sum()
        x[0].sum()
    assert graph(tape) == [
        ("sum", ()),
        ("add_", ()),
        ("sum", (1,)),
        ("select", (1,)),
        ("sum", (1, 3)),
    ]


def test_out_arguments_and_lists_are_written():
    out = torch.empty(2, 3)
    with taping() as tape:
        torch.add(X, 1, out=out)
        out.sum()
        y, z = X.clone(), X.clone()
        torch._foreach_add_([y, z], 1)
        z.sum()
    assert graph(tape) == [
        ("add", ()),
        ("sum", (0,)),
        ("clone", ()),
        ("clone", ()),
        ("_foreach_add_", (2, 3)),
        ("sum", (4,)),
    ]
    assert [value.spec for value in tape.calls[4].wrote] == ["float32[2, 3]"] * 2


def test_views_that_do_not_say_so_share_their_memory():
    with taping() as tape:
        y = X.clone()
        flat = torch.ops.aten._unsafe_view(y, [6])
        flat.add_(1)
        y.sum()
    assert graph(tape)[3] == ("sum", (0, 2))


def test_batch_norm_writes_its_statistics_in_training_only():
    norm = nn.BatchNorm1d(3)
    with taping() as tape:
        norm(X)
        norm.eval()
        norm(X)
    calls = [call for call in tape.calls if "batch_norm" in call.op]
    assert [len(call.wrote) for call in calls] == [2, 0]


def test_changes_of_geometry_in_place():
    with taping() as tape:
        y = X.clone()
        y.t_()
        y.sum()
        y.resize_(3, 1)
        y.sum()
    assert graph(tape) == [
        ("clone", ()),
        ("t_", (0,)),
        ("sum", (1,)),
        ("resize_", (1,)),
        ("sum", (3,)),
    ]
    assert tape.calls[3].shapes == ((3, 1),)


def test_memory_that_is_used_again_is_not_taken_for_the_old_one():
    with taping() as tape:
        for _ in range(200):
            y = X * 2
            y.sum()
            del y
    for index in range(0, 400, 2):
        assert tape.calls[index].parents == ()
        assert tape.calls[index + 1].parents == (index,)


def test_backward_calls_belong_to_forward_calls():
    x = X.clone().requires_grad_()
    with taping() as tape:
        y = x.sin()  # 0
        z = (y * x).sum()  # 1, 2
        (g,) = torch.autograd.grad(z, x, create_graph=True)
        first = len(tape.calls)
        torch.autograd.grad(g.sum(), x)
    backward = [call for call in tape.calls[:first] if call.phase == "backward"]
    found = {
        call.op.split(".")[1]: tape.calls[call.forward].op for call in backward if call.forward >= 0
    }
    assert found["cos"] == "aten.sin.default"
    assert found["expand"] == "aten.sum.default"
    double = [call for call in tape.calls[first:] if call.forward >= 0]
    assert any(tape.calls[call.forward].phase == "backward" for call in double)
    assert {call.phase for call in tape.calls} == {"forward", "backward"}


@pytest.mark.parametrize("options", [{"foreach": False}, {"foreach": True}, {"fused": True}])
def test_optimizers_are_labelled_and_what_they_write_is_known(options):
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), **options)
    with taping() as tape:
        model(X).sum().backward()
        optimizer.step()
        model(X)
    phases = {call.phase for call in tape.calls}
    assert phases == {"forward", "backward", "optimizer"}
    last = tape.calls[-1]
    writers = [tape.calls[parent] for parent in last.parents]
    assert any(call.phase == "optimizer" and call.wrote for call in writers)
    assert tape.calls[-1].phase == "forward"


def test_a_closure_called_by_an_optimizer_is_no_optimizer_step():
    model = nn.Linear(3, 1)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)

    def closure():
        optimizer.zero_grad()
        loss = model(X).square().sum()
        loss.backward()
        return loss

    with taping() as tape:
        optimizer.step(closure)
    phases = {call.phase for call in tape.calls if call.op.startswith("aten.addmm")}
    assert phases == {"forward"}
    assert "optimizer" in {call.phase for call in tape.calls}


class Own(torch.optim.Optimizer):
    def __init__(self, params):
        super().__init__(params, {})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                self._apply(parameter)

    def _apply(self, parameter):
        parameter.sub_(parameter.grad)


def test_an_optimizer_of_the_users_own_is_one():
    model = nn.Linear(3, 1)
    optimizer = Own(model.parameters())
    model(X).sum().backward()
    with taping() as tape:
        optimizer.step()
    assert [(call.op, call.phase) for call in tape.calls] == [("aten.sub_.Tensor", "optimizer")] * 2
    assert tape.calls[0].function == "Own._apply"


def test_a_call_that_raises_is_kept_with_its_error():
    with pytest.raises(RuntimeError), taping() as tape:
        X @ X
    assert (tape.calls[0].error, tape.calls[0].made) == ("RuntimeError", ())
    assert "raised RuntimeError" in repr(tape.calls[0])


def test_what_exceeds_the_budget_runs_and_is_counted():
    with taping(max_calls=2) as tape:
        y = X + 1
        y = y * 2
        y = y - 3
        y = y - 3
    assert len(tape.calls) == 2
    assert dict(tape.dropped) == {"aten.sub.Tensor": 2}
    assert torch.equal(y, (X + 1) * 2 - 6)


def test_no_tensor_is_kept_alive_beyond_the_budget():
    with taping(keep_bytes=100) as tape:
        big, small = torch.zeros(1000), torch.zeros(2)
        made = big + small.sum()
        gone = [weakref.ref(tensor) for tensor in (big, made)]
        del big, made
        gc.collect()
        assert [ref() for ref in gone] == [None, None]
    x, y = torch.zeros(1000), torch.zeros(2)
    with taping(keep_bytes=100) as tape:
        x + 1, y + 1
    kept = [weakref.ref(x), weakref.ref(y)]
    del x, y
    gc.collect()
    assert [ref() is None for ref in kept] == [True, False]
    assert tape.kept_bytes == 8


def test_holders_of_memory_and_copy_on_write_bits_are_as_before():
    plain, lazy = torch.ones(4), torch.ones(4)
    clone = torch._lazy_clone(lazy)
    before = held_elsewhere(plain), torch._C._is_cow_tensor(lazy), torch._C._is_cow_tensor(clone)
    with taping(keep_bytes=0) as tape:
        plain + 1, lazy + clone
    during = held_elsewhere(plain), torch._C._is_cow_tensor(lazy), torch._C._is_cow_tensor(clone)
    del tape
    after = held_elsewhere(plain), torch._C._is_cow_tensor(lazy), torch._C._is_cow_tensor(clone)
    assert before == during == after == (False, True, True)


def test_writes_that_torch_counts_are_noticed_and_those_of_numpy_are_not():
    x = X.clone()
    with taping() as tape:
        x.sum()
        with torch.utils._python_dispatch._disable_current_modes():
            x.add_(1)
        x.sum()
        x.numpy()[:] = 0
        x.sum()
    assert tape.unseen == 1
    sums = [call for call in tape.calls if call.op == "aten.sum.default"]
    assert [call.read[0].unseen for call in sums] == [False, True, True]


def test_inference_tensors_sparse_tensors_and_subclasses_pass():
    class Mine(torch.Tensor):
        pass

    with taping() as tape:
        with torch.inference_mode():
            y = X.clone()
            y.add_(1)
            y.sum()
        sparse = X.to_sparse()
        (sparse @ X.t()).sum()
        mine = X.as_subclass(Mine)
        (mine + 1).sum()
        torch.empty(2, device="meta") + 1
        torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged) * 2
    assert len(tape.calls) > 10


def test_what_returns_to_python_is_known():
    with taping() as tape:
        X.sum().item()
        torch.equal(X, X)
        X.nonzero()
    assert [call.told for call in tape.calls] == [None, 15.0, True, None]
    assert tape.calls[3].kind.dynamic


ATEN = torch.ops.aten


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (ATEN.add.Tensor, "pure"),
        (ATEN.add_.Tensor, "writes self"),
        (ATEN.add.out, "writes out"),
        (ATEN.view.default, "view"),
        (ATEN.bernoulli.default, "random"),
        (ATEN._local_scalar_dense.default, "reads"),
        (ATEN.equal.default, "reads"),
        (ATEN.nonzero.default, "dynamic"),
        (ATEN.zeros.default, "factory"),
        (ATEN.native_batch_norm.default, "writes running_mean, running_var"),
        (torch.ops.higher_order.cond, "opaque"),
    ],
)
def test_classes_of_operations(op, expected):
    assert repr(op_class(op)).endswith(f": {expected}>")


def test_only_drawing_is_random():
    attention = op_class(ATEN._scaled_dot_product_flash_attention_for_cpu.default)
    q = torch.ones(1, 1, 2, 2)
    assert not attention.draws((q, q, q), {})
    assert attention.draws((q, q, q, 0.5), {})
    dropout = op_class(ATEN.native_dropout.default)
    assert dropout.draws((q, 0.5, True), {})
    assert not dropout.draws((q, 0.5, False), {})
