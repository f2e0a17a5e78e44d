"""Pictures of a memory's numbers, with matplotlib (`pip install 'mmsb-torch[plot]'`)."""

from __future__ import annotations

import functools
import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmsb_torch.errors import UnsupportedError
from mmsb_torch.graph.memo.report import seconds, size
from mmsb_torch.memory.statistics import recent
from mmsb_torch.pictures.palette import LIGHT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mmsb_torch.memory import Memory
    from mmsb_torch.runtime.store.log import About

_STATES = {
    "fresh": "fresh",
    "stale": "stale",
    "new": "way",
    "failed": "error",
    "unbound": "unbound",
}
_MOST = 8
"""Bars in one panel."""
_LONGEST = 22
"""Letters of a name."""
Bars = Sequence[tuple[str, float, str]]
"""Name, value, colour."""


def plot_stats(memory: Memory) -> Figure:
    """Draw a memory's numbers: bytes, history, states, what was computed, what took and saved time.

    Nothing is computed, and no window opened: the figure is returned, to show or to save
    (`figure.savefig("stats.png")`). A notebook shows it.

    Raises:
        UnsupportedError: matplotlib is not installed.
        ClosedError: the memory was closed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            "plot_stats needs matplotlib, which is not installed. "
            "Install the extra: pip install 'mmsb-torch[plot]'"
        ) from error
    stats = memory.stats()
    panels = _panels(memory, stats)
    columns = min(3, len(panels))
    size_in = (4.4 * max(columns, 2), 3.5 * -(-len(panels) // columns))
    figure = Figure(figsize=size_in, layout="constrained", facecolor=LIGHT["panel"])
    figure.suptitle(repr(memory), x=0.01, ha="left", fontsize=11, color=LIGHT["soft"])
    places: Any = figure.subplots(-(-len(panels) // columns), columns, squeeze=False)
    for axes, draw in itertools.zip_longest(places.flat, panels):
        axes.set_axis_off() if draw is None else draw(axes)
    # who has no pyplot open sees it in a notebook all the same
    vars(figure)["_repr_png_"] = lambda: _png(figure)
    return figure


def _panels(memory: Memory, stats: Mapping[str, Any]) -> list[Callable[[Axes], None]]:
    """What draws each panel that has something to show; at least one."""
    bars = [
        ("bytes", _bytes(stats), size),
        (f"derived pages now, {stats['depth']} deep", _states(stats), _count),
        ("what answered", _answers(stats), _count),
        ("seconds spent and saved", _times(stats), seconds),
        ("pages changed most (epochs)", _busiest(memory), _count),
    ]
    found: list[Callable[[Axes], None]] = [
        functools.partial(_bars, title=title, bars=shown, said=said)
        for title, values, said in bars
        if (shown := [bar for bar in values if bar[1]]) or title == "bytes"
    ]
    past = recent(memory)
    if len(past) > 1:
        found.insert(1, functools.partial(_history, past=past, deltas=stats["deltas"]))
    return found


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=100)
    return out.getvalue()


def _bytes(stats: Mapping[str, Any]) -> Bars:
    bars = [(f"pages, {device}", n, LIGHT["root"]) for device, n in sorted(stats["bytes"].items())]
    disk = stats["disk_bytes"]
    bars += [(f"{name}, disk", n, LIGHT["stale"]) for name, n in disk.items()]
    if not disk:
        bars.append(("history, memory", stats["history_bytes"], LIGHT["stale"]))
    if stats["memo"]:
        bars.append(("results, memory", stats["memo"]["bytes"], LIGHT["fresh"]))
    if stats["activation_bytes"]:
        bars.append(("activations", stats["activation_bytes"], LIGHT["fresh"]))
    return bars


def _states(stats: Mapping[str, Any]) -> Bars:
    states = stats["states"]
    return [(name, states[name], LIGHT[of]) for name, of in _STATES.items() if states[name]]


def _answers(stats: Mapping[str, Any]) -> Bars:
    in_part = stats["sliced"] + stats["stepped"]
    memo = stats["memo"]
    bars = [
        ("pages cut off", stats["cut_off"], LIGHT["fresh"]),
        ("pages run on rows", in_part, LIGHT["stale"]),
        ("pages run in full", stats["recomputed"] - in_part, LIGHT["root"]),
    ]
    if memo:
        bars += [
            ("calls: hits", memo["hits"], LIGHT["fresh"]),
            ("calls: misses", memo["misses"], LIGHT["root"]),
            ("calls: not kept", memo["refused"], LIGHT["way"]),
        ]
    return bars


def _times(stats: Mapping[str, Any]) -> Bars:
    memo = stats["memo"]
    bars = [
        ("pages: run", stats["recompute_seconds"], LIGHT["root"]),
        ("pages: saved by rows", stats["saved_seconds"], LIGHT["fresh"]),
    ]
    if memo:
        bars += [
            ("calls: run", memo["run_seconds"], LIGHT["root"]),
            ("calls: overhead", memo["overhead_seconds"], LIGHT["stale"]),
            ("calls: saved", memo["saved_seconds"], LIGHT["fresh"]),
        ]
    return bars


def _busiest(memory: Memory) -> Bars:
    pages = sorted(memory.pages(), key=lambda page: -page.epoch)[:_MOST]
    colour = {True: LIGHT["fresh"], False: LIGHT["root"]}
    return [(page.name, page.epoch, colour[page.derived]) for page in pages if page.epoch > 0]


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _bars(axes: Axes, title: str, bars: Bars, said: Callable[[float], str]) -> None:
    """Lying bars, the value written beside each."""
    _plain(axes, title)
    if not bars:
        _nothing(axes)
        return
    names = [_short(name) for name, _, _ in bars]
    values = [value for _, value, _ in bars]
    places = range(len(bars))
    axes.barh(places, values, color=[colour for _, _, colour in bars], height=0.62)
    axes.set_yticks(places, names, fontsize=9)
    axes.invert_yaxis()
    axes.set_ylim(max(len(bars), 4) - 0.4, -0.6)
    top = max(*values, 0.0) or 1.0
    axes.set_xlim(0, top * 1.28)
    axes.set_xticks([])
    for place, value in zip(places, values, strict=True):
        beside = max(value, 0.0) + top * 0.02
        axes.text(beside, place, said(value), va="center", fontsize=9, color=LIGHT["ink"])


def _history(axes: Axes, past: Sequence[About], deltas: int) -> None:
    """The numbers of the last transactions over time; dots have labels."""
    _plain(axes, f"transactions ({deltas:,} deltas)")
    ago = [(about.time_ns - past[-1].time_ns) / 1e9 for about in past]
    numbers = [about.tx for about in past]
    axes.step(ago, numbers, where="post", color=LIGHT["root"], linewidth=1.8)
    axes.fill_between(ago, numbers, numbers[0], step="post", color=LIGHT["root"], alpha=0.12)
    labelled = [(t, n) for t, n, about in zip(ago, numbers, past, strict=True) if about.label]
    for t, n in labelled[-50:]:
        axes.plot(t, n, "o", color=LIGHT["heat"], markersize=4)
    axes.set_xlabel("seconds before the last one", fontsize=9, color=LIGHT["soft"])
    axes.margins(x=0.01)
    axes.tick_params(labelsize=9)
    axes.locator_params(axis="y", integer=True)


def _plain(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold", color=LIGHT["ink"])
    axes.set_facecolor(LIGHT["panel"])
    for side in ("top", "right", "bottom", "left"):
        axes.spines[side].set_visible(
            side in {"left", "bottom"} and title.startswith("transactions")
        )
        axes.spines[side].set_color(LIGHT["rim"])
    axes.tick_params(length=0, colors=LIGHT["soft"])


def _nothing(axes: Axes) -> None:
    axes.set_axis_off()
    axes.text(0.0, 0.9, "nothing yet", transform=axes.transAxes, color=LIGHT["soft"], fontsize=9)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
