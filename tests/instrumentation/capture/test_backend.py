"""The compile backend runs regions as they are, and hands them out as graphs."""

import pytest
import torch
from torch import nn

from mmsb_torch.errors import CaptureError, UnsupportedError
from mmsb_torch.instrumentation.capture.backend import CaptureBackend
from mmsb_torch.instrumentation.capture.ir import IR


@pytest.fixture(autouse=True)
def _fresh():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def test_compiled_code_computes_and_trains_as_it_does():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Dropout(0.5), nn.Linear(8, 2))
    regions, x = CaptureBackend(), torch.randn(5, 4)
    compiled = torch.compile(model, backend=regions)
    torch.manual_seed(1)
    model(x).square().sum().backward()
    wanted = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    torch.manual_seed(1)
    compiled(x).square().sum().backward()
    for parameter, grad in zip(model.parameters(), wanted, strict=True):
        assert torch.equal(parameter.grad, grad)
    assert len(regions) == 1
    assert repr(regions[0]) == "<Region of 4 calls, ran 1 times>"


def test_a_region_is_a_graph(equal):
    def function(a, b):
        return (a @ b).relu() + 1

    regions = CaptureBackend()
    a, b = torch.randn(3, 4), torch.randn(4, 5)
    wanted = torch.compile(function, backend=regions)(a, b)
    ir = regions[0].ir()
    assert ir is regions[0].ir()
    assert [node.op for node in ir.nodes] == [
        "aten.matmul.default",
        "aten.relu.default",
        "aten.add.Tensor",
    ]
    assert equal(IR.from_bytes(ir.to_bytes())(a, b), (wanted,))


def test_breaks_make_regions():
    def function(a):
        b = a * 2
        return b + 1 if b.sum() > 0 else b - 1

    regions = CaptureBackend()
    compiled = torch.compile(function, backend=regions)
    assert torch.equal(compiled(torch.ones(2)), torch.full((2,), 3.0))
    assert torch.equal(compiled(-torch.ones(2)), torch.full((2,), -3.0))
    assert [region.calls for region in regions] == [2, 1, 1]
    assert [len(region.ir().nodes) for region in regions] == [3, 1, 1]
    regions.clear()
    assert len(regions) == 0
    assert torch.equal(compiled(torch.ones(2)), torch.full((2,), 3.0))


def test_regions_that_write_run_and_are_no_graphs():
    def function(a):
        a.add_(1)
        return a * 2

    regions, a = CaptureBackend(), torch.zeros(2)
    assert torch.equal(torch.compile(function, backend=regions)(a), torch.full((2,), 2.0))
    assert a.tolist() == [1, 1]
    with pytest.raises(CaptureError, match="writes into"):
        regions[0].ir()


def test_regions_of_sizes_that_vary_run_and_are_no_graphs():
    regions = CaptureBackend()
    compiled = torch.compile(lambda a: a * 2, backend=regions, dynamic=True)
    assert torch.equal(compiled(torch.ones(3)), torch.full((3,), 2.0))
    with pytest.raises(UnsupportedError, match="dynamic=False"):
        regions[0].ir()
