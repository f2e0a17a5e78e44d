"""A page to Arrow and back, beside what a copy of its bytes costs (numpy), in GB/s."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.table import Table
from timing import medians

import mmsb_torch as mmsb
from mmsb_torch.testing.strategies import random_bits

NBYTES = 64 << 20
WIDTH = 256
DTYPES = (torch.float32, torch.bfloat16, torch.complex64, torch.bool)


def table() -> Table:
    shown = Table(
        title=f"Arrow: GB/s of the page's bytes ({NBYTES >> 20} MiB), and parts of a copy"
    )
    for name in (
        "dtype",
        "numpy copy",
        "mem.page(tensor)",
        "to Arrow",
        "there and back",
        "by IPC",
        "by Parquet",
        "shared",
    ):
        shown.add_column(name, justify="right")
    for dtype in DTYPES:
        shown.add_row(str(dtype).removeprefix("torch."), *_row(dtype))
    return shown


def _row(dtype: torch.dtype) -> list[str]:
    mem = mmsb.open()
    page = mem.page("p", random_bits((NBYTES // dtype.itemsize // WIDTH, WIDTH), dtype, 0))
    sent = mmsb.page_to_arrow(page)
    array = page.tensor.view(torch.uint8).numpy()

    def back(table: pa.Table) -> None:
        mmsb.arrow_to_page(mmsb.open(), table)

    found = medians(
        {
            "copy": array.copy,
            "page": lambda: mmsb.open().page("p", page.tensor),
            "to": lambda: mmsb.page_to_arrow(page),
            "both": lambda: back(mmsb.page_to_arrow(page)),
            "ipc": lambda: back(_ipc(mmsb.page_to_arrow(page))),
            "parquet": lambda: back(_parquet(mmsb.page_to_arrow(page))),
        },
        calls=1,
        rounds=9,
    )
    floor, rate = found["copy"], {name: NBYTES / micros / 1e3 for name, micros in found.items()}
    cells = [f"{rate[name]:.2f} ({floor / found[name]:.2f}x)" for name in found]
    if dtype is not torch.bool:
        cells[2] = f"{found['to']:.0f} us"  # moves no bytes
    buffer = sent["value"].chunk(0).flatten().buffers()[1]
    return [*cells, "yes" if buffer.address == page.tensor.data_ptr() else "no"]


def _ipc(sent: pa.Table) -> pa.Table:
    raw = io.BytesIO()
    with pa.ipc.new_file(raw, sent.schema) as writer:
        writer.write_table(sent)
    return pa.ipc.open_file(pa.py_buffer(raw.getbuffer())).read_all()


def _parquet(sent: pa.Table) -> pa.Table:
    raw = io.BytesIO()
    pq.write_table(sent, raw, compression="none", use_dictionary=False)
    return pq.read_table(pa.BufferReader(raw.getbuffer()))
