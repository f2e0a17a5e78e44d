"""Stores to look into, and a way to run `mmsb` in this process."""

import json
import shutil

import pytest
import torch
from click.testing import CliRunner

import mmsb_torch as mmsb
from mmsb_torch.cli.commands import mmsb as program
from mmsb_torch.runtime.store.logfile import list_logs


def randn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Result:
    """What a run of `mmsb` printed, and its exit code; no traceback, ever."""

    def __init__(self, done):
        self.code, self.out, self.err = done.exit_code, done.stdout, done.stderr
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        assert "Traceback" not in done.output

    @property
    def json(self):
        return json.loads(self.out)


def run(*args):
    return Result(CliRunner().invoke(program, [str(arg) for arg in args]))


@pytest.fixture(scope="session", name="run")
def run_fixture():
    return run


def build(live, copy):
    """Transactions 1 to 9, checkpoints after 5 and 7, and a copy as a kill would leave it."""
    with mmsb.open(live) as mem:
        mem.page("w", randn(0, 10, 4), metadata={"of": "tests"})
        mem.page("large", randn(1, 600, 600))
        total = mem.derive(lambda w: w.sum(), "w", name="total")
        assert total.tensor.numel() == 1  # computed now
        mem.page("flags", torch.zeros(6, dtype=torch.bool))
        mem.update("w", torch.ones(2, 4), rows=[3, 7])
        with mem.commit("first", step=10) as tx:
            tx.update("w", 2.0)
            tx.update("flags", torch.tensor([True]), indices=[2])
        mem.checkpoint()
        mem.update("large", 0.0, rows=[5])
        mem.page("late", torch.arange(3, dtype=torch.int16))
        assert total.tensor.item() == 80.0
        mem.checkpoint()
        with mem.commit("second", step=20) as tx:
            tx.update("w", float("nan"), rows=[0])
        with mem.commit("first") as tx:
            tx.update("late", -1, indices=[0])
        shutil.copytree(live, copy)


@pytest.fixture(scope="session")
def pristine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    build(folder / "live.mmsb", folder / "run.mmsb")
    return folder / "run.mmsb"


@pytest.fixture
def root(pristine, tmp_path):
    """A store of this test's own."""
    copy = tmp_path / "run.mmsb"
    shutil.copytree(pristine, copy)
    return copy


def contents(root):
    """Everything in a folder: what must not change."""
    return {
        path: (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in sorted([root, *root.rglob("*")])
    }


class Kit:
    """The helpers above, and where the log is."""

    randn = staticmethod(randn)
    contents = staticmethod(contents)

    @staticmethod
    def logs(root):
        return [path for _, path in list_logs(root)]

    @staticmethod
    def flip(path, at, mask=0xFF):
        raw = bytearray(path.read_bytes())
        raw[at] ^= mask
        path.write_bytes(raw)

    @staticmethod
    def cut(path, nbytes):
        path.write_bytes(path.read_bytes()[:-nbytes])


@pytest.fixture(scope="session")
def kit():
    return Kit
