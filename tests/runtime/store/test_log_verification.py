"""Every part of a log damaged in turn: all of it is named, with a range that holds it, and no more."""

import random
import shutil
import tracemalloc

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.errors import UnsupportedError
from mmsb_torch.runtime.store import Files, Store, durable, list_checkpoints
from mmsb_torch.runtime.store.frame import HEADER_BYTES, FileHeader, Kind
from mmsb_torch.runtime.store.log_verification import verify_log
from mmsb_torch.runtime.store.logfile import LogFile, Record, list_logs
from mmsb_torch.runtime.store.logwriter import End, LogWriter

SIDE = 40  # of the large page: over the bound for payload files in these tests


def randn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def build(root, live):
    """Transactions 1 to 11 in three log files, checkpoints after 4 and 8, no close at the end."""
    mem = mmsb.open(live)
    mem.page("w", randn(0, 10, 8))
    mem.page("large", randn(1, SIDE, SIDE))
    mem.update("w", randn(2, 2, 8), rows=[3, 7])
    with mem.commit("both", step=1) as tx:
        tx.update("w", randn(3, 10, 8))
        tx.update("large", randn(4, 1, SIDE), rows=[5])
    mem.checkpoint()
    mem.update("large", randn(5, SIDE, SIDE))
    mem.update("w", randn(6, 3), indices=[1, 5, 9])
    mem.page("bits", torch.arange(24, dtype=torch.int16))
    mem.update("bits", torch.zeros(24, dtype=torch.int16), mask=torch.arange(24) % 3 == 0)
    mem.checkpoint()
    mem.close()
    with mmsb.open(live) as mem:
        mem.update("w", randn(7, 1, 8), rows=[0])
        mem.update("w", randn(8, 1, 8), rows=[1])
        mem.update("large", randn(9, SIDE, SIDE))
        shutil.copytree(live, root)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verify")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "INLINE_BYTES", 4096)
        build(folder / "run.mmsb", folder / "live.mmsb")
    return folder / "run.mmsb"


@pytest.fixture
def root(pristine, tmp_path):
    copy = tmp_path / "run.mmsb"
    shutil.copytree(pristine, copy)
    return copy


def verify(root):
    with Store.open(root) as store:
        return store.verify()


def uuid_of(root):
    with Store.open(root) as store:
        return store.identity.uuid


def logs(root):
    return [path for _, path in list_logs(root)]


def records(path, root):
    """The records of an undamaged log file."""
    file = LogFile(path, uuid_of(root))
    try:
        found = list(file.records(None))
    finally:
        file.close()
    assert all(isinstance(item, Record) for item in found)
    return found


def commit(root, tx):
    """The file and the record of transaction `tx`."""
    for path in logs(root):
        for item in records(path, root):
            if (item.header.kind, item.header.tx) == (Kind.COMMIT, tx):
                return path, item
    raise AssertionError(tx)


def flipped(raw, at, mask):
    return raw[:at] + bytes([raw[at] ^ mask]) + raw[at + 1 :]


def payload_files(root):
    return sorted((root / "deltas").iterdir())


def test_the_store_of_these_tests_has_all_parts(pristine):
    assert [first for first, _ in list_logs(pristine)] == [1, 5, 9]
    kinds = [item.header.kind for path in logs(pristine) for item in records(path, pristine)]
    assert kinds == [1, 1, 1, 1, 2, 1, 1, 1, 1, 2, 5, 1, 1, 1]
    assert len(payload_files(pristine)) == 3
    assert [ref.tx for ref in list_checkpoints(pristine)] == [4, 8]


def test_a_clean_store_has_nothing_to_report(pristine):
    assert verify(pristine) == []


def test_a_payload_file_of_more_than_a_megabyte(tmp_path):
    with mmsb.open(tmp_path / "big.mmsb") as mem:
        mem.page("large", randn(0, 600, 600))
    (large,) = payload_files(tmp_path / "big.mmsb")
    raw = large.read_bytes()
    assert len(raw) > 1 << 20
    assert verify(tmp_path / "big.mmsb") == []
    for at in (0, 9, 500_000, len(raw) - 1):
        large.write_bytes(flipped(raw, at, 1))
        (damage,) = verify(tmp_path / "big.mmsb")
        assert (damage.path, damage.transactions) == (large, range(1, 2))
        assert damage.start <= at < damage.stop
        assert not damage.torn


