"""Attention under masks that depend on sizes only: those that hide later keys make a cache of keys."""

import pytest
import torch
import torch.nn.functional as F

from .editing import Edited, filler

W = torch.randn(8, 24, generator=torch.Generator().manual_seed(0))


def places(x):
    return torch.arange(x.shape[0])


def triangle(x):
    return places(x)[:, None] >= places(x)[None]


MASKS = {
    "triangle": (triangle, True),
    "triangle of infinities": (
        lambda x: torch.zeros(x.shape[0], x.shape[0]).masked_fill(~triangle(x), -torch.inf),
        True,
    ),
    "tril": (lambda x: torch.ones(x.shape[0], x.shape[0], dtype=torch.bool).tril(), True),
    "window": (lambda x: triangle(x) & (places(x)[:, None] - places(x)[None] < 3), True),
    "with weights": (
        lambda x: torch.where(triangle(x), 0.1 * (places(x)[None] - places(x)[:, None]), -torch.inf),
        True,
    ),
    "one ahead": (lambda x: places(x)[:, None] + 1 >= places(x)[None], False),
    "backwards": (lambda x: places(x)[:, None] <= places(x)[None], False),
    "nearly all": (lambda x: torch.where(triangle(x), 0.0, -9.0), False),
}  # fmt: skip


def attention(mask):
    def function(x):
        q, k, v = (x @ W).view(1, -1, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask(x))
        return x + y.transpose(1, 2).flatten(2)[0]

    return function


@pytest.mark.parametrize("name", MASKS)
def test_masks(name):
    mask, causal = MASKS[name]
    model = Edited(attention(mask), [torch.randn(9, 8)])
    _, box = model.edit([(range(5, 6), None)], filler(0))
    assert box[0] == (range(5, 9) if causal else None)
    for count in (1, 2):
        before = model.values[0].shape[0]
        _, box = model.edit([None], filler(count), count)
        assert box[0] == (range(before, before + count) if causal else None)
    model.edit([(range(3, 4), None)], filler(1), 1)
    model.edit([(None, range(2))], filler(2))


def test_a_mask_that_depends_on_how_many_there_are():
    def mask(x):
        return triangle(x) & (places(x)[None] + 4 >= x.shape[0])

    model = Edited(attention(lambda x: mask(x) | torch.eye(x.shape[0]).bool()), [torch.randn(9, 8)])
    model.edit([(range(5, 6), None)], filler(0))
    _, box = model.edit([None], filler(1), 1)
    assert box[0] is None  # older queries look at fewer keys now
    model.edit([(range(5, 6), None)], filler(0))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_decoders_of_a_library(kind):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    if kind == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=50,
            n_positions=64,
            n_embd=16,
            n_layer=2,
            n_head=2,
            bos_token_id=0,
            eos_token_id=0,
        )
        model = transformers.GPT2LMHeadModel(config).eval()
    else:
        config = transformers.LlamaConfig(
            vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1,
        )  # fmt: skip
        model = transformers.LlamaForCausalLM(config).eval()
    decoder = Edited(
        lambda ids: model(input_ids=ids[None], use_cache=False).logits[0],
        [torch.randint(0, 5, (12,))],
    )
    _, box = decoder.edit([(range(7, 8),)], filler(0))
    assert box[0] == range(7, 12)
    for at in (12, 13, 14):
        _, box = decoder.edit([None], filler(at), 1)
        assert box[0] == range(at, at + 1)
