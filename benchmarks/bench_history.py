"""History (B6) and small commits (B8) beside what people use for them."""

import importlib.util
import shutil
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path

import torch
from rich.table import Table
from safetensors.torch import load_file, save_file

import mmsb_torch as mmsb

ROWS, WIDTH = 100_000, 512  # 205 MB
EDITS, LOOKS = 100, 20


def history() -> Table:
    """100 edits of a table of 205 MB, then 20 looks back: bytes on disk and milliseconds a look."""
    shown = Table(
        title=f"{EDITS} edits of a table of {ROWS * WIDTH * 4 / 1e6:.0f} MB, {LOOKS} looks back"
    )
    for name in (
        "an edit changes",
        "who",
        "MB on disk",
        "of what changed",
        "ms an edit",
        "ms a look",
    ):
        shown.add_column(name, justify="left" if name in {"an edit changes", "who"} else "right")
    for title, rows, edits in (
        ("1 row", 1, EDITS),
        ("1 %", ROWS // 100, EDITS),
        ("100 %", ROWS, 5),
    ):
        for who, job in (("ours", _ours), ("a safetensors file each", _copies)):
            count = edits if who == "ours" else min(edits, 5)
            nbytes, edit_s, look_s = _in_a_folder(lambda f, job=job, c=count, r=rows: job(f, c, r))
            changed = count * rows * WIDTH * 4
            shown.add_row(
                title if who == "ours" else "", f"{who}, {count} edits", f"{nbytes / 1e6:.1f}",
                f"x{nbytes / changed:.2f}", f"{edit_s * 1e3:.1f}", f"{look_s * 1e3:.0f}",
            )  # fmt: skip
    return shown


def _in_a_folder(job):
    folder = Path(tempfile.mkdtemp(prefix="mmsb-bench-"))
    try:
        return job(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _change(number, rows):
    generator = torch.Generator().manual_seed(number)
    index = torch.randperm(ROWS, generator=generator)[:rows].sort()[0]
    return index, torch.randn(rows, WIDTH, generator=generator)


def _ours(folder, count, rows):
    """The bytes of the table itself are left out: both have to have it once."""
    edits, looks = [], []
    with mmsb.open(folder / "run.mmsb", compaction=False) as mem:
        page = mem.page("table", torch.randn(ROWS, WIDTH))
        mem.checkpoint()
        before = _size(folder)
        for number in range(count):
            index, values = _change(number, rows)
            began = time.perf_counter()
            mem.update(page, values, rows=None if rows == ROWS else index)
            edits.append(time.perf_counter() - began)
        mem.sync()
        nbytes = _size(folder) - before
        for number in range(0, count, max(count // LOOKS, 1)):
            began = time.perf_counter()
            _ = mem.at(number + 2)["table"]
            looks.append(time.perf_counter() - began)
    return nbytes, statistics.median(edits), statistics.median(looks)


def _copies(folder, count, rows):
    table, edits, looks = torch.randn(ROWS, WIDTH), [], []
    for number in range(count):
        index, values = _change(number, rows)
        began = time.perf_counter()
        table[index] = values
        save_file({"table": table}, folder / str(number))
        edits.append(time.perf_counter() - began)
    nbytes = _size(folder)
    for number in range(count):
        began = time.perf_counter()
        _ = load_file(folder / str(number))["table"].clone()
        looks.append(time.perf_counter() - began)
    return nbytes, statistics.median(edits), statistics.median(looks)


def _size(folder):
    files = {p.stat().st_ino: p.stat().st_size for p in folder.rglob("*") if p.is_file()}
    return sum(files.values())


def peers() -> Table:
    """Small commits a second beside SQLite and LMDB, which have the rows as blobs under a key."""
    shown = Table(title="one row of 64 floats a commit, a second; and 100 in a transaction")
    for name in ("who", "one by one", "100 in a transaction"):
        shown.add_column(name, justify="left" if name == "who" else "right")
    for who, job in (
        ("ours, process", lambda f: _mmsb(f, "process", 2000)),
        ("SQLite, WAL, synchronous=OFF", lambda f: _sqlite(f, "OFF", 2000)),
        ("LMDB, sync=False", lambda f: _lmdb(f, 2000, sync=False)),
        ("ours, full", lambda f: _mmsb(f, "full", 300)),
        ("SQLite, WAL, synchronous=FULL", lambda f: _sqlite(f, "FULL", 300)),
        ("LMDB, sync=True", lambda f: _lmdb(f, 300, sync=True)),
    ):
        found = _in_a_folder(job)
        shown.add_row(who, *[f"{rate:,.0f}" for rate in found] if found else ["not installed"])
    return shown


def _mmsb(folder, durability, count):
    with mmsb.open(folder / "run.mmsb", durability=durability) as mem:
        page, value = mem.page("p", torch.randn(10_000, 64)), torch.randn(1, 64)
        began = time.perf_counter()
        for number in range(count):
            mem.update(page, value, rows=[number])
        single = count / (time.perf_counter() - began)
        began = time.perf_counter()
        for number in range(0, count, 100):
            with mem.commit() as tx:
                for n in range(100):
                    tx.update(page, value, rows=[number + n])
        return single, count / (time.perf_counter() - began)


def _sqlite(folder, synchronous, count):
    db = sqlite3.connect(folder / "rows.db", isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute(f"PRAGMA synchronous={synchronous}")
    db.execute("CREATE TABLE p (row INTEGER PRIMARY KEY, value BLOB)")
    data = torch.randn(64).numpy().tobytes()
    db.executemany("INSERT INTO p VALUES (?, ?)", [(n, data) for n in range(10_000)])
    change = "UPDATE p SET value = ? WHERE row = ?"
    began = time.perf_counter()
    for number in range(count):
        db.execute(change, (torch.randn(64).numpy().tobytes(), number))
    single = count / (time.perf_counter() - began)
    began = time.perf_counter()
    for number in range(0, count, 100):
        db.execute("BEGIN")
        for n in range(100):
            db.execute(change, (torch.randn(64).numpy().tobytes(), number + n))
        db.execute("COMMIT")
    db.close()
    return single, count / (time.perf_counter() - began)


def _lmdb(folder, count, *, sync):
    """None if it is not installed."""
    if importlib.util.find_spec("lmdb") is None:
        return None
    import lmdb  # noqa: PLC0415 - optional

    with lmdb.open(str(folder), map_size=1 << 28, sync=sync, metasync=sync) as db:
        data = torch.randn(64).numpy().tobytes()
        with db.begin(write=True) as txn:
            for n in range(10_000):
                txn.put(n.to_bytes(8, "big"), data)
        began = time.perf_counter()
        for number in range(count):
            with db.begin(write=True) as txn:
                txn.put(number.to_bytes(8, "big"), torch.randn(64).numpy().tobytes())
        single = count / (time.perf_counter() - began)
        began = time.perf_counter()
        for number in range(0, count, 100):
            with db.begin(write=True) as txn:
                for n in range(number, number + 100):
                    txn.put(n.to_bytes(8, "big"), torch.randn(64).numpy().tobytes())
        return single, count / (time.perf_counter() - began)
