"""Figures of tensors: right for every dtype, whatever is among the elements."""

import json
import math

import pytest
import torch

from mmsb_torch.cli import figures as module
from mmsb_torch.cli.figures import figures


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn]
)
def test_floats(dtype):
    values = torch.tensor([0.0, 1.0, -2.0, 4.0]).to(dtype)
    found = figures(values)
    assert (found["min"], found["max"], found["mean"], found["zeros"]) == (-2.0, 4.0, 0.75, 1)
    assert found["std"] == pytest.approx(torch.tensor([0.0, 1, -2, 4]).std(correction=0).item())


@pytest.mark.parametrize(
    "dtype",
    [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64],
)  # fmt: skip
def test_integers_are_exact(dtype):
    bounds = torch.iinfo(dtype)
    values = torch.tensor([0, 1, 2], dtype=dtype)
    assert figures(values)["mean"] == 1.0
    if dtype is torch.uint64:
        values = torch.tensor([-1, 0], dtype=torch.int64).view(torch.uint64)
    else:
        values = torch.tensor([bounds.max, bounds.min], dtype=dtype)
    found = figures(values)
    assert (found["min"], found["max"]) == (bounds.min, bounds.max)
    assert isinstance(found["max"], int)


def test_booleans_and_complex():
    assert figures(torch.tensor([True, False, True, True]))["mean"] == 0.75
    found = figures(torch.tensor([3 + 4j, 0j, complex("nan"), complex("inf")]))
    assert (found["min"], found["max"], found["nan"], found["inf"]) == (0.0, 5.0, 1, 1)


def test_what_is_no_number_is_counted_apart():
    found = figures(torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 2.0]))
    assert (found["nan"], found["inf"], found["zeros"]) == (1, 2, 2)
    assert (found["min"], found["max"]) == (0.0, 2.0)


@pytest.mark.parametrize("values", [torch.empty(0), torch.full((3,), math.nan)])
def test_nothing_has_no_mean(values):
    found = figures(values)
    assert [found[key] for key in ("min", "max", "mean", "std")] == [None] * 4
    assert found["nan"] == values.numel()


def test_what_does_not_fit_a_float_is_none_and_json_stays_json():
    found = figures(torch.tensor([1e308, -1e308, 1e308], dtype=torch.float64))
    assert found["std"] is None
    assert found["max"] == 1e308
    json.dumps(found, allow_nan=False)


def test_bits_are_no_numbers():
    assert figures(torch.zeros(8, dtype=torch.uint8).view(torch.bits8)) is None
    assert figures(torch.zeros((), dtype=torch.float32))["zeros"] == 1


def test_parts_are_joined_exactly_enough(monkeypatch):
    values = torch.randn(1000, generator=torch.Generator().manual_seed(1)) * 3 + 1e4
    whole = figures(values)
    for chunk in (1, 7, 999, 1000):
        monkeypatch.setattr(module, "_CHUNK", chunk)
        parts = figures(values)
        assert parts["std"] == pytest.approx(whole["std"], rel=1e-9)
        assert parts["mean"] == pytest.approx(whole["mean"], rel=1e-12)
        assert (parts["min"], parts["max"]) == (whole["min"], whole["max"])
    assert whole["std"] == pytest.approx(values.double().std(correction=0).item(), rel=1e-9)
