"""Progress: on a terminal, after a while, on stderr; else nothing."""

import contextlib
import io
import sys
import threading
import time

import pytest

from mmsb_torch.cli import progress
from mmsb_torch.cli.progress import reading
from mmsb_torch.runtime.store import FILES, Store


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(name="terminal")
def make_terminal(monkeypatch):
    """Makes stderr a terminal; to be called in the test, for pytest puts its own there before it."""

    def make():
        stream = Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("TERM", "xterm-256color")
        return stream

    return make


def work(root, seconds=0.0):
    with reading("working", 1000) as files, Store.open(root, files=files) as store:
        store.verify()
        time.sleep(seconds)


def test_nothing_where_there_is_no_terminal(root, monkeypatch, capsys):
    monkeypatch.setattr(progress, "PATIENCE_SECONDS", 0.0)
    with reading("working") as files:
        assert files is FILES
    work(root, 0.05)
    assert capsys.readouterr().err == ""


def test_nothing_for_what_is_quick(root, terminal):
    stderr = terminal()
    work(root)
    assert stderr.getvalue() == ""


def test_a_bar_for_what_takes_long(root, capsys, terminal, monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE_SECONDS", 0.0)
    stderr = terminal()
    work(root, 0.3)
    assert "working" in stderr.getvalue()
    assert capsys.readouterr() == ("", "")


def test_what_is_read_is_counted(root):
    counted = []
    with Store.open(root, files=progress.CountingFiles(counted.append)) as store:
        assert store.verify() == []
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    assert sum(counted) > 0.9 * size


def test_an_error_ends_the_bar(terminal, monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE_SECONDS", 0.0)
    stderr = terminal()
    with contextlib.suppress(ZeroDivisionError), reading("working"):
        time.sleep(0.2)
        raise ZeroDivisionError
    shown = stderr.getvalue()
    assert "working" in shown
    time.sleep(0.2)
    assert stderr.getvalue() == shown


def test_a_bar_that_begins_as_the_work_ends_does_not_stay(terminal, monkeypatch):
    bars, begun = [], threading.Event()

    class Slow(progress.Progress):
        def start(self):
            bars.append(self)
            begun.set()
            time.sleep(0.1)
            super().start()

    monkeypatch.setattr(progress, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(progress, "Progress", Slow)
    terminal()
    with reading("working"):
        assert begun.wait(10)
    time.sleep(0.2)
    assert [bar.live.is_started for bar in bars] == [False]
