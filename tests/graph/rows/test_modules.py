"""Real modules under edits: rows, elements, appended rows, in the forms people write."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from .editing import Edited, filler
from .models import Residual

ONE, SOME = range(3, 4), range(5, 9)


def edits(model, *, grow=True):
    """A row, some rows, an element, and appended rows."""
    rest = [None] * (model.values[0].dim() - 1)
    others = [None] * (len(model.values) - 1)
    model.edit([(ONE, *rest), *others], filler(0))
    model.edit([(SOME, *rest), *others], filler(1))
    model.edit([(ONE, *[range(1, 2) for _ in rest]), *others], filler(2))
    if grow:
        model.edit([None, *others], filler(3), 2)
    model.edit([(None, *rest), *others], filler(4))
    return model


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_mlp():
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 8)).eval()
    assert edits(Edited(model, [torch.randn(40, 32)])).kept.exact


def test_transformer_encoder():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = Edited(nn.TransformerEncoder(layer, 2).eval(), [torch.randn(20, 5, 16)])
    assert model.plan.follows == {0}
    assert model.kept.nbytes == 0
    edits(model)


def test_causal_transformer_encoder():
    net = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 2, 32), 2, enable_nested_tensor=False
    ).eval()

    def function(x):
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[0])
        return net(x[:, None], mask=mask, is_causal=True)[:, 0]

    model = edits(Edited(function, [torch.randn(12, 16)]))
    _, box = model.edit([(range(9, 10), None)], filler(5))
    assert box[0] == range(9, 14)
    _, box = model.edit([None], filler(5), 1)
    assert box[0] == range(14, 15)


def test_attention_module():
    attention = nn.MultiheadAttention(16, 2, batch_first=True).eval()
    model = Edited(
        lambda x, y: attention(x, y, y, need_weights=False)[0],
        [torch.randn(18, 4, 16), torch.randn(18, 6, 16)],
    )
    assert model.plan.follows == {0, 1}
    edits(model)


def test_attention_by_hand():
    w = torch.randn(16, 48)

    def function(x):
        q, k, v = (x @ w).chunk(3, -1)
        scores = q @ k.transpose(-1, -2) / 4
        mask = torch.ones(5, 5, dtype=torch.bool).tril()
        return scores.masked_fill(~mask, float("-inf")).softmax(-1) @ v

    model = Edited(function, [torch.randn(20, 5, 16)])
    assert model.plan.follows == {0}
    edits(model)


def test_residual_network():
    model = Edited(Residual().eval(), [torch.randn(12, 3, 8, 8)])
    assert model.plan.follows == {0}
    edits(model)


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
def test_recurrent(kind):
    net, head = kind(6, 64, batch_first=True), nn.Linear(64, 3)
    model = Edited(lambda x: head(net(x)[0][:, -1]), [torch.randn(24, 5, 6)])
    assert model.plan.follows == {0}
    edits(model)


def test_bfloat16():
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)).eval().bfloat16()
    edits(Edited(model, [torch.randn(40, 64).bfloat16()]))


def test_classifier_of_pairs():
    table = nn.Embedding(9, 16)

    def function(a, b):
        x, y = table(a).mean(1), table(b).mean(1)
        return F.cosine_similarity(x, y)

    model = Edited(function, [torch.randint(0, 5, (20, 3)), torch.randint(0, 5, (20, 4))])
    assert model.plan.follows == {0, 1}
    edits(model)


@pytest.mark.minilm
def test_minilm():
    from mmsb_torch.demo.encoder import load

    backbone = load()[1].backbone

    def function(ids):
        present = ids != 0
        hidden = backbone(input_ids=ids, attention_mask=present.long()).last_hidden_state
        weight = present.unsqueeze(-1).to(hidden.dtype)
        return F.normalize((hidden * weight).sum(1) / weight.sum(1), dim=1)

    model = Edited(function, [torch.randint(1, 1000, (9, 8))])
    assert model.plan.follows == {0}
    fill = lambda shape, dtype: torch.randint(1, 1000, shape)
    _, box = model.edit([(range(2, 4), None)], fill)
    assert box == (range(2, 4), None)
    assert model.kept.nbytes == 0
    model.edit([(range(2, 3), range(3, 4))], fill)
    model.edit([None], fill, 1)
