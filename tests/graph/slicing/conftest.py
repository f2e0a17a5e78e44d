"""A memory that makes values in part wherever that is right, whatever the clock says."""

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.graph import costs


@pytest.fixture
def mem(monkeypatch):
    """It captures at once, too."""
    monkeypatch.setattr(costs.Costs, "may_pay", True)
    monkeypatch.setattr(costs.Costs, "favour_rows", lambda *_, **__: True)
    monkeypatch.setattr(costs.Costs, "promise", lambda *_: 1e9)
    torch.manual_seed(3)
    with mmsb.open() as memory:
        memory._engine.plans.seconds = 0.0
        yield memory
