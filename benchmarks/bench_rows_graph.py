"""Steps of plans (B3, B4): edits and appended tokens of a small decoder, and edits of other modules.

Beside each the full run, and what one would write by hand: a cache of keys and values, or the function on
the rows that changed. All in one process by turns; every answer is compared with the full run's.
"""

import statistics
import time

import torch
import torch.nn.functional as F  # noqa: N812
from rich.table import Table
from torch import nn

from mmsb_torch.graph.rows import plan

WIDTH, HEADS, LAYERS, WORDS, LONGEST = 256, 8, 6, 1000, 1024
ROUNDS = 25


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def heads(self, x):
        parts = self.qkv(self.norm1(x)).split(WIDTH, -1)
        return [part.view(1, -1, HEADS, WIDTH // HEADS).transpose(1, 2) for part in parts]

    def rest(self, x, y):
        x = x + self.out(y.transpose(1, 2).reshape(1, -1, WIDTH))
        return x + self.down(F.gelu(self.up(self.norm2(x))))

    def forward(self, x):
        q, k, v = self.heads(x)
        return self.rest(x, F.scaled_dot_product_attention(q, k, v, is_causal=True))


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(LONGEST, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WORDS)

    def forward(self, ids):
        x = self.tokens(ids)[None] + self.places(torch.arange(ids.shape[0]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))[0]


class Cache:
    """The decoder with keys and values kept by hand, from any token on."""

    def __init__(self, model, ids):
        self.model = model
        shape = (2, 1, HEADS, LONGEST, WIDTH // HEADS)
        self.kept = [torch.empty(shape) for _ in model.blocks]
        self.run(ids, 0)

    def run(self, ids, start):
        model, end = self.model, ids.shape[0]
        x = model.tokens(ids[start:])[None] + model.places(torch.arange(start, end))
        mask = None
        if 1 < end - start < end:
            mask = torch.arange(end) <= torch.arange(start, end)[:, None]
        for block, (keys, values) in zip(model.blocks, self.kept, strict=True):
            q, k, v = block.heads(x)
            keys[:, :, start:end], values[:, :, start:end] = k, v
            seen = keys[:, :, :end], values[:, :, :end]
            causal = mask is None and start == 0
            y = F.scaled_dot_product_attention(q, *seen, attn_mask=mask, is_causal=causal)
            x = block.rest(x, y)
        return model.head(model.norm(x))[0]


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(inplace=True),
                nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32),
            ) for _ in range(4)
        )  # fmt: skip
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = F.relu(block(x) + x)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


def table() -> Table:
    shown = Table(title="steps of a plan; medians of turns, and ratios within them")
    for column in ("what", "full", "by hand", "step", "full / step", "step / by hand", "kept"):
        shown.add_column(column, justify="left" if column == "what" else "right")
    torch.manual_seed(0)
    with torch.no_grad():
        model = Decoder().eval()
        shown.add_row(*append(model))
        for share in (0.1, 0.5, 0.9):
            shown.add_row(*edit(model, share))
        for title, function, x, rows in others():
            shown.add_row(title, *rows_of(function, x, rows))
    return shown


def append(model):
    """One token more at 256."""
    ids = torch.randint(0, WORDS, (256,))
    kept = plan(model, [ids], model(ids), [0]).start([ids], 1 << 30)
    cache = Cache(model, ids)
    times = [], [], []
    for _ in range(ROUNDS):
        ids = torch.cat([ids, torch.randint(0, WORDS, (1,))])
        full = timed(times[0], model, ids)
        hand = timed(times[1], cache.run, ids, ids.shape[0] - 1)
        part, _ = timed(times[2], kept.step, [ids], [None])
        assert torch.allclose(part, full[-1:], atol=1e-4)
        assert torch.allclose(hand, full[-1:], atol=1e-4)
    return "decoder: a token appended at 256", *figures(times, kept)


def edit(model, share):
    """One of 512 tokens, after that share of them."""
    ids = torch.randint(0, WORDS, (512,))
    at = int(512 * share)
    kept = plan(model, [ids], model(ids), [0]).start([ids], 1 << 30)
    cache = Cache(model, ids)
    times = [], [], []
    for _ in range(ROUNDS // 3):
        ids = ids.clone()
        ids[at] = (ids[at] + 1) % WORDS
        full = timed(times[0], model, ids)
        hand = timed(times[1], cache.run, ids, at)
        part, _ = timed(times[2], kept.step, [ids], [(range(at, at + 1),)])
        assert torch.allclose(part, full[at:], atol=1e-4)
        assert torch.allclose(hand, full[at:], atol=1e-4)
    return f"decoder: one of 512 edited at {share:.0%}", *figures(times, kept)


def others():
    layer = nn.TransformerEncoderLayer(128, 4, 512, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()
    torch.backends.mha.set_fastpath_enabled(False)
    gru = nn.GRU(64, 128, batch_first=True)
    mlp = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64))
    return [
        ("MLP: 100 of 20,000 rows", mlp, torch.randn(20000, 64), range(500, 600)),
        ("encoder: 2 of 64 sentences", encoder, torch.randn(64, 32, 128), range(9, 11)),
        ("network of convolutions: 3 of 64 images", Residual().eval(), torch.randn(64, 3, 16, 16), range(3, 6)),
        ("GRU: 4 of 256 sequences", lambda x: gru(x)[0][:, -1], torch.randn(256, 20, 64), range(7, 11)),
    ]  # fmt: skip


def rows_of(function, x, rows):
    """Some rows edited; by hand: the function on those rows."""
    found = plan(function, [x], function(x), [0])
    kept = found.start([x], 1 << 30, function(x))
    times = [], [], []
    for _ in range(ROUNDS // 3):
        x = x.clone()
        x[rows.start : rows.stop] = torch.randn(len(rows), *x.shape[1:])
        full = timed(times[0], function, x)
        timed(times[1], function, x[rows.start : rows.stop])
        part, _ = timed(times[2], kept.step, [x], [(rows, *[None] * (x.dim() - 1))])
        wanted = full[rows.start : rows.stop]
        assert torch.equal(part, wanted) if kept.exact else torch.allclose(part, wanted, atol=1e-5)
    return figures(times, kept)


def timed(times, call, *args):
    began = time.perf_counter()
    result = call(*args)
    times.append(time.perf_counter() - began)
    return result


def figures(times, kept):
    full, hand, step = (statistics.median(found) * 1e3 for found in times)
    return (
        f"{full:.1f} ms",
        f"{hand:.2f} ms",
        f"{step:.2f} ms",
        f"{full / step:.1f}",
        f"{step / hand:.2f}",
        f"{kept.nbytes / 1e6:.1f} MB",
    )
