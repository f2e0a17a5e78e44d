"""Records and files that are whole and not where they belong, and what only a writer can have written."""

import shutil

import pytest

import mmsb_torch as mmsb
from mmsb_torch.errors import UnsupportedError
from mmsb_torch.runtime.store.frame import HEADER_BYTES, FileHeader, Kind
from mmsb_torch.runtime.store.logwriter import End, LogWriter


def test_a_record_that_was_taken_out(root, log, verify):
    path, item = log.commit(root, 6)
    raw = path.read_bytes()
    path.write_bytes(raw[: item.offset] + raw[item.offset + item.header.span :])
    (damage,) = verify(root)
    assert (damage.path, damage.start, damage.torn) == (path, item.offset, False)
    assert 6 in damage.transactions
    assert "does not follow" in damage.problem


def test_a_record_that_was_put_in_twice(root, log, verify):
    path, item = log.commit(root, 6)
    raw, stop = path.read_bytes(), item.offset + item.header.span
    path.write_bytes(raw[:stop] + raw[item.offset : stop] + raw[stop:])
    (damage,) = verify(root)  # what follows the copy follows the original, too
    assert (damage.start, damage.stop) == (stop, stop + item.header.span)
    assert "does not follow" in damage.problem


def test_two_records_next_to_each_other_are_one_range(root, log, verify):
    path, item = log.commit(root, 6)
    _, after = log.commit(root, 7)
    raw = path.read_bytes()
    path.write_bytes(log.flipped(log.flipped(raw, item.offset + 20, 1), after.offset + 9, 1))
    (damage,) = verify(root)
    assert (damage.start, damage.stop) == (item.offset, after.offset + after.header.span)
    assert damage.transactions == range(6, 8)


def test_a_damaged_header_of_a_file_hides_no_break_of_the_chain(root, log, verify):
    first, second, _ = log.files(root)
    end = log.records(first, root)[-1]  # the CHECKPOINT
    first.write_bytes(first.read_bytes()[: end.offset])
    second.write_bytes(log.flipped(second.read_bytes(), 9, 1))
    header, record = verify(root)
    assert (header.path, header.start, header.stop) == (second, 0, HEADER_BYTES)
    assert (record.path, record.start) == (second, HEADER_BYTES)
    assert "does not follow" in record.problem


def test_a_log_file_of_another_store(root, tmp_path, verify, log):
    with mmsb.open(tmp_path / "other.mmsb") as mem:
        mem.page("w", log.randn(0, 4))
    path = log.files(root)[1]
    shutil.copy(log.files(tmp_path / "other.mmsb")[0], path)
    (damage,) = verify(root)
    assert (damage.path, damage.start, damage.stop) == (path, 0, path.stat().st_size)
    assert damage.transactions == range(5, 9)
    assert "belongs to the store" in damage.problem


def test_a_log_file_under_another_name(root, verify, log):
    path = log.files(root)[1]
    path.rename(path.with_name("00000000000000000006.tlog"))
    found = verify(root)
    assert {damage.path.name for damage in found} == {"00000000000000000006.tlog"}
    assert "is named 6 and begins with transaction 5" in found[0].problem


@pytest.mark.parametrize("how", ["link", "folder"])
def test_a_log_file_that_is_no_file(root, tmp_path, how, verify, log):
    path = log.files(root)[1]
    path.rename(tmp_path / "away")
    if how == "link":
        path.symlink_to(tmp_path / "away")
    else:
        path.mkdir()
    (damage,) = verify(root)
    assert (damage.path, damage.transactions) == (path, range(5, 9))


def test_a_newer_format_is_refused_rather_than_judged(root, log, verify):
    path = log.files(root)[1]
    raw = path.read_bytes()
    header = FileHeader.unpack(raw)
    path.write_bytes(header._replace(version=2).pack() + raw[HEADER_BYTES:])
    with pytest.raises(UnsupportedError, match="version 2"):
        verify(root)


# what only a writer can have written


def append(log, root, *items):
    """Append records (kind, transaction, body) after the last one."""
    path = log.files(root)[-1]
    last = log.records(path, root)[-1]
    end = End(path, path.stat().st_size, last.chain)
    writer = LogWriter(root, log.uuid_of(root), end, "none")
    try:
        return [writer.append(kind, tx, [body], 1)[1] for kind, tx, body in items]
    finally:
        writer._files.close(writer._fd)


def test_a_whole_record_whose_payload_cannot_be_read(root, log, verify):
    good = log.commit(root, 10)
    body = good[0].read_bytes()[good[1].offset + 64 : good[1].offset + 64 + good[1].header.length]
    for junk in (b"", b"junk", body):  # the last says that it is transaction 10
        shutil.copy(good[0], good[0].with_suffix(".kept"))
        (record,) = append(log, root, (Kind.COMMIT, 12, junk))
        (damage,) = verify(root)
        assert (damage.path, damage.transactions) == (good[0], range(12, 13))
        start = record.offset + HEADER_BYTES
        assert (damage.start, damage.stop, damage.torn) == (start, start + len(junk), False)
        good[0].with_suffix(".kept").rename(good[0])


@pytest.mark.parametrize("last", [14, 2**64 - 1])
def test_a_gap_in_the_numbers_of_an_unbroken_chain(root, last, verify, log):
    append(log, root, (Kind.SEAL, last, b""))
    (damage,) = verify(root)
    assert damage.transactions == range(12, last + 1)
    assert damage.problem == f"transactions 12 to {last} are missing"


def test_a_transaction_that_is_there_twice(root, log, verify):
    path, item = log.commit(root, 10)
    body = path.read_bytes()[item.offset + 64 : item.offset + 64 + item.header.length]
    append(log, root, (Kind.COMMIT, 10, body), (Kind.SEAL, 11, b""))
    (damage,) = verify(root)
    assert damage.transactions == range(10, 11)
    assert "again" in damage.problem


def test_what_was_taken_back_is_no_damage(root, log, verify):
    path, item = log.commit(root, 10)
    body = path.read_bytes()[item.offset + 64 : item.offset + 64 + item.header.length]
    append(log, root, (Kind.COMMIT, 12, b"junk"), (Kind.ROLLBACK, 12, b""))
    assert verify(root) == []
    append(log, root, (Kind.COMMIT, 12, b"junk"))
    (damage,) = verify(root)
    assert damage.transactions == range(12, 13)
    append(log, root, (Kind.ROLLBACK, 12, b""), (Kind.SEAL, 11, b""))
    assert verify(root) == []
    assert body
