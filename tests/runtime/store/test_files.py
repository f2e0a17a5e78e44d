import errno
import os
import stat

import pytest

from mmsb_torch.errors import CorruptStoreError, StoreError
from mmsb_torch.runtime.store import files
from mmsb_torch.runtime.store.files import Files, exists, store_error, sync_folder
from mmsb_torch.runtime.store.streams import (
    CHUNK_BYTES,
    EARLY_BYTES,
    create_file,
    new_file,
    open_file,
    publish_file,
    read_file,
)


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EACCES, "owner and mode"),
        (errno.EROFS, "reading only"),
        (errno.EIO, "device failed"),
        (errno.EXDEV, "Check the path and the disk"),
    ],
)
def test_errors_name_the_path_the_reason_and_what_to_do(tmp_path, code, advice):
    error = store_error("write", tmp_path / "a", OSError(code, "x"))
    assert f"cannot write '{tmp_path}/a': {os.strerror(code)}. " in str(error)
    assert advice in str(error)
    assert error.errno == code
    assert error.filename == str(tmp_path / "a")
    assert isinstance(error, OSError)


@pytest.mark.parametrize(
    "sizes", [[], [0], [1] * 9, [CHUNK_BYTES], [7, CHUNK_BYTES + 1, 5, 300_000]]
)
def test_pieces_of_any_size_come_back(tmp_path, sizes):
    pieces = [os.urandom(size) for size in sizes]
    with new_file(tmp_path / "a") as sink:
        for number, piece in enumerate(pieces):
            sink.write(memoryview(piece) if number % 2 else piece)
    whole = b"".join(pieces)
    assert sink.record() == create_file(tmp_path / "b", whole).__class__(
        "a", len(whole), sink.record().digest
    )
    assert read_file(tmp_path / "a", len(whole)) == whole
    with open_file(tmp_path / "a") as source:
        assert [source.take(len(piece)) for piece in pieces] == pieces
        assert source.left == 0
        assert source.digest() == sink.record().digest


def test_the_digest_of_a_file_partly_read_is_that_of_all(tmp_path):
    record = create_file(tmp_path / "a", os.urandom(3 * CHUNK_BYTES + 11))
    for count in (0, 5, CHUNK_BYTES + 3):
        with open_file(tmp_path / "a") as source:
            source.take(count)
            assert source.digest() == record.digest


def test_short_reads_and_writes_are_continued(tmp_path, kit):
    class Stutter(kit.FastFiles):
        def read(self, fd, into):
            return super().read(fd, into[: max(1, len(into) // 3)])

        def write(self, fd, data):
            return super().write(fd, data[: max(1, len(data) // 3)])

    data = os.urandom(2 * CHUNK_BYTES + 5)
    record = create_file(tmp_path / "a", data, Stutter())
    assert record.nbytes == len(data)
    assert read_file(tmp_path / "a", len(data), Stutter()) == data


def test_a_disk_that_writes_nothing_is_an_error(tmp_path, kit):
    class Stuck(kit.FastFiles):
        def write(self, fd, data):
            return 0

    with pytest.raises(StoreError, match="cannot write"):
        create_file(tmp_path / "a", b"x", Stuck())
    assert not exists(tmp_path / "a")


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    create_file(tmp_path / "a", b"x" * 100)
    with open_file(tmp_path / "a") as source:
        os.truncate(tmp_path / "a", 50)
        with pytest.raises(CorruptStoreError, match="became shorter"):
            source.take(100)


def test_publish_replaces_whole(tmp_path):
    publish_file(tmp_path / "a", b"one")
    publish_file(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"two"
    assert len(list(tmp_path.iterdir())) == 1


def test_publish_that_fails_leaves_the_old_file(tmp_path, kit):
    publish_file(tmp_path / "a", b"old")
    counter = kit.FaultyFiles()
    publish_file(tmp_path / "a", b"old", counter)
    for number, name in enumerate(counter.calls):
        faulty = kit.FaultyFiles(number, errno.EIO)
        with pytest.raises(StoreError):
            publish_file(tmp_path / "a", b"new", faulty)
        renamed = "rename" in counter.calls[:number]
        assert (tmp_path / "a").read_bytes() == (b"new" if renamed else b"old"), name
        assert kit.names(tmp_path) == ["a"]
        publish_file(tmp_path / "a", b"old", kit.FastFiles())


def test_new_files_are_synced_before_they_are_closed(tmp_path, kit):
    counter = kit.FaultyFiles()
    create_file(tmp_path / "a", b"x", counter)
    assert counter.calls == ["open", "write", "fsync", "close"]
    assert stat.S_ISREG((tmp_path / "a").stat().st_mode)


class Early(Files):
    """The real disk, which notes what it was asked to begin with, and when."""

    def __init__(self):
        self.calls = []

    def begin_sync(self, fd, offset, nbytes):
        self.calls.append((offset, nbytes))
        super().begin_sync(fd, offset, nbytes)

    def fsync(self, fd):
        self.calls.append("fsync")
        super().fsync(fd)


@pytest.mark.parametrize("known", [True, False])
def test_the_disk_begins_early_with_large_files_that_are_synced(tmp_path, known, monkeypatch):
    if not known:
        monkeypatch.setattr(files, "_sync_file_range", None)
    data = os.urandom(2 * EARLY_BYTES + CHUNK_BYTES + 5)
    disk = Early()
    record = create_file(tmp_path / "a", data, disk)
    assert disk.calls == [(0, EARLY_BYTES), (EARLY_BYTES, EARLY_BYTES), "fsync"]
    assert record.nbytes == len(data)
    assert (tmp_path / "a").read_bytes() == data
    disk = Early()
    with new_file(tmp_path / "b", disk, sync=False) as sink:
        sink.write(data)
    assert disk.calls == []
    create_file(tmp_path / "c", data[: EARLY_BYTES - 1], disk)
    assert disk.calls == ["fsync"]


def test_a_file_system_without_folder_sync_is_left_alone(tmp_path, kit):
    counter = kit.FaultyFiles()
    sync_folder(tmp_path, counter)
    number = counter.calls.index("fsync")
    sync_folder(tmp_path, kit.FaultyFiles(number, errno.EINVAL))
    with pytest.raises(StoreError, match="fsync the folder"):
        sync_folder(tmp_path, kit.FaultyFiles(number, errno.EIO))


def test_the_umask_decides_who_reads(tmp_path):
    before = os.umask(0o027)
    try:
        create_file(tmp_path / "a", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
