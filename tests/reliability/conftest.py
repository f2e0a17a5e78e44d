"""How much each row of docs/reliability.md tries, and what came of it.

`MMSB_GATE=1` (make gate) and `MMSB_GATE=soak` (make soak) try more; `MMSB_R8=5000` and the like set
the trials of one row. What rows report is printed at the end and written to build/reliability-*.json.
"""

import json
import os
import platform
import subprocess
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import pytest
import torch

from mmsb_torch.runtime.store import durable
from mmsb_torch.testing import FailingDisk, abandon, open_on, values, work

LEVEL = {"": "test", "1": "gate", "soak": "soak"}[os.environ.get("MMSB_GATE", "")]
ROOT = Path(__file__).parents[2]
MUST_BE_ZERO = ("lost", "silent")


class Gate:
    """The scale of this run, and the report of one test."""

    level = LEVEL

    def __init__(self, node):
        self._node, self._begun = node, time.monotonic()

    def choose(self, *, test, gate, soak):
        return {"test": test, "gate": gate, "soak": soak}[LEVEL]

    def trials(self, row, *, test, gate, soak):
        """How often to try: by level, or as MMSB_<row> says."""
        return int(os.environ.get(f"MMSB_{row}") or self.choose(test=test, gate=gate, soak=soak))

    def report(self, row, trials, **counts):
        """Say what came of a row; what must be zero is asserted."""
        seconds = round(time.monotonic() - self._begun, 2)
        about = {"row": row, "test": self._node.name, "trials": trials, "seconds": seconds}
        self._node.user_properties.append(("reliability", about | counts))
        print(about | counts)
        for name in MUST_BE_ZERO:
            assert counts.get(name, 0) == 0, counts


@pytest.fixture
def gate(request):
    return Gate(request.node)


@pytest.fixture
def path(tmp_path):
    """Where a store can be made."""
    return tmp_path / "run.mmsb"


class Kit:
    """What tests that need more processes share."""

    @staticmethod
    def forked(child):
        """Run `child()` in a forked process; return its pid. The child never returns from here."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: the test runner has threads
            pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            code = int(child() or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    @staticmethod
    def exit_code(pid):
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    @staticmethod
    def drained(pipe):
        """Everything that comes out of a pipe until its writers are gone."""
        raw = b""
        while piece := os.read(pipe, 1 << 16):
            raw += piece
        os.close(pipe)
        return raw

    @staticmethod
    def logs(path):
        """The log files of a store, oldest first."""
        return sorted((path / "log").glob("*.tlog"))

    @staticmethod
    def made_small(path, count=14):
        """A store of `count` transactions and no checkpoint, whose writer was killed; its states."""
        memory = open_on(FailingDisk(), path)
        states = work(memory, count)
        abandon(memory)
        return states

    @staticmethod
    def made_whole(path):
        """A store with files of every kind, whose writer was killed; its last state.

        Two checkpoints that share a file, three log files, payloads in files of their own.
        """
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(durable, "INLINE_BYTES", 700)
            memory = open_on(FailingDisk(), path)
            memory.page("c", torch.arange(40, dtype=torch.bfloat16).view(torch.uint8).view(5, 16))
            work(memory, 9)
            _ = memory.derive(torch.neg, "a", name="minus").tensor
            memory.checkpoint()
            memory.update("b", 3, indices=[1])
            memory.checkpoint()
            work(memory, 16)
            state = values(memory)
            abandon(memory)
        return state


@pytest.fixture(scope="session")
def kit():
    return Kit


def _filesystem():
    asked = ["findmnt", "-no", "FSTYPE", "--target", tempfile.gettempdir()]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _line(row):
    counts = ", ".join(f"{v} {k}" for k, v in row.items() if k not in ("row", "test", "trials"))
    return f"{row['row']:4} {row['trials']:>9,} {row['test']}: {counts}"


def pytest_terminal_summary(terminalreporter):
    stats = terminalreporter.stats
    reports = [r for kind in ("passed", "failed") for r in stats.get(kind, []) if r.when == "call"]
    rows = [
        dict(value) for r in reports for key, value in r.user_properties if key == "reliability"
    ]
    if LEVEL == "test" or not rows:
        return
    rows.sort(key=lambda row: (int(row["row"][1:]), row["test"]))
    result = {
        "level": LEVEL,
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "kernel": platform.release(),
        "filesystem": _filesystem(),
        "cpus": os.cpu_count(),
        "passed": len(stats.get("passed", [])),
        "failed": len(stats.get("failed", [])) + len(stats.get("error", [])),
        "lost": sum(row.get("lost", 0) for row in rows),
        "silent": sum(row.get("silent", 0) for row in rows),
        "torn": sum(row.get("torn", 0) for row in rows),
        "acknowledged": sum(row.get("acknowledged", 0) for row in rows),
        "rows": rows,
    }
    target = ROOT / "build" / f"reliability-{LEVEL}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(result, indent=1) + "\n")
    terminalreporter.section(f"reliability ({LEVEL})")
    terminalreporter.line(str({key: value for key, value in result.items() if key != "rows"}))
    for row in rows:
        terminalreporter.line(_line(row))
    terminalreporter.line(f"written to {target.relative_to(ROOT)}")
