"""What mixes rows: edits are followed through the graph, and the value is that of a run in full."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mmsb_torch as mmsb
from mmsb_torch.graph.pull import Pull

WIDTH, WORDS = 32, 50


class Decoder(nn.Module):
    """Two causal blocks over the rows of a page."""

    def __init__(self):
        super().__init__()
        self.tokens, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(200, WIDTH)
        self.qkv = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(2))
        self.up = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))

    def forward(self, ids):
        x = self.tokens(ids)[None] + self.places(torch.arange(ids.shape[0]))
        for qkv, up in zip(self.qkv, self.up, strict=True):
            q, k, v = (
                part.view(1, -1, 4, WIDTH // 4).transpose(1, 2) for part in qkv(x).split(WIDTH, -1)
            )
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + F.relu(up(y.transpose(1, 2).reshape(1, -1, WIDTH)))
        return x[0]


def warmed(mem, page, made, edits=4):
    """Edit until steps are taken."""
    for number in range(edits):
        made.tensor  # noqa: B018
        mem.update(page, page.read(rows=[0]).add(number + 1) % WORDS, rows=[0])
    made.tensor  # noqa: B018


def close(made, f, *pages):
    with torch.no_grad():
        torch.testing.assert_close(made.tensor, f(*(p.tensor for p in pages)), rtol=2e-5, atol=2e-5)


class TestDecoder:
    def test_appended_and_edited_tokens(self, mem):
        model = Decoder().eval()
        ids = mem.page("ids", torch.randint(0, WORDS, (60,)))
        out = mem.derive(model, ids, name="out")
        warmed(mem, ids, out)
        assert mem.why("out").engine == "mask"
        assert mem.stats()["activation_bytes"] > 0
        for _ in range(5):
            mem.append(ids, torch.randint(0, WORDS, (1,)))
            close(out, model, ids)
            why = mem.why("out")
            assert (why.engine, why.computed_rows) == ("mask", 1)
        mem.update(ids, torch.tensor([7]), rows=[40])
        close(out, model, ids)
        assert mem.why("out").computed_rows == 65 - 40
        assert "by mask" in str(mem.why("out"))

    @pytest.mark.parametrize("again", [False, True], ids=["read again", "edited again"])
    def test_an_interrupt_between_a_step_and_its_publication(self, mem, monkeypatch, again):
        """What is kept is then ahead of the value."""
        model = Decoder().eval()
        ids = mem.page("ids", torch.randint(0, WORDS, (60,)))
        out = mem.derive(model, ids, name="out")
        warmed(mem, ids, out)
        mem.update(ids, (ids.read(rows=[30]) + 1) % WORDS, rows=[30])

        def interrupted(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(Pull, "_publish", interrupted)
            with pytest.raises(KeyboardInterrupt):
                out.tensor  # noqa: B018
        if again:
            mem.update(ids, (ids.read(rows=[50]) + 1) % WORDS, rows=[50])
        close(out, model, ids)

    @pytest.mark.parametrize("seed", range(3))
    def test_any_edits(self, mem, seed):
        chance, model = random.Random(seed), Decoder().eval()
        ids = mem.page("ids", torch.randint(0, WORDS, (30,)))
        out = mem.derive(model, ids, name="out")
        total = mem.derive(lambda out: out.sum(0), out, name="total")
        for _ in range(30):
            kind = chance.randrange(6)
            if kind == 0:
                mem.append(ids, torch.randint(0, WORDS, (chance.choice([1, 3]),)))
            elif kind == 1:
                mem.restore(chance.randrange(1, mem.tx + 1))
            else:
                rows = chance.sample(range(len(ids.tensor)), chance.choice([1, 2]))
                mem.update(ids, torch.randint(0, WORDS, (len(rows),)), rows=rows)
            if chance.random() < 0.7:
                close(out, model, ids)
                close(total, lambda out: out.sum(0), out)
        assert mem.stats()["stepped"] > 0

    def test_weights_that_change_are_used(self, mem):
        model = Decoder().eval()
        ids = mem.page("ids", torch.randint(0, WORDS, (60,)))
        out = mem.derive(model, ids, name="out")
        warmed(mem, ids, out)
        for write in (
            lambda: model.qkv[0].weight.data.mul_(0.5),
            lambda: setattr(model.up[0], "weight", nn.Parameter(torch.randn(WIDTH, WIDTH))),
            lambda: model.tokens.weight.detach().numpy().__setitem__((3, 3), 9.0),
        ):
            write()
            mem.update(ids, torch.tensor([5]), rows=[59])
            close(out, model, ids)
            warmed(mem, ids, out)
            assert mem.why("out").engine == "mask"
            close(out, model, ids)

    def test_two_models_of_equal_weights_part(self, mem):
        """One plan serves both; then one of them is trained."""
        one, other = Decoder().eval(), Decoder().eval()
        other.load_state_dict(one.state_dict())
        a, b = (mem.page(name, torch.randint(0, WORDS, (60,))) for name in "ab")
        first, second = mem.derive(one, a, name="first"), mem.derive(other, b, name="second")
        for page, made in ((a, first), (b, second)):
            warmed(mem, page, made)
        with torch.no_grad():
            one.qkv[0].weight.mul_(3)
        for page in (a, b):
            mem.update(page, torch.tensor([11]), rows=[50])
        close(second, other, b)
        close(first, one, a)


def reduced(x, w):
    return torch.relu(x @ w).mean(0)


def looked_up(ids, table):
    return torch.relu(table)[ids].cumsum(0)


def attended(x):
    return F.scaled_dot_product_attention(x[None], x[None], x[None])[0].softmax(-1)


class TestOthers:
    def test_a_sum_after_much_work(self, mem):
        x, w = mem.page("x", torch.rand(90, 8)), mem.page("w", torch.randn(8, 16))
        y = mem.derive(reduced, x, w, name="y")
        warmed(mem, x, y)
        close(y, reduced, x, w)
        mem.update(w, torch.randn(8, 16))
        close(y, reduced, x, w)

    def test_a_table_of_which_rows_are_edited(self, mem):
        ids, table = mem.page("ids", torch.randint(0, 20, (70,))), mem.page("t", torch.rand(20, 4))
        y = mem.derive(looked_up, ids, table, name="y")
        for row in range(8):
            y.tensor  # noqa: B018
            mem.update(table, torch.rand(1, 4), rows=[row])
            close(y, looked_up, ids, table)
            mem.update(ids, torch.tensor([row]), rows=[60 + row])
            close(y, looked_up, ids, table)

    def test_elements(self, mem):
        x = mem.page("x", torch.rand(40, 8))
        y = mem.derive(attended, x, name="y")
        for number in range(8):
            y.tensor  # noqa: B018
            mem.update(x, torch.rand(2), indices=[[number, 3], [number + 5, 1]])
            close(y, attended, x)


class TestBounds:
    def test_the_limit_of_what_is_kept(self, mem):
        mem = mmsb.open(activations=1000)
        model = Decoder().eval()
        ids = mem.page("ids", torch.randint(0, WORDS, (60,)))
        out = mem.derive(model, ids, name="out")
        warmed(mem, ids, out)
        close(out, model, ids)
        assert mem.stats()["stepped"] == 0
        assert mem.stats()["activation_bytes"] == 0
        assert "bytes" in mem.why("out").in_full

    def test_the_least_recently_used_lets_go(self, mem):
        model = Decoder().eval()
        made = []
        for number in range(3):
            ids = mem.page(f"ids{number}", torch.randint(0, WORDS, (60,)))
            out = mem.derive(model, ids, name=f"out{number}")
            warmed(mem, ids, out)
            made.append((ids, out))
            if number == 0:
                mem._engine.activations.limit = 2 * mem.stats()["activation_bytes"]
        assert mem.stats()["activation_bytes"] <= mem._engine.activations.limit
        for ids, out in made:
            mem.update(ids, torch.tensor([1]), rows=[30])
            close(out, model, ids)

    def test_exact_is_made_in_full_where_steps_round(self, mem):
        model = Decoder().eval()
        ids = mem.page("ids", torch.randint(0, WORDS, (60,)))
        out = mem.derive(model, ids, name="out", exact=True)
        for number in range(6):
            mem.update(ids, torch.tensor([number]), rows=[20 + number])
            with torch.no_grad():
                assert torch.equal(out.tensor, model(ids.tensor))

    def test_a_rule_that_lies_is_found_by_the_first_step(self, mem, monkeypatch):
        from mmsb_torch.graph.rows import Kept

        real, lies = Kept.take, []

        def lying(self, values, ahead):
            found = real(self, values, ahead)
            lies.append(found)
            return None if found is None else (found[0] + 1, found[1])

        monkeypatch.setattr(Kept, "take", lying)
        model = Decoder().eval()
        ids = mem.page("ids", torch.randint(0, WORDS, (60,)))
        out = mem.derive(model, ids, name="out")
        warmed(mem, ids, out, 6)
        close(out, model, ids)
        assert len(lies) == 1
        assert mem.stats()["stepped"] == 0
