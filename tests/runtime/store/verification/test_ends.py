"""Tails that are torn, files and beginnings that are missing."""

import shutil

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.runtime.store import list_checkpoints
from mmsb_torch.runtime.store.frame import HEADER_BYTES, Kind
from mmsb_torch.runtime.store.log_verification import verify_log


def test_a_log_cut_anywhere_in_its_last_records_has_one_torn_tail(root, log):
    path, uuid = log.files(root)[2], log.uuid_of(root)
    good, spans = path.read_bytes(), log.records(path, root)
    for length in range(0, len(good), 7):
        path.write_bytes(good[:length])
        found = verify_log(root, uuid, [8])
        ends = [0, HEADER_BYTES, *(item.offset + item.header.span for item in spans)]
        if length in ends[1:]:
            assert found == []
            continue
        (damage,) = found
        assert damage.torn
        assert (damage.path, damage.stop) == (path, length)
        assert damage.start == max(end for end in ends if end <= length)


def test_a_torn_record_whose_header_is_whole_says_its_transaction(root, log, verify):
    path, item = log.commit(root, 11)
    path.write_bytes(path.read_bytes()[: item.offset + item.header.span - 1])
    (damage,) = verify(root)
    assert damage.torn
    assert (damage.start, damage.transactions) == (item.offset, range(11, 12))


@pytest.mark.parametrize(
    "tail", [bytes(1), bytes(64), bytes(200), b"MREC" + bytes(99), b"\xff" * 64]
)
def test_garbage_after_the_last_record_is_a_torn_tail(root, tail, verify, log):
    path = log.files(root)[2]
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + tail)
    (damage,) = verify(root)
    assert damage.torn
    assert (damage.path, damage.start, damage.stop) == (path, size, size + len(tail))


def test_a_file_that_was_only_begun_is_a_torn_tail(root, log, verify):
    path = log.files(root)[2]
    for raw in (b"", bytes(10), bytes(64)):
        path.write_bytes(raw)
        (damage,) = verify(root)
        assert damage.torn
        assert (damage.path, damage.start, damage.stop) == (path, 0, len(raw))


@pytest.mark.parametrize("number", [0, 1])
def test_an_earlier_file_that_was_cut_is_damage_with_the_transactions_it_lost(
    root, number, log, verify
):
    path, (first, last) = log.files(root)[number], [(1, 4), (5, 8)][number]
    good, spans = path.read_bytes(), log.records(path, root)
    for length in [*range(1, len(good), 61), *(item.offset for item in spans)]:
        path.write_bytes(good[:length])
        kept = [
            item.header.tx
            for item in spans
            if item.offset + item.header.span <= length and item.header.kind == Kind.COMMIT
        ]
        (damage,) = verify(root)
        assert not damage.torn
        assert damage.path == path
        assert damage.start <= length <= damage.stop
        lost = range(max(kept, default=first - 1) + 1, last + 1)
        assert damage.transactions == lost or (not lost and not damage.transactions)


def test_a_log_file_between_is_missing(root, verify, log):
    log.files(root)[1].unlink()
    (damage,) = verify(root)
    assert damage.path.name == "00000000000000000005.tlog"
    assert damage.transactions == range(5, 9)
    assert "transactions 5 to 8 are missing" in damage.problem


def test_files_before_a_checkpoint_need_not_be_there(root, verify, log):
    log.files(root)[0].unlink()
    assert verify(root) == []
    log.files(root)[0].unlink()
    assert verify(root) == []


def test_the_beginning_is_missing_if_no_checkpoint_stands_for_it(root, verify, log):
    for ref in list_checkpoints(root):
        shutil.rmtree(ref.path)
    log.files(root)[0].unlink()
    (damage,) = verify(root)
    assert damage.path.name == "00000000000000000001.tlog"
    assert damage.transactions == range(1, 5)


def test_a_log_that_ends_before_the_newest_checkpoint(root, verify, log):
    for path in log.files(root)[1:]:
        path.unlink()
    (damage,) = verify(root)
    assert damage.path == log.files(root)[0]
    assert damage.transactions == range(5, 9)
    assert "checkpoint" in damage.problem


def test_a_store_of_checkpoints_alone_is_clean(root, verify):
    shutil.rmtree(root / "log")
    shutil.rmtree(root / "deltas")
    assert verify(root) == []


def test_a_log_that_begins_with_a_checkpoint_of_what_came_before_is_clean(root, verify, log):
    shutil.rmtree(root / "log")
    with mmsb.open(root) as mem:
        mem.checkpoint()
        mem.update("bits", torch.ones(24, dtype=torch.int16))
    assert len(log.files(root)) == 3
    assert verify(root) == []


def test_a_checkpoint_before_the_first_transaction_is_clean(tmp_path, verify):
    with mmsb.open(tmp_path / "new.mmsb") as mem:
        mem.checkpoint()
        mem.page("w", torch.ones(3))
    assert verify(tmp_path / "new.mmsb") == []