def expected(at, spans, *, newest):
    """Of a flip at `at`: whether it looks like a torn tail, and the transactions it concerns."""
    owner = next(
        (item for item in spans if item.offset <= at < item.offset + item.header.span), None
    )
    if owner is None:
        return False, range(0)
    body = owner.offset + HEADER_BYTES
    in_header, in_padding = at < body, at >= body + owner.header.length
    # of the last record nobody can tell damage from a write that was cut short
    torn = newest and owner is spans[-1] and not in_padding
    hidden = owner.header.kind != Kind.COMMIT or in_padding or (in_header and torn)
    return torn, range(0) if hidden else range(owner.header.tx, owner.header.tx + 1)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_flipped_byte_of_the_log_is_named_and_nothing_else(root, number):
    path, uuid, bits = logs(root)[number], uuid_of(root), random.Random(number)
    checkpoints = [ref.tx for ref in list_checkpoints(root)]
    good, spans = path.read_bytes(), records(path, root)
    headers = [at for item in spans for at in range(item.offset, item.offset + HEADER_BYTES, 5)]
    for at in sorted({*range(number, len(good), 17), *range(0, HEADER_BYTES, 3), *headers}):
        path.write_bytes(flipped(good, at, 1 << bits.randrange(8)))
        (damage,) = verify_log(root, uuid, checkpoints)
        assert damage.path == path
        assert damage.start <= at < damage.stop
        assert damage.problem
        assert (damage.torn, damage.transactions) == expected(at, spans, newest=number == 2), at


