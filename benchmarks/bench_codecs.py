"""Bodies of pages and deltas: how much smaller zstd makes them and how fast, level by level.

`table` is behind the rule of `mmsb_torch.runtime.store.codecs.choose`, `forms` behind that of
`contents.smallest`. Speeds are those of the plain bytes, both ways without checksum and envelope.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

import mmsb_torch as mmsb
from mmsb_torch.runtime.store import codecs
from mmsb_torch.runtime.store.contents import smallest
from mmsb_torch.runtime.store.envelope import HEADER_BYTES
from mmsb_torch.types import Delta, Form, Region

SIZE = 1 << 24
"""Bytes of each tensor."""
ROUNDS = 3
WAYS = {"zstd 1": (False, 1), "zstd 3": (False, 3), "sorted, 1": (True, 1), "sorted, 3": (True, 3)}


def table() -> Table:
    shown = Table(title=f"codecs: part left, and MB/s writing / reading ({SIZE >> 20} MiB each)")
    shown.add_column("body", no_wrap=True)
    for name in (*WAYS, "auto"):
        shown.add_column(name, justify="right")
    for name, (width, thing) in things().items():
        body = memoryview(mmsb.serialize_to_bytes(thing))[HEADER_BYTES:]
        cells = []
        for is_sorted, level in WAYS.values():
            codec = codecs.Codec(1, width if is_sorted else 1)
            if is_sorted and width == 1:
                cells.append("")
                continue
            cells.append(_measured(body, codec, lambda b, c=codec, n=level: _zstd(b, c, n)))
        wanted = codecs.choose(body)
        stored = sum(map(len, codecs.pack([body], "auto")[1]))
        kept = "none" if wanted == codecs.PLAIN else f"w{wanted.width}"
        shown.add_row(name, *cells, f"{kept} {stored / len(body):.3f}")
    return shown


def things() -> dict[str, tuple[int, Tensor | Delta]]:
    """What is stored in practice, and the width of its elements; the same in every run."""
    noise = torch.Generator().manual_seed(0)
    words = np.random.default_rng(0).zipf(1.3, SIZE // 8)  # as often as words are in a text
    normal = torch.randn(SIZE // 4, generator=noise)
    weights = (torch.randn(SIZE // 2, generator=noise) * 0.02).bfloat16()
    step = (torch.randn(SIZE // 2, generator=noise) * 1e-5).bfloat16()
    moved = weights + step
    table_of = torch.nn.functional.normalize(torch.randn(SIZE // 1536, 384, generator=noise), dim=1)
    rows = torch.randperm(table_of.shape[0], generator=noise)[: table_of.shape[0] // 2].sort()[0]
    mask = torch.rand(SIZE, generator=noise)
    return {
        "float32 weights": (4, normal),
        "bfloat16 weights": (2, weights),
        "bfloat16 delta, small step": (2, _delta(Region.where(weights != moved), moved)),
        "float32 embeddings, rows": (
            4,
            _delta(Region.rows(tuple(table_of.shape), rows), table_of[rows]),
        ),
        "float32 relu": (4, normal.relu()),
        "float32 one-hot": (4, _one_hot(SIZE // 4, noise)),
        "int64 ids": (8, torch.from_numpy(np.minimum(words, 30_521).astype(np.int64))),
        "int64 positions": (8, torch.arange(SIZE // 8) * 3),
        "bool mask, 1 %": (1, mask < 0.01),
        "bool mask, half": (1, mask < 0.5),
        "int8 weights": (1, (normal * 40).clamp(-127, 127).to(torch.int8)),
        "random bits": (1, torch.randint(0, 256, (SIZE,), dtype=torch.uint8, generator=noise)),
    }


def forms() -> Table:
    shown = Table(title="compress_page: part left by form, then with codec auto, MB/s")
    shown.add_column("page")
    shown.add_column("form")
    for name in ("dense", "dense, auto", "form", "form, auto", "writing", "reading"):
        shown.add_column(name, justify="right")
    noise = torch.Generator().manual_seed(0)
    normal, chance = torch.randn(SIZE // 4, generator=noise), torch.rand(SIZE // 4, generator=noise)
    pages = {"float32 one-hot of 512": _one_hot(SIZE // 4, noise)}
    for share in (0.001, 0.01, 0.1, 0.5, 0.9):
        sparse = torch.where(chance < share, normal, torch.zeros(())).view(-1, 256)
        pages[f"float32, {share:.1%} filled"] = sparse
        pages[f"bfloat16, {share:.1%} filled"] = sparse.bfloat16()
    few = torch.zeros(SIZE // 1024, 256)
    few[:: SIZE // 1024 // 50] = 1.5
    pages["float32, 50 rows filled"] = few
    pages |= {f"bool, {s:.0%} true": chance < s for s in (0.01, 0.1, 0.5)}
    for name, page in pages.items():
        dense = [len(mmsb.serialize_to_bytes(page, codec)) for codec in ("none", "auto")]
        raw = mmsb.compress_page(page)
        small = [len(mmsb.compress_page(page, "none")), len(raw)]
        region, _ = smallest(page)
        form = "packed" if page.dtype is torch.bool else region.form.value
        form = Form.BITS.value if form == Form.MASK.value else form
        cells = [f"{size / page.nbytes:.4f}" for size in (*dense, *small)]
        write = _speed(page.nbytes, lambda p=page: mmsb.compress_page(p))
        read = _speed(page.nbytes, lambda r=raw: mmsb.deserialize_from_bytes(r))
        shown.add_row(name, form, *cells, f"{write:.0f}", f"{read:.0f}")
    return shown


def _delta(region: Region, values: Tensor) -> Delta:
    return Delta(1, 1, 0, region, values, 1, "user")


def _one_hot(count: int, noise: torch.Generator) -> Tensor:
    found = torch.zeros(count // 512, 512)
    hot = torch.randint(0, 512, (count // 512,), generator=noise)
    return found.index_put_((torch.arange(count // 512), hot), torch.ones(()))


def _zstd(body: memoryview, codec: codecs.Codec, level: int) -> list[Any]:
    return codecs.compressed(body, codec.width, level)


def _measured(
    body: memoryview, codec: codecs.Codec, write: Callable[[memoryview], list[Any]]
) -> str:
    raw = memoryview(b"".join(write(body)))
    assert codecs.unpack(raw, codec, len(body), "") == body
    writing = _speed(len(body), lambda: write(body))
    reading = _speed(len(body), lambda: codecs.unpack(raw, codec, len(body), ""))
    return f"{len(raw) / len(body):.3f} {writing:.0f}/{reading:.0f}"


def _speed(nbytes: int, job: Callable[[], object]) -> float:
    """MB/s of the fastest of a few runs: what the machine can do."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        job()
        best = min(best, time.perf_counter() - began)
    return nbytes / 1e6 / best
