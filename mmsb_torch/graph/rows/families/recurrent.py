"""Recurrent layers: sequences side by side, time mixed."""

from __future__ import annotations

from typing import Any

import torch

from mmsb_torch.graph.rows.calls import Sized
from mmsb_torch.graph.rows.rule import MIXED, Links, Rule

from . import products
from .vectors import in_vectors

_aten = torch.ops.aten


def recurrent(at: Sized) -> Links:
    """`gru`, `lstm`, `rnn` of dense batches; results are (output, hidden states...)."""
    if len(at.shapes["input"]) != 3:
        return {}
    first = bool(at.arg("batch_first"))
    output = 0 if at.call.item == 0 and first else 1
    state = (MIXED, output, MIXED)
    states = at.shapes["hx"]
    return {
        "input": (output, MIXED, MIXED) if first else (MIXED, output, MIXED),
        "hx": [state for _ in states] if isinstance(states, list) else state,
    }


def rules() -> dict[Any, Rule]:
    """The products inside differ in the last bits for few sequences, so more are computed."""
    ops = (_aten.gru.input, _aten.lstm.input, _aten.rnn_tanh.input, _aten.rnn_relu.input)
    return {op: Rule(recurrent, exact=in_vectors, build=products.build_recurrent) for op in ops}