def test_many_flips_are_all_named_and_every_range_has_one(root):
    uuid, rng = uuid_of(root), random.Random(5)
    checkpoints = [ref.tx for ref in list_checkpoints(root)]
    originals = {path: path.read_bytes() for path in logs(root)}
    for _ in range(80):
        flips = {
            (path, rng.randrange(len(originals[path])))
            for path in rng.choices(logs(root), k=rng.randint(2, 6))
        }
        changed = dict(originals)
        for path, at in flips:
            changed[path] = flipped(changed[path], at, 1 << rng.randrange(8))
        for path, raw in changed.items():
            path.write_bytes(raw)
        found = verify_log(root, uuid, checkpoints)
        for path, at in flips:
            assert any(d.path == path and d.start <= at < d.stop for d in found), (path, at)
        for damage in found:
            assert any(p == damage.path and damage.start <= at < damage.stop for p, at in flips)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_flipped_byte_of_a_payload_file_is_named(root, number):
    path = payload_files(root)[number]
    tx, good = int(path.name[:20]), path.read_bytes()
    for at in [0, 7, 8, 40, len(good) // 2, len(good) - 1]:
        path.write_bytes(flipped(good, at, 0x10))
        (damage,) = verify(root)
        assert (damage.path, damage.transactions, damage.torn) == (path, range(tx, tx + 1), False)
        assert damage.start <= at < damage.stop == len(good)


def test_a_payload_file_of_the_wrong_size_is_named_with_what_is_missing_or_too_much(root):
    path = payload_files(root)[1]
    good = path.read_bytes()
    for raw in (b"", good[:9], good[:-1], good + b"x"):
        path.write_bytes(raw)
        (damage,) = verify(root)
        bounds = sorted([len(raw), len(good)])
        assert (damage.path, damage.start, damage.stop) == (path, *bounds)
        assert "damaged" in damage.problem


@pytest.mark.parametrize("how", ["missing", "link", "folder"])
def test_a_payload_file_that_is_not_there(root, tmp_path, how):
    path = payload_files(root)[1]
    path.rename(tmp_path / "away")
    if how == "link":
        path.symlink_to(tmp_path / "away")
    elif how == "folder":
        path.mkdir()
    (damage,) = verify(root)
    assert (damage.path, damage.transactions) == (path, range(5, 6))


@pytest.mark.parametrize("tx", [4, 8])
def test_a_flipped_byte_of_a_checkpoint_is_named(root, tx):
    folder = next(ref.path for ref in list_checkpoints(root) if ref.tx == tx)
    for path in folder.iterdir():
        good = path.read_bytes()
        for at in [0, 1, len(good) // 3, len(good) // 2, len(good) - 1]:
            path.write_bytes(flipped(good, at, 4))
            (damage,) = verify(root)
            assert damage.path == path
            assert damage.start <= at < damage.stop
            assert damage.transactions == range(tx, tx + 1)
        path.write_bytes(good)


def test_a_checkpoint_of_another_store_is_named(root, tmp_path):
    with mmsb.open(tmp_path / "other.mmsb") as mem:
        mem.update(mem.page("w", randn(0, 4)), randn(1, 4))
        for step in range(2):
            mem.update("w", randn(step, 4))
        mem.checkpoint()
    ours = list_checkpoints(root)[0].path
    shutil.rmtree(ours)
    shutil.copytree(list_checkpoints(tmp_path / "other.mmsb")[0].path, ours)
    (damage,) = verify(root)
    assert damage.path.parent == ours
    assert "another store" in damage.problem


class Counting(Files):
    """A disk that counts the bytes that are read front to back."""

    count = 0

    def read(self, fd, into):
        got = super().read(fd, into)
        self.count += got
        return got


def test_what_checkpoints_share_is_read_once_and_its_damage_named_for_each(tmp_path):
    path = tmp_path / "shared.mmsb"
    with mmsb.open(path) as mem:
        mem.page("quiet", randn(0, 300, 300))
        mem.page("w", randn(1, 4))
        for step in range(4):
            mem.update("w", float(step))
            mem.checkpoint()
    files = [item for item in (path / "checkpoints").rglob("*") if item.stat().st_size > 300_000]
    shared = [item for item in files if item.stat().st_nlink > 1]
    assert len(shared) > 1
    disk = Counting()
    with Store.open(path, files=disk) as store:
        assert store.verify() == []
    inodes = {item.stat().st_ino for item in files}
    assert len(inodes) * 360_000 < disk.count < (len(inodes) + 0.5) * 360_000 + 50_000
    shared[0].write_bytes(flipped(shared[0].read_bytes(), 300_000, 1))
    found = verify(path)
    assert {damage.path for damage in found} == {
        item for item in shared if item.stat().st_ino == shared[0].stat().st_ino
    }


# tails, ends and beginnings


def test_a_log_cut_anywhere_in_its_last_records_has_one_torn_tail(root):
    path, uuid = logs(root)[2], uuid_of(root)
    good, spans = path.read_bytes(), records(path, root)
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


def test_a_torn_record_whose_header_is_whole_says_its_transaction(root):
    path, item = commit(root, 11)
    path.write_bytes(path.read_bytes()[: item.offset + item.header.span - 1])
    (damage,) = verify(root)
    assert damage.torn
    assert (damage.start, damage.transactions) == (item.offset, range(11, 12))


@pytest.mark.parametrize(
    "tail", [bytes(1), bytes(64), bytes(200), b"MREC" + bytes(99), b"\xff" * 64]
)
def test_garbage_after_the_last_record_is_a_torn_tail(root, tail):
    path = logs(root)[2]
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + tail)
    (damage,) = verify(root)
    assert damage.torn
    assert (damage.path, damage.start, damage.stop) == (path, size, size + len(tail))


def test_a_file_that_was_only_begun_is_a_torn_tail(root):
    path = logs(root)[2]
    for raw in (b"", bytes(10), bytes(64)):
        path.write_bytes(raw)
        (damage,) = verify(root)
        assert damage.torn
        assert (damage.path, damage.start, damage.stop) == (path, 0, len(raw))


@pytest.mark.parametrize("number", [0, 1])
def test_an_earlier_file_that_was_cut_is_damage_with_the_transactions_it_lost(root, number):
    path, (first, last) = logs(root)[number], [(1, 4), (5, 8)][number]
    good, spans = path.read_bytes(), records(path, root)
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


def test_a_log_file_between_is_missing(root):
    logs(root)[1].unlink()
    (damage,) = verify(root)
    assert damage.path.name == "00000000000000000005.tlog"
    assert damage.transactions == range(5, 9)
    assert "transactions 5 to 8 are missing" in damage.problem


def test_files_before_a_checkpoint_need_not_be_there(root):
    logs(root)[0].unlink()
    assert verify(root) == []
    logs(root)[0].unlink()
    assert verify(root) == []


def test_the_beginning_is_missing_if_no_checkpoint_stands_for_it(root):
    for ref in list_checkpoints(root):
        shutil.rmtree(ref.path)
    logs(root)[0].unlink()
    (damage,) = verify(root)
    assert damage.path.name == "00000000000000000001.tlog"
    assert damage.transactions == range(1, 5)


def test_a_log_that_ends_before_the_newest_checkpoint(root):
    for path in logs(root)[1:]:
        path.unlink()
    (damage,) = verify(root)
    assert damage.path == logs(root)[0]
    assert damage.transactions == range(5, 9)
    assert "checkpoint" in damage.problem


def test_a_store_of_checkpoints_alone_is_clean(root):
    shutil.rmtree(root / "log")
    shutil.rmtree(root / "deltas")
    assert verify(root) == []


def test_a_log_that_begins_with_a_checkpoint_of_what_came_before_is_clean(root):
    shutil.rmtree(root / "log")
    with mmsb.open(root) as mem:
        mem.checkpoint()
        mem.update("bits", torch.ones(24, dtype=torch.int16))
    assert len(logs(root)) == 3
    assert verify(root) == []


def test_a_checkpoint_before_the_first_transaction_is_clean(tmp_path):
    with mmsb.open(tmp_path / "new.mmsb") as mem:
        mem.checkpoint()
        mem.page("w", torch.ones(3))
    assert verify(tmp_path / "new.mmsb") == []


# records and files that are whole, and not where they belong


def test_a_record_that_was_taken_out(root):
    path, item = commit(root, 6)
    raw = path.read_bytes()
    path.write_bytes(raw[: item.offset] + raw[item.offset + item.header.span :])
    (damage,) = verify(root)
    assert (damage.path, damage.start, damage.torn) == (path, item.offset, False)
    assert 6 in damage.transactions
    assert "does not follow" in damage.problem


def test_a_record_that_was_put_in_twice(root):
    path, item = commit(root, 6)
    raw, stop = path.read_bytes(), item.offset + item.header.span
    path.write_bytes(raw[:stop] + raw[item.offset : stop] + raw[stop:])
    (damage,) = verify(root)  # what follows the copy follows the original, too
    assert (damage.start, damage.stop) == (stop, stop + item.header.span)
    assert "does not follow" in damage.problem


def test_two_records_next_to_each_other_are_one_range(root):
    path, item = commit(root, 6)
    _, after = commit(root, 7)
    raw = path.read_bytes()
    path.write_bytes(flipped(flipped(raw, item.offset + 20, 1), after.offset + 9, 1))
    (damage,) = verify(root)
    assert (damage.start, damage.stop) == (item.offset, after.offset + after.header.span)
    assert damage.transactions == range(6, 8)


def test_a_damaged_header_of_a_file_hides_no_break_of_the_chain(root):
    first, second, _ = logs(root)
    end = records(first, root)[-1]  # the CHECKPOINT
    first.write_bytes(first.read_bytes()[: end.offset])
    second.write_bytes(flipped(second.read_bytes(), 9, 1))
    header, record = verify(root)
    assert (header.path, header.start, header.stop) == (second, 0, HEADER_BYTES)
    assert (record.path, record.start) == (second, HEADER_BYTES)
    assert "does not follow" in record.problem


def test_a_log_file_of_another_store(root, tmp_path):
    with mmsb.open(tmp_path / "other.mmsb") as mem:
        mem.page("w", randn(0, 4))
    path = logs(root)[1]
    shutil.copy(logs(tmp_path / "other.mmsb")[0], path)
    (damage,) = verify(root)
    assert (damage.path, damage.start, damage.stop) == (path, 0, path.stat().st_size)
    assert damage.transactions == range(5, 9)
    assert "belongs to the store" in damage.problem


def test_a_log_file_under_another_name(root):
    path = logs(root)[1]
    path.rename(path.with_name("00000000000000000006.tlog"))
    found = verify(root)
    assert {damage.path.name for damage in found} == {"00000000000000000006.tlog"}
    assert "is named 6 and begins with transaction 5" in found[0].problem


@pytest.mark.parametrize("how", ["link", "folder"])
def test_a_log_file_that_is_no_file(root, tmp_path, how):
    path = logs(root)[1]
    path.rename(tmp_path / "away")
    if how == "link":
        path.symlink_to(tmp_path / "away")
    else:
        path.mkdir()
    (damage,) = verify(root)
    assert (damage.path, damage.transactions) == (path, range(5, 9))


def test_a_newer_format_is_refused_rather_than_judged(root):
    path = logs(root)[1]
    raw = path.read_bytes()
    header = FileHeader.unpack(raw)
    path.write_bytes(header._replace(version=2).pack() + raw[HEADER_BYTES:])
    with pytest.raises(UnsupportedError, match="version 2"):
        verify(root)


# what only a writer can have written


def append(root, *items):
    """Append records (kind, transaction, body) after the last one."""
    path = logs(root)[-1]
    last = records(path, root)[-1]
    end = End(path, path.stat().st_size, last.chain)
    writer = LogWriter(root, uuid_of(root), end, "none")
    try:
        return [writer.append(kind, tx, [body], 1)[1] for kind, tx, body in items]
    finally:
        writer._files.close(writer._fd)


def test_a_whole_record_whose_payload_cannot_be_read(root):
    good = commit(root, 10)
    body = good[0].read_bytes()[good[1].offset + 64 : good[1].offset + 64 + good[1].header.length]
    for junk in (b"", b"junk", body):  # the last says that it is transaction 10
        shutil.copy(good[0], good[0].with_suffix(".kept"))
        (record,) = append(root, (Kind.COMMIT, 12, junk))
        (damage,) = verify(root)
        assert (damage.path, damage.transactions) == (good[0], range(12, 13))
        start = record.offset + HEADER_BYTES
        assert (damage.start, damage.stop, damage.torn) == (start, start + len(junk), False)
        good[0].with_suffix(".kept").rename(good[0])


@pytest.mark.parametrize("last", [14, 2**64 - 1])
def test_a_gap_in_the_numbers_of_an_unbroken_chain(root, last):
    append(root, (Kind.SEAL, last, b""))
    (damage,) = verify(root)
    assert damage.transactions == range(12, last + 1)
    assert damage.problem == f"transactions 12 to {last} are missing"


def test_a_transaction_that_is_there_twice(root):
    path, item = commit(root, 10)
    body = path.read_bytes()[item.offset + 64 : item.offset + 64 + item.header.length]
    append(root, (Kind.COMMIT, 10, body), (Kind.SEAL, 11, b""))
    (damage,) = verify(root)
    assert damage.transactions == range(10, 11)
    assert "again" in damage.problem


def test_what_was_taken_back_is_no_damage(root):
    path, item = commit(root, 10)
    body = path.read_bytes()[item.offset + 64 : item.offset + 64 + item.header.length]
    append(root, (Kind.COMMIT, 12, b"junk"), (Kind.ROLLBACK, 12, b""))
    assert verify(root) == []
    append(root, (Kind.COMMIT, 12, b"junk"))
    (damage,) = verify(root)
    assert damage.transactions == range(12, 13)
    append(root, (Kind.ROLLBACK, 12, b""), (Kind.SEAL, 11, b""))
    assert verify(root) == []
    assert body


# disks and writers


class Unreadable(Files):
    """A disk with a bad sector in one file."""

    def __init__(self, path, at):
        self._path, self._at, self._fd = path, at, None

    def open(self, path, flags, mode=0o666):
        fd = super().open(path, flags, mode)
        if path == self._path:
            self._fd = fd
        elif fd == self._fd:
            self._fd = None
        return fd

    def pread(self, fd, into, offset):
        if fd == self._fd and offset <= self._at < offset + len(into):
            raise OSError(5, "Input/output error")
        return super().pread(fd, into, offset)


def test_a_bad_sector_is_named_and_the_next_file_is_read(root):
    path, item = commit(root, 6)
    other = logs(root)[2]
    other.write_bytes(flipped(other.read_bytes(), HEADER_BYTES + 70, 1))
    disk = Unreadable(path, item.offset + 80)
    bad, flaw = verify_log(root, uuid_of(root), [8], disk)
    assert (bad.path, bad.start, bad.stop) == (path, item.offset, path.stat().st_size)
    assert bad.transactions == range(6, 9)
    assert "Input/output" in bad.problem
    assert flaw.path == other


class Growing(Files):
    """A disk on which a writer goes on while a file is read: `then` runs before the second look at it."""

    def __init__(self, path, then):
        self._path, self._then, self._fd, self.looks = path, then, None, 0

    def open(self, path, flags, mode=0o666):
        fd = super().open(path, flags, mode)
        if path == self._path:
            self._fd, self.looks = fd, 0
        return fd

    def stat(self, fd):
        if fd == self._fd:
            self.looks += 1
            if self.looks == 2:
                self._then()
        return super().stat(fd)


@pytest.mark.parametrize("cut", [1, 70, 300])
def test_a_record_that_is_being_written_is_no_torn_tail(root, cut):
    path = logs(root)[2]
    raw = path.read_bytes()
    path.write_bytes(raw[:-cut])
    (damage,) = verify_log(root, uuid_of(root), [8])
    assert damage.torn
    disk = Growing(path, lambda: path.write_bytes(raw))
    assert verify_log(root, uuid_of(root), [8], disk) == []
    assert disk.looks == 2


class Removing(Files):
    """A disk on which a writer removes the oldest checkpoint as soon as somebody has listed them."""

    def listdir(self, path):
        names = super().listdir(path)
        if path.name == "checkpoints":
            shutil.rmtree(path / min(names))
        return names


def test_a_checkpoint_that_a_writer_removes_meanwhile_is_no_damage(root):
    with Store.open(root, files=Removing()) as store:
        assert store.verify() == []
    assert [ref.tx for ref in list_checkpoints(root)] == [8]


def test_beside_a_writer_nothing_is_reported(tmp_path):
    path = tmp_path / "live.mmsb"
    with mmsb.open(path) as mem:
        mem.page("w", torch.zeros(300, 300))
        for step in range(40):
            mem.update("w", float(step))
            if step % 10 == 9:
                mem.checkpoint(keep=1)
            assert verify(path) == []


def test_it_reads_only_and_takes_no_lock(root, kit):
    with mmsb.open(root):
        before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
        with Store.open(root, files=kit.ReadOnlyFiles()) as store:
            store.verify()
        assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_one_record_is_held_at_a_time(tmp_path):
    path = tmp_path / "long.mmsb"
    with mmsb.open(path, durability="none") as mem:
        mem.page("w", torch.zeros(160, 160))
        for seed in range(60):
            mem.update("w", randn(seed, 160, 160))
        uuid = uuid_of(path)
        assert sum(file.stat().st_size for file in logs(path)) > 6_000_000
        tracemalloc.start()
        try:
            assert verify_log(path, uuid) == []
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 1_000_000


def test_no_descriptor_is_left_open(root, kit):
    path = logs(root)[1]
    path.write_bytes(flipped(path.read_bytes(), 300, 1))
    logs(root)[0].write_bytes(b"junk")
    before = kit.descriptors()
    assert len(verify(root)) == 2
    assert kit.descriptors() == before


def test_damage_says_where_it_is(root):
    path, item = commit(root, 6)
    path.write_bytes(flipped(path.read_bytes(), item.offset + 70, 1))
    (damage,) = verify(root)
    assert str(path) in str(damage)
    assert f"bytes {damage.start} to {damage.stop}" in str(damage)
