"""R7: folders and files that may not be written or read: typed errors, and nothing half-made."""

import contextlib
import ctypes
import errno
import os
import shutil
import stat
import tempfile
from pathlib import Path

import pytest
import torch

import mmsb_torch as mmsb
import mmsb_torch.memory.following  # a process without rights may not be able to load it
from mmsb_torch.testing import abandon, opened, same_values, values, work

ROOT = os.geteuid() == 0
NOBODY = 65534
CLONE_NEWNS, MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = (
    0x20000,
    1,
    32,
    4096,
    16384,
    1 << 18,
)


@pytest.fixture
def folder():
    """A folder that anybody may enter, unlike pytest's own."""
    with contextlib.ExitStack() as stack:
        made = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mmsb-rights-")))
        made.chmod(0o755)
        yield made
        for path in [made, *made.rglob("*")]:
            if path.is_dir():
                path.chmod(0o755)


@pytest.fixture
def powerless(kit):
    """Runs a function in a process that no right is waived for; its assertions are this one's."""

    def run(function):
        def child():
            if ROOT:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            function()

        assert kit.exit_code(kit.forked(child)) == 0

    return run


def store(path):
    """A store with everything in it, and its states."""
    with mmsb.open(path) as memory:
        states = work(memory, 9)
        memory.page("big", torch.zeros(300_000))
        states[memory.tx] = values(memory)
        memory.checkpoint()
    memory = mmsb.open(path)
    states |= work(memory, 14, states)
    abandon(memory)
    return states


def protect(path, folders=0o555, files=0o444):
    for item in [path, *path.rglob("*")]:
        item.chmod(folders if item.is_dir() else files)


def picture(path):
    """Names, sizes, modes and times of all there is."""
    found = {}
    for item in [path, *path.rglob("*")]:
        status = item.lstat()
        found[item] = status.st_size, status.st_mode, status.st_mtime_ns, status.st_ino
    return found


def refused(call, *codes):
    with pytest.raises(mmsb.StoreError) as caught:
        call()
    assert caught.value.errno in codes, caught.value
    assert len(str(caught.value)) > 30


@pytest.mark.parametrize("mode", ["r", "follow"])
def test_a_store_that_may_only_be_read_is_read(folder, powerless, mode, gate):
    states = store(folder / "run.mmsb")
    protect(folder / "run.mmsb")
    before = picture(folder)

    def reader():
        with mmsb.open(folder / "run.mmsb", mode=mode) as memory:
            assert same_values(values(memory), states[14])
            assert all(same_values(dict(memory.at(tx)), states[tx]) for tx in states if tx)
            assert torch.equal(memory.derive(torch.neg, "a", name="minus").tensor, -states[14]["a"])
            assert memory.verify() == []
            with pytest.raises(mmsb.ReadOnlyError):
                memory.update("a", 1.0)

    powerless(reader)
    powerless(lambda: refused(lambda: mmsb.open(folder / "run.mmsb"), errno.EACCES))
    assert picture(folder) == before
    gate.report("R7", 2, lost=0)


def test_a_folder_without_write_bit_gets_no_store(folder, powerless, gate):
    (folder / "closed").mkdir(mode=0o555)
    (folder / "empty.mmsb").mkdir(mode=0o555)
    before = picture(folder)
    for path in (folder / "closed" / "run.mmsb", folder / "empty.mmsb"):
        powerless(lambda path=path: refused(lambda: mmsb.open(path), errno.EACCES))
    for mode in ("r", "follow"):
        powerless(
            lambda mode=mode: refused(
                lambda: mmsb.open(folder / "closed" / "run.mmsb", mode=mode), None
            )
        )
    assert picture(folder) == before
    gate.report("R7", 4, lost=0)


def test_what_may_not_be_read_is_never_taken_for_absent(folder, powerless, gate, kit):
    """Whatever is closed to the reader: an error, or the newest state; never an older one."""
    path = folder / "run.mmsb"
    states = store(path)
    outcomes = {"error": 0, "right": 0}
    for item in sorted([path, *path.rglob("*")]):
        for mode in (0o000, 0o444, 0o111) if item.is_dir() else (0o000,):
            protect(path)
            item.chmod(mode)

            def reader():
                found = opened(path)
                if isinstance(found, mmsb.StoreError):
                    assert found.errno == errno.EACCES, found
                    os._exit(3)
                assert (found[0], same_values(found[1], states[14])) == (14, True)

            def child(reader=reader):
                os.setgroups([]) if ROOT else None
                os.setuid(NOBODY) if ROOT else None
                reader()

            code = kit.exit_code(kit.forked(child))
            assert code in {0, 3}, (item, oct(mode))
            outcomes["error" if code else "right"] += 1
            item.chmod(0o755)
    gate.report("R7", sum(outcomes.values()), **outcomes, silent=0)
    assert outcomes["error"] > 8
    assert outcomes["right"] > 2  # older files, the lock


