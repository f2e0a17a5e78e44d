"""Bad sectors, writers at work meanwhile, and what looking costs."""

import shutil
import tracemalloc

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.runtime.store import Files, Store, list_checkpoints
from mmsb_torch.runtime.store.frame import HEADER_BYTES
from mmsb_torch.runtime.store.log_verification import verify_log


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


def test_a_bad_sector_is_named_and_the_next_file_is_read(root, log):
    path, item = log.commit(root, 6)
    other = log.files(root)[2]
    other.write_bytes(log.flipped(other.read_bytes(), HEADER_BYTES + 70, 1))
    disk = Unreadable(path, item.offset + 80)
    bad, flaw = verify_log(root, log.uuid_of(root), [8], disk)
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
def test_a_record_that_is_being_written_is_no_torn_tail(root, cut, log):
    path = log.files(root)[2]
    raw = path.read_bytes()
    path.write_bytes(raw[:-cut])
    (damage,) = verify_log(root, log.uuid_of(root), [8])
    assert damage.torn
    disk = Growing(path, lambda: path.write_bytes(raw))
    assert verify_log(root, log.uuid_of(root), [8], disk) == []
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


def test_beside_a_writer_nothing_is_reported(tmp_path, verify):
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


def test_one_record_is_held_at_a_time(tmp_path, log):
    path = tmp_path / "long.mmsb"
    with mmsb.open(path, durability="none") as mem:
        mem.page("w", torch.zeros(160, 160))
        for seed in range(60):
            mem.update("w", log.randn(seed, 160, 160))
        uuid = log.uuid_of(path)
        assert sum(file.stat().st_size for file in log.files(path)) > 6_000_000
        tracemalloc.start()
        try:
            assert verify_log(path, uuid) == []
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 1_000_000


def test_no_descriptor_is_left_open(root, kit, log, verify):
    path = log.files(root)[1]
    path.write_bytes(log.flipped(path.read_bytes(), 300, 1))
    log.files(root)[0].write_bytes(b"junk")
    before = kit.descriptors()
    assert len(verify(root)) == 2
    assert kit.descriptors() == before


def test_damage_says_where_it_is(root, log, verify):
    path, item = log.commit(root, 6)
    path.write_bytes(log.flipped(path.read_bytes(), item.offset + 70, 1))
    (damage,) = verify(root)
    assert str(path) in str(damage)
    assert f"bytes {damage.start} to {damage.stop}" in str(damage)
