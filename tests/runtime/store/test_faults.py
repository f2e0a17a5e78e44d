"""A disk that fails at every call: what was there stays, errors are typed, litter goes."""

import errno
import shutil

import pytest
import torch

from mmsb_torch.errors import MMSBError, StoreError
from mmsb_torch.runtime.store import (
    Store,
    list_checkpoints,
    load_checkpoint,
    retain,
    verify_checkpoint,
    write_checkpoint,
)


class Trial:
    """One way to fail, tried at each system call of an action in turn.

    Attributes:
        root: a store with the checkpoints 1 and 2, put back before each try.
        expected: what they hold.
    """

    def __init__(self, root, expected, kit, code, persistent):
        self.root, self.expected, self.kit = root, expected, kit
        self._code, self._persistent = code, persistent
        self._model = root.with_name("model")
        shutil.copytree(root, self._model)

    def reset(self):
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self._model, self.root)

    def faulty(self, number):
        return self.kit.FaultyFiles(number, self._code, persistent=self._persistent)

    def each(self, action, reset=None):
        """Yield (name of the call that failed, error or None), after `action` met the failure."""
        reset = reset or self.reset
        reset()
        counter = self.kit.FaultyFiles()
        action(counter)
        assert len(counter.calls) > 5
        for number, name in enumerate(counter.calls):
            reset()
            before = self.kit.descriptors()
            caught = None
            try:
                action(self.faulty(number))
            except StoreError as error:
                caught = error
            assert caught is None or caught.errno == self._code
            assert self.kit.descriptors() == before
            yield name, caught

    def check_intact(self, txs=(1, 2)):
        for tx in txs:
            found = load_checkpoint(self.root, tx)
            self.kit.assert_same(found.tensors, self.expected[tx].tensors)
        for ref in list_checkpoints(self.root):
            assert verify_checkpoint(ref.path) == []

    def names(self):
        return self.kit.names(self.root / "checkpoints")


@pytest.fixture(
    params=[(code, way) for code in (errno.ENOSPC, errno.EIO) for way in (False, True)],
    ids=["ENOSPC-once", "ENOSPC-from-then-on", "EIO-once", "EIO-from-then-on"],
)
def trial(request, root, put, kit):
    return Trial(root, {tx: put(root, tx, seed=tx) for tx in (1, 2)}, kit, *request.param)


def test_writing(trial, put, small):
    root, after = trial.root, small(3, seed=3)
    acknowledged = 0
    for name, error in trial.each(lambda files: write_checkpoint(root, after, files)):
        trial.check_intact()
        if error is None:
            acknowledged += 1
            assert name not in ("write", "fsync", "mkdir", "rename")
            trial.kit.assert_same(load_checkpoint(root).tensors, after.tensors)
        put(root, 4)
        assert not [name for name in trial.names() if name.startswith(".")]
        trial.check_intact()
    assert acknowledged <= 1


def test_replacing(trial, put, small):
    root, old, new = trial.root, trial.expected[2], small(2, seed=77)
    for _, error in trial.each(lambda files: write_checkpoint(root, new, files)):
        found = load_checkpoint(root)
        assert found.tx == 2
        is_new = torch.equal(
            found.tensors["bits"].view(torch.uint8), new.tensors["bits"].view(torch.uint8)
        )
        trial.kit.assert_same(found.tensors, (new if is_new else old).tensors)
        assert is_new or error is not None
        put(root, 3)
        assert trial.names() == [f"{tx:020d}" for tx in (1, 2, 3)]
        trial.kit.assert_same(load_checkpoint(root, 2).tensors, found.tensors)


def test_retaining(trial, put):
    root = trial.root
    for _, error in trial.each(lambda files: retain(root, 1, files)):
        left = [ref.tx for ref in list_checkpoints(root)]
        assert left == [2] or (error is not None and left == [1, 2])
        trial.check_intact(left)
        put(root, 3)
        assert not [name for name in trial.names() if name.startswith(".")]


def test_reading(trial):
    for name, error in trial.each(lambda files: load_checkpoint(trial.root, files=files)):
        assert error is not None, name
        trial.check_intact()


def test_verifying(trial, kit):
    path = list_checkpoints(trial.root)[0].path
    counter = kit.FaultyFiles()
    assert verify_checkpoint(path, counter) == []
    for number, name in enumerate(counter.calls):
        assert verify_checkpoint(path, trial.faulty(number)), name


def test_creating(trial, kit):
    root = trial.root

    def reset():
        shutil.rmtree(root, ignore_errors=True)

    for _, error in trial.each(lambda files: Store.create(root, files).close(), reset):
        if error is None or Store.exists(root):
            Store.open(root, writable=True).close()
        else:
            Store.create(root, kit.FastFiles()).close()
        assert kit.names(root) in (["LOCK", "MMSB.json", "checkpoints"], ["LOCK", "MMSB.json"])


def test_short_writes_are_no_fault(root, small, kit):
    class Stutter(kit.FastFiles):
        def write(self, fd, data):
            return super().write(fd, data[:7])

    snapshot = small(1)
    write_checkpoint(root, snapshot, Stutter())
    kit.assert_same(load_checkpoint(root).tensors, snapshot.tensors)


def test_every_file_and_folder_is_synced_before_the_name_appears(root, small, kit):
    class Watched(kit.FastFiles):
        def open(self, path, flags, mode=0o666):
            fd = super().open(path, flags, mode)
            names[fd] = path.name
            return fd

        def fsync(self, fd):
            events.append(("fsync", names[fd]))

        def rename(self, source, target):
            events.append(("rename", target.name))
            super().rename(source, target)

    names, events = {}, []
    info = write_checkpoint(root, small(1), Watched())
    (temporary,) = {name for _, name in events if name.startswith(".")}
    assert events == [
        ("fsync", "model-00001-of-00001.safetensors"),
        ("fsync", "model.safetensors.index.json"),
        ("fsync", "MMSB_CHECKPOINT.json"),
        ("fsync", temporary),
        ("rename", info.path.name),
        ("fsync", "checkpoints"),
    ]


def test_a_full_disk_says_what_to_do(root, small, kit):
    counter = kit.FaultyFiles()
    write_checkpoint(root, small(1), counter)
    number = counter.calls.index("write")
    with pytest.raises(StoreError, match=r"No space left on device\. Free some space") as caught:
        write_checkpoint(root, small(2), kit.FaultyFiles(number, errno.ENOSPC))
    assert isinstance(caught.value, MMSBError)
