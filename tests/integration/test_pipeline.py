"""The real pipeline, memoised on disk: several processes, restarts, an edit, a budget."""

import json
import subprocess
import sys

import pytest

PIPELINE = """
import json, sys, time
import torch
import mmsb_torch as mmsb
from mmsb_torch.demo import corpus, encoder

torch.set_num_threads(1)
path, edited, ahead = sys.argv[1], sys.argv[2] == "edited", sys.argv[3] == "ahead"
texts = corpus.sentences(64)
if edited:
    texts[50] = "When an exception is raised, handlers are searched."
tokenizer, model = encoder.load()
batches = encoder.tokenise(tokenizer, texts).split(16)
with mmsb.open(path, mode="memo") as mem:

    @mem.memo
    def embed(model, ids):
        return model(ids)

    @mem.memo
    def nearest(embeddings, k):
        scores = embeddings @ embeddings.T
        return tuple((scores - 2 * torch.eye(len(scores))).topk(k))

    if ahead:
        mem.memo.prefetch(embed).wait()
    begun = time.perf_counter()
    embeddings = torch.cat([embed(model, ids) for ids in batches])
    values, places = nearest(embeddings, 3)
    seconds = time.perf_counter() - begun
    report = mem.memo.report().as_dict()["functions"]
plain = torch.cat([model(ids) for ids in batches])
assert torch.equal(plain, embeddings), "not what the model gives"
again = (plain @ plain.T - 2 * torch.eye(64)).topk(3)
assert torch.equal(again.indices, places) and torch.equal(again.values, values)
print(json.dumps({"seconds": seconds, "embed": report["embed"], "nearest": report["nearest"]}))
"""

pytestmark = [pytest.mark.minilm, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    file = tmp_path_factory.mktemp("pipeline") / "pipeline.py"
    file.write_text(PIPELINE)
    return file


@pytest.fixture
def run(script, tmp_path):
    import mmsb_torch as mmsb

    store = tmp_path / "pipeline.mmsb"
    mmsb.open(store).close()

    def run(*, edited=False, ahead=False):
        words = [script, store, "edited" if edited else "-", "ahead" if ahead else "-"]
        command = [sys.executable, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_a_second_process_computes_what_an_edit_touches_and_nothing_else(run):
    first = run()
    assert (first["embed"]["hits"], first["embed"]["misses"]) == (0, 4)
    assert first["embed"]["results"] == 4
    second = run(edited=True, ahead=True)
    embed = second["embed"]
    assert (embed["hits"], embed["misses"], embed["ahead"], embed["from_disk"]) == (3, 1, 3, 0)
    assert embed["read_ahead"] == 4
    assert embed["why"] == {"argument 'ids' changed": 1}
    assert embed["earlier_misses"] == 4
    assert embed["saved_seconds"] > 0
    assert second["nearest"]["misses"] == 1
    assert second["seconds"] < first["seconds"]
