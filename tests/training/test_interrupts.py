"""Ctrl-C at any line of a commit: no commit, or a whole one; the loop goes on, and so does a resume."""

import sys

import pytest

import mmsb_torch as mmsb
from mmsb_torch.testing import abandon

ROOMS = ("mmsb_torch/training/", "mmsb_torch/runtime/state/", "mmsb_torch/memory/")


def interrupted(call, nth):
    """Run `call()`, with a KeyboardInterrupt at the nth line; how many lines were left."""
    left = nth

    def local(_frame, event, _arg):
        nonlocal left
        if event == "line":
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return local

    def begin(frame, _event, _arg):
        return local if any(room in frame.f_code.co_filename for room in ROOMS) else None

    sys.settrace(begin)
    try:
        call()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
    return left


@pytest.mark.parametrize("first", [True, False], ids=["the first commit", "a later one"])
def test_ctrl_c_anywhere_in_a_commit(first, kit, tmp_path):
    def fresh(number):
        memory = mmsb.open(tmp_path / f"{number}.mmsb", durability="none")
        loop = kit.Loop()
        run = mmsb.track(memory, **loop.parts())
        run.resume()
        for step in range(1, 1 if first else 3):
            loop.step()
            run.commit(step=step, loss=1.0)
        loop.step()
        return memory, loop, run

    memory, _, run = fresh("whole")
    lines = 10**6 - interrupted(lambda: run.commit(step=9, loss=1.0), 10**6)
    memory.close()
    assert lines > 300
    for nth in range(1, lines, max(lines // 25, 1)):
        memory, loop, run = fresh(nth)
        before, tx = loop.state(), memory.tx
        interrupted(lambda: run.commit(step=9, loss=1.0), nth)  # noqa: B023 - called at once
        assert loop.state() == before  # the live state is never touched
        assert memory.tx - tx in (0, 1)
        assert [item.step for item in run.history()][-1:] == (
            [9] if memory.tx > tx else [] if first else [2]
        )
        loop.step()
        run.commit(step=10, accuracy=0.5).wait()
        expected = loop.state()
        names = [set(item.metrics) for item in run.history()]
        assert names[-1] == {"accuracy"}
        abandon(memory)
        with mmsb.open(tmp_path / f"{nth}.mmsb") as memory:
            resumed = kit.Loop(number=1)
            assert mmsb.track(memory, **resumed.parts()).resume() == 10
            assert resumed.state() == expected
