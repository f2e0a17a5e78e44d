"""Values made in part, edit after edit: after thousands they have not moved from a run in full."""

import torch
import torch.nn.functional as F
from torch import nn

WIDTH = 32


class Causal(nn.Module):
    """Attention over the rows of a page, then work on each."""

    def __init__(self):
        super().__init__()
        self.qkv, self.up = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        q, k, v = (part.view(1, -1, 4, 8).transpose(1, 2) for part in self.qkv(x).split(WIDTH, -1))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.up(mixed.transpose(1, 2).reshape(-1, WIDTH)).tanh()


def test_many_edits_do_not_add_up(row_mem, gate):
    edits = gate.trials("DRIFT", test=150, gate=1500, soak=10_000)
    mem = row_mem
    mlp = nn.Sequential(nn.Linear(WIDTH, 64), nn.GELU(), nn.Linear(64, WIDTH)).eval()
    causal = Causal().eval()
    x = mem.page("x", torch.randn(48, WIDTH))
    rows = mem.derive(mlp, x, name="rows", rows=True)
    mixed = mem.derive(causal, rows, name="mixed")
    total = mem.derive(lambda mixed: mixed.sum(0), mixed, name="total")
    far = 0.0
    for turn in range(edits):
        if turn % 200 == 199:
            mem.append(x, torch.randn(1, WIDTH))
        else:
            count = int(torch.randint(1, 4, ()))
            at = torch.randperm(len(x.tensor))[:count]
            mem.update(x, torch.randn(count, WIDTH), rows=at)
        total.tensor  # noqa: B018
        if turn % 50 == 49 or turn == edits - 1:
            with torch.no_grad():
                whole = mlp(x.tensor)
                assert torch.allclose(rows.tensor, whole, rtol=1e-5, atol=1e-6)
                wanted = causal(rows.tensor)
                far = max(far, float((mixed.tensor - wanted).abs().max()))
                assert torch.allclose(total.tensor, mixed.tensor.sum(0), rtol=1e-4, atol=1e-4)
    stats = mem.stats()
    gate.report(
        "DRIFT", edits, sliced=stats["sliced"], stepped=stats["stepped"], farthest=f"{far:.1e}"
    )
    assert far < 1e-5
    assert stats["sliced"] > edits // 2
    assert stats["stepped"] > edits // 2
