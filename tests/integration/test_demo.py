"""The main job, on fewer sentences: real weights, real text, a real SIGKILL."""

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest
from safetensors import safe_open

import mmsb_torch as mmsb
from mmsb_torch.demo import corpus, encoder, pipeline
from mmsb_torch.demo.story import edits, run_step, watching

pytestmark = [pytest.mark.minilm, pytest.mark.timeout(900)]


def test_the_whole_demo_in_processes_of_its_own(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "mmsb_torch.demo", "--sentences", "130", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    text = done.stdout
    assert "killed with SIGKILL (exit status -9)" in text
    assert "the same bits as before the kill: yes" in text
    assert "declared again with equal code: 0 pages recomputed" in text
    assert "NO" not in text.replace("NOT", "")
    root = ET.parse(tmp_path / "graph.svg").getroot()
    assert root.tag.endswith("svg")
    assert len(json.loads((tmp_path / "state.json").read_text())) == 6
    names = set()
    for shard in (tmp_path / "demo.mmsb" / "checkpoints").glob("*/model-*.safetensors"):
        with safe_open(shard, "pt") as file:
            names.update(file.keys())
    assert {"embeddings", "scores", "ids"} <= names


def test_each_edit_recomputes_what_it_should_and_nothing_else():
    texts = corpus.sentences(130)
    tokenizer, model = encoder.load()
    with mmsb.open() as memory:
        made = pipeline.build(memory, tokenizer, model, texts)
        with watching(made) as watcher:
            with memory.commit("start"):
                pass
            first = run_step(made, watcher, "first", lambda: None)
            told = {title: run_step(made, watcher, title, act) for title, act in edits(made, texts)}
    assert all(step.equal for step in (first, *told.values()))
    assert first.kept == 0
    assert told["edit the query"].recomputed == {"query": 0, "scores": 0, "top": 0}
    assert told["edit 5 sentences"].recomputed["embeddings"] == 5
    assert "query" not in told["edit 5 sentences"].recomputed
    assert told["edit 1 far sentence"].recomputed["embeddings"] == 1
    assert told["edit 1 far sentence"].unchanged == ["top"]
    assert told["write the same again"].recomputed == {}
    assert "embeddings" in told["write the same again"].cut_off
    assert told["go back to the start"].recomputed["embeddings"] == 6
    assert "'query ids' edited" in told["edit the query"].why
    assert "restored" in told["go back to the start"].why
