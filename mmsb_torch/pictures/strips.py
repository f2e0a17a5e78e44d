"""Heat over rows and histograms, as small SVGs: no ids, no script, colours from the frame's style."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby


def strip(shares: Sequence[float], width: int = 288, height: int = 10) -> str:
    """A strip that is hot where shares (0 to 1) are high; what is not zero can be seen.

    Args:
        shares: one for each of equal parts, from left to right.
        width: pixels.
        height: pixels.
    """
    if not shares:
        return ""
    each = width / len(shares)
    cells, start = [], 0
    for strength, run in groupby(shares, _strength):
        length = len(list(run))
        if strength:
            cells.append(
                f'<rect class="hot" x="{start * each:.4g}" width="{max(length * each, 1.5):.4g}" '
                f'height="{height}" fill-opacity="{strength:.2g}"/>'
            )
        start += length
    return (
        f'<svg class="strip" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="changed rows"><rect class="cold" width="{width}" '
        f'height="{height}"/>{"".join(cells)}</svg>'
    )


def _strength(share: float) -> float:
    """Steps of a fifth, from 0.3 on: neighbours that look alike become one rectangle."""
    return 0.0 if not share > 0 else 0.3 + 0.7 * -(-min(share, 1.0) * 5 // 1) / 5


def histogram(counts: Sequence[int], width: int = 160, height: int = 36) -> str:
    """Bars of equal width, the highest of full height; what is not zero has a pixel at least."""
    if not counts:
        return ""
    most, each = max(counts), width / len(counts)
    bars = []
    for place, number in enumerate(counts):
        if number:
            high = max(number / most * height, 1.0)
            bars.append(f"M{place * each:.4g} {height}v-{high:.3g}h{each * 0.86:.3g}v{high:.3g}z")
    return (
        f'<svg class="histogram" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="histogram"><path class="bar" d="{"".join(bars)}"/></svg>'
    )
