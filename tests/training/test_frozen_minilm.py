"""A head on frozen MiniLM, on real sentences, by a shuffling loader: epochs with and without rows kept."""

import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import mmsb_torch as mmsb

SCRIPT = """
import json, sys, torch
torch.set_num_threads(int(sys.argv[2]))  # another number of threads would be other rows
from test_frozen_minilm import run, sentences_with_topics
import mmsb_torch as mmsb
from mmsb_torch.graph.frozen.costs import Costs, Reads
Costs.may_look = Reads.pay = lambda _: True  # however quick this machine is
with mmsb.open(sys.argv[1]) as mem:
    print(json.dumps(run(*sentences_with_topics(24, 16), mem)[:2]))
"""


def sentences_with_topics(count, length):
    """Token ids of sentences from Python's help, the topic of each, and MiniLM."""
    from pydoc_data.topics import topics

    from mmsb_torch.demo.encoder import load, tokenise

    texts, labels = [], []
    for label, (_, text) in enumerate(sorted(topics.items(), key=lambda item: -len(item[1]))[:4]):
        found = re.findall(r"[A-Z][a-z ,]{30,200}\.", " ".join(text.split()))[: count // 4]
        texts += found
        labels += [label] * len(found)
    tokenizer, encoder = load()
    return tokenise(tokenizer, texts, length), torch.tensor(labels), encoder.backbone


def run(ids, labels, backbone, mem=None, *, epochs=3, batch=8):
    """Losses of all steps, numbers about the cache, and seconds of each epoch."""
    torch.manual_seed(0)
    head = nn.Linear(384, 4)
    if mem is not None:
        backbone = mmsb.cache_frozen(mem, backbone)
    optimizer = torch.optim.AdamW(head.parameters(), 1e-2)
    loader = DataLoader(TensorDataset(ids, labels), batch_size=batch, shuffle=True)
    losses, seconds = [], []
    for _ in range(epochs):
        began = time.perf_counter()
        for tokens, wanted in loader:
            present = (tokens != 0).long()
            hidden = backbone(input_ids=tokens, attention_mask=present).last_hidden_state
            mean = (hidden * present[..., None]).sum(1) / present.sum(1, keepdim=True)
            loss = nn.functional.cross_entropy(head(mean), wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item().hex())
        seconds.append(time.perf_counter() - began)
    return losses, {} if mem is None else backbone.stats(), seconds


def elsewhere(path):
    """The same in a process of its own: this one's settings of torch are other tests' too."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, path, str(torch.get_num_threads())],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))},
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.minilm
def test_the_losses_are_the_same_and_another_process_reads_the_rows(tmp_path):
    ids, labels, backbone = sentences_with_topics(24, 16)
    backbone.requires_grad_(requires_grad=False)
    plain, _, _ = run(ids, labels, backbone)
    ours, stats = elsewhere(tmp_path / "run.mmsb")
    assert ours == plain
    assert stats["hits"] == 2 * stats["calls"] / 3 - 1  # a call shows whether reading is enough
    assert stats["rows_computed"] == len(set(map(tuple, ids.tolist())))
    again, stats = elsewhere(tmp_path / "run.mmsb")
    assert again == plain
    assert stats["rows_computed"] == 0
    assert stats["hits"] == stats["calls"] - 1


@pytest.mark.minilm
@pytest.mark.skipif("MMSB_GATE" not in os.environ, reason="minutes: MMSB_GATE=1")
def test_an_epoch_is_five_times_faster(tmp_path):
    ids, labels, backbone = sentences_with_topics(400, 64)
    backbone.requires_grad_(requires_grad=False)
    plain, _, before = run(ids, labels, backbone, batch=32)
    with mmsb.open(tmp_path / "run.mmsb") as mem:
        ours, _, after = run(ids, labels, backbone, mem, epochs=3, batch=32)
    assert ours == plain
    assert statistics.median(before) / after[-1] >= 5
