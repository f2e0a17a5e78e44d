"""Values compared bit for bit, functions to capture, and photographs of torch's state."""

import contextlib
import math
import random

import pytest
import torch
from torch import fx, nn
from torch.utils import _python_dispatch as dispatch

from mmsb_torch.device import same_bits
from mmsb_torch.instrumentation.capture import mode


def equal(a, b):
    """Whether two nested values have the same containers, types and bits."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and same_bits(a.resolve_conj(), b.resolve_conj())
    if isinstance(a, dict):
        return set(a) == set(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and repr(a) == repr(b)


@pytest.fixture(name="equal", scope="session")
def _equal():
    return equal


def inplace(x):
    y = x + 1
    y.mul_(2)
    y[0] = 3.0
    y[:, 1] += x[:, 0]
    return y


def nested(given, scale, times=1):
    return {"b": [given["x"] * scale, (given["y"][0] * times,)], "a": None, "c": 3}


def gradient(x):
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad((x**3).sum(), x)[0]


def integers(a, b):
    return a // b, a % b, a & b, ~a, a << 1, a > b, a.to(torch.bool) | True


def complexes(a):
    return torch.fft.fft(a).abs(), (a * (1 + 2j)).real, a.conj().resolve_conj()


def limits(a):
    return a.masked_fill(a > 0, float("-inf")).clamp(min=-0.0) * float("nan"), a + math.pi


def lookup(ids, weight):
    return nn.functional.embedding(ids, weight).gather(0, ids[:, None].expand(-1, 8) % 3)


def attention(q):
    return nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)


def choose(x):
    return torch.cond(x.sum() > 0, lambda q: q + 1, lambda q: q - 1, (x,))


def case(name):
    """A function or module and its arguments."""
    torch.manual_seed(0)
    x, z = torch.randn(4, 8), torch.randn(5, 2, 16)
    weight = torch.randn(8, 8).t()
    image, ints = torch.randn(2, 3, 8, 8), torch.tensor([5, 6, 7])
    conv = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
    mlp = nn.Sequential(nn.Linear(8, 16), nn.ReLU(inplace=True), nn.Linear(16, 3))
    functions = {
        "mlp": (mlp, x),
        "conv": (conv.eval(), image),
        "mha": (nn.MultiheadAttention(16, 2).eval(), z, z, z),
        "lstm": (nn.LSTM(8, 5, 2).eval(), torch.randn(3, 4, 8)),
        "gru": (nn.GRU(8, 5, 2).eval(), torch.randn(3, 4, 8)),
        "embedding": (lookup, torch.tensor([1, 2, 3]), x),
        "dropout": (nn.Dropout().eval(), x),
        "integers": (integers, ints, torch.tensor([2, 3, 4])),
        "complexes": (complexes, torch.randn(4, dtype=torch.complex64)),
        "limits": (limits, x),
        "inplace": (inplace, x),
        "nested": (nested, {"y": [x], "x": x * 2}, 2.5, 3),
        "constants": (lambda a: a + torch.tensor([1.0] * 8), x),
        "closure": (lambda a: a @ weight, x),
        "several": (lambda a: (a.topk(2), a.shape[0] * 2, None), x),
        "identity": (lambda a: (a, a), x),
        "attention": (attention, torch.randn(1, 2, 7, 8)),
        "empty": (lambda a: a[:0].sum(0), x),
        "slices": (lambda a: a[::2, None, ..., -1:], x),
        "rows": (lambda a: a[a[:, 0] > 0], x),
        "read": (lambda a: torch.full((2,), a.sum().item()), x),
        "random": (lambda a: a + torch.rand(4, 8), x),
        "half": (lambda a: a.to(torch.bfloat16) @ a.t().to(torch.bfloat16), x),
        "gradient": (gradient, x),
        "cond": (choose, x),
        "branch": (lambda a: a + 1 if a.sum() > 0 else a - 1, x),
        "listed": (lambda n, a: torch.stack([a[i] for i in n.tolist()]), torch.tensor([2, 0]), x),
    }
    function, *args = functions[name]
    return function, tuple(args)


NAMES = [
    "mlp",
    "conv",
    "mha",
    "lstm",
    "gru",
    "embedding",
    "dropout",
    "integers",
    "complexes",
    "limits",
    "inplace",
    "nested",
    "constants",
    "closure",
    "several",
    "identity",
    "attention",
    "empty",
    "slices",
    "rows",
    "read",
    "random",
    "half",
    "gradient",
    "cond",
    "branch",
    "listed",
]


@pytest.fixture(params=NAMES)
def program(request):
    return case(request.param)


@pytest.fixture(name="case")
def _case():
    return case


def torch_state():
    """Everything of torch's that a scope must leave as it was, as plain data."""
    return {
        "dispatch modes": torch._C._len_torch_dispatch_stack(),
        "function modes": torch._C._len_torch_function_stack(),
        "flags": (
            dispatch._is_in_torch_dispatch_mode,
            dispatch._is_in_non_infra_torch_dispatch_mode,
            dispatch._is_in_any_mode_without_ignore_compile_internals,
        ),
        "rng": tuple(torch.get_rng_state().tolist()),
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "autocast": torch.is_autocast_enabled("cpu"),
        "dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "hooks": (
            len(torch.nn.modules.module._global_forward_hooks),
            len(torch.nn.modules.module._global_forward_pre_hooks),
        ),
        "scopes": len(mode._entered),
    }


@pytest.fixture
def state():
    return torch_state


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    before = torch_state()
    yield
    after = torch_state()
    before.pop("rng"), after.pop("rng")
    assert after == before


@contextlib.contextmanager
def noting(names, **options):
    """A scope that appends the name of every operation to `names`."""

    def handle(func, types, args, kwargs):
        names.append(func.__name__.split(".")[0])
        return func(*args, **kwargs)

    scope = mode.Scope(handle, **options)
    scope.enter()
    try:
        yield scope
    finally:
        scope.leave()


@pytest.fixture
def note():
    return noting


def shuffled(module, seed):
    """The same graph with other names, in another order that its edges allow."""
    generator, graph, new = random.Random(seed), fx.Graph(), {}
    waiting = list(module.graph.nodes)
    while waiting:
        ready = [
            node
            for node in waiting
            if all(item in new for item in node.all_input_nodes)
            and (node.op != "output" or len(waiting) == 1)
            and (
                node.op != "placeholder"
                or node.name == f"in{sum(item.op == 'placeholder' for item in new)}"
            )
        ]
        node = generator.choice(ready)
        waiting.remove(node)
        copied = graph.node_copy(node, new.__getitem__)
        copied.name = graph._graph_namespace.create_name(f"n{generator.randrange(10**6)}", None)
        new[node] = copied
    made = fx.GraphModule(module, graph)
    made.meta = module.meta
    return made


@pytest.fixture(name="shuffled", scope="session")
def _shuffled():
    return shuffled
