"""Damage of other kinds than cuts and flips: files that are gone, foreign, or begun with garbage."""

import os
import shutil
import time

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.testing import FailingDisk, abandon, open_on, opened, same_values, values, work


def test_a_writer_cuts_a_torn_tail_and_keeps_a_copy(path, kit):
    states = kit.made_small(path)
    [log] = kit.logs(path)
    whole = log.read_bytes()
    log.write_bytes(whole[:-100])
    with mmsb.open(path) as memory:
        assert memory.tx == 13
        assert memory.tail is not None
        assert memory.tail.kept.read_bytes() == whole[memory.tail.start : -100]
        assert same_values(values(memory), states[13])
        memory.update("a", 1.0)
        abandon(memory)
    with mmsb.open(path) as memory:
        assert memory.tx == 14
        assert memory.tail is None


def test_after_a_clean_close_a_damaged_last_transaction_is_damage(path, kit):
    with mmsb.open(path) as memory:
        memory.page("a", torch.zeros(3))
        memory.update("a", 1.0)
        memory._checkpointed = (2, *memory._checkpointed[1:])  # as if there was nothing to keep
        memory._store.list_checkpoints()
        memory._router.log.close()
        memory._router.shut()
        memory._store.close()
    [log] = kit.logs(path)
    raw = bytearray(log.read_bytes())
    at = raw.rindex(b"mmsb.ops")
    raw[at] ^= 1
    log.write_bytes(raw)
    error = opened(path)
    assert isinstance(error, mmsb.CorruptLogError)
    assert "damaged" in str(error)


def test_a_log_file_that_is_missing_or_foreign_is_noticed(path, tmp_path, kit):
    memory = mmsb.open(path)
    work(memory, 5)
    memory.checkpoint()
    work(memory, 8)
    memory.checkpoint()
    work(memory, 12)
    abandon(memory)
    _, second, third = kit.logs(path)
    other = tmp_path / "other.mmsb"
    kit.made_small(other)
    keep = third.read_bytes()
    shutil.copy(kit.logs(other)[0], third)
    assert isinstance(opened(path), mmsb.CorruptLogError)
    third.write_bytes(keep)
    assert opened(path)[0] == 12
    shutil.rmtree(path / "checkpoints" / f"{8:020d}")
    assert opened(path)[0] == 12  # from the older checkpoint, through both logs
    second.unlink()
    error = opened(path)
    assert isinstance(error, mmsb.CorruptLogError)


def test_a_segment_that_is_damaged_or_gone_is_an_error(path, kit):
    memory = mmsb.open(path)
    memory.page("big", torch.randn(300_000))
    abandon(memory)
    [segment] = (path / "deltas").iterdir()
    raw = bytearray(segment.read_bytes())
    for at in (0, 9, 500, len(raw) - 1):
        raw[at] ^= 1
        segment.write_bytes(raw)
        assert isinstance(opened(path), mmsb.CorruptLogError)
        raw[at] ^= 1
    segment.write_bytes(raw[:-1])
    assert isinstance(opened(path), mmsb.CorruptLogError)
    segment.unlink()
    error = opened(path)
    assert isinstance(error, mmsb.CorruptLogError)
    assert segment.name in str(error)


def test_a_torn_record_that_holds_a_log_is_torn(path, tmp_path, kit):
    kit.made_small(tmp_path / "other.mmsb")
    inner = torch.frombuffer(
        bytearray(kit.logs(tmp_path / "other.mmsb")[0].read_bytes()), dtype=torch.uint8
    )
    memory = open_on(FailingDisk(), path)
    memory.page("a", torch.zeros(4))
    memory.page("archive", inner)
    abandon(memory)
    [log] = kit.logs(path)
    log.write_bytes(log.read_bytes()[:-100])
    with mmsb.open(path) as memory:
        assert memory.tx == 1
        assert memory.tail is not None


def test_a_file_that_was_begun_with_garbage_breaks_no_chain(path, kit):
    memory = open_on(FailingDisk(), path)
    work(memory, 5)
    memory.checkpoint()
    abandon(memory)
    newest = kit.logs(path)[-1]
    newest.write_bytes(os.urandom(64))
    with mmsb.open(path) as memory:
        memory.update("a", 1.0)
        abandon(memory)
    with mmsb.open(path) as memory:
        assert memory.tx == 6
        assert memory.at(1)["a"].shape == (4, 3)
        assert memory.verify() == []


def test_damage_in_the_past_is_told_every_time(path, kit):
    memory = open_on(FailingDisk(), path)
    work(memory, 5)
    memory.checkpoint()
    memory.close()
    first = kit.logs(path)[0]
    raw = bytearray(first.read_bytes())
    raw[200] ^= 1
    first.write_bytes(raw)
    with mmsb.open(path) as memory:
        for _ in range(2):
            with pytest.raises(mmsb.CorruptLogError):
                memory.at(1)
            with pytest.raises(mmsb.CorruptLogError):
                memory["a"].history()


def test_a_store_that_is_removed_under_a_writer_acknowledges_nothing(path):
    memory = mmsb.open(path, durability="full")
    memory.page("a", torch.zeros(4))
    shutil.rmtree(path)
    with pytest.raises(mmsb.StoreError, match="was removed while it was written"):
        memory.update("a", 2.0)
    assert memory["a"].tensor.tolist() == [0] * 4
    with pytest.raises(mmsb.StoreError, match="takes no more records"):
        memory.update("a", 3.0)
    abandon(memory)


def test_a_log_that_is_removed_is_noticed_within_seconds(path):
    memory = mmsb.open(path)
    memory.page("a", torch.zeros(4))
    shutil.rmtree(path)
    end = time.monotonic() + 60

    def go_on():
        while time.monotonic() < end:
            memory.update("a", 1.0)
            time.sleep(0.05)

    with pytest.raises(mmsb.StoreError, match="takes no more records"):
        go_on()
    abandon(memory)
