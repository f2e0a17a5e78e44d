"""Pictures of a memory's numbers are drawn from what it says."""

import struct
import sys

import pytest
import torch

import mmsb_torch as mmsb

pytest.importorskip("matplotlib", reason="the extra 'plot' is not installed")


def texts(axes):
    return [text.get_text() for text in axes.texts] + [
        label.get_text() for label in axes.get_yticklabels()
    ]


@pytest.fixture
def mem(tmp_path):
    with mmsb.open(tmp_path / "run.mmsb") as memory:
        memory.page("a", torch.zeros(1000))
        memory.page("a page with a name that is far too long", torch.zeros(10))
        memory.derive(lambda a: a + 1, "a", name="b")
        for number in range(12):
            with memory.commit("named" if number == 3 else None) as tx:
                tx.update("a", float(number))
        _ = memory["b"].tensor
        memory.update("a", 50.0)
        memory.memo(lambda x: x + 1)(1)
        yield memory


def test_each_panel_says_what_the_numbers_say(mem):
    figure = mmsb.plot_stats(mem)
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert len(panels) == 6
    assert all(axes.axison for axes in figure.axes)
    by = {title.split()[0]: axes for title, axes in panels.items()}
    assert "4.0 kB" in texts(by["bytes"]) or "8.0 kB" in texts(by["bytes"])
    assert "log, disk" in texts(by["bytes"])
    assert {"stale", "1"} <= set(texts(by["derived"]))
    assert {"calls: misses", "pages run in full"} <= set(texts(by["what"]))
    assert {"a", "13"} <= set(texts(by["pages"]))
    line = by["transactions"].lines[0]
    assert list(line.get_ydata()) == list(range(1, mem.tx + 1))
    times = list(line.get_xdata())
    assert times == sorted(times)
    assert times[-1] == 0


def test_it_is_drawn_as_png_without_pyplot(mem):
    figure = mmsb.plot_stats(mem)
    data = figure._repr_png_()
    assert data.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", data[16:24])
    assert width > 1000
    assert height > 500


def test_an_empty_memory_is_drawn_too():
    with mmsb.open() as mem:
        figure = mmsb.plot_stats(mem)
        figure._repr_png_()
        assert "nothing yet" in [text for axes in figure.axes for text in texts(axes)]
    with pytest.raises(mmsb.ClosedError):
        mmsb.plot_stats(mem)


def test_without_matplotlib_the_extra_is_named(mem, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(mmsb.UnsupportedError, match=r"mmsb-torch\[plot\]"):
        mmsb.plot_stats(mem)
