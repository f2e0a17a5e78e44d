"""Committing to disk: bytes and time, against whole-state savers that also wait for the disk."""

import functools
import gc
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch
from rich.table import Table
from safetensors.torch import load, load_file, save_file
from savers import SAVERS, Tensorstore
from timing import medians

import mmsb_torch as mmsb

ROUNDS = 5


def states() -> Table:
    return _in_a_folder(_states)


def small() -> Table:
    return _in_a_folder(_small)


def dense() -> Table:
    return _in_a_folder(_dense_commits)


def opening() -> Table:
    return _in_a_folder(_opening)


def _in_a_folder(job) -> Table:
    folder = Path(tempfile.mkdtemp(prefix="mmsb-bench-"))
    try:
        return job(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _states(folder: Path) -> Table:
    shown = Table(title="one commit: MB written and milliseconds (median), each waits for the disk")
    for name in ("state", "changed MB", "who", "MB", "ms", "of changed"):
        shown.add_column(name, justify="right")
    cases = {
        "96 MB frozen + 3 MB changing": _frozen,
        "1% rows of a 96 MB table": _rows,
        "99 MB, all of it changing": _dense,
    }
    for case, make in cases.items():
        state, change, changed = make()
        jobs = {f"ours, {d}": functools.partial(_ours, folder, d) for d in ("full", "process")}
        jobs |= {saver.name: functools.partial(_saver, folder, saver) for saver in SAVERS}
        for who, job in jobs.items():
            found = job(state, change)
            cells = ["not installed", "", ""]
            if found is not None:
                nbytes, seconds = found
                cells = [f"{nbytes / 1e6:.2f}", f"{seconds * 1e3:.0f}", f"x{nbytes / changed:.3f}"]
            first = case if who == "ours, full" else ""
            shown.add_row(first, f"{changed / 1e6:.2f}", who, *cells)
    return shown


def _frozen():
    state = {f"layer {n}": torch.randn(1000, 1000) for n in range(24)}
    state["head"] = torch.randn(768, 1000)

    def change():
        state["head"] = state["head"] + 1
        return [(name, value, None) for name, value in state.items()]

    return state, change, state["head"].nbytes


def _rows():
    state = {"table": torch.randn(93_750, 256)}

    def change():
        rows = torch.randperm(93_750)[:937]
        values = torch.randn(937, 256)
        state["table"][rows] = values
        return [("table", values, rows)]

    return state, change, 937 * 256 * 4


def _dense():
    state = {f"layer {n}": torch.randn(1000, 1000) for n in range(25)}

    def change():
        for name, value in state.items():
            state[name] = value + 1
        return [(name, value, None) for name, value in state.items()]

    return state, change, 25_000_000 * 4


def _ours(folder, durability, state, change):
    path = folder / "run.mmsb"
    shutil.rmtree(path, ignore_errors=True)
    mem = mmsb.open(path, durability=durability)
    for name, value in state.items():
        mem.page(name, value)
    mem.sync()
    times, sizes = [], []
    for step in range(ROUNDS):
        before, updates = _size(path), change()
        began = time.perf_counter()
        with mem.commit(step=step) as tx:
            for name, value, rows in updates:
                tx.update(name, value, rows=rows)
        times.append(time.perf_counter() - began)
        mem.sync()
        sizes.append(_size(path) - before)
    mem._checkpointed = (mem.tx, *mem._checkpointed[1:])  # the closing checkpoint is not measured
    mem.close()
    return statistics.median(sizes), statistics.median(times)


def _dense_commits(folder: Path) -> Table:
    shown = Table(title="100 MB that all changed, durability full: milliseconds (median)")
    for name in ("tensors", "what", "ms", "beside", "ms", "ratio"):
        shown.add_column(name, justify="right")
    for count in (25, 1):
        sizes = (25_000_000 // count,)
        states = [{f"layer {n}": torch.randn(sizes) for n in range(count)} for _ in range(2)]
        warm = [torch.zeros(sizes) for _ in range(count)]
        mem = mmsb.open(folder / f"{count}.mmsb", durability="full")
        for name, value in states[1].items():
            mem.page(name, value)
        jobs = {
            "a commit": functools.partial(_commit, mem, wait=True),
            "write and fsync of the bytes": functools.partial(_write, folder / "bytes"),
            "a commit until it returns, wait=False": functools.partial(_commit, mem, wait=False),
            "one copy into warm buffers": functools.partial(_copy, warm),
        }
        times = {name: [] for name in jobs}
        for _ in range(2 * ROUNDS):
            for name, job in jobs.items():
                (folder / "bytes").unlink(missing_ok=True)
                state = states[name.endswith("False")]  # the two commits alternate: all changes
                began = time.perf_counter()
                job(state)
                times[name].append((time.perf_counter() - began) * 1e3)
                mem.sync()
        found = {name: statistics.median(spent[4:]) for name, spent in times.items()}
        names = list(found)
        for ours, beside in zip(names[::2], names[1::2], strict=True):
            shown.add_row(
                f"{count} of {100 // count} MB", ours, f"{found[ours]:.0f}", beside, f"{found[beside]:.0f}",
                f"{found[ours] / found[beside]:.2f}",
            )  # fmt: skip
        mem._checkpointed = (mem.tx, *mem._checkpointed[1:])  # as below
        mem.close()
    return shown


def _commit(mem, state, *, wait) -> None:
    with mem.commit(wait=wait) as tx:
        for name, value in state.items():
            tx.update(name, value)


def _copy(warm, state) -> None:
    for buffer, value in zip(warm, state.values(), strict=True):
        buffer.copy_(value)


def _write(path: Path, state) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    for value in state.values():
        left = memoryview(value.view(torch.uint8).numpy())
        while left:
            left = left[os.write(fd, left) :]
    os.fsync(fd)
    os.close(fd)


def _opening(folder: Path) -> Table:
    shown = Table(
        title="1 GB of state from a warm page cache, at a checkpoint: milliseconds (median)"
    )
    for name in ("who", "open", "read every byte", "both", "ours is"):
        shown.add_column(name, justify="right")
    state = {f"layer {n}": torch.randn(4000, 1000) for n in range(64)}
    with mmsb.open(folder / "run.mmsb") as mem:
        for name, value in state.items():
            mem.page(name, value)
    save_file(state, folder / "state")
    del state

    def ours(mapped=False):
        mem = mmsb.open(folder / "run.mmsb", mode="r", mapped=mapped)
        return mem, [page.tensor for page in mem.pages()]

    ways = {
        "ours": ours,
        "ours, mapped=True": lambda: ours(mapped=True),
        "safetensors load_file (mapped)": lambda: (None, load_file(folder / "state").values()),
        "safetensors load (read)": lambda: (None, load((folder / "state").read_bytes()).values()),
    }
    times = {who: [] for who in ways}
    for _ in range(2 + ROUNDS):
        for who, way in ways.items():
            times[who].append(_opened(way))
    both = {who: statistics.median(map(sum, found[2:])) for who, found in times.items()}
    for who, found in times.items():
        load_s, read_s = (statistics.median(part) for part in zip(*found[2:], strict=True))
        shown.add_row(
            who, f"{load_s * 1e3:.0f}", f"{read_s * 1e3:.0f}", f"{both[who] * 1e3:.0f}",
            f"{both[who] / both['ours']:.2f} x as fast",
        )  # fmt: skip
    return shown


def _opened(way) -> tuple[float, float]:
    began = time.perf_counter()
    mem, values = way()
    opened = time.perf_counter()
    assert sum(float(value.sum()) for value in values) != 0
    read = time.perf_counter()
    if mem is not None:
        mem.close()
    del mem, values
    gc.collect()
    return opened - began, read - opened


def _saver(folder, kind, state, change):
    """Bytes written and seconds a save; None if the saver is not installed."""
    if not kind.installed():
        return None
    path, times, sizes = folder / "saver", [], []
    saver = kind(path)
    saver.begin(state)
    for _ in range(ROUNDS):
        updates, before = (
            change(),
            _size(path) if kind is Tensorstore else 0,
        )  # it adds to its files
        began = time.perf_counter()
        saver.save_updates(state, updates)
        times.append(time.perf_counter() - began)
        sizes.append(_size(path) - before)
        saver.tidy()
    del saver
    shutil.rmtree(path)
    return statistics.median(sizes), statistics.median(times)


def _small(folder: Path) -> Table:
    shown = Table(title="small commits (one row of 64 floats), a second")
    for name in ("durability", "one by one", "100 in a transaction"):
        shown.add_column(name, justify="right")
    for durability in ("process", "full", "none"):
        mem = mmsb.open(folder / durability, durability=durability)
        page, value = mem.page("p", torch.randn(10_000, 64)), torch.randn(1, 64)
        count = 200 if durability == "full" else 2000
        began = time.perf_counter()
        for number in range(count):
            mem.update(page, value, rows=[number])
        single = count / (time.perf_counter() - began)
        began = time.perf_counter()
        for number in range(count // 100):
            with mem.commit() as tx:
                for n in range(100):
                    tx.update(page, value, rows=[number * 100 + n])
        batched = count / (time.perf_counter() - began)
        shown.add_row(durability, f"{single:.0f}", f"{batched:.0f}")
        mem.close()
    return shown


def synced() -> Table:
    return _in_a_folder(_synced)


def _synced(folder: Path) -> Table:
    """Turn by turn: a commit that waits for the disk, and what any log on this disk has to do."""
    shown = Table(title="a commit of one row of 64 floats, on the disk: microseconds (median)")
    for name in ("what", "us", "of an append and fdatasync"):
        shown.add_column(name, justify="right")
    mem = mmsb.open(folder / "run.mmsb", durability="full")
    page, value = mem.page("p", torch.randn(10_000, 64)), torch.randn(1, 64)
    before = _size(folder / "run.mmsb")
    mem.update(page, value, rows=[0])
    data = bytes(_size(folder / "run.mmsb") - before)
    appended = os.open(folder / "appended", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    taken = os.open(folder / "taken", os.O_WRONLY | os.O_CREAT)
    os.posix_fallocate(taken, 0, 16 << 20)
    os.fsync(taken)
    jobs = {
        "ours, durability full": lambda: mem.update(page, value, rows=[0]),
        f"append {len(data)} bytes, fdatasync": lambda: _written(appended, data),
        "the same in space that was taken before": lambda: _written(taken, data),
    }
    times = medians(jobs, calls=1, rounds=400)
    floor = list(times.values())[1]
    for what, spent in times.items():
        shown.add_row(what, f"{spent:.0f}", f"x{spent / floor:.2f}")
    mem.close()
    return shown


def _written(fd: int, data: bytes) -> None:
    os.write(fd, data)
    os.fdatasync(fd)


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
