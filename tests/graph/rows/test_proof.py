"""Which functions are row-wise: found where they are, refused with a reason where they are not."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmsb_torch.errors import PlanError
from mmsb_torch.graph.rows import plan

N, D = 7, 6
W = torch.linspace(-1, 1, D * D).view(D, D)


def norm_in_blocks(x):
    return F.layer_norm(x.reshape(-1, D // 2), (D // 2,)).view(-1, D)


def through_transposes(x):
    turned = x.view(x.shape[0], 2, 3).permute(2, 0, 1).reshape(3 * x.shape[0], 2)
    return torch.softmax(turned, 1).view(3, -1, 2).transpose(0, 1).flatten(1)


def written_in_place(x):
    y = x + 1
    y.relu_()
    y += x
    return y


def filled(x):
    y = torch.zeros_like(x)
    y[:, 1] = x[:, 0]
    y[:, 2:4] = 1
    return y


def picked(x):
    scores = torch.log_softmax(x, 1)
    return scores[torch.arange(x.shape[0]), x.argmax(1)]


def attention_in_a_row(x):
    tokens = x.view(-1, 3, 2)
    return F.scaled_dot_product_attention(tokens, tokens, tokens, is_causal=True).flatten(1)


FOLLOW = {
    "itself": lambda x: x,
    "elements": lambda x: (x * 2 + 1).clamp(-1, 1).sigmoid() / x.abs().add(1),
    "mixed in a row": lambda x: x.softmax(1).cumsum(1).sort(1)[0] @ W,
    "sums": lambda x: x.sum(1) + x.mean(-1) - x.amax(1) + x.norm(dim=1) + x.std(1),
    "one number a row": lambda x: x.max(1).values,
    "no grad": torch.no_grad()(lambda x: x * 2),
    "linear": lambda x: F.linear(x, W, W[0]),
    "einsum": lambda x: torch.einsum("nd,de->ne", x, W),
    "products": lambda x: torch.bmm(x.unsqueeze(1), W.expand(x.shape[0], D, D)).squeeze(1),
    "outer of a row": lambda x: (x[:, :, None] * x[:, None]).flatten(1),
    "blocks": norm_in_blocks,
    "transposes": through_transposes,
    "in place": written_in_place,
    "filled": filled,
    "columns joined": lambda x: torch.cat([x[:, 1:], x[:, :1], torch.ones(x.shape[0], 2)], 1),
    "split": lambda x: torch.stack(x.chunk(2, 1)[::-1], 1).unbind(1)[0],
    "picked": picked,
    "columns gathered": lambda x: x.gather(1, x.argsort(1)),
    "columns by number": lambda x: x[:, [3, 0]],
    "table": lambda x: F.embedding(x.long().clamp(0, D - 1), W).sum(1),
    "attention": attention_in_a_row,
    "whole": lambda x: x[:],
    "normalised": lambda x: F.normalize(x, dim=1),
    "new": lambda x: x.new_ones(x.shape) * x + torch.zeros_like(x),
    "expanded": lambda x: W[0].expand(x.shape[0], D) + x,
    "dropout that does nothing": lambda x: F.dropout(x, 0.5, training=False),
    "chosen": lambda x: torch.where(x > 0, x, W[0]),
    "triangle in a row": lambda x: (x[:, :, None] * W).tril().sum(2),
    "padded columns": lambda x: F.pad(x, (1, 2)),
    "rolled columns": lambda x: x.roll(1, 1).flip(1),
}

MIX = {
    "mean": (lambda x: x - x.mean(0), "mixes rows"),
    "total": (lambda x: x / x.sum(), "mixes rows"),
    "batch statistics": (lambda x: F.batch_norm(x, None, None, training=True), "mixes rows"),
    "softmax over rows": (lambda x: x.softmax(0), "mixes rows"),
    "running sum": (lambda x: x.cumsum(0), "mixes rows"),
    "sorted": (lambda x: x.sort(0).values, "mixes rows"),
    "best": (lambda x: x.topk(3, 0).values, "not captured|fixed|dimension 0"),
    "order": (lambda x: x[x[:, 0].argsort()], "mixes rows"),
    "backwards": (lambda x: x.flip(0), "mixes rows"),
    "rolled": (lambda x: x.roll(1, 0), "mixes rows"),
    "neighbours": (lambda x: x - torch.cat([x[:1], x[:-1]]), "cuts the rows|Not all values"),
    "without the first": (lambda x: x[1:], "Not all values|fixed|cuts"),
    "the first": (lambda x: x[:4], "Not all values|fixed|dimension 0"),
    "places": (lambda x: x + torch.arange(x.shape[0])[:, None], "places of the rows"),
    "places as floats": (
        lambda x: x * torch.arange(x.shape[0], dtype=torch.float32)[:, None],
        "places of the rows",
    ),
    "counted from one": (
        lambda x: x[torch.arange(1, x.shape[0] + 1) - 1],
        "places of the rows|cuts the rows",
    ),
    "the next row": (
        lambda x: x[(torch.arange(x.shape[0]) + 1) % x.shape[0]],
        "places of the rows|number of rows",
    ),
    "mirrored places": (lambda x: x[torch.arange(x.shape[0]).flip(0)], "mixes rows"),
    "places as columns": (
        lambda x: W.new_zeros(D)[torch.arange(x.shape[0]).clamp(max=D - 1)] + x[:, 0],
        "places of the rows",
    ),
    "triangle": (lambda x: x.tril(), "mixes rows"),
    "number of rows": (lambda x: x / x.shape[0], "number of rows"),
    "number of rows, filled": (lambda x: x + torch.full_like(x, x.shape[0]), "places|number"),
    "number of rows, as a tensor": (
        lambda x: x * torch.tensor(x.shape[0]),
        "places|number|specialized",
    ),
    "number of rows, divided": (lambda x: x.sum(1) * (x.shape[0] // 2), "number of rows"),
    "pairs": (lambda x: (x[:, None] - x[None]).square().sum((1, 2)), "different rows"),
    "products of rows": (lambda x: x @ x.T, "different rows"),
    "covariance": (lambda x: x @ (x.T @ x), "mixes rows"),
    "distances": (lambda x: torch.cdist(x, x), "no rule|mixes|different"),
    "convolved": (lambda x: F.conv1d(x.T[None], W[:, :, None].expand(D, D, 3), padding=1)[0].T, "mixes rows"),
    "joined below": (lambda x: torch.cat([x, x]), "fixed|dimension 0|cuts|mixes|different"),
    "torn": (lambda x: x.reshape(D, -1).softmax(1).reshape(-1, D), "tears|mixes|Not all values"),
    "transposed": (lambda x: x.T.reshape(-1, D), "tears the rows|mixes|Not all values"),
    "rows by rows": (lambda x: x[x.long().clamp(0, 1)[:, 0]], "mixes rows"),
    "a table of rows": (lambda x: F.embedding(torch.zeros(N, dtype=torch.int64), x), "mixes|fixed"),
        "a branch on one size": (lambda x: x * 2 if x.shape[0] == 5 else x, "Not all values"),
    "pairs of rows": (lambda x: x.view(-1, 7, D).sum(1).repeat_interleave(7, 0), "Not all values|specialized"),
    "a loop": (lambda x: torch.stack([row * 2 for row in x]), "specialized"),
    "same everywhere": (lambda x: W[:, 0].new_ones(N), "fixed|dimension 0|values"),
    "maximum": (lambda x: x.eq(x.max()), "mixes rows"),
    "any": (lambda x: x * (x > 0).any(), "mixes rows"),
    "repeated": (lambda x: x[:1].expand(x.shape[0], D) + x, "mixes rows|cuts"),
    "scattered": (lambda x: torch.zeros_like(x).index_add(0, x.argsort(0)[:, 0], x), "no rule|mixes"),
    "numbered boxes": (lambda x: torch.eye(x.shape[0]) @ x, "places of the rows"),
    "linspace": (lambda x: x + torch.linspace(0, 1, x.shape[0])[:, None], "places|specialized"),
    "positions": (lambda x: x + W.repeat(2, 1)[: x.shape[0]], "number of rows|Not all"),
}  # fmt: skip

REFUSED = {
    "new random numbers": (lambda x: x + torch.randn(x.shape[0], 1), "random"),
    "a shuffle": (lambda x: x[torch.randperm(x.shape[0])], "random"),
    "drawn": (lambda x: torch.bernoulli(x.sigmoid()), "random"),
    "in training": (nn.Sequential(nn.Linear(D, D), nn.Dropout(0.1)), "random"),
    "random": (lambda x: x + torch.rand_like(x), "random"),
    "dropout": (lambda x: F.dropout(x, 0.5), "random"),
    "writes": (lambda x: x.mul_(2), "writes"),
    "values in sizes": (lambda x: x[x[:, 0] > 0], "values|data-dependent"),
    "values in branches": (lambda x: x if x.sum() > 0 else -x, "data-dependent"),
    "values read": (lambda x: x * x.sum().item(), "values|number|fraction"),
    "two results": (lambda x: (x, x), "one tensor"),
    "no tensor": (lambda x: x.shape[0], "one tensor"),
}


def given(rows=N):
    return torch.randn(rows, D, generator=torch.Generator().manual_seed(rows))


def check_rows(function, rows):
    """What the proof claims: other rows do not matter, nor where a row stands."""
    x = given(rows)
    whole = function(x.clone())
    picked = torch.randperm(rows)[: max(rows // 2, 2)].sort().values
    assert torch.allclose(function(x[picked].clone()), whole[picked], atol=1e-5)
    other = x.clone()
    other[picked] = torch.randn(len(picked), D)
    untouched = [row for row in range(rows) if row not in picked.tolist()]
    assert torch.allclose(function(other)[untouched], whole[untouched], atol=1e-5)


@pytest.mark.parametrize("name", FOLLOW)
def test_rows_that_follow(name):
    function, x = FOLLOW[name], given()
    found = plan(function, [x], function(x.clone()), [0])
    assert found.follows == {0}, found.why_not
    assert found.why_not is None
    assert (found.least, found.most) == (2, None)
    for rows in (2, 3, N, 30):
        check_rows(function, rows)


@pytest.mark.parametrize("name", MIX)
def test_rows_that_do_not(name):
    function, why = MIX[name]
    x = given()
    found = plan(function, [x], function(x.clone()), [0])
    assert not found.follows
    assert _matches(why, found.why_not), found.why_not


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_captured(name):
    function, why = REFUSED[name]
    x, state = given(), torch.get_rng_state()
    with pytest.raises(PlanError, match=why):
        plan(function, [x], x, [0])
    assert torch.equal(torch.get_rng_state(), state)


def _matches(why, found):
    return any(part in found for part in why.split("|"))


def test_two_inputs_go_together():
    found = plan(lambda x, w, y: F.linear(x, w) * y, [given(), W[:, :D], given()], given(), [0])
    assert found.follows == {0, 2}


def test_it_holds_for_the_sizes_that_take_the_same_branch():
    def function(x):
        return x * 2 if 5 < x.shape[0] < 100 else x

    found = plan(function, [given()], function(given()), [0])
    assert found.follows == {0}
    assert (found.least, found.most) == (6, 99)
    found = plan(lambda x: x[:50] * 2, [given()], given(), [0])
    assert found.follows == {0}
    assert found.most <= 50


def test_a_square_weight_is_no_row_input():
    x, w = torch.randn(D, D), torch.randn(D, D)
    found = plan(F.linear, [x, w], F.linear(x, w), [0])
    assert found.follows == {0}
    assert plan(F.linear, [x, w], F.linear(x, w), [1]).follows == frozenset()


def test_one_row_is_too_few_to_tell():
    found = plan(lambda x: x * 2, [given(1)], given(1), [0])
    assert not found.follows
    assert not found.grows


def test_modules_keep_their_parameters():
    model = nn.Sequential(nn.Linear(D, D), nn.BatchNorm1d(D)).eval()
    before = {name: (id(value), value._version) for name, value in model.state_dict().items()}
    held = [id(parameter) for parameter in model.parameters()]
    found = plan(model, [given()], model(given()), [0])
    assert found.follows == {0}
    assert [id(parameter) for parameter in model.parameters()] == held
    assert {name: value._version for name, value in model.state_dict().items()} == {
        name: version for name, (_, version) in before.items()
    }
    addresses = {parameter.data_ptr() for parameter in model.parameters()}
    assert addresses <= {held.data_ptr() for held in found.graph.constants}


def test_statistics_that_are_written_are_refused():
    def function(x, mean, var):
        return F.batch_norm(x, mean, var, training=True)

    with pytest.raises(PlanError, match="writes"):
        plan(function, [given(), torch.zeros(D), torch.ones(D)], given(), [0])


def test_training_is_refused():
    with pytest.raises(PlanError, match="mutated"):
        plan(nn.BatchNorm1d(D), [given()], given(), [0])
