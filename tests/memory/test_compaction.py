"""A checkpoint by itself, when replaying the log would take longer than reading the state."""

import errno
import time

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.memory import compaction
from mmsb_torch.runtime.store import list_checkpoints
from mmsb_torch.testing import FailingDisk, abandon, open_on


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.mmsb"


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Worth a checkpoint from 100 kB on, and 1 kB a commit."""
    monkeypatch.setattr(compaction, "LEAST_BYTES", 100_000)
    monkeypatch.setattr(compaction, "COMMIT_BYTES", 1_000)


def checkpoints(path):
    return [ref.tx for ref in list_checkpoints(path)]


def edit(memory, count, wait=True):
    for step in range(count):
        memory.update("a", float(memory.tx), rows=[step % 100])
        if wait:
            memory._compactor.wait()


def test_many_small_commits(path):
    memory = mmsb.open(path)
    memory.page("a", torch.zeros(100, 4))
    edit(memory, 450)
    (newest,) = checkpoints(path)[-1:]
    assert memory.tx - newest <= 101
    assert len(checkpoints(path)) <= 2  # small ones that the log leads up to need not pile up
    assert memory.at(50)["a"][48, 0] == 49  # and the whole past is there
    tx = memory.tx
    abandon(memory)
    with mmsb.open(path) as memory:
        assert memory.tx == tx
        assert memory["a"].tensor[tx % 100 - 2, 0] == tx - 1
        assert memory.verify() == []
        assert memory.at(50)["a"][48, 0] == 49


def test_a_large_state_is_not_written_for_a_few_rows(path):
    with mmsb.open(path) as memory:
        memory.page("a", torch.zeros(100, 4))
        memory.page("large", torch.zeros(1_000_000))
        memory.checkpoint()
        edit(memory, 1_000)
        assert checkpoints(path) == [2]


def test_what_a_whole_write_replaces_does_not_count(path):
    with mmsb.open(path) as memory:
        memory.page("a", torch.zeros(100, 4))
        memory.page("large", torch.zeros(100_000))
        memory.checkpoint()
        for step in range(40):
            memory.update("large", torch.full((100_000,), float(step)))
            memory._compactor.wait()
        assert checkpoints(path) == [2]
        for step in range(40):
            memory.update("large", torch.rand(50_000, generator=torch.Generator().manual_seed(step)),
                          indices=torch.arange(50_000))  # fmt: skip
            memory._compactor.wait()
        assert len(checkpoints(path)) > 2  # two of them are more than the state


def test_checkpoints_that_a_large_log_leads_up_to_stay(path):
    with mmsb.open(path) as memory:
        memory.page("a", torch.zeros(1_000, 25))
        for step in range(60):
            rows = torch.arange(500) + 500 * (step % 2)
            memory.update("a", torch.rand(500, 25), rows=rows)
            memory._compactor.wait()
        found = checkpoints(path)
        held = sum(
            item.stat().st_size for item in (path / "checkpoints").rglob("*") if item.is_file()
        )
        log = sum(
            item.stat().st_size for name in ("log", "deltas") for item in (path / name).rglob("*.*")
        )
        assert len(found) > 5
        assert held <= 1.5 * log


def test_it_happens_behind_the_caller_and_beside_readers(path):
    with mmsb.open(path) as memory, mmsb.open(path, mode="follow") as reader:
        memory.page("a", torch.zeros(100, 4))
        edit(memory, 3_000, wait=False)
        end = time.monotonic() + 20
        while reader.tx < memory.tx:
            assert time.monotonic() < end
            time.sleep(0.01)
        assert torch.equal(reader["a"].tensor, memory["a"].tensor)
        assert checkpoints(path)
    with mmsb.open(path, mode="r") as memory:
        assert memory.tx == 3_001
        assert memory.verify() == []


def test_it_can_be_turned_off(path):
    with mmsb.open(path, compaction=False) as memory:
        memory.page("a", torch.zeros(100, 4))
        for step in range(500):
            memory.update("a", 1.0, rows=[step % 100])
        assert checkpoints(path) == []


def test_with_a_retention_the_past_goes_by_itself(path):
    with mmsb.open(path, retention=mmsb.Retention(keep_last=1)) as memory:
        memory.page("a", torch.zeros(100, 4))
        edit(memory, 1_000)
        assert len(checkpoints(path)) == 1
        assert len(list((path / "log").iterdir())) <= 2
        with pytest.raises(mmsb.HistoryError):
            memory.at(50)


def test_a_checkpoint_that_fails_loses_nothing_and_is_told(path):
    disk = FailingDisk(only=("mkdir",))
    memory = open_on(disk, path)
    memory._compactor = compaction.Compactor(memory)
    heard = []
    memory.subscribe(heard.append, [mmsb.EventType.ERROR])
    memory.page("a", torch.zeros(100, 4))
    memory.update("a", 1.0, rows=[0])
    disk._nth, disk._code, disk._persistent = len(disk.calls), errno.ENOSPC, True
    edit(memory, 150)
    assert len(heard) == 1  # it is not tried again at every commit
    assert "No space" in heard[0].fields["error"]
    assert checkpoints(path) == []
    disk._nth = None
    edit(memory, 150)
    assert checkpoints(path)
    abandon(memory)
    with mmsb.open(path) as memory:
        assert memory.tx == 302
