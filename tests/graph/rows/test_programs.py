"""Random functions of the covered operators under random edits: steps give what a full run gives."""

import os

import hypothesis.strategies as st
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings

from .editing import Edited, boxes, filler

GRAPHS = 300 if os.environ.get("MMSB_SOAK") else 12
W = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
NORM = torch.linspace(0.5, 1.5, 8)

# each takes a tensor [n, 3, 8] and another such one, and gives one
OPERATIONS = {
    "add": lambda x, y: x + y,
    "relu": lambda x, y: F.relu(x),
    "tanh": lambda x, y: x.tanh(),
    "gate": lambda x, y: torch.where(y > 0, x, y * 0.5),
    "linear": lambda x, y: F.linear(x, W, NORM),
    "matmul": lambda x, y: x @ W,
    "scores": lambda x, y: (x @ y.transpose(1, 2)).softmax(-1) @ x,
    "norm": lambda x, y: F.layer_norm(x, (8,), NORM),
    "softmax": lambda x, y: x.softmax(1),
    "attention": lambda x, y: F.scaled_dot_product_attention(x, y, x),
    "causal in a row": lambda x, y: F.scaled_dot_product_attention(x, y, y, is_causal=True),
    "causal over rows": lambda x, y: F.scaled_dot_product_attention(
        *(t.transpose(0, 1) for t in (x, y, x)), is_causal=True
    ).transpose(0, 1),
    "mean over rows": lambda x, y: x - y.mean(0),
    "sum in a row": lambda x, y: x * y.sum(1, keepdim=True),
    "merge": lambda x, y: F.linear(x.reshape(-1, 8), W).view(-1, 3, 8),
    "merge rows inside": lambda x, y: F.relu(x.transpose(0, 1).reshape(-1, 8)).view(3, -1, 8).transpose(0, 1),
    "columns": lambda x, y: torch.cat([x[..., 4:], y[..., :4]], -1),
    "turn": lambda x, y: x.flip(1).roll(1, 2),
    "split": lambda x, y: torch.stack(x.unbind(1)[::-1], 1) - y.chunk(2, -1)[0].repeat(1, 1, 2),
    "places": lambda x, y: x + torch.arange(x.shape[0])[:, None, None] * 0.1,
    "shifted rows": lambda x, y: torch.cat([x[:1], y[:-1]]),
    "running": lambda x, y: x.cumsum(0) * 0.3,
    "last row": lambda x, y: x + y[-1],
    "convolved": lambda x, y: F.conv1d(x, W[:3, :3, None].expand(3, 3, 3), padding=1),
    "max": lambda x, y: x - y.amax(-1, keepdim=True),
    "gather": lambda x, y: x.gather(2, y.argsort(2)),
    "index": lambda x, y: x[:, [2, 0, 1]],
    "distances": lambda x, y: x + torch.cdist(x.flatten(1), y.flatten(1)).mean(),
}  # fmt: skip


@st.composite
def programs(draw):
    """A list of (operation, its two arguments by number); 0 and 1 are the inputs."""
    count = draw(st.integers(2, 7))
    names = draw(st.lists(st.sampled_from(sorted(OPERATIONS)), min_size=count, max_size=count))
    return [
        (name, draw(st.integers(max(0, at - 1), at + 1)), draw(st.integers(0, at + 1)))
        for at, name in enumerate(names)
    ]


@settings(
    max_examples=GRAPHS, database=None, suppress_health_check=[HealthCheck.too_slow], deadline=None
)
@given(st.data())
def test_random_functions_under_random_edits(data):
    steps = data.draw(programs())

    def function(x, y):
        values = [x, y]
        for name, one, other in steps:
            values.append(OPERATIONS[name](values[one], values[other]))
        return values[-1]

    rows = data.draw(st.sampled_from([5, 20]))
    inputs = [torch.randn(rows, 3, 8), torch.randn(rows, 3, 8)]
    model = Edited(function, inputs, data.draw(st.sampled_from([(0,), (1,), (0, 1)])))
    for _ in range(data.draw(st.integers(2, 6))):
        chosen = [
            data.draw(st.one_of(st.none(), boxes(tuple(value.shape)))) for value in model.values
        ]
        grown = data.draw(st.sampled_from([0, 0, 1, 2])) if model.plan.grows else 0
        model.edit(chosen, filler(data.draw(st.integers(0, 99))), grown)
