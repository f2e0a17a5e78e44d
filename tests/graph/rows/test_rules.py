"""Every rule alone: random boxes of random arguments, compared with a full run."""

import functools
import os
import re
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings

from mmsb_torch.graph.rows.families import all_rules

from .editing import Edited, boxes, filler

SOAK = bool(os.environ.get("MMSB_SOAK"))
EXAMPLES = 400 if SOAK else 10
WAYS = [False, True] if SOAK else [True]


def r(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def ids(*shape, high=5):
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(sum(shape)))


aten = torch.ops.aten
sdpa = F.scaled_dot_product_attention


def rnn(gates):
    return r(20, 3, 4), r(1, 40, 5), r(5 * gates, 4), r(5 * gates, 5), r(5 * gates), r(5 * gates)


CASES = {
    "add": (lambda x, y: x + y, r(6, 4), r(4)),
    "add of a column": (lambda x, y: x * y, r(6, 4), r(6, 1)),
    "where": (lambda x, y: torch.where(x > 0, x, y), r(6, 4), r(6, 4)),
    "gelu": (lambda x: F.gelu(x), r(6, 40)),
    "functions": (lambda x: x.tanh() + x.exp() * x.sigmoid() - x.sin() + F.silu(x), r(9, 37)),
    "to": (lambda x: x.to(torch.float64), r(6, 4)),
    "dropout": (lambda x: F.dropout(x, 0.5, training=False), r(6, 4)),
    "masked_fill": (lambda x, y: x.masked_fill(y > 0, 1.0), r(6, 4), r(6, 1)),
    "softmax": (lambda x: x.softmax(-1), r(6, 3, 4)),
    "softmax in the middle": (lambda x: x.softmax(1), r(6, 3, 4)),
    "log_softmax": (lambda x: x.log_softmax(0), r(6, 4)),
    "cumsum": (lambda x: x.cumsum(1), r(6, 4)),
    "sort": (lambda x: x.sort(1)[0], r(6, 4)),
    "argsort": (lambda x: x.argsort(1), r(6, 4)),
    "topk": (lambda x: x.topk(2, 1)[1], r(6, 4)),
    "sum": (lambda x: x.sum((0, 2)), r(6, 3, 4)),
    "sum of all": (lambda x: x.sum(), r(6, 4)),
    "mean": (lambda x: x.mean(1, keepdim=True), r(6, 3, 4)),
    "amax": (lambda x: x.amax(1), r(6, 4)),
    "max": (lambda x: x.max(1).values, r(6, 4)),
    "argmax": (lambda x: x.argmax(-1), r(6, 4)),
    "std": (lambda x: x.std(1), r(6, 4)),
    "norm": (lambda x: F.normalize(x, dim=1), r(6, 4)),
    "logsumexp": (lambda x: x.logsumexp(1), r(6, 4)),
    "cosine": (lambda x, y: F.cosine_similarity(x, y, dim=1), r(6, 4, 2), r(4, 2)),
    "layer_norm": (lambda x, w, b: F.layer_norm(x, (4,), w, b), r(6, 3, 4), r(4), r(4)),
    "rms_norm": (lambda x, w: F.rms_norm(x, (4,), w), r(6, 3, 4), r(4)),
    "group_norm": (lambda x: F.group_norm(x, 2), r(6, 4, 3)),
    "batch_norm": (
        lambda x, m, v: F.batch_norm(x, m, v.abs() + 1, training=False),
        r(6, 4, 3, 3),
        r(4),
        r(4),
    ),
    "linear": (lambda x, w, b: F.linear(x, w, b), r(40, 4), r(5, 4), r(5)),
    "linear, turned": (lambda x, w, b: F.linear(x.transpose(0, 1), w, b), r(24, 9, 128), r(384, 128), r(384)),
    "linear of few": (lambda x, w: F.linear(x, w), r(6, 3, 4), r(5, 4)),
    "matmul": (lambda x, y: x @ y, r(40, 4), r(4, 5)),
    "matmul with batches": (lambda x, y: x @ y, r(6, 3, 4), r(4, 5)),
    "batches": (lambda x, y: x @ y, r(6, 20, 4), r(6, 4, 5)),
    "batches broadcast": (lambda x, y: x @ y, r(6, 1, 3, 4), r(2, 4, 5)),
    "matrix by vector": (lambda x, y: x @ y, r(6, 4), r(4)),
    "vector by matrix": (lambda x, y: x @ y, r(6), r(6, 4)),
    "mm": (lambda x, y: torch.mm(x, y), r(20, 4), r(4, 5)),
    "bmm": (lambda x, y: torch.bmm(x, y), r(6, 3, 4), r(6, 4, 5)),
    "addmm": (lambda b, x, y: torch.addmm(b, x, y), r(5), r(20, 4), r(4, 5)),
    "baddbmm": (lambda b, x, y: torch.baddbmm(b, x, y), r(6, 3, 5), r(6, 3, 4), r(6, 4, 5)),
    "einsum": (lambda x, y: torch.einsum("bij,jk->bik", x, y), r(6, 3, 4), r(4, 5)),
    "outer": (lambda x, y: torch.einsum("i,j->ij", x, y), r(6), r(4)),
    "attention": (lambda q, k, v: sdpa(q, k, v), r(6, 2, 3, 4), r(6, 2, 5, 4), r(6, 2, 5, 4)),
    "attention with a mask": (
        lambda q, k, v, m: sdpa(q, k, v, attn_mask=m), r(6, 2, 3, 4), r(6, 2, 5, 4), r(6, 2, 5, 4), r(6, 1, 3, 5),
    ),
    "causal": (
        lambda q, k, v: sdpa(q, k, v, is_causal=True), r(1, 2, 9, 4), r(1, 2, 9, 4), r(1, 2, 9, 4),
    ),
    "causal rows": (
        lambda q, k: sdpa(*(t.view(1, -1, 2, 4).transpose(1, 2) for t in (q, k, k)), is_causal=True)[0].transpose(0, 1),
        r(9, 8), r(9, 8),
    ),
    "causal, fewer keys": (
        lambda q, k, v: sdpa(q, k, v, is_causal=True), r(2, 9, 4), r(2, 5, 4), r(2, 5, 4),
    ),
    "view": (lambda x: x.view(x.shape[0], 2, 6), r(6, 3, 4)),
    "merge": (lambda x: x.reshape(-1, 4) * 2, r(6, 3, 4)),
    "merge inner rows": (lambda x: x.transpose(0, 1).reshape(-1, 4).sin(), r(6, 3, 4)),
    "split": (lambda x: x.view(2, 3, 4).cos(), r(6, 4)),
    "regroup": (lambda x: x.reshape(4, 6), r(6, 4)),
    "regroup of three": (lambda x: x.reshape(-1, 6, 2).cos() * 2, r(6, 3, 4)),
    "other groups": (lambda x: x.reshape(-1, 2).sin().reshape(3, -1), r(6, 3, 4)),
    "heads of batches": (lambda x: x.reshape(3, -1, 4).cos(), r(3, 6, 8)),
    "heads beside": (lambda x: x.transpose(0, 1).reshape(3, -1, 4).cos().transpose(0, 1), r(6, 3, 8)),
    "flatten": (lambda x: x.flatten(1), r(6, 3, 4)),
    "squeeze": (lambda x: x.unsqueeze(1).squeeze(1)[None], r(6, 4)),
    "permute": (lambda x: x.permute(2, 0, 1).contiguous(), r(6, 3, 4)),
    "t": (lambda x: x.t(), r(6, 4)),
    "movedim": (lambda x: x.movedim(0, -1), r(6, 3, 4)),
    "expand": (lambda x: x.unsqueeze(1).expand(-1, 3, -1), r(6, 4)),
    "slice": (lambda x: x[:, 1:3], r(6, 4)),
    "slice of rows": (lambda x: x[1:5], r(6, 4)),
    "steps": (lambda x: x[:, ::2], r(6, 5)),
    "steps of rows": (lambda x: x[1::2] + 1, r(7, 5)),
    "the last rows": (lambda x: x[-2:], r(7, 5)),
    "narrow": (lambda x: x.narrow(1, 1, 2), r(6, 4)),
    "select": (lambda x: x[:, -1], r(6, 4)),
    "a row": (lambda x: x[2], r(6, 4)),
    "the last row": (lambda x: x[-1] * 2, r(6, 4)),
    "chunk": (lambda x: torch.stack(x.chunk(2, 1), 2), r(6, 4)),
    "split sizes": (lambda x: x.split([1, 3], 1)[1], r(6, 4)),
    "unbind": (lambda x: x.unbind(1)[2], r(6, 4)),
    "cat": (lambda x, y: torch.cat([x, y, x], 1), r(6, 4), r(6, 2)),
    "cat of rows": (lambda x, y: torch.cat([x, y, x]), r(6, 4), r(2, 4)),
    "stack": (lambda x, y: torch.stack([x, y], 1), r(6, 4), r(6, 4)),
    "repeat": (lambda x: x.repeat(1, 2), r(6, 4)),
    "flip": (lambda x: x.flip(1), r(6, 4)),
    "roll": (lambda x: x.roll(1, 0), r(6, 4)),
    "tril": (lambda x: x.tril(), r(6, 3, 4)),
    "pad": (lambda x: F.pad(x, (1, 0)), r(6, 4)),
    "unfold": (lambda x: x.unfold(1, 2, 1), r(6, 4)),
    "embedding": (lambda x, w: F.embedding(x, w), ids(6, 3), r(5, 4)),
    "index_select": (lambda x, i: x.index_select(1, i), r(6, 5), ids(3)),
    "index_select of rows": (lambda x, i: x.index_select(0, i), r(6, 4), ids(3)),
    "gather": (lambda x, i: x.gather(1, i), r(6, 5), ids(6, 3)),
    "index": (lambda x, i: x[:, i], r(6, 5), ids(3)),
    "two indices": (lambda x, i, j: x[i, :, j], r(6, 3, 5), ids(4), ids(4)),
    "own numbers": (lambda x: x[torch.arange(x.shape[0])[:, None], torch.arange(2) + 1].sin(), r(6, 5)),
    "own numbers beside": (lambda x, i: x[torch.arange(x.shape[0]), :, i], r(6, 3, 5), ids(6)),
    "others' numbers": (lambda x, y: x[torch.arange(y.shape[0])], r(16, 3), r(4, 2)),
    "indices apart": (lambda x, i: x[:, i, :, i], r(6, 5, 3, 5), ids(4)),
    "conv2d": (lambda x, w, b: F.conv2d(x, w, b, padding=1), r(6, 3, 5, 5), r(4, 3, 3, 3), r(4)),
    "conv1d": (lambda x, w: F.conv1d(x, w), r(6, 3, 7), r(4, 3, 3)),
    "max_pool2d": (lambda x: F.max_pool2d(x, 2), r(6, 3, 4, 4)),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 2), r(6, 3, 4, 4)),
    "adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x, 1), r(6, 3, 4, 4)),
    "gru": (lambda x, h, *w: aten.gru.input(x, h[:, : x.shape[0]], w, True, 1, 0.0, False, False, True)[0], *rnn(3)),
    "lstm": (lambda x, h, *w: aten.lstm.input(x, [h[:, : x.shape[0]]] * 2, w, True, 1, 0.0, False, False, True)[0], *rnn(4)),
    "places": (lambda x: x + torch.arange(x.shape[0])[:, None], r(6, 4)),
    "number of rows": (lambda x: x / x.shape[0], r(6, 4)),
    "an unknown operator": (lambda x: torch.cdist(x, x).sum(1) + x[:, 0], r(6, 4)),
    "one_hot": (lambda x: F.one_hot(x, 5), ids(6, 3)),
    "slice_scatter": (lambda x, y: x.slice_scatter(y, 1, 1, 3), r(6, 4), r(6, 2)),
    "new": (lambda x: x.new_ones(x.shape[0], 2) * x[:, :1], r(6, 4)),
    "glu": (lambda x: F.glu(x), r(6, 4)),
}  # fmt: skip


