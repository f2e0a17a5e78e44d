"""Any sequence of cells leaves what plain Python leaves, and each state can be had back."""

import copy

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CELLS = [
    "torch.manual_seed({k}); x = torch.randn(80, 80)",
    "x[{i}] = {k}",
    "def f(v):\n    return torch.relu(v @ v.T) * {k}",
    "def f(v):\n    w = v * {k}\n    w.add_(1)\n    return w.cumsum(0)",
    "y = f(x)\nz = y.sum(0)",
    "z = (y @ x) + {k}",
    "z = x.numpy()\nz[{i}, 0] = {k}",
    "y = x.view(-1)[: 40 * 80].view(40, 80)\ny = y.repeat(2, 1)",
    "v = x[{i}:]\nv.mul_({k})",
    "torch.manual_seed({k}); m = torch.nn.Linear(80, 80)",
    "m.weight.data[{i}] = {k}",
    "with torch.no_grad():\n    y = torch.tanh(m(x)) * {k}",
    "p = x.clone().requires_grad_()\n(p @ y).square().mean().backward()\nz = p.grad",
    "r = torch.rand(80, 80)\ny = r @ x",
    "x = x + y * {k}\nraise ValueError",
    "k = {k}\nd = dict(a=y, b=[k, 'text'])",
    "x = y\ny = x.T",
    "x = torch.full((80, 80), float({k}))\ny = x",
]
steps = st.lists(
    st.tuples(st.sampled_from(CELLS), st.integers(1, 3), st.integers(0, 3), st.booleans()),
    min_size=3,
    max_size=9,
)
START = "import torch\ntorch.manual_seed(0)\nx = torch.randn(80, 80)\ny = x @ x\nm = torch.nn.Linear(80, 80)\ndef f(v):\n    return v.exp()\n"


def kept(namespace):
    values = {}
    for name in "xyzvkdpr":
        if name in namespace:
            values[name] = plain(namespace[name])
    values |= {f"m.{key}": value.clone() for key, value in namespace["m"].state_dict().items()}
    return values


def plain(value):
    """A copy without history of how it was computed."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return copy.deepcopy(value)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.equal(b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return bool((a == b).all()) if hasattr(a, "all") else a == b


HITS = []


@pytest.fixture
def eager(monkeypatch):
    """Whatever can be kept is kept."""
    monkeypatch.setattr("mmsb_torch.graph.scope.operations.is_worth_keeping", lambda *_: True)
    HITS.clear()
    yield
    assert sum(HITS) > 50


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps, back=st.integers(0, 100))
def test_incremental_cells_equal_plain_ones(eager, cell, steps, back):
    shell, session = cell.shell, cell.session
    shell.reset()
    session._cells.clear()
    session.history._begin_anew()
    shell.run_cell(START).raise_error()
    model = {}
    exec(START, model)
    first, snapshots = session.history.next_number, {}
    for template, k, i, tracked in steps:
        source = template.format(k=k, i=i)
        generator = torch.get_rng_state()
        incremental = shell.run_cell(f"%%mmsb -q\n{source}" if tracked else source)
        after = torch.get_rng_state()
        torch.set_rng_state(generator)
        error = None
        try:
            exec(source, model)
        except Exception as raised:
            error = raised
        assert type(incremental.error_in_exec) is type(error), (source, incremental.error_in_exec)
        assert torch.get_rng_state().equal(after), source
        expected = kept(model)
        found = kept(shell.user_ns)
        assert same(found, expected), source
        if tracked:
            HITS.append(session.last.total.reused)
            snapshots[session.history.next_number - 1] = {
                name: found[name] for name in found if name in session.history.names
            }
    if snapshots:
        number = first + back % len(snapshots)
        session.checkout(number)
        assert same(
            {n: v for n, v in kept(shell.user_ns).items() if n in snapshots[number]},
            snapshots[number],
        )
