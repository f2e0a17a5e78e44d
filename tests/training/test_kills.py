"""R14: train, `kill -9` at a step, resume: the same bits as without the kill. MMSB_GATE=1: 100 steps."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
import warnings
from pathlib import Path

import pytest

import mmsb_torch as mmsb

KILLS = 100 if os.environ.get("MMSB_GATE") else 5
STEPS = 40
SCRIPT = """
import sys, pathlib, torch
import conftest, test_kills
torch.set_num_threads(1)
test_kills.sweep(conftest.made_kit(), pathlib.Path(sys.argv[1]))
"""


def forked(child):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: the test runner has threads
        pid = os.fork()
    if pid:
        return pid
    try:
        child()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def trained(kit, kind, path, report, number):
    """Train in this process to the end; `report` gets a line for each acknowledged step."""
    model = kit.Cnn if kind == "cnn" else lambda: kit.mlp(64, 10)
    loop = kit.Loop(model=model, data=kit.digits, number=number, batch=128)
    waits = random.Random(number)
    with mmsb.open(path) as memory:
        run = mmsb.track(memory, **loop.parts())
        for step in range(run.resume(), STEPS):
            done = run.commit(step=step + 1, loss=loop.step())
            if waits.random() < 0.5:
                done.wait()
                os.write(report, b"%d\n" % (step + 1))
        losses = [item.metrics["loss"] for item in run.history()]
        return json.dumps([losses, loop.state()])


@pytest.mark.timeout(1800)
def test_kill_9_at_any_step(tmp_path):
    """In a process of its own: torch lets nobody train who was forked from one that has."""
    subprocess.run(
        [sys.executable, "-c", SCRIPT, tmp_path], cwd=Path(__file__).parent, check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))},
    )  # fmt: skip


def sweep(kit, folder):
    kit.digits()  # loaded once, before the forks
    chance = random.Random(4)
    for kind, kills in (("mlp", KILLS - KILLS // 2), ("cnn", KILLS // 2)):
        expected = finished(kit, kind, folder / f"{kind}.mmsb", 0)
        for turn in range(kills):
            path = folder / f"{kind} {turn}.mmsb"
            acknowledged = killed(kit, kind, path, chance.randrange(1, STEPS), chance)
            with mmsb.open(path, mode="r") as memory:
                step = json.loads(bytes(memory["track/run"].tensor.tolist()))["step"]
            assert acknowledged <= step <= STEPS
            assert finished(kit, kind, path, turn + 1) == expected


def finished(kit, kind, path, number):
    result = path.with_suffix(".json")
    pid = forked(
        lambda: result.write_text(
            trained(kit, kind, path, os.open(os.devnull, os.O_WRONLY), number)
        )
    )
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return result.read_text()


def killed(kit, kind, path, at, chance):
    """Kill a training process once it acknowledged a step from `at` on; returns the last of those."""
    reader, writer = os.pipe()
    pid = forked(lambda: trained(kit, kind, path, writer, 0))
    os.close(writer)
    seen, steps = b"", [0]
    with os.fdopen(reader, "rb", buffering=0) as lines:
        while steps[-1] < at and (piece := lines.read(64)):
            seen += piece
            steps = [0, *map(int, seen.split(b"\n")[:-1])]
        time.sleep(chance.uniform(0, 0.01))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        seen += lines.read()
    return [0, *map(int, seen.split(b"\n")[:-1])][-1]