@functools.cache
def edited(name, pieces):
    function, *values = CASES[name]
    if not pieces:
        return Edited(function, values, range(len(values)))

    def of_the_end(*values):
        result = function(*values)
        for dim in range(1, result.dim()):
            if result.shape[dim] > 1:
                result = result.narrow(dim, 1, result.shape[dim] - 1)
        return result

    return Edited(of_the_end, values, range(len(values)))


@pytest.mark.parametrize("pieces", WAYS)
@pytest.mark.parametrize("name", CASES)
def test_boxes_of_every_argument(name, pieces):
    """Of all of the result, or of a piece of it: then not all of it has to be computed."""

    @settings(max_examples=EXAMPLES, database=None)
    @given(st.data())
    def run(data):
        case = edited(name, pieces).again()
        for _ in range(data.draw(st.integers(1, 3))):
            chosen = [
                data.draw(st.one_of(st.none(), boxes(tuple(value.shape)))) for value in case.values
            ]
            grown = data.draw(st.sampled_from([0, 0, 1, 3])) if case.plan.grows else 0
            case.edit(chosen, filler(data.draw(st.integers(0, 99))), grown)

    run()


def test_every_rule_is_in_the_documentation():
    text = (Path(__file__).parents[3] / "docs" / "row-rules.md").read_text()
    written = set(re.findall(r"`(\w+)`", text.split("## Rules")[1].split("Made from sizes")[0]))
    assert {str(op).split(".")[1] for op in all_rules()} <= written


def test_places_that_are_no_box_when_regrouped():
    case = Edited(lambda x: x.reshape(4, 6), [r(6, 4)])
    case.edit([(np.array([2, 3]), range(1))], filler(0))
    case.edit([(range(1, 2), range(2, 3))], filler(1))
