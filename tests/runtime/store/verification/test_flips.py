"""Bytes of a log, its payload files and checkpoints damaged in turn: all of it is named, and no more."""

import random
import shutil

import pytest

import mmsb_torch as mmsb
from mmsb_torch.runtime.store import Files, Store, list_checkpoints
from mmsb_torch.runtime.store.frame import HEADER_BYTES, Kind
from mmsb_torch.runtime.store.log_verification import verify_log
from mmsb_torch.runtime.store.logfile import list_logs


def test_the_store_of_these_tests_has_all_parts(pristine, log):
    assert [first for first, _ in list_logs(pristine)] == [1, 5, 9]
    kinds = [
        item.header.kind for path in log.files(pristine) for item in log.records(path, pristine)
    ]
    assert kinds == [1, 1, 1, 1, 2, 1, 1, 1, 1, 2, 5, 1, 1, 1]
    assert len(log.payload_files(pristine)) == 3
    assert [ref.tx for ref in list_checkpoints(pristine)] == [4, 8]


def test_a_clean_store_has_nothing_to_report(pristine, verify):
    assert verify(pristine) == []


def test_a_payload_file_of_more_than_a_megabyte(tmp_path, log, verify):
    with mmsb.open(tmp_path / "big.mmsb") as mem:
        mem.page("large", log.randn(0, 600, 600))
    (large,) = log.payload_files(tmp_path / "big.mmsb")
    raw = large.read_bytes()
    assert len(raw) > 1 << 20
    assert verify(tmp_path / "big.mmsb") == []
    for at in (0, 9, 500_000, len(raw) - 1):
        large.write_bytes(log.flipped(raw, at, 1))
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
def test_a_flipped_byte_of_the_log_is_named_and_nothing_else(root, number, log):
    path, uuid, bits = log.files(root)[number], log.uuid_of(root), random.Random(number)
    checkpoints = [ref.tx for ref in list_checkpoints(root)]
    good, spans = path.read_bytes(), log.records(path, root)
    headers = [at for item in spans for at in range(item.offset, item.offset + HEADER_BYTES, 5)]
    for at in sorted({*range(number, len(good), 17), *range(0, HEADER_BYTES, 3), *headers}):
        path.write_bytes(log.flipped(good, at, 1 << bits.randrange(8)))
        (damage,) = verify_log(root, uuid, checkpoints)
        assert damage.path == path
        assert damage.start <= at < damage.stop
        assert damage.problem
        assert (damage.torn, damage.transactions) == expected(at, spans, newest=number == 2), at


def test_many_flips_are_all_named_and_every_range_has_one(root, log):
    uuid, rng = log.uuid_of(root), random.Random(5)
    checkpoints = [ref.tx for ref in list_checkpoints(root)]
    originals = {path: path.read_bytes() for path in log.files(root)}
    for _ in range(80):
        flips = {
            (path, rng.randrange(len(originals[path])))
            for path in rng.choices(log.files(root), k=rng.randint(2, 6))
        }
        changed = dict(originals)
        for path, at in flips:
            changed[path] = log.flipped(changed[path], at, 1 << rng.randrange(8))
        for path, raw in changed.items():
            path.write_bytes(raw)
        found = verify_log(root, uuid, checkpoints)
        for path, at in flips:
            assert any(d.path == path and d.start <= at < d.stop for d in found), (path, at)
        for damage in found:
            assert any(p == damage.path and damage.start <= at < damage.stop for p, at in flips)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_flipped_byte_of_a_payload_file_is_named(root, number, log, verify):
    path = log.payload_files(root)[number]
    tx, good = int(path.name[:20]), path.read_bytes()
    for at in [0, 7, 8, 40, len(good) // 2, len(good) - 1]:
        path.write_bytes(log.flipped(good, at, 0x10))
        (damage,) = verify(root)
        assert (damage.path, damage.transactions, damage.torn) == (path, range(tx, tx + 1), False)
        assert damage.start <= at < damage.stop == len(good)


def test_a_payload_file_of_the_wrong_size_is_named_with_what_is_missing_or_too_much(
    root, log, verify
):
    path = log.payload_files(root)[1]
    good = path.read_bytes()
    for raw in (b"", good[:9], good[:-1], good + b"x"):
        path.write_bytes(raw)
        (damage,) = verify(root)
        bounds = sorted([len(raw), len(good)])
        assert (damage.path, damage.start, damage.stop) == (path, *bounds)
        assert "damaged" in damage.problem


@pytest.mark.parametrize("how", ["missing", "link", "folder"])
def test_a_payload_file_that_is_not_there(root, tmp_path, how, verify, log):
    path = log.payload_files(root)[1]
    path.rename(tmp_path / "away")
    if how == "link":
        path.symlink_to(tmp_path / "away")
    elif how == "folder":
        path.mkdir()
    (damage,) = verify(root)
    assert (damage.path, damage.transactions) == (path, range(5, 6))


@pytest.mark.parametrize("tx", [4, 8])
def test_a_flipped_byte_of_a_checkpoint_is_named(root, tx, verify, log):
    folder = next(ref.path for ref in list_checkpoints(root) if ref.tx == tx)
    for path in folder.iterdir():
        good = path.read_bytes()
        for at in [0, 1, len(good) // 3, len(good) // 2, len(good) - 1]:
            path.write_bytes(log.flipped(good, at, 4))
            (damage,) = verify(root)
            assert damage.path == path
            assert damage.start <= at < damage.stop
            assert damage.transactions == range(tx, tx + 1)
        path.write_bytes(good)


def test_a_checkpoint_of_another_store_is_named(root, tmp_path, verify, log):
    with mmsb.open(tmp_path / "other.mmsb") as mem:
        mem.update(mem.page("w", log.randn(0, 4)), log.randn(1, 4))
        for step in range(2):
            mem.update("w", log.randn(step, 4))
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


def test_what_checkpoints_share_is_read_once_and_its_damage_named_for_each(tmp_path, verify, log):
    path = tmp_path / "shared.mmsb"
    with mmsb.open(path) as mem:
        mem.page("quiet", log.randn(0, 300, 300))
        mem.page("w", log.randn(1, 4))
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
    shared[0].write_bytes(log.flipped(shared[0].read_bytes(), 300_000, 1))
    found = verify(path)
    assert {damage.path for damage in found} == {
        item for item in shared if item.stat().st_ino == shared[0].stat().st_ino
    }
