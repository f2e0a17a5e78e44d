"""Rows edited together with the code: after some rows were made, code is looked at once, at the end."""

import pytest
import torch
from torch import nn

scale = 2.0


def scaled(x):
    return torch.relu(x * scale)


def edited(mem, turn):
    """An edit of two rows, and the page as a run in full would be."""
    mem.update("x", torch.full((2, 3), float(turn)), rows=[turn, turn + 5])
    return mem["x"].tensor


@pytest.fixture
def x(mem):
    return mem.page("x", torch.randn(40, 3))


def sliced(mem):
    return mem.stats()["sliced"]


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_helper_and_rows_change_together(mem, x, monkeypatch, turns):
    page = mem.derive(scaled, x, name="y", rows=True)
    for turn in range(turns):
        whole = edited(mem, turn)
        assert torch.equal(page.tensor, scaled(whole))
    monkeypatch.setitem(globals(), "scale", 3.0)
    whole = edited(mem, 9)
    assert torch.equal(page.tensor, torch.relu(whole * 3.0))
    before = sliced(mem)
    whole = edited(mem, 10)
    assert torch.equal(page.tensor, torch.relu(whole * 3.0))
    assert sliced(mem) == before + 1


def test_weights_and_rows_change_together(mem, x):
    model = nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 3)).eval()
    page = mem.derive(model, x, name="y", rows=True)
    with torch.no_grad():
        for turn in range(6):
            whole = edited(mem, turn)
            if turn % 2:
                model[0].weight[turn] += 1.0
            assert torch.equal(page.tensor, model(whole))
    assert 0 < sliced(mem) < 6


def test_new_code_that_fails_on_rows_is_not_blamed_for_it(mem, x, monkeypatch):
    def whole_only(x):
        if len(x) < 40:
            raise ValueError("too few")
        return x + helper(x)

    def any_number(x):
        return x + helper(x)

    def helper(x):
        return x * 2

    inner = any_number

    def recipe(x):
        return inner(x)

    page = mem.derive(recipe, x, name="y", rows=True)
    for turn in range(3):
        whole = edited(mem, turn)
        assert torch.equal(page.tensor, whole * 3)
    assert sliced(mem) > 0
    inner = whole_only
    whole = edited(mem, 7)
    with pytest.raises(Exception, match="too few"):  # the claim rows=True is wrong by now
        page.tensor  # noqa: B018
    inner = any_number
    assert torch.equal(page.tensor, whole * 3)


def test_code_that_changes_while_rows_are_made(mem, x):
    due = []

    class Once(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(100))

        def forward(self, x):
            if due:
                self.seen += due.pop()
            return x + self.seen[0]

    model = Once()
    page = mem.derive(model, x, name="y", rows=True)
    for turn in range(12):
        whole = edited(mem, turn)
        due += [1] * (turn == 5)
        found, seen = page.tensor, model.seen[0]
        assert torch.equal(found, whole + seen)  # all rows of one state of the module
    assert model.seen[0] == 1
    assert sliced(mem) > 6
