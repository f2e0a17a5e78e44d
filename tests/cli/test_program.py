"""What all commands share: errors as one line, exit codes, nothing written, nothing loaded early."""

import json
import os
import subprocess
import sys

import click
import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.cli import commands, progress
from mmsb_torch.runtime.store import Files

READING = {
    "info": ["info", "{root}"],
    "log": ["log", "{root}"],
    "show": ["show", "{root}", "first"],
    "show a page": ["show", "{root}", "step:10", "w"],
    "diff": ["diff", "{root}", "1", "9"],
    "restore": ["restore", "{root}", "5", "-o", "{out}"],
    "verify": ["verify", "{root}"],
    "tail": ["tail", "{root}", "--once"],
}


def filled(args, root, out=None):
    return [arg.format(root=root, out=out) for arg in args]


@pytest.mark.parametrize("args", READING.values(), ids=READING)
@pytest.mark.parametrize("as_json", [False, True])
def test_no_command_changes_the_store_or_needs_its_lock(run, root, kit, tmp_path, args, as_json):
    options = ["--json"] if as_json else []
    with mmsb.open(root):  # somebody holds the lock
        before = kit.contents(root)
        done = run(*filled(args, root, tmp_path / "out.safetensors"), *options)
        assert (done.code, done.err) == (0, "")
        assert done.out
        assert kit.contents(root) == before
    if as_json:
        for line in done.out.splitlines():
            json.loads(line)


class ReadOnly(Files):
    """A read-only disk, also for root."""

    def open(self, path, flags, mode=0o666):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(30, "Read-only file system")
        return super().open(path, flags, mode)

    def _refuse(self, *args):
        raise OSError(30, "Read-only file system")

    write = truncate = fsync = datasync = lock = rename = unlink = mkdir = rmdir = _refuse


@pytest.mark.parametrize("args", READING.values(), ids=READING)
def test_the_disk_may_be_read_only(run, root, tmp_path, monkeypatch, args):
    monkeypatch.setattr(progress, "FILES", ReadOnly())
    done = run(*filled(args, root, tmp_path / "out.safetensors"))
    assert (done.code, done.err) == (0, "")


@pytest.mark.parametrize("args", READING.values(), ids=READING)
def test_what_is_no_store_is_said_in_one_line(run, tmp_path, args):
    done = run(*filled(args, tmp_path / "no\nstore", tmp_path / "out"))
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("mmsb: ")
    assert "does not exist" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("name", ["log", "show", "diff", "restore", "tail"])
def test_damage_is_said_in_one_line(run, root, kit, tmp_path, name):
    kit.flip(kit.logs(root)[-1], 140)
    kit.flip(kit.logs(root)[0], 140)
    done = run(*filled(READING[name], root, tmp_path / "out"))
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "damaged" in done.err
    assert not (tmp_path / "out").exists()


def test_wrong_arguments(run, root):
    for args in (["show", root], ["nothing", root], ["log", root, "-n", "0"], ["diff", root, "1"]):
        done = run(*args)
        assert (done.code, done.out) == (2, "")
        assert "Usage" in done.err


def test_help_says_the_exit_codes_and_what_a_moment_is(run):
    shown = " ".join(run("--help").out.split())
    assert "0 done; 1 `verify` found damage; 2" in shown
    assert "label:NAME, or step:N" in shown
    for name, command in commands.mmsb.commands.items():
        assert command.help, name
        assert run(name, "--help").code == 0
    assert set(commands.mmsb.commands) == {
        "repair",
        "compact",
        "info",
        "log",
        "show",
        "diff",
        "restore",
        "verify",
        "tail",
    }
    assert run("--version").code == 0


def test_every_command_has_json():
    for command in commands.mmsb.commands.values():
        assert "--json" in {flag for param in command.params for flag in param.opts}


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (OSError(5, "Input/output error"), 2)]
)
def test_other_ends(run, root, monkeypatch, error, code):
    def fails(*args):
        raise error

    monkeypatch.setattr(commands.inspection, "info", fails)
    done = run("info", root)
    assert (done.code, done.out) == (code, "")
    assert done.err.count("\n") <= 1


def test_a_bug_is_not_hidden(root, monkeypatch):
    def fails(*args):
        raise ZeroDivisionError

    monkeypatch.setattr(commands.inspection, "info", fails)
    with pytest.raises(ZeroDivisionError):
        commands.mmsb.main(["info", str(root)], standalone_mode=False)


def test_nothing_is_loaded_early_and_what_is_missing_is_named_with_how_to_get_it():
    code = """
import sys
import mmsb_torch
early = [n for n in sys.modules if n.split('.')[0] in {'click', 'rich'} or 'mmsb_torch.cli' in n]
from mmsb_torch.cli import main
codes = []
for name in ('click', 'rich'):
    sys.modules[name] = None
    codes.append(main())
    del sys.modules[name]
print(early, codes)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] [2, 2]"
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert all("pip install 'mmsb-torch[cli]'" in line for line in lines)
    assert ["'click'" in lines[0], "'rich'" in lines[1]] == [True, True]


def test_a_reader_that_goes_away_is_no_error(root):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "mmsb_torch.cli", "log", str(root)],
        stdout=write, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_colours_only_on_a_terminal(run, root, monkeypatch):
    from mmsb_torch.cli import tables

    assert "\x1b" not in run("log", root).out
    monkeypatch.setattr(sys, "stdout", type("Terminal", (), {"isatty": lambda self: True})())
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[1m" in tables.rendered(tables.table(["bold"], []))


def test_sizes_for_people():
    from mmsb_torch.cli.tables import sized

    assert [sized(n) for n in (0, 999, 1000, 1500, 10**6, 2 * 10**9, 999_999)] == [
        "0 B", "999 B", "1.0 kB", "1.5 kB", "1.0 MB", "2.0 GB", "1.0 MB",
    ]  # fmt: skip
    assert sized(None) == "-"


def test_it_is_a_click_group_with_an_entry_point():
    from importlib.metadata import entry_points

    assert isinstance(commands.mmsb, click.Group)
    scripts = [item for item in entry_points(group="console_scripts") if item.name == "mmsb"]
    assert all(item.value == "mmsb_torch.cli:main" for item in scripts)
    assert torch.tensor(0) == 0
