"""Frames and tables in HTML that need nothing but themselves, for light and for dark.

Whatever is handed in as HTML was made by `words.safe` or by this package. Style rules are scoped to
`.mmsb`, because a notebook puts the picture into its own page.
"""

from __future__ import annotations

import functools
import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mmsb_torch.pictures.palette import DARK, LIGHT, MONO, SANS
from mmsb_torch.pictures.words import safe

_SHAPE = f"""
.mmsb{{font:13px/1.45 {SANS};color:var(--m-ink);max-width:1040px;overflow-x:auto;margin:2px 0}}
.mmsb .card{{display:inline-block;min-width:320px;max-width:100%;box-sizing:border-box;overflow-x:auto;
background:var(--m-panel);border:1px solid var(--m-rim);border-radius:8px;padding:8px 12px}}
.mmsb .head{{font-weight:600;margin:0 0 2px;white-space:nowrap}}.mmsb .soft{{color:var(--m-soft);font-weight:400}}
.mmsb .mono{{font-family:{MONO};font-size:12px}}.mmsb .warm{{color:var(--m-heat)}}
.mmsb .fresh{{color:var(--m-fresh)}}.mmsb .stale{{color:var(--m-stale)}}.mmsb .error{{color:var(--m-error)}}
.mmsb .root{{color:var(--m-root)}}.mmsb .unbound{{color:var(--m-unbound)}}.mmsb .new{{color:var(--m-soft)}}
.mmsb table{{border-collapse:collapse;margin:4px 0 0;border:0;font-size:12px;color:inherit;table-layout:auto}}
.mmsb td,.mmsb th{{padding:2px 14px 2px 0;border:0;text-align:left!important;background:none;white-space:nowrap;
vertical-align:middle;color:inherit;max-width:420px;overflow:hidden;text-overflow:ellipsis}}
.mmsb tr{{background:none!important;border:0}}.mmsb th{{color:var(--m-soft)!important;font-weight:400;border-bottom:1px solid var(--m-rim)}}
.mmsb td:last-child,.mmsb th:last-child{{padding-right:2px;white-space:normal;min-width:40px}}.mmsb td.number{{text-align:right!important;font-variant-numeric:tabular-nums}}
.mmsb svg.strip,.mmsb svg.histogram{{display:block;margin:3px 0}}.mmsb .hot{{fill:var(--m-heat)}}
.mmsb .cold{{fill:var(--m-rim);fill-opacity:.7}}.mmsb .bar{{fill:var(--m-root)}}
.mmsb .side{{display:flex;flex-wrap:wrap;gap:4px 22px;align-items:flex-end}}
.mmsb details{{margin:2px 0 0}}.mmsb summary{{cursor:pointer;display:list-item;list-style-position:inside}}
.mmsb .meter{{display:inline-block;width:120px;height:6px;border-radius:3px;background:var(--m-rim);vertical-align:middle;overflow:hidden}}
.mmsb .meter i{{display:block;height:6px;background:var(--m-root)}}
""".replace("\n", "")


def _colours(colours: Mapping[str, str]) -> str:
    return "".join(f"--m-{name}:{value};" for name, value in colours.items())


STYLE = (
    f"<style>.mmsb{{{_colours(LIGHT)}}}"
    f"@media (prefers-color-scheme:dark){{.mmsb{{{_colours(DARK)}}}}}"
    f"[data-jp-theme-light=true] .mmsb,.vscode-light .mmsb{{{_colours(LIGHT)}}}"
    f"[data-jp-theme-light=false] .mmsb,.vscode-dark .mmsb{{{_colours(DARK)}}}{_SHAPE}</style>"
)


def frame(*parts: str) -> str:
    """Parts in HTML, one below the other, with the style that they need."""
    return f'{STYLE}<div class="mmsb">{"".join(parts)}</div>'


def card(head: str, *parts: str) -> str:
    """A frame with a border and a bold line above."""
    return frame(f'<div class="card"><div class="head">{head}</div>{"".join(parts)}</div>')


def line(text: str, style: str = "soft") -> str:
    """A line in HTML."""
    return f'<div class="{style}">{text}</div>'


def mark(text: object, style: str, most: int = 120) -> str:
    """Text of anybody's in a style of the palette: "fresh", "stale", "mono", ..."""
    return f'<span class="{style}">{safe(text, most)}</span>'


def table(titles: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """A table of cells in HTML; `numbers` are the columns that stand to the right."""
    head = "".join(f"<th>{title}</th>" for title in titles)
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{' class=number' if place in numbers else ''}>{cell}</td>"
            for place, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def folded(summary: str, body: str) -> str:
    """A line that opens."""
    return f"<details><summary>{summary}</summary>{body}</details>"


def side_by_side(*parts: str) -> str:
    """Parts next to each other, if there is room."""
    return f'<div class="side">{"".join(f"<div>{part}</div>" for part in parts if part)}</div>'


def meter(share: float) -> str:
    """A bar that is full to a share (0 to 1)."""
    filled = min(max(share, 0.0), 1.0) * 100
    return f'<span class="meter"><i style="width:{filled:.0f}%"></i></span>'


def unfailing(draw: Callable[..., str]) -> Callable[..., str]:
    """A `_repr_html_` that never raises: what cannot be drawn is shown as its text."""

    @functools.wraps(draw)
    def drawn(thing: Any) -> str:
        try:
            return draw(thing)
        except Exception:  # noqa: BLE001 - a picture is never worth an error
            try:
                text = repr(thing)
            except Exception:  # noqa: BLE001 - likewise
                text = f"<{type(thing).__name__}>"
            return f"<pre>{html.escape(text)}</pre>"

    return drawn
