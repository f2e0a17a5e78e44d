"""Bits told apart, by whatever compares them."""

import pytest
import torch

from mmsb_torch.device import (
    changed_elements,
    changed_rows,
    compare,
    same_bits,
    touched_rows,
    words,
)
from mmsb_torch.testing import DTYPES, random_bits


@pytest.fixture(params=["memcmp", "torch"])
def either(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(compare, "_memcmp", None)
    else:
        assert compare._memcmp is not None


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_bit_anywhere_is_a_difference(dtype):
    a, b = (random_bits((7, 33), dtype, 0) for _ in range(2))
    assert same_bits(a, b)
    assert same_bits(a.t(), b.t())
    assert not same_bits(a, b.t())
    raw = words(b).view(-1).view(torch.uint8)
    for byte in (0, raw.numel() // 2, raw.numel() - 1):
        raw[byte] ^= 1
        assert not same_bits(a, b)
        assert not same_bits(a.t(), b.t())
        assert int(changed_elements(a, b).sum()) == 1
        raw[byte] ^= 1
    assert same_bits(a, b)


@pytest.mark.usefixtures("either")
def test_bits_count_not_numbers():
    nan = torch.tensor([float("nan"), 1.0])
    assert same_bits(nan, nan.clone())
    assert not same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert not same_bits(torch.zeros(2), torch.zeros(2, dtype=torch.int32))
    assert same_bits(torch.zeros(0, 3), torch.zeros(0, 3))
    assert not same_bits(torch.zeros(0, 3), torch.zeros(3, 0))
    assert same_bits(torch.zeros(8, 4)[::2], torch.zeros(4, 4))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(40, 64), (33, 3, 16), (7, 5), (0, 64), (90, 0)])
@pytest.mark.parametrize("piece", [1, 1 << 19])
def test_touched_rows_are_changed_rows(dtype, shape, piece, monkeypatch):
    monkeypatch.setattr(compare, "_PIECE", piece)
    a, b = (random_bits(shape, dtype, 0) for _ in range(2))
    assert touched_rows(a, b).tolist() == []
    if a.numel():
        raw = words(b).view(-1).view(torch.uint8)
        for byte in (0, raw.numel() // 3, raw.numel() - 1):
            raw[byte] ^= 1
        rows = touched_rows(a, b)
        assert rows.tolist() == changed_rows(a, b).tolist() != []
        longer = torch.cat([words(a).view(-1)[:1], words(a).view(-1)])[1:].view(words(a).shape)
        assert touched_rows(longer, words(b)).tolist() == rows.tolist()
