"""A store with all parts to damage, and what shows where its records are."""

import shutil

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.runtime.store import Store, durable
from mmsb_torch.runtime.store.frame import Kind
from mmsb_torch.runtime.store.logfile import LogFile, Record, list_logs

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


class Log:
    """The helpers above."""

    commit = staticmethod(commit)
    files = staticmethod(logs)
    flipped = staticmethod(flipped)
    payload_files = staticmethod(payload_files)
    randn = staticmethod(randn)
    records = staticmethod(records)
    uuid_of = staticmethod(uuid_of)


@pytest.fixture(scope="session")
def log():
    return Log


@pytest.fixture(scope="session", name="verify")
def _verify():
    return verify
