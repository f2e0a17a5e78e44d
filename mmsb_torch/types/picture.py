"""What a notebook shows for a delta."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmsb_torch.pictures.html import card, line, side_by_side, unfailing
from mmsb_torch.pictures.samples import sample
from mmsb_torch.pictures.strips import histogram, strip
from mmsb_torch.pictures.words import safe, size
from mmsb_torch.types.heat import heat

if TYPE_CHECKING:
    from mmsb_torch.types.delta import Delta


@unfailing
def delta_html(delta: Delta) -> str:
    """Which rows it writes, how many bytes it is, how its values lie."""
    head = f"Delta {delta.id:,} <span class=soft>of page {delta.page_id:,}</span>"
    spec = f"{str(delta.values.dtype).removeprefix('torch.')}{list(delta.region.shape)}"
    about = (
        f"<span class=mono>{safe(spec)}</span> · epoch {delta.base_epoch:,} to "
        f"{delta.base_epoch + 1:,} · {size(delta.nbytes)} · by {safe(delta.source)}"
    )
    left = strip(heat(delta.region)) + line(f"writes {safe(delta.effect)}")
    right = ""
    if delta.values.numel():
        numbers = sample(delta.values)
        right = (histogram(numbers.counts) if len(numbers.counts) > 1 else "") + line(
            f"{numbers.low:.4g} to {numbers.high:.4g}"
        )
    return card(head, line(about), side_by_side(left, right))
