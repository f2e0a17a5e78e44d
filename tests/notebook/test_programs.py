"""Any sequence of cells leaves what plain Python leaves, and each state can be had back."""

import copy

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mmsb_torch.device import same_bits

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
    st.tuples(
        st.sampled_from(CELLS),
        st.integers(1, 2),
        st.integers(0, 3),
        st.sampled_from([True, True, True, False]),
    ),
    min_size=5,
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
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and same_bits(a, b)
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


@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
@given(steps=steps, edit=st.tuples(st.integers(0, 8), st.integers(1, 3)), back=st.integers(0, 100))
def test_incremental_cells_equal_plain_ones(eager, cell, steps, edit, back):
    shell, session = cell.shell, cell.session
    for name in set(shell.user_ns) & set("xyzvkdprfmw"):
        del shell.user_ns[name]
    session.history._begin_anew()
    model, snapshots = {}, {}
    first = session.history.next_number
    at = edit[0] % len(steps)
    template, _, i, tracked = steps[at]
    edited = [*steps[:at], (template, edit[1], i, tracked), *steps[at + 1 :]]
    for program in (steps, edited):
        shell.run_cell(START).raise_error()
        exec(START, model)
        for template, k, i, tracked in program:
            source = template.format(k=k, i=i)
            both(shell, model, source, f"%%mmsb -q\n{source}" if tracked else source)
            found = kept(shell.user_ns)
            assert same(found, kept(model)), source
            if tracked:
                HITS.append(session.last.total.reused)
                names = found.keys() & session.history.names
                snapshots[session.history.next_number - 1] = {name: found[name] for name in names}
    if snapshots:
        number = first + back % len(snapshots)
        session.checkout(number)
        found = kept(shell.user_ns)
        expected = snapshots[number]
        assert same({name: found[name] for name in expected}, expected)


def both(shell, model, source, as_cell):
    """Run a cell in the shell and in a plain namespace, from the same random state."""
    generator = torch.get_rng_state()
    result = shell.run_cell(as_cell)
    after = torch.get_rng_state()
    torch.set_rng_state(generator)
    error = None
    try:
        exec(source, model)
    except Exception as raised:
        error = raised
    assert type(result.error_in_exec) is type(error), (source, result.error_in_exec)
    assert torch.get_rng_state().equal(after), source
