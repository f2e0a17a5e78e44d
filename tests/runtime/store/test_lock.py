import errno
import os
import signal
import time

import pytest

from mmsb_torch.errors import StoreError, StoreLockedError
from mmsb_torch.runtime.store import WriterLock


def refused(path):
    try:
        WriterLock(path).close()
    except StoreLockedError:
        return True
    return False


def test_one_writer_in_a_process(tmp_path):
    with WriterLock(tmp_path / "LOCK") as lock:
        assert lock.held
        with pytest.raises(StoreLockedError, match="another handle in this process") as caught:
            WriterLock(tmp_path / "LOCK")
        assert str(tmp_path) in str(caught.value)
        assert " UTC," in str(caught.value)
    assert not lock.held
    lock.close()
    assert not refused(tmp_path / "LOCK")
    assert (tmp_path / "LOCK").exists()


def test_another_process_is_refused_at_once_and_told_by_whom(tmp_path, kit):
    holder = os.getpid()

    def contend():
        begin = time.monotonic()
        try:
            WriterLock(tmp_path / "LOCK")
        except StoreLockedError as error:
            named = f"process {holder} on host" in str(error)
            return 0 if named and time.monotonic() - begin < 1 else 2
        return 3

    with WriterLock(tmp_path / "LOCK"):
        assert kit.exit_code(kit.forked(contend)) == 0


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"pid": "x"}', b"\xff", b"[" * 5000])
def test_a_holder_that_left_no_name(tmp_path, content):
    with WriterLock(tmp_path / "LOCK"):
        (tmp_path / "LOCK").write_bytes(content)
        with pytest.raises(StoreLockedError, match="another process has it open"):
            WriterLock(tmp_path / "LOCK")


def test_death_releases(tmp_path, kit):
    reader, writer = os.pipe()

    def hold():
        lock = WriterLock(tmp_path / "LOCK")
        os.write(writer, b"x")
        time.sleep(60)
        return lock.held

    pid = kit.forked(hold)
    assert os.read(reader, 1) == b"x"
    assert refused(tmp_path / "LOCK")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert not refused(tmp_path / "LOCK")
    os.close(reader)
    os.close(writer)


def test_a_forked_child_neither_has_nor_harms_the_lock(tmp_path, kit):
    with WriterLock(tmp_path / "LOCK") as lock:

        def child():
            before = lock.held
            lock.close()
            return 0 if not before and refused(tmp_path / "LOCK") else 1

        assert kit.exit_code(kit.forked(child)) == 0
        assert lock.held
        assert refused(tmp_path / "LOCK")


def test_a_forked_child_does_not_keep_the_lock_of_a_dead_parent(tmp_path, kit):
    reader, writer = os.pipe()

    def parent():
        lock = WriterLock(tmp_path / "LOCK")
        grandchild = kit.forked(lambda: time.sleep(60))
        os.write(writer, f"{grandchild} ".encode())
        time.sleep(60)
        return lock.held

    pid = kit.forked(parent)
    grandchild = int(os.read(reader, 20))
    assert refused(tmp_path / "LOCK")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    try:
        assert not refused(tmp_path / "LOCK")
    finally:
        os.kill(grandchild, signal.SIGKILL)
        os.close(reader)
        os.close(writer)


def test_forgetting_to_close_is_said_and_mended(tmp_path):
    locks = [WriterLock(tmp_path / "LOCK")]
    with pytest.warns(ResourceWarning, match="unclosed <WriterLock"):
        locks.clear()
    assert not refused(tmp_path / "LOCK")


def test_what_is_no_regular_file_is_refused(tmp_path):
    (tmp_path / "target").touch()
    (tmp_path / "link").symlink_to("target")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("link", "pipe", "folder"):
        with pytest.raises(StoreError, match=name) as caught:
            WriterLock(tmp_path / name)
        assert not isinstance(caught.value, StoreLockedError)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.ENOLCK])
def test_failing_disk(tmp_path, kit, code):
    counter = kit.FaultyFiles()
    WriterLock(tmp_path / "LOCK", counter).close()
    count = kit.descriptors()
    for number in range(len(counter.calls)):
        codes = set()
        try:
            with WriterLock(tmp_path / "LOCK", kit.FaultyFiles(number, code)):
                assert refused(tmp_path / "LOCK")
        except StoreError as error:
            codes.add(error.errno)
        assert codes <= {code}
        assert not refused(tmp_path / "LOCK")
        assert kit.descriptors() == count
