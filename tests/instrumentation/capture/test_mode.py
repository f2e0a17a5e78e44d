"""A scope sees every operation inside it, whatever torch builds on operations."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmsb_torch.errors import RecordingError
from mmsb_torch.instrumentation.capture.mode import Scope, any_scope, unseen

X = torch.arange(6.0).view(2, 3)


def test_forward_backward_and_double_backward_arrive(note):
    names = []
    x = X.clone().requires_grad_()
    with note(names):
        y = (x.sin() * x).sum()
        (g,) = torch.autograd.grad(y, x, create_graph=True)
        (gg,) = torch.autograd.grad(g.sum(), x)
    assert {"sin", "mul", "sum", "cos", "neg"} <= set(names)
    assert torch.allclose(gg, 2 * x.cos() - x * x.sin())


@pytest.mark.parametrize("options", [{"foreach": False}, {"foreach": True}, {"fused": True}])
def test_optimizers_arrive(note, options):
    names = []
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), **options)
    model(X).sum().backward()
    with note(names):
        optimizer.step()
    wanted = "_fused_adamw_" if "fused" in options else "_foreach_add_"
    assert (wanted if options != {"foreach": False} else "addcdiv_") in names


def test_an_operation_that_raises_raises_the_same_error(note):
    names = []
    with pytest.raises(RuntimeError) as plain:
        X @ X
    with pytest.raises(RuntimeError) as seen, note(names):
        X @ X
    assert str(seen.value) == str(plain.value)
    assert names == ["mm"]


def test_a_handler_that_raises_leaves_torch_as_it_was():
    def handle(func, types, args, kwargs):
        raise KeyError("mine")

    scope = Scope(handle)
    scope.enter()
    with pytest.raises(KeyError, match="mine"):
        X + 1
    scope.leave()
    assert torch.equal(X + 1, X.add(1))


def test_nested_scopes_see_what_the_inner_one_calls(note):
    outer, inner = [], []
    with note(outer):
        X + 1
        with note(inner):
            X * 2
        X - 1
    assert (outer, inner) == (["add", "mul", "sub"], ["mul"])


def test_scopes_left_out_of_order_stop_at_once():
    names = {"a": [], "b": []}
    scopes = {}
    for key, seen in names.items():

        def handle(func, types, args, kwargs, seen=seen):
            seen.append(func.__name__)
            return func(*args, **kwargs)

        scopes[key] = Scope(handle)
        scopes[key].enter()
    scopes["a"].leave()
    X + 1
    assert names == {"a": [], "b": ["add.Tensor"]}
    scopes["b"].leave()
    assert not any_scope()


def test_a_foreign_mode_above_is_left_alone(note, state):
    class Other(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    before = state()
    scope = Scope(lambda func, types, args, kwargs: func(*args, **kwargs))
    scope.enter()
    other = Other()
    other.__enter__()
    scope.leave()
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is other
    other.__exit__(None, None, None)
    names = []
    with note(names):  # takes what is over off the stack
        X + 1
    assert names == ["add"]
    assert state() == before


def test_a_scope_is_entered_once_and_left_once():
    scope = Scope(lambda func, types, args, kwargs: func(*args, **kwargs))
    scope.enter()
    with pytest.raises(RecordingError, match="already"):
        scope.enter()
    scope.leave()
    with pytest.raises(RecordingError, match="not entered"):
        scope.leave()


def test_what_is_marked_unseen_passes(note):
    names = []
    with note(names):
        X + 1
        with unseen():
            X * 2
        X - 1
    assert names == ["add", "sub"]


def test_cond_arrives_as_one_operation(note):
    names = []
    with note(names):
        y = torch.cond(X.sum() > 0, lambda a: a + 1, lambda a: a - 1, (X,))
    assert "cond" in names
    assert torch.equal(y, X + 1)


def test_custom_operations_arrive_as_one(note):
    with torch.library._scoped_library("mmsb_test_mode", "DEF"):

        @torch.library.custom_op("mmsb_test_mode::twice", mutates_args=())
        def twice(x: torch.Tensor) -> torch.Tensor:
            return x * 2

        names = []
        with note(names):
            y = torch.ops.mmsb_test_mode.twice(X)
    assert names == ["twice"]
    assert torch.equal(y, X * 2)


def test_compiled_functions_run_compiled_inside_and_afterwards(note):
    """Under a mode of another kind torch runs them eagerly, and never compiled again."""
    ran = []

    def backend(graph, inputs):
        def run(*args):
            ran.append(len(graph.graph.nodes))
            return graph.forward(*args)

        return run

    @torch.compile(backend=backend)
    def function(x):
        return (x.sin() + 1).cos()

    @torch.compile(backend=backend)
    def first_compiled_inside(x):
        return x * 2

    plain = function(X)
    names = []
    with note(names):
        inside = function(X)
        twice = first_compiled_inside(X)
    assert names == ["sin", "add", "cos", "mul"]
    assert len(ran) == 3
    assert torch.equal(inside, plain)
    assert torch.equal(function(X), plain)
    assert torch.equal(first_compiled_inside(X), twice)
    assert len(ran) == 5
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what torch imports for it
@pytest.mark.parametrize("transform", [torch.func.vmap, torch.func.grad, torch.func.hessian])
def test_function_transforms_work_inside(note, transform):
    def function(x):
        return (x.sin() * x).sum()

    row = X[0] if transform is not torch.func.vmap else X
    plain = transform(function)(row)
    names = []
    with note(names):
        seen = transform(function)(row)
    assert torch.equal(seen, plain)
    assert "sin" in names
