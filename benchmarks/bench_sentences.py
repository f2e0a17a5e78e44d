"""Sentences edited among 2,000 (B2): MiniLM on real text, beside the slice by hand and a run in full."""

import statistics
import time

import torch
from rich.table import Table

import mmsb_torch as mmsb
from mmsb_torch.demo.corpus import sentences
from mmsb_torch.demo.encoder import load, tokenise

COUNT, ROUNDS = 2000, {1: 15, 5: 9, 50: 5}


def table() -> Table:
    shown = Table(title="sentences edited among 2,000: update and read, medians")
    for name in ("edited", "ours", "by hand", "in full", "of by hand", "of in full"):
        shown.add_column(name, justify="right")
    torch.manual_seed(0)
    tokenizer, encoder = load()
    texts = sentences(COUNT)
    ids = tokenise(tokenizer, texts)
    with torch.no_grad(), mmsb.open() as memory:
        page = memory.page("ids", ids)
        made = memory.derive(encoder, page, name="embeddings", rows=True)
        began = time.perf_counter()
        made.tensor  # noqa: B018
        full = time.perf_counter() - began
        value = made.tensor.clone()
        for count, rounds in ROUNDS.items():
            ours, hand = [], []
            for turn in range(rounds + 2):
                rows = torch.randperm(COUNT)[:count].sort().values
                new = ids[torch.randperm(COUNT)[:count]]  # sentences of like lengths
                began = time.perf_counter()
                memory.update(page, new, rows=rows)
                made.tensor  # noqa: B018
                middle = time.perf_counter()
                ids[rows] = new
                value[rows] = encoder(ids[rows])
                end = time.perf_counter()
                if turn >= 2:
                    ours.append(middle - began)
                    hand.append(end - middle)
            assert torch.equal(made.tensor, value)
            one, other = statistics.median(ours), statistics.median(hand)
            shown.add_row(
                f"{count}", f"{1e3 * one:.1f} ms", f"{1e3 * other:.1f} ms", f"{full:.1f} s",
                f"{other / one:.2f}", f"{full / one:.0f}",
            )  # fmt: skip
        assert torch.equal(made.tensor, encoder(ids)), "not the bits of a run in full"
    return shown
