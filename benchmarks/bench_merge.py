"""The CPU form of `delta_merge` at each density against torch's and numpy's ways."""

import numpy as np
import torch
from rich.table import Table
from timing import medians

from mmsb_torch.device import delta_merge, delta_merge_bits, pack_mask

DENSITIES = (0.001, 0.01, 0.1, 0.5, 1.0)


def table() -> Table:
    shown = Table(title="masked merge on the CPU, times over a plain copy_ of the same bytes")
    for name in ("elements", "density", "where(out=)", "np.copyto", "masked_scatter_"):
        shown.add_column(name, justify="right")
    for name in ("index_copy_", "bool index", "ours", "ours/best"):
        shown.add_column(name, justify="right")
    for count in (1_024, 1 << 18, 1 << 24):
        for density in DENSITIES:
            times = _measure(count, density)
            floor = times.pop("copy")
            best = min(value for name, value in times.items() if name != "ours")
            order = ("where", "copyto", "scatter", "index", "bool", "ours")
            cells = [f"{times[name] / floor:.2f}" for name in order]
            shown.add_row(str(count), f"{density:.1%}", *cells, f"{times['ours'] / best:.2f}")
    return shown


def bits() -> Table:
    """Packed bits with compact values; the peer is given the mask, which we have to unpack."""
    shown = Table(title="merge of packed bits on the CPU, times over masked_scatter_ with the mask")
    for name in ("elements", "density", "index_copy_ of nonzero", "ours"):
        shown.add_column(name, justify="right")
    for count in (1 << 14, 1 << 18, 1 << 22):
        for density in (0.01, 0.1, 0.5, 0.9):
            base, mask = torch.randn(count), torch.rand(count) < density
            packed, values = pack_mask(mask), base[mask]
            times = medians(
                {
                    "scatter": lambda b=base, m=mask, v=values: b.masked_scatter_(m, v),
                    "index": lambda b=base, m=mask, v=values: b.index_copy_(
                        0, m.nonzero().view(-1), v
                    ),
                    "ours": lambda b=base, p=packed, v=values: delta_merge_bits(b, v, p),
                },
                calls=max(1, 100_000 // count),
                rounds=9,
            )
            floor = times["scatter"]
            told = (f"{times['index'] / floor:.2f}", f"{times['ours'] / floor:.2f}")
            shown.add_row(str(count), f"{density:.0%}", *told)
    return shown


def _measure(count: int, density: float) -> dict[str, float]:
    base, values = torch.randn(count), torch.randn(count)
    mask = torch.rand(count) < density if density < 1 else torch.ones(count, dtype=torch.bool)
    index, compact = mask.nonzero().view(-1), values[mask]
    bits, new, where = (
        base.view(torch.int32).numpy(),
        values.view(torch.int32).numpy(),
        mask.numpy(),
    )
    small = count < 100_000
    return medians(
        {
            "copy": lambda: base.copy_(values),
            "where": lambda: torch.where(mask, values, base, out=base),
            "copyto": lambda: np.copyto(bits, new, where=where),
            "scatter": lambda: base.masked_scatter_(mask, compact),
            "index": lambda: base.index_copy_(0, index, compact),
            "bool": lambda: base.__setitem__(mask, values[mask]),
            "ours": lambda: delta_merge(base, values, mask),
        },
        calls=200 if small else 1,
        rounds=9,
    )
