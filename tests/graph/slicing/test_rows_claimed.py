"""Pages declared with rows=: by rows equals in full, bit for bit, and a wrong claim is caught."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import mmsb_torch as mmsb
from mmsb_torch.device import same_bits

N = 200
"""More than twice the rows of a sample."""

pytestmark = pytest.mark.usefixtures("rows_pay")


@pytest.fixture
def mem():
    """It captures when that is expected to pay."""
    with mmsb.open() as memory:
        yield memory


def sliced(mem):
    return mem.stats()["sliced"]


def mlp(width=12, out=7):
    return nn.Sequential(nn.Linear(width, 40), nn.GELU(), nn.LayerNorm(40), nn.Linear(40, out))


class TestEqual:
    def test_only_the_changed_rows_are_computed(self, mem):
        x = mem.page("x", torch.randn(N, 12))
        y = mem.derive(lambda x: x * 2 + 1, x, name="y", rows=True)
        y.tensor  # noqa: B018
        mem.update(x, torch.zeros(2, 12), rows=[3, 190])
        assert same_bits(y.tensor, x.tensor * 2 + 1)
        why = mem.why("y")
        assert (why.engine, why.computed_rows, why.rows) == ("slice", 2, "rows 3, 190 (2 of 200)")
        assert "by slice: 2 rows" in str(why)
        assert sliced(mem) == 1
        assert mem.stats()["sliced_rows"] == 2

    @pytest.mark.parametrize("how", ["rows", "indices", "mask"])
    def test_every_form_of_edit(self, mem, how):
        net = mlp()
        x = mem.page("x", torch.randn(N, 12))
        y = mem.derive(net, x, name="y", rows=True)
        y.tensor  # noqa: B018
        mask = torch.zeros(N, 12, dtype=torch.bool)
        mask[5, 3] = mask[117, 0] = True
        arguments = {
            "rows": (torch.randn(2, 12), {"rows": [5, 117]}),
            "indices": (torch.randn(2), {"indices": [[5, 3], [117, 0]]}),
            "mask": (torch.randn(N, 12), {"mask": mask}),
        }
        values, where = arguments[how]
        mem.update(x, values, **where)
        with torch.no_grad():
            assert same_bits(y.tensor, net(x.tensor))
        assert mem.why("y").computed_rows == 2

    def test_inputs_that_were_not_edited_are_gathered_too(self, mem):
        a, b = mem.page("a", torch.randn(N, 3)), mem.page("b", torch.randn(N, 3))
        w = mem.page("w", torch.randn(3, 5))
        y = mem.derive(lambda a, b, w: (a * b) @ w, a, b, w, name="y", rows=True)
        y.tensor  # noqa: B018
        mem.update(b, torch.randn(1, 3), rows=[9])
        assert torch.equal(y.tensor, (a.tensor * b.tensor) @ w.tensor)
        mem.update(a, torch.randn(1, 3), rows=[9])
        mem.update(b, torch.randn(1, 3), rows=[33])
        assert torch.equal(y.tensor, (a.tensor * b.tensor) @ w.tensor)
        assert mem.why("y").computed_rows == 2
        mem.update(w, torch.randn(1, 5), rows=[0])
        assert torch.equal(y.tensor, (a.tensor * b.tensor) @ w.tensor)
        assert mem.why("y").engine == "full"

    def test_it_chains_through_pages(self, mem):
        net = mlp(12, 12)
        mem.page("x0", torch.randn(N, 12))
        for i in range(5):
            mem.derive(net, f"x{i}" if i else mem["x0"], name=f"x{i + 1}", rows=True)
        mem["x5"].tensor  # noqa: B018
        mem.update("x0", torch.randn(1, 12), rows=[77])
        expected = mem["x0"].tensor
        with torch.no_grad():
            for _ in range(5):
                expected = net(expected)
        assert same_bits(mem["x5"].tensor, expected)
        assert sliced(mem) == 5

    def test_rows_that_come_out_equal_are_cut_off(self, mem):
        x = mem.page("x", torch.arange(float(N)))
        y = mem.derive(lambda x: x.clamp(max=50), x, name="y", rows=True)
        z = mem.derive(lambda y: y + 1, y, name="z", rows=True)
        z.tensor  # noqa: B018
        mem.update(x, torch.tensor([1000.0, 3.0]), rows=[60, 10])
        assert torch.equal(z.tensor, x.tensor.clamp(max=50) + 1)
        assert mem.why("y").rows == "rows 10 (1 of 200)"
        assert mem.why("z").computed_rows == 1
        mem.update(x, torch.tensor([2000.0]), rows=[61])
        assert torch.equal(z.tensor, x.tensor.clamp(max=50) + 1)
        assert mem.why("y").what == "unchanged"
        assert mem.why("z").what == "cut off"

    def test_an_alias_taken_before_keeps_its_values(self, mem):
        x = mem.page("x", torch.randn(N, 3))
        y = mem.derive(lambda x: x + 1, x, name="y", rows=True)
        before = y.tensor
        kept = before.clone()
        mem.update(x, torch.zeros(1, 3), rows=[0])
        assert not torch.equal(y.tensor, kept)
        assert torch.equal(before, kept)

    def test_many_edits_between_two_reads(self, mem):
        x = mem.page("x", torch.randn(N, 3))
        y = mem.derive(lambda x: x.exp(), x, name="y", rows=["x"])
        y.tensor  # noqa: B018
        for row in range(0, 120, 3):
            mem.update(x, torch.randn(1, 3), rows=[row])
        assert torch.equal(y.tensor, x.tensor.exp())
        assert mem.why("y").computed_rows == 40

    def test_going_back_makes_the_rows_again(self, mem):
        x = mem.page("x", torch.randn(N, 3))
        y = mem.derive(lambda x: x.exp(), x, name="y", rows=True)
        first, then = y.tensor, mem.tx
        mem.update(x, torch.randn(1, 3), rows=[5])
        y.tensor  # noqa: B018
        mem.restore(then)
        assert torch.equal(y.tensor, first)
        assert torch.equal(mem.at(then)["y"], first)

    def test_after_reopening(self, tmp_path):
        def f(x):
            return x.exp()

        with mmsb.open(tmp_path / "m") as mem:
            mem.page("x", torch.randn(N, 3))
            mem.derive(f, "x", name="y", rows=True).tensor  # noqa: B018
            mem.checkpoint()
            mem.update("x", torch.randn(1, 3), rows=[5])
        with mmsb.open(tmp_path / "m") as mem:
            y = mem.derive(f, "x", name="y", rows=True)
            mem.update("x", torch.randn(1, 3), rows=[8])
            assert torch.equal(y.tensor, mem["x"].tensor.exp())
            mem.update("x", torch.randn(1, 3), rows=[9])
            assert torch.equal(y.tensor, mem["x"].tensor.exp())

    def test_what_changed_before_the_checkpoint_is_not_forgotten(self, tmp_path):
        """The journal of a reopened page begins at the checkpoint; the value may be older."""

        def f(x):
            return x.exp()

        with mmsb.open(tmp_path / "m") as mem:
            mem.page("x", torch.randn(N, 3))
            mem.derive(f, "x", name="y", rows=True).tensor  # noqa: B018
            mem.update("x", torch.randn(1, 3), rows=[5])
            mem.checkpoint()
        with mmsb.open(tmp_path / "m") as mem:
            y = mem.derive(f, "x", name="y", rows=True)
            mem.update("x", torch.randn(1, 3), rows=[8])
            assert torch.equal(y.tensor, mem["x"].tensor.exp())


class TestFull:
    """What cannot be made by rows is made in full, and says why."""

    def test_changed_code_weights_and_settings(self, mem):
        net = mlp()
        x = mem.page("x", torch.randn(N, 12))
        y = mem.derive(net, x, name="y", rows=True)
        y.tensor  # noqa: B018
        with torch.no_grad():
            net[0].weight[0, 0] += 1
            mem.update(x, torch.randn(1, 12), rows=[0])
            assert same_bits(y.tensor, net(x.tensor))
            assert mem.why("y").engine == "full"
            mem.update(x, torch.randn(1, 12), rows=[1])
            assert same_bits(y.tensor, net(x.tensor))
            assert mem.why("y").engine == "slice"

    def test_random_numbers(self, mem):
        x = mem.page("x", torch.randn(N, 12))
        y = mem.derive(lambda x: nn.functional.dropout(x, 1e-9), x, name="y", rows=True)
        torch.manual_seed(1)
        y.tensor  # noqa: B018
        after = torch.get_rng_state()
        torch.manual_seed(1)
        nn.functional.dropout(x.tensor, 1e-9)
        assert torch.equal(torch.get_rng_state(), after)  # the sample drew none
        mem.update(x, torch.randn(1, 12), rows=[0])
        y.tensor  # noqa: B018
        assert mem.why("y").in_full == "it draws random numbers"
        assert sliced(mem) == 0

    def test_pages_read_inside(self, mem):
        x, s = mem.page("x", torch.randn(N, 3)), mem.page("s", torch.ones(()))
        y = mem.derive(lambda x: x * mem["s"].tensor, x, name="y", rows=True)
        for row in range(3):
            mem.update(x, torch.randn(1, 3), rows=[row])
            mem.update(s, torch.tensor(float(row)))
            assert torch.equal(y.tensor, x.tensor * s.tensor)
        assert sliced(mem) == 0

    def test_rows_false(self, mem):
        x = mem.page("x", torch.randn(N, 3))
        y = mem.derive(lambda x: x + 1, x, name="y", rows=False)
        y.tensor  # noqa: B018
        mem.update(x, torch.randn(1, 3), rows=[0])
        assert torch.equal(y.tensor, x.tensor + 1)
        assert mem.why("y").in_full == "it was declared with rows=False"

    def test_few_rows(self, mem):
        x = mem.page("x", torch.randn(5, 3))
        y = mem.derive(lambda x: x + 1, x, name="y", rows=True)
        for row in range(5):
            y.tensor  # noqa: B018
            mem.update(x, torch.randn(1, 3), rows=[row])
            assert torch.equal(y.tensor, x.tensor + 1)

    def test_a_recipe_that_fails_on_the_new_rows(self, mem):
        def f(x):
            if (x < 0).any():
                raise ValueError("negative")
            return x + 1

        x = mem.page("x", torch.ones(N, 3))
        y = mem.derive(f, x, name="y", rows=True)
        y.tensor  # noqa: B018
        mem.update(x, -torch.ones(1, 3), rows=[4])
        with pytest.raises(mmsb.RecipeError, match="negative"):
            y.tensor  # noqa: B018
        mem.update(x, torch.full((1, 3), 5.0), rows=[4])
        assert torch.equal(y.tensor, x.tensor + 1)


def shifted(x):
    return x.roll(1, 0)


def averaged(x):
    return x - x.mean(0)


def numbered(x):
    return x + torch.arange(len(x))[:, None]


def counted(x):
    return x / len(x)


def sorted_rows(x):
    return x[x[:, 0].argsort()]


def summed(x):
    return x.cumsum(0)


def paired(x):
    return torch.cat([x, x])


class TestWrongClaims:
    @pytest.mark.parametrize(
        "f",
        [shifted, averaged, numbered, counted, sorted_rows, summed, paired],
        ids=lambda f: f.__name__,
    )
    def test_it_is_caught_at_the_first_read(self, mem, f):
        x = mem.page("x", torch.randn(N, 3))
        y = mem.derive(f, x, name="y", rows=True)
        with pytest.raises(mmsb.NotRowwiseError, match="'y' was declared with rows="):
            y.tensor  # noqa: B018
        assert mem.why("y").status == "failed"
        y = mem.derive(f, x, name="y")
        assert torch.equal(y.tensor, f(x.tensor))

    def test_few_rows_too(self, mem):
        mem.page("x", torch.randn(6, 3))
        with pytest.raises(mmsb.NotRowwiseError):
            mem.derive(averaged, "x", name="y", rows=True).tensor  # noqa: B018

    def test_a_wrong_input_is_named(self, mem):
        mem.page("x", torch.randn(N, 3))
        mem.page("w", torch.randn(3, 4))
        page = mem.derive(lambda x, w: x @ w, "x", "w", name="y", rows=["w"])
        with pytest.raises(mmsb.NotRowwiseError, match="'w'"):
            page.tensor  # noqa: B018

    def test_a_batch_norm_that_trains(self, mem):
        mem.page("x", torch.randn(N, 3))
        norm = nn.BatchNorm1d(3, track_running_stats=False)
        with pytest.raises(mmsb.NotRowwiseError):
            mem.derive(norm, "x", name="y", rows=True).tensor  # noqa: B018

    def test_a_result_without_rows(self, mem):
        mem.page("x", torch.randn(N, 3))
        with pytest.raises(mmsb.NotRowwiseError, match="0-dim"):
            mem.derive(lambda x: x.sum(), "x", name="y", rows=True).tensor  # noqa: B018

    @pytest.mark.parametrize("rows", [["z"], 3, [], [3]])
    def test_names_of_nothing(self, mem, rows):
        mem.page("x", torch.randn(N, 3))
        with pytest.raises(mmsb.InvalidRecipeError, match="rows="):
            mem.derive(lambda x: x, "x", name="y", rows=rows)


class TestRounding:
    def test_rows_that_differ_by_rounding_only(self, mem):
        """A function whose rows depend on how many there are, a little."""

        def f(x):
            noise = 1e-7 * len(x) / N
            return x * (1 + noise)

        x = mem.page("x", torch.randn(N, 3))
        y = mem.derive(f, x, name="y", rows=True)
        y.tensor  # noqa: B018
        kept = y.clone()
        mem.update(x, torch.randn(1, 3), rows=[3])
        assert torch.allclose(y.tensor, f(x.tensor), rtol=1e-6, atol=0)
        assert mem.why("y").engine == "slice"
        # what differs by no more is no change: nothing that depends on it runs
        mem.update(x, x.read(rows=[7]) * (1 + 1e-7), rows=[7])
        assert torch.equal(y.tensor[7], kept[7])
        assert mem.why("y").what == "unchanged"

    def test_exact_makes_such_rows_in_full(self, mem):
        def f(x):
            noise = 1e-7 * len(x) / N
            return x * (1 + noise)

        x = mem.page("x", torch.randn(N, 3))
        y = mem.derive(f, x, name="y", rows=True, exact=True)
        y.tensor  # noqa: B018
        mem.update(x, torch.randn(1, 3), rows=[3])
        assert torch.equal(y.tensor, f(x.tensor))
        assert "exact=True" in mem.why("y").in_full


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_any_edits_by_rows_equal_in_full(seed):
    """Random edits of a small pipeline; every page is at every read what its function gives."""
    chance = random.Random(seed)
    torch.manual_seed(seed)
    net = mlp(6, 6)
    with mmsb.open() as mem, torch.no_grad():
        a, b = mem.page("a", torch.randn(N, 6)), mem.page("b", torch.randn(N, 6))
        h = mem.derive(net, a, name="h", rows=True)
        g = mem.derive(lambda h, b: torch.relu(h) - b, h, b, name="g", rows=True)
        s = mem.derive(lambda g: g.sum(0), g, name="s")
        k = mem.derive(lambda g, s: g @ s, g, s, name="k", rows=["g"])
        pages = {"h": h, "g": g, "s": s, "k": k}
        for _ in range(chance.randrange(2, 9)):
            page = chance.choice([a, b])
            kind = chance.randrange(5)
            if kind == 0:
                mem.update(page, torch.randn(N, 6))
            elif kind == 1:
                mem.restore(chance.randrange(2, mem.tx + 1))
            elif kind == 2:
                mask = torch.rand(N, 6) < chance.choice([0.001, 0.1])
                mem.update(page, torch.randn(N, 6).relu(), mask=mask)
            else:
                rows = chance.sample(range(N), chance.choice([1, 2, 15, 16, 17, 60, 150]))
                mem.update(page, torch.randn(len(rows), 6), rows=rows)
            if chance.random() < 0.3:
                continue
            wanted = {"h": net(a.tensor)}
            wanted["g"] = torch.relu(wanted["h"]) - b.tensor
            wanted["s"] = wanted["g"].sum(0)
            wanted["k"] = wanted["g"] @ wanted["s"]
            for name in chance.sample(sorted(pages), 2):
                found = pages[name].tensor
                if name == "k":  # a product with a vector: its bits depend on the number of rows
                    torch.testing.assert_close(found, wanted[name])
                else:
                    assert same_bits(found, wanted[name]), name
