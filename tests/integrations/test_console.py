"""Printing a memory's numbers, with rich and without."""

import io
import subprocess
import sys

import pytest
import torch

import mmsb_torch as mmsb


@pytest.fixture
def mem():
    with mmsb.open(audit=1.0) as memory:
        memory.page("a", torch.zeros(1000))
        memory.derive(lambda a: a + 1, "a", name="b")
        _ = memory["b"].tensor
        f = memory.memo(lambda x: x + 1)
        f(1)
        f(1)
        yield memory


def words(text):
    return " ".join(text.replace("│", " ").split())


def test_what_is_printed(mem, capsys):
    mmsb.print_stats(mem)
    shown = capsys.readouterr().out
    assert "pages 2 (1 derived)" in words(shown)
    assert "on cpu 8.0 kB" in words(shown)
    assert "derived pages 1 fresh" in words(shown)
    assert "hits 1 (50%)" in words(shown)
    out = io.StringIO()
    mmsb.print_stats(mem, out)
    assert words(out.getvalue()) == words(shown)


def test_without_rich_the_same_is_plain_text(mem, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    out = io.StringIO()
    mmsb.print_stats(mem, out)
    text = out.getvalue()
    assert text.isascii()
    assert "pages pages 2 (1 derived)" in words(text)
    assert "hits 1 (50%)" in words(text)


def test_an_empty_memory_prints(capsys):
    with mmsb.open() as mem:
        mmsb.print_stats(mem)
    assert "pages 0 (0 derived)" in words(capsys.readouterr().out)
    with pytest.raises(mmsb.ClosedError):
        mmsb.print_stats(mem)


def test_names_load_when_they_are_used():
    code = """
import sys, mmsb_torch as mmsb
mem = mmsb.open(); mem.stats()
print(sorted({"rich", "matplotlib", "prometheus_client"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
