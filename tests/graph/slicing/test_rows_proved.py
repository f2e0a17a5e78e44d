"""Pages of plain functions: what is proved row-wise is made by rows, everything else in full."""

from __future__ import annotations

import random
import threading

import pytest
import torch
from torch import nn

from mmsb_torch.device import same_bits

N = 120


def edited(mem, page, rows=(3, 77)):
    width = page.shape[1:]
    mem.update(page, torch.randn(len(rows), *width), rows=list(rows))


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.gate = nn.Linear(8, 16), nn.Linear(8, 16)

    def forward(self, x):
        return self.up(x) * torch.sigmoid(self.gate(x))


class TestProved:
    @pytest.mark.parametrize(
        "f",
        [
            lambda x: x * 2 + 1,
            lambda x: torch.softmax(x, -1),
            lambda x: x / x.norm(dim=1, keepdim=True),
            Gated(),
            nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.LayerNorm(8)).eval(),
        ],
        ids=["pointwise", "softmax", "norm", "module", "sequential"],
    )
    def test_by_rows(self, mem, f):
        x = mem.page("x", torch.randn(N, 8))
        y = mem.derive(f, x, name="y")
        y.tensor  # noqa: B018
        edited(mem, x)
        with torch.no_grad():
            assert torch.allclose(y.tensor, f(x.tensor), rtol=1e-6)
        why = mem.why("y")
        assert (why.engine, why.computed_rows) == ("slice", 2)

    def test_whole_inputs_are_told_from_rows(self, mem):
        x, q = mem.page("x", torch.randn(N, 8)), mem.page("q", torch.randn(5, 8))
        y = mem.derive(lambda x, q: torch.softmax(x @ q.T, 1), x, q, name="y")
        y.tensor  # noqa: B018
        edited(mem, x)
        assert same_bits(y.tensor, torch.softmax(x.tensor @ q.tensor.T, 1))
        assert mem.why("y").engine == "slice"
        edited(mem, q, [0])
        assert torch.equal(y.tensor, torch.softmax(x.tensor @ q.tensor.T, 1))
        assert mem.why("y").engine == "full"

    def test_a_square_is_not_confused(self, mem):
        """As many rows in both inputs, and only one of them is followed."""
        a, b = mem.page("a", torch.randn(N, N)), mem.page("b", torch.randn(N, N))
        y = mem.derive(lambda a, b: a @ b, a, b, name="y")
        y.tensor  # noqa: B018
        edited(mem, b)
        assert torch.equal(y.tensor, a.tensor @ b.tensor)
        assert mem.why("y").engine == "full"
        edited(mem, a)
        assert torch.allclose(y.tensor, a.tensor @ b.tensor)

    def test_constants_and_keywords(self, mem):
        x, y = mem.page("x", torch.randn(N, 8)), mem.page("y", torch.randn(N, 8))
        z = mem.derive(lambda a, b, scale: a - b * scale, x, b=y, scale=3.0, name="z")
        z.tensor  # noqa: B018
        edited(mem, y)
        assert torch.equal(z.tensor, x.tensor - y.tensor * 3.0)
        assert mem.why("z").engine == "slice"

    def test_one_plan_for_many_pages(self, mem):
        f = Gated()
        pages = [mem.page(f"x{i}", torch.randn(N, 8)) for i in range(4)]
        made = [mem.derive(f, page, name=f"y{i}") for i, page in enumerate(pages)]
        for page, y in zip(pages, made, strict=True):
            y.tensor  # noqa: B018
            edited(mem, page)
            with torch.no_grad():
                assert torch.allclose(y.tensor, f(page.tensor), rtol=1e-6)
        assert mem.stats()["sliced"] == 4
        assert len(mem._engine.plans._plans) == 1


class TestExact:
    """exact=True: the bits of a run in full, or a run in full."""

    @pytest.mark.parametrize(
        ("f", "engine"),
        [
            (lambda x: torch.relu(x) * 3, "slice"),
            (lambda x: torch.exp(x) + torch.tanh(x), "slice"),
            (lambda x: torch.sigmoid(x), "full"),
            (lambda x: nn.functional.silu(x), "full"),
            (lambda x: x.abs() ** 2.5, "full"),
            (lambda x: x @ torch.ones(x.shape[1]), "full"),
        ],
        ids=["relu", "exp", "sigmoid", "silu", "power", "vector"],
    )
    @pytest.mark.parametrize("width", [1, 3, 8])
    def test_operators_that_round_by_place(self, mem, f, engine, width):
        x = mem.page("x", torch.randn(N, width))
        y = mem.derive(f, x, name="y", exact=True)
        for size in (1, 5, 20):
            y.tensor  # noqa: B018
            edited(mem, x, range(3, 3 + size))
            assert same_bits(y.tensor, f(x.tensor))
        assert mem.why("y").engine == engine
        assert engine == "slice" or "by rounding" in mem.why("y").in_full

    def test_a_claim_alone_is_not_enough(self, mem):
        x = mem.page("x", torch.randn(N, 8))
        y = mem.derive(lambda x: x + 1, x, name="y", rows=True, exact=True)
        y.tensor  # noqa: B018
        edited(mem, x)
        assert same_bits(y.tensor, x.tensor + 1)
        assert "graph was not looked at" in mem.why("y").in_full


