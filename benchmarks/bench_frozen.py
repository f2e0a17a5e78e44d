"""A head on frozen MiniLM (B2): seconds of an epoch, shuffled, on sentences of Python's own help."""

import importlib
import statistics
import tempfile
import time

import torch
from rich.table import Table
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import mmsb_torch as mmsb
from mmsb_torch.demo.corpus import sentences
from mmsb_torch.demo.encoder import load, tokenise

ROWS, LENGTH, BATCH, EPOCHS = 96, 64, 32, 4


class Hidden(nn.Module):
    """MiniLM from ids to hidden states: one tensor in, one out, which is what torchcache takes."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, ids):
        mask = (ids != 0).long()
        return self.backbone(input_ids=ids, attention_mask=mask).last_hidden_state


def table() -> Table:
    tokenizer, encoder = load()
    ids = tokenise(tokenizer, sentences(ROWS), LENGTH)
    backbone = Hidden(encoder.backbone).eval().requires_grad_(requires_grad=False)
    shown = Table(
        title=f"a head on frozen MiniLM: {ROWS} sentences of {LENGTH} tokens, batches of {BATCH}, shuffled"
    )
    for column in ("what", "first epoch", "later ones", "times faster", "losses that differ"):
        shown.add_column(column, justify="left" if column == "what" else "right")
    plain, seconds = epochs(backbone, ids)
    floor = statistics.median(seconds)
    shown.add_row("plain", *said(seconds, floor), "0")
    with tempfile.TemporaryDirectory() as folder:
        for what in ("cache_frozen", "cache_frozen, rows of a run before"):
            with mmsb.open(folder + "/run.mmsb") as mem:
                losses, seconds = epochs(mmsb.cache_frozen(mem, backbone), ids)
            shown.add_row(what, *said(seconds, floor), differing(plain, losses))
        with mmsb.open(folder + "/run.mmsb") as mem:
            changed = ids.clone()
            changed[::100, 1] += 1
            wanted, _ = epochs(backbone, changed)
            losses, seconds = epochs(mmsb.cache_frozen(mem, backbone), changed)
            shown.add_row(
                "1 % of the rows changed", *said(seconds, floor), differing(wanted, losses)
            )
    shown.add_row(*torchcache_row(backbone, ids, plain, floor))
    return shown


def epochs(backbone, ids):
    """Losses of all steps, and seconds of each epoch."""
    torch.manual_seed(0)
    head = nn.Linear(384, 8)
    optimizer = torch.optim.AdamW(head.parameters(), 1e-3)
    data = TensorDataset(ids, torch.arange(len(ids)) % 8)
    loader = DataLoader(data, batch_size=BATCH, shuffle=True)
    losses, seconds = [], []
    for _ in range(EPOCHS):
        began = time.perf_counter()
        for tokens, labels in loader:
            loss = nn.functional.cross_entropy(head(backbone(tokens).mean(1)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        seconds.append(time.perf_counter() - began)
    return losses, seconds


def said(seconds, floor):
    later = statistics.median(seconds[1:])
    return f"{seconds[0]:.2f} s", f"{later:.2f} s", f"{floor / later:.1f}"


def differing(wanted, found):
    return str(sum(a != b for a, b in zip(wanted, found, strict=True)))


def torchcache_row(backbone, ids, plain, floor):
    try:
        torchcache = importlib.import_module("torchcache").torchcache
    except ImportError:
        return "torchcache", "-", "not installed", "-", "-"

    @torchcache()
    class Cached(Hidden):
        pass

    try:
        losses, seconds = epochs(Cached(backbone.backbone).eval(), ids)
    except RuntimeError as error:
        return "torchcache", "-", f"raised: {error!s:.60}", "-", "-"
    return "torchcache", *said(seconds, floor), differing(plain, losses)