@pytest.mark.parametrize("part", ["", "log", "checkpoints", "deltas"])
def test_rights_that_go_while_a_writer_works(folder, powerless, part, gate):
    def writer():
        path = folder / "own" / "run.mmsb"
        memory = mmsb.open(path)
        states = work(memory, 6)
        memory.page("big", torch.zeros(300_000))
        memory.checkpoint()
        protect(path / part, files=0o644)
        made = set(path.rglob("*"))
        errors = 0
        for act in (
            lambda: memory.update("a", 1.0),
            lambda: memory.update("big", 1.0),
            memory.checkpoint,
            lambda: memory.update("a", 2.0),
        ):
            try:
                act()
            except mmsb.StoreError as error:
                errors += told(error)
        assert errors
        if part:  # what could be written was
            left = set((path / part).iterdir()) - made
            assert not left, left
        done, state = memory.tx, values(memory)
        with mmsb.open(path, mode="r") as reader:
            assert reader.tx == done
            assert same_values(values(reader), state)
        protect(path, 0o755, 0o644)
        memory.update("a", 3.0)
        memory.checkpoint()
        memory.close()
        with mmsb.open(path) as memory:
            assert memory.tx == done + 1
            assert memory.verify() == []
            assert same_values(dict(memory.at(6)), states[6])
            assert not list((path / "checkpoints").glob(".*"))

    (folder / "own").mkdir()
    if ROOT:
        os.chown(folder / "own", NOBODY, NOBODY)
    powerless(writer)
    gate.report("R7", 4, lost=0)


def told(error):
    assert error.errno == errno.EACCES
    return True


@pytest.mark.skipif(not ROOT, reason="only root may become somebody else")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000, 0o027])
def test_the_store_of_somebody_else(folder, powerless, kit, umask, gate):
    path = folder / "run.mmsb"

    def writer():
        os.umask(umask)
        store(path)

    assert kit.exit_code(kit.forked(writer)) == 0
    before = picture(folder)
    for item, (_, mode, _, _) in before.items():
        if item != folder:
            full = 0o777 if stat.S_ISDIR(mode) else 0o666
            assert stat.S_IMODE(mode) == full & ~umask, (item, oct(mode))

    def stranger():
        found = opened(path)
        if umask & 0o007:
            assert isinstance(found, mmsb.StoreError)
            assert found.errno == errno.EACCES
        else:
            assert found[0] == 14
        if umask:
            refused(lambda: mmsb.open(path), errno.EACCES)
        else:
            with mmsb.open(path) as memory:
                memory.update("a", 1.0)

    powerless(stranger if umask != 0o022 else lambda: _reads_only(path))
    if umask:
        assert picture(folder) == before
    with mmsb.open(path) as memory:  # its owner goes on
        assert memory.tx == 14 + (not umask)
        memory.update("a", 2.0)
    gate.report("R7", 1, lost=0)


def _reads_only(path):
    assert opened(path)[0] == 14
    refused(lambda: mmsb.open(path), errno.EACCES)


@pytest.mark.skipif(not ROOT, reason="only root may mount")
def test_a_file_system_that_is_read_only(folder, kit, gate):
    path = folder / "run.mmsb"
    states = store(path)
    libc = ctypes.CDLL(None, use_errno=True)

    def child():
        name = os.fsencode(folder)
        flags = MS_BIND | MS_REMOUNT | MS_RDONLY
        if (
            libc.unshare(CLONE_NEWNS)
            or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)
            or libc.mount(name, name, None, MS_BIND, None)
            or libc.mount(name, name, None, flags, None)
        ):
            return 77
        assert same_values(opened(path)[1], states[14])
        refused(lambda: mmsb.open(path), errno.EROFS)
        refused(lambda: mmsb.open(folder / "other.mmsb"), errno.EROFS)
        return 0

    before = picture(folder)
    code = kit.exit_code(kit.forked(child))
    if code == 77:
        pytest.skip("mounting is not permitted here")
    assert code == 0
    assert picture(folder) == before
    gate.report("R7", 3, lost=0)
    shutil.rmtree(path)
