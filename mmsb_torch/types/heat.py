"""How much of each part of a page a region covers: what a heat strip shows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmsb_torch.types.region import Form, Region

_MOST = 1 << 18
"""Of a longer index or mask every so many entries are read: a picture costs milliseconds."""


def heat(region: Region, parts: int = 96) -> list[float]:
    """Shares (0 to 1) of `parts` equal parts of the rows that are inside; fewer if it has fewer rows.

    Exact for an index of up to 262,144 entries, else from a sample. Copies no more than that many.
    """
    if region.form is Form.BITS and math.prod(region.shape) <= _MOST:
        region = Region.where(region.mask())
    rows = region.shape[0] if region.shape else 1
    width = math.prod(region.shape[1:])
    parts = min(parts, rows)
    if not parts or not width or region.form in {Form.NONE, Form.ALL}:
        return [float(region.form is Form.ALL)] * parts
    if region.row is not None:
        inside = torch.tensor([region.row], device="cpu")
        weights = torch.full((1,), float(width), device="cpu")
    else:
        inside, weights = _rows(region, width)
    places = inside * parts // rows
    found = torch.bincount(places, weights.double(), minlength=parts)
    edges = torch.arange(parts + 1, device="cpu") * rows
    sizes = (-(-edges // parts)).diff() * width  # rows r with r * parts // rows == part
    return [float(share) for share in (found / sizes).clamp(0, 1)]


def _rows(region: Region, width: int) -> tuple[Tensor, Tensor]:
    """The row of each entry that is read, and for how many elements inside it stands."""
    index = region.index
    assert index is not None
    flat = index.detach().view(-1)
    step = -(-flat.numel() // _MOST)
    read = flat[::step].cpu()
    if region.form is Form.ROWS:
        return read, torch.full((len(read),), float(step * width), device="cpu")
    if region.form is Form.ELEMENTS:
        return read // width, torch.full((len(read),), float(step), device="cpu")
    places = torch.arange(len(read), device="cpu") * step
    if region.form is Form.MASK:
        return places // width, read * float(step)
    ones = torch.tensor([number.bit_count() for number in range(256)], device="cpu")
    last = math.prod(region.shape) - 1
    return (places * 8).clamp(max=last) // width, ones[read.long()] * float(step)
