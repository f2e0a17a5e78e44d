"""Following: how late followers are, beside processes that only look at the size of the log's file."""

import contextlib
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch
from rich.table import Table

import mmsb_torch as mmsb

COMMITS, PACE_SECONDS, EACH = 150, 0.1, 3


def table() -> Table:
    folder = Path(tempfile.mkdtemp(prefix="mmsb-bench-"))
    try:
        return _table(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _table(folder: Path) -> Table:
    shown = Table(
        title=f"{COMMITS} commits, one each {PACE_SECONDS * 1e3:.0f} ms: milliseconds late"
    )
    for name in ("who", "median", "99 %", "worst"):
        shown.add_column(name, justify="left" if name == "who" else "right")
    path = folder / "run.mmsb"
    with mmsb.open(path) as mem:
        mem.page("a", torch.zeros(64))
    with mmsb.open(path) as mem:
        mem.update("a", 0.5, rows=[0])
        [*_, log] = sorted((path / "log").iterdir())
        kinds = {"a follower": _follow, "a process that looks at the file": _look}
        pids = [
            _forked(kind, path, log, folder / f"{number} {who}")
            for number in range(EACH)
            for who, kind in kinds.items()
        ]
        time.sleep(2)
        sent = {}
        for _ in range(COMMITS):
            mem.update("a", float(mem.tx), rows=[mem.tx % 64])
            now = time.monotonic()
            sent[str(mem.tx)] = sent[f"{log.stat().st_size} bytes"] = now
            time.sleep(PACE_SECONDS)
        time.sleep(1)
        (folder / "end").touch()
        for pid in pids:
            os.waitpid(pid, 0)
        for who in kinds:
            seen = [line.split("\t") for file in folder.glob(f"* {who}") for line in file.open()]
            late = sorted((float(at) - sent[what]) * 1e3 for what, at in seen if what in sent)
            figures = (statistics.median(late), late[len(late) * 99 // 100], late[-1])
            shown.add_row(who, *[f"{figure:.1f}" for figure in figures])
    return shown


def _forked(job, path, log, out) -> int:
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException), out.open("w") as file:
            job(path, log, file)
        os._exit(0)
    return pid


def _follow(path, _log, out) -> None:
    reader = mmsb.open(path, mode="follow")

    def note(event) -> None:
        out.write(f"{event.fields['tx']}\t{time.monotonic()}\n")

    reader.subscribe(note, [mmsb.EventType.DELTA_COMMITTED])
    while not (path.parent / "end").exists():
        time.sleep(0.05)


def _look(path, log, out) -> None:
    before = log.stat().st_size
    while not (path.parent / "end").exists():
        time.sleep(0.02)  # as followers do
        size = log.stat().st_size
        if size != before:
            out.write(f"{size} bytes\t{time.monotonic()}\n")
            before = size
