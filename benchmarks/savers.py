"""What else people save whole states with. Each waits for the disk; some need packages of their own."""

import importlib.util
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint import FileSystemWriter


class Saver:
    """Saves states of the same shape into one folder, again and again."""

    package = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    @classmethod
    def installed(cls) -> bool:
        return cls.package is None or importlib.util.find_spec(cls.package) is not None

    def begin(self, state: dict) -> None:
        """What is done once, before anything is saved."""

    def save(self, state: dict) -> None:
        """Save all of `state`."""
        raise NotImplementedError

    def save_updates(self, state: dict, updates: list) -> None:
        """Save `state`, in which `updates` (name, values, rows or None) changed, if it can do so."""
        del updates
        self.save(state)

    def tidy(self) -> None:
        """What does not count: done between two saves."""


class TorchSave(Saver):
    name = "torch.save"

    def save(self, state):
        torch.save(state, self.folder / "state")
        _sync(self.folder / "state")


class Safetensors(Saver):
    name = "safetensors"

    def save(self, state):
        save_file(state, self.folder / "state")
        _sync(self.folder / "state")


class Distributed(Saver):
    name = "torch.distributed.checkpoint"

    def save(self, state):
        writer = FileSystemWriter(self.folder, sync_files=True)
        dcp.save(state, storage_writer=writer, no_dist=True)


class Torchsnapshot(Saver):
    """It does not sync by itself; each snapshot has a folder of its own."""

    name, package = "torchsnapshot", "torchsnapshot"

    def save(self, state):
        import torchsnapshot  # noqa: PLC0415 - optional

        app = {"state": torchsnapshot.StateDict(**state)}
        torchsnapshot.Snapshot.take(str(self.folder / "snapshot"), app)
        for file in self.folder.rglob("*"):
            _sync(file)

    def tidy(self):
        shutil.rmtree(self.folder / "snapshot")


class Tensorstore(Saver):
    """OCDBT, which syncs its files; it is told which rows changed, where that is known."""

    name, package = "tensorstore, OCDBT", "tensorstore"

    def begin(self, state):
        import tensorstore as ts  # noqa: PLC0415 - optional

        self._ts = ts
        base = {"driver": "file", "path": str(self.folder), "file_io_sync": True}
        self._arrays = {
            name: ts.open(
                {"driver": "zarr3", "kvstore": {"driver": "ocdbt", "base": base, "path": f"{n}/"}},
                dtype=ts.float32,
                shape=list(value.shape),
                chunk_layout=ts.ChunkLayout(
                    chunk_shape=[min(256, value.shape[0]), *value.shape[1:]]
                ),
                create=True,
            ).result()
            for n, (name, value) in enumerate(state.items())
        }
        self.save(state)

    def save(self, state):
        self._write([(name, value, None) for name, value in state.items()])

    def save_updates(self, state, updates):
        del state
        self._write(updates)

    def _write(self, updates):
        with self._ts.Transaction() as transaction:
            for name, value, rows in updates:
                array = self._arrays[name].with_transaction(transaction)
                array[slice(None) if rows is None else rows.numpy()] = value.numpy()


SAVERS = (TorchSave, Safetensors, Distributed, Torchsnapshot, Tensorstore)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
