"""The training door (B5): what `track` and a commit at each step cost a loop, and what they write.

Steps are timed with everything that is done between them. Savers save model and optimizer every step, too;
those that wait for the disk are synced.
"""

import importlib.util
import statistics
import tempfile
import time
from pathlib import Path

import torch
from rich.table import Table
from safetensors.torch import save_file
from torch import nn

import mmsb_torch as mmsb


class Job:
    """A model and a step of training."""

    def __init__(self, model, optimizer, batch):
        self.model, self.optimizer, self.batch = model, optimizer, batch

    def step(self):
        self.optimizer.zero_grad()
        self.model(self.batch()).square().mean().backward()
        self.optimizer.step()


def small() -> Job:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
    )
    x = torch.randn(256, 64)
    return Job(model, torch.optim.AdamW(model.parameters()), lambda: x)


def large() -> Job:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 512)
    )
    x = torch.randn(1024, 512)
    return Job(model, torch.optim.AdamW(model.parameters()), lambda: x)


def adapter() -> Job:
    torch.manual_seed(0)
    body = nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(24))).requires_grad_(False)
    head = nn.Sequential(nn.Linear(1024, 128), nn.Linear(128, 1024))
    x = torch.randn(64, 1024)
    return Job(nn.Sequential(body, head), torch.optim.AdamW(head.parameters()), lambda: x)


def rows() -> Job:
    torch.manual_seed(0)
    model = nn.Embedding(375_000, 64, sparse=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Job(model, optimizer, lambda: torch.randint(0, 375_000, (3_750,)))


JOBS = {
    "AdamW, 0.1 MB": (small, 150),
    "AdamW, 25 MB": (large, 12),
    "96 MB frozen, adapter 1 MB": (adapter, 12),
    "1 % rows of 96 MB": (rows, 12),
}


class Plain:
    """No saving."""

    name = "plain"

    def __init__(self, job, folder):
        self.job, self.folder = job, folder

    def save(self, step):
        """Nothing."""

    def close(self):
        """Nothing."""

    def state(self):
        return {"model": self.job.model.state_dict(), "optimizer": self.job.optimizer.state_dict()}


class Track(Plain):
    name = "mmsb.track"

    def __init__(self, job, folder):
        super().__init__(job, folder)
        self.memory = mmsb.open(folder / "run.mmsb", compaction=False)
        self.run = mmsb.track(self.memory, model=job.model, optimizer=job.optimizer)

    def save(self, step):
        self.run.commit(step=step)

    def close(self):
        self.memory.sync()


class TorchSave(Plain):
    name = "torch.save"

    def save(self, step):
        with (self.folder / f"{step}.pt").open("wb") as file:
            torch.save(self.state(), file)


class Safetensors(Plain):
    name = "safetensors"

    def save(self, step):
        slots = self.job.optimizer.state_dict()["state"]
        flat = {
            f"{n}.{k}": v for n, slot in slots.items() for k, v in slot.items() if v is not None
        }
        save_file({**self.job.model.state_dict(), **flat}, self.folder / f"{step}.safetensors")


class DcpAsync(Plain):
    """It waits for the save before, as its documentation asks for."""

    name = "DCP async_save"

    def __init__(self, job, folder):
        super().__init__(job, folder)
        self.last = None

    def save(self, step):
        import torch.distributed as dist  # noqa: PLC0415
        from torch.distributed import checkpoint as dcp  # noqa: PLC0415

        if not dist.is_initialized():
            where = tempfile.mktemp()
            dist.init_process_group("gloo", init_method=f"file://{where}", rank=0, world_size=1)
        self.close()
        self.last = dcp.async_save(self.state(), checkpoint_id=str(self.folder / str(step)))

    def close(self):
        if self.last is not None:
            self.last.result()


class Lightning(Plain):
    """What its ModelCheckpoint calls: Fabric's save of model and optimizer."""

    name = "Lightning"

    def __init__(self, job, folder):
        super().__init__(job, folder)
        from lightning.fabric import Fabric  # noqa: PLC0415 - optional

        self.fabric = Fabric(accelerator="cpu", devices=1)

    def save(self, step):
        self.fabric.save(str(self.folder / f"{step}.ckpt"), self.state())


WAYS = [Plain, Track, TorchSave, Safetensors, DcpAsync]
if importlib.util.find_spec("lightning"):
    WAYS.append(Lightning)


def table() -> Table:
    shown = Table(
        title="a step with a commit or save after it, milliseconds (stall / plain step; MB a step), medians"
    )
    shown.add_column("what")
    for way in WAYS:
        shown.add_column(way.name, justify="right")
    for title, (make, steps) in JOBS.items():
        found = measured(make, steps)
        plain = found["plain"][0]
        cells = [f"{plain:.2f}"]
        for way in WAYS[1:]:
            whole, stall, nbytes = found[way.name]
            cells.append(f"{whole:.2f} (x{stall / plain:.2f}; {nbytes / 1e6:.2f})")
        shown.add_row(title, *cells)
    return shown


def measured(make, steps):
    """Way -> milliseconds of a step with its save, of the save alone, and bytes a save, in turns."""
    times = {way.name: ([], [], []) for way in WAYS}
    for turn in range(3):
        for way in WAYS:
            with tempfile.TemporaryDirectory() as folder:
                whole, stall, nbytes = _timed(way(make(), Path(folder)), steps, Path(folder))
            if turn or steps < 50:
                each = zip(times[way.name], (whole, stall, [nbytes]), strict=True)
                for found, new in each:
                    found.extend(new)
    return {name: [statistics.median(each) for each in found] for name, found in times.items()}


def _timed(saver, steps, folder):
    whole, stall = [], []
    saver.job.step()
    saver.save(0)
    saver.close()
    before = _size(folder)
    for step in range(1, steps + 1):
        began = time.perf_counter()
        saver.job.step()
        done = time.perf_counter()
        saver.save(step)
        end = time.perf_counter()
        whole.append((end - began) * 1e3)
        stall.append((end - done) * 1e3)
    saver.close()
    nbytes = (_size(folder) - before) / steps
    if isinstance(saver, Track):
        saver.memory.close()
    return whole, stall, nbytes


def _size(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    from rich.console import Console

    torch.set_num_threads(1)
    Console(width=160).print(table())
