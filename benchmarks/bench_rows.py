"""Edit a row, recompute a row: update and read, beside the slice by hand and the whole function.

By hand is `x[rows] = new; y[rows] = f(x[rows])`: no history, no check of code, nothing known of f.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from rich.table import Table
from torch import Tensor, nn

import mmsb_torch as mmsb


class Case(NamedTuple):
    """A function of rows, and how many of them are edited."""

    title: str
    function: Callable[[Tensor], Tensor]
    value: Tensor
    edits: Sequence[int]
    rounds: int = 9


def cases():
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU()).eval()
    yield Case(
        "MLP, 100,000 rows of 256", mlp, torch.randn(100_000, 256), (100, 1000, 10_000, 50_000)
    )
    layer = nn.TransformerEncoderLayer(128, 4, 512, batch_first=True, dropout=0.0)
    encoder = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False).eval()
    yield Case(
        "encoder, 512 sentences of 64 x 128", encoder, torch.randn(512, 64, 128), (1, 5, 51), 5
    )
    yield Case("ResNet-like, 64 images of 3 x 64 x 64", resnet(), torch.randn(64, 3, 64, 64), (3,))
    yield Case("tiny: 1,000 rows of 8, x * 2 + 1", double, torch.randn(1000, 8), (1, 500))


def double(x: Tensor) -> Tensor:
    """As small as a function gets."""
    return x * 2 + 1


class Block(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        convolution = {"padding": 1, "bias": False}
        self.one, self.two = (nn.Conv2d(width, width, 3, **convolution) for _ in range(2))
        self.norm, self.norm2 = (nn.BatchNorm2d(width) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.norm2(self.two(torch.relu(self.norm(self.one(x))))))


def resnet() -> nn.Module:
    """A small residual network with a head."""
    stem = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), Block(32), nn.MaxPool2d(2), Block(32)]
    return nn.Sequential(*stem, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)).eval()


def table() -> Table:
    shown = Table(title="rows edited: update and read, medians")
    shown.add_column("function")
    for name in ("rows", "ours", "by hand", "in full", "of by hand", "of in full"):
        shown.add_column(name, justify="right")
    with torch.no_grad():
        for case in cases():
            for count in case.edits:
                shown.add_row(case.title, f"{count:,}", *map(_text, measure(case, count)))
    return shown


def _text(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def measure(case: Case, count: int) -> tuple[float, float, float, float, float]:
    """Milliseconds: ours, by hand, in full; and the speed of ours as a multiple of both."""
    mem = mmsb.open()
    page = mem.page("x", case.value)
    made = mem.derive(case.function, page, name="y", rows=True)
    made.tensor  # noqa: B018
    x = case.value.clone()
    y = case.function(x)
    times: dict[str, list[float]] = {"ours": [], "hand": [], "full": []}
    for turn in range(case.rounds + 3):
        rows = torch.randperm(len(x))[:count].sort().values
        new = torch.randn(count, *x.shape[1:])
        began = time.perf_counter()
        mem.update(page, new, rows=rows)
        made.tensor  # noqa: B018
        ours = time.perf_counter()
        x[rows] = new
        y[rows] = case.function(x[rows])
        hand = time.perf_counter()
        if turn >= 3:
            times["ours"].append(ours - began)
            times["hand"].append(hand - ours)
        if turn % 4 == 0:
            began = time.perf_counter()
            whole = case.function(x)
            times["full"].append(time.perf_counter() - began)
            assert torch.equal(made.tensor, whole), case.title
    ours, hand, full = (1e3 * statistics.median(found) for found in times.values())
    return ours, hand, full, hand / ours, full / ours
