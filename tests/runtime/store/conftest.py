"""What the store's tests share: bit-exact comparison, and disks that fail."""

import os
import warnings
from pathlib import Path

import pytest
import torch

from mmsb_torch.runtime.store import Files, Snapshot, Store, write_checkpoint
from mmsb_torch.testing import FailingDisk


def plain_bytes(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def random_tensor(dtype, shape, seed=0):
    """Random bits, so NaN payloads, -0.0 and subnormals too; a bool is 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    numel = torch.Size(shape).numel()
    top = 2 if dtype == torch.bool else 256
    raw = torch.randint(0, top, (numel * dtype.itemsize,), dtype=torch.uint8, generator=generator)
    return raw.view(dtype).view(shape)


def assert_same(found, expected):
    """Same names in the same order, dtypes, shapes and bits."""
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert plain_bytes(found[name]) == plain_bytes(tensor)


class FastFiles(Files):
    """The real disk without waiting for it: what a test needs that does not cut the power."""

    def fsync(self, fd):
        pass


class ReadOnlyFiles(Files):
    """A read-only disk, also for root: any call that would change something fails."""

    def open(self, path, flags, mode=0o666):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(30, os.strerror(30))
        return super().open(path, flags, mode)

    def _refuse(self, *args):
        raise OSError(30, os.strerror(30))

    write = truncate = fsync = lock = rename = unlink = mkdir = rmdir = _refuse


def forked(child):
    """Run `child()` in a forked process; return its pid. The child never returns from here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: the test runner has threads
        pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        code = int(child() or 0)
    finally:
        os._exit(code)


def exit_code(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture
def root(tmp_path):
    """An empty store."""
    path = tmp_path / "run.mmsb"
    Store.create(path, FastFiles()).close()
    return path


@pytest.fixture
def small():
    """A snapshot of a few bytes that has a native, a mapped, a 0-dim and an empty tensor."""

    def make(tx, seed=0):
        tensors = {
            "w": random_tensor(torch.float32, (2, 3), seed),
            "bits": random_tensor(torch.uint3, (5,), seed + 1),
            "scalar": random_tensor(torch.complex128, (), seed + 2),
            "nothing": random_tensor(torch.bfloat16, (0, 4), seed + 3),
        }
        return Snapshot(tx, tensors, {"pages": [{"name": "w", "epoch": tx}]})

    return make


@pytest.fixture
def put(small):
    """Write a small checkpoint without waiting for the disk; return what was written."""

    def write(root, tx, seed=0, files=None, **options):
        snapshot = small(tx, seed)
        write_checkpoint(root, snapshot, files or FastFiles(), **options)
        return snapshot

    return write


class Kit:
    """The helpers above, for tests that need more than fixtures."""

    plain_bytes = staticmethod(plain_bytes)
    random_tensor = staticmethod(random_tensor)
    assert_same = staticmethod(assert_same)
    forked = staticmethod(forked)
    exit_code = staticmethod(exit_code)
    FastFiles = FastFiles
    FaultyFiles = FailingDisk
    ReadOnlyFiles = ReadOnlyFiles

    @staticmethod
    def names(folder):
        return sorted(path.name for path in Path(folder).iterdir())

    @staticmethod
    def descriptors():
        return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture(scope="session")
def kit():
    return Kit
