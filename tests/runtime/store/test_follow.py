"""The follower: each record once, when it is whole, and nothing that is not."""

import shutil
from pathlib import Path

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.errors import CollectedError, CorruptLogError
from mmsb_torch.runtime.store import Store
from mmsb_torch.runtime.store.follow import Follower
from mmsb_torch.runtime.store.frame import HEADER_BYTES, Kind
from mmsb_torch.runtime.store.logfile import list_logs


@pytest.fixture
def root(tmp_path):
    """Transactions 1 to 9, checkpoints after 5 and 7, and no close at the end."""
    live, copy = tmp_path / "live.mmsb", tmp_path / "run.mmsb"
    with mmsb.open(live) as mem:
        mem.page("w", torch.zeros(10, 4))
        for number in range(2, 10):
            mem.update("w", float(number))
            if number in {5, 7}:
                mem.checkpoint()
        shutil.copytree(live, copy)
    return copy


def logs(root):
    return [path for _, path in list_logs(root)]


def flip(path, at):
    raw = bytearray(path.read_bytes())
    raw[at] ^= 0xFF
    path.write_bytes(raw)


@pytest.fixture
def follow(root):
    with Store.open(root) as store:
        uuid = store.identity.uuid
    return lambda after=0: Follower(root, uuid, after)


def given(follower):
    return [(found.record.header.kind, found.record.header.tx) for found in follower.poll()]


def test_each_record_comes_once_and_only_when_it_is_whole(root, follow):
    path = logs(root)[-1]
    raw = path.read_bytes()
    follower, came = follow(7), []
    for length in [*range(0, len(raw), 9), len(raw)]:
        path.write_bytes(raw[:length])
        for found in follower.poll():
            came.append(found.record.header.tx)
            assert found.record.offset + found.record.header.span <= length
    assert came == [8, 9]
    assert given(follower) == []


def test_a_tail_that_is_cut_and_written_anew(root, follow):
    path = logs(root)[-1]
    raw = path.read_bytes()
    follower = follow(7)
    path.write_bytes(raw[:-3])
    assert given(follower) == [(Kind.COMMIT, 8)]
    with mmsb.open(root) as mem:  # cuts the tail
        assert mem.tail is not None
        assert given(follower) == []
        mem.update("w", 5.0)
        assert given(follower) == [(Kind.COMMIT, 9)]


def test_what_is_taken_back_is_said(root, follow):
    with mmsb.open(root) as mem:
        follower = follow(9)
        mem.update("w", 5.0)
        assert given(follower) == [(Kind.COMMIT, 10)]
        mem._router.log.take_back(10)
        assert given(follower) == [(Kind.ROLLBACK, 10)]
        mem._router.log.close()  # the memory does not know that it was voided
        mem._router.shut()
    mem._store.close()


def test_nothing_there_yet(tmp_path):
    with mmsb.open(tmp_path / "new.mmsb") as mem:
        follower = Follower(tmp_path / "new.mmsb", mem._store.identity.uuid, 0)
        assert given(follower) == []
        mem.page("w", torch.ones(2))
        assert given(follower) == [(Kind.COMMIT, 1)]


def test_a_file_that_is_only_begun_is_waited_for(root, follow):
    path = logs(root)[-1]
    raw = path.read_bytes()
    for length in (0, 10, HEADER_BYTES - 1):
        path.write_bytes(raw[:length])
        follower = follow(7)
        assert given(follower) == []
        path.write_bytes(raw)
        assert given(follower) == [(Kind.COMMIT, 8), (Kind.COMMIT, 9)]


def test_files_that_went_after_they_were_read_are_not_missed(root, follow):
    follower = follow()
    first, second, third = logs(root)
    away = [third.with_suffix(".later"), third.read_bytes()]
    third.rename(away[0])
    assert [tx for _, tx in given(follower)] == [1, 2, 3, 4, 5, 6, 7]
    away[0].rename(third)
    first.unlink()
    second.unlink()
    assert [tx for _, tx in given(follower)] == [8, 9]


def test_a_file_that_went_before_it_was_read_is_missed(root, follow):
    follower = follow()
    first, second, third = logs(root)
    for path in (second, third):
        path.rename(path.with_suffix(".later"))
    given(follower)
    third.with_suffix(".later").rename(third)
    with pytest.raises(CollectedError, match="open it again"):
        given(follower)
    assert first.exists()


def test_a_store_that_was_replaced_is_refused(root, follow):
    follower = follow()
    given(follower)
    path = logs(root)[-1]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CorruptLogError, match="became shorter"):
        given(follower)
    shutil.rmtree(root / "log")
    with pytest.raises(CollectedError):
        given(follower)


def test_damage_between_whole_records_is_refused(root, follow):
    path = logs(root)[-1]
    flip(path, HEADER_BYTES + 70)
    with pytest.raises(CorruptLogError, match=r"damaged: .* bytes 64 to"):
        given(follow(7))


def test_no_descriptor_is_left_open(root, follow):
    follower = follow()
    before = len(list(Path("/proc/self/fd").iterdir()))
    poll = follower.poll()
    next(poll)
    poll.close()
    given(follower)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