def drawn(x):
    return x + torch.rand(x.shape[0], 1)


def mixed(x):
    return x - x.mean(0)


def branches(x):
    return x + 1 if x.sum() > 0 else x - 1


def counted(x):
    return x * x.shape[0]


class TestRefused:
    @pytest.mark.parametrize("f", [mixed, branches, counted], ids=lambda f: f.__name__)
    def test_in_full_and_why(self, mem, f):
        x = mem.page("x", torch.randn(N, 8))
        y = mem.derive(f, x, name="y")
        for _ in range(3):
            y.tensor  # noqa: B018
            edited(mem, x)
            assert torch.allclose(y.tensor, f(x.tensor), atol=1e-6)
        assert mem.stats()["sliced"] == 0
        assert mem._engine.topology.nodes[y.id].slicing.why_not

    def test_random_numbers(self, mem):
        x = mem.page("x", torch.randn(N, 8))
        y = mem.derive(drawn, x, name="y")
        y.tensor  # noqa: B018
        edited(mem, x)
        torch.manual_seed(5)
        found = y.tensor
        torch.manual_seed(5)
        assert torch.equal(found, drawn(x.tensor))
        assert mem.stats()["sliced"] == 0

    def test_pages_read_inside(self, mem):
        x, s = mem.page("x", torch.randn(N, 8)), mem.page("s", torch.ones(()))
        y = mem.derive(lambda x: x * mem["s"].tensor, x, name="y")
        for number in range(3):
            y.tensor  # noqa: B018
            edited(mem, x)
            mem.update(s, torch.tensor(float(number)))
            assert torch.equal(y.tensor, x.tensor * s.tensor)
        assert mem.stats()["sliced"] == 0

    def test_a_proof_that_is_wrong_is_caught_by_the_sample(self, mem, monkeypatch):
        """The second line of defence: a rule that lies."""
        from mmsb_torch.graph import rows

        real = rows.plan

        def lying(*arguments, **options):
            made = real(*arguments, **options)
            made.follows, made.why_not = frozenset({0}), None
            return made

        monkeypatch.setattr(rows, "plan", lying)
        x = mem.page("x", torch.randn(N, 8))
        y = mem.derive(mixed, x, name="y")
        y.tensor  # noqa: B018
        edited(mem, x)
        assert torch.equal(y.tensor, mixed(x.tensor))
        assert "a sample not" in mem.why("y").in_full

    def test_without_a_promise_nothing_is_captured(self, mem, monkeypatch):
        from mmsb_torch.graph import rows

        monkeypatch.setattr(rows, "plan", lambda *_: pytest.fail("captured"))
        mem._engine.plans.seconds = float("inf")
        x = mem.page("x", torch.randn(N, 8))
        y = mem.derive(lambda x: x + 1, x, name="y")
        y.tensor  # noqa: B018
        edited(mem, x)
        assert torch.equal(y.tensor, x.tensor + 1)


def test_threads_edit_and_read_by_rows(mem):
    """Every read is the function of the rows at one moment; the last is that of the last."""
    x = mem.page("x", torch.zeros(N, 4))
    y = mem.derive(lambda x: x * 2, x, name="y", rows=True)
    z = mem.derive(lambda y: y + 1, y, name="z", rows=True)
    z.tensor  # noqa: B018
    wrong, stop = [], threading.Event()

    def write(start):
        for number in range(60):
            row = (start + 2 * number) % N
            mem.update(x, torch.full((1, 4), float(number)), rows=[row])

    def read():
        while not stop.is_set():
            value = z.tensor
            if not bool(((value - 1) % 2 == 0).all()) or not torch.equal(value[:, 0], value[:, 3]):
                wrong.append(value.clone())

    readers = [threading.Thread(target=read) for _ in range(2)]
    writers = [threading.Thread(target=write, args=(start,)) for start in range(2)]
    for thread in readers + writers:
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in readers:
        thread.join()
    assert not wrong
    assert torch.equal(z.tensor, x.tensor * 2 + 1)


@pytest.mark.parametrize("seed", range(4))
def test_any_pipeline_by_rows_equals_in_full(mem, seed):
    chance = random.Random(seed)
    torch.manual_seed(seed)
    makers = [
        lambda x: x.relu() + 1,
        lambda x: x.softmax(-1),
        lambda x: x - x.mean(0),
        lambda x: x.cumsum(0) / 100,
        lambda x: x[:, :4].repeat(1, 2),
        nn.Linear(8, 8),
        nn.Sequential(nn.Linear(8, 8), nn.GELU()),
    ]
    mem.page("p0", torch.randn(N, 8))
    functions = [chance.choice(makers) for _ in range(6)]
    for number, f in enumerate(functions):
        mem.derive(f, f"p{number}" if number else mem["p0"], name=f"p{number + 1}")
    for _ in range(8):
        edited(mem, mem["p0"], sorted(chance.sample(range(N), chance.choice([1, 5, 20, 70]))))
        value = mem["p0"].tensor
        with torch.no_grad():
            for f in functions:
                value = f(value)
        assert torch.allclose(mem["p6"].tensor, value, atol=1e-5)
        if all(mem.why(f"p{number + 1}").engine == "full" for number in range(6)):
            assert same_bits(mem["p6"].tensor, value)
