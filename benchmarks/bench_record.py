"""Recording (B10): 1,000 tiny operations, a training step of an MLP, a 6-layer encoder's forward."""

import importlib
import importlib.util
import time

import torch
from rich.table import Table
from torch import nn

import mmsb_torch as mmsb


def table() -> Table:
    shown = Table(title="recording, milliseconds of CPU (ratio to plain), medians of turns")
    ways = ["plain", "walk", "trace", "off"]
    if importlib.util.find_spec("torchlens"):
        ways.append("torchlens")
    for column in ("what", *ways):
        shown.add_column(column, justify="left" if column == "what" else "right")
    for title, job, model, rounds in (_tiny(), _mlp(), _encoder()):
        times = _medians(job, model, ways, rounds)
        plain = times["plain"]
        cells = [
            f"{times[way]:.2f} (x{times[way] / plain:.2f})" if way in times else "-" for way in ways
        ]
        shown.add_row(title, *cells)
    return shown


def _medians(job, model, ways, rounds):
    times = {way: [] for way in ways if way != "torchlens" or model is not None}
    for turn in range(rounds + 1):
        for way, found in times.items():
            seconds = _timed(job, model, way)
            if turn:  # the first is warm-up
                found.append(seconds * 1e3)
    return {way: sorted(found)[len(found) // 2] for way, found in times.items()}


def _timed(job, model, way):
    with mmsb.open() as mem:
        began = time.thread_time()
        if way == "plain":
            job()
        elif way == "torchlens":
            importlib.import_module("torchlens").trace(*model)
        else:
            with mem.record(frames=way):
                job()
        return time.thread_time() - began


class Tiny(nn.Module):
    def forward(self, x):
        for _ in range(1000):
            x = x + 1
        return x


def _tiny():
    model, x = Tiny(), torch.ones(4)
    return "1,000 additions of 4 floats", lambda: model(x), (model, x), 9


def _mlp():
    model = nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 8)
    )
    optimizer = torch.optim.AdamW(model.parameters())
    x = torch.randn(32, 64)

    def job():
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    return "training step of an MLP (32 x 64-128-64-8, AdamW)", job, None, 25


def _encoder():
    layer = nn.TransformerEncoderLayer(384, 12, 1536, batch_first=True)
    model = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
    x = torch.randn(16, 64, 384)

    def job():
        model(x)

    return "forward of a 6-layer encoder (16 x 64 x 384)", job, (model, x), 9
