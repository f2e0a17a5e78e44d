"""What calls cost, roughly, to compare a part of a function with the whole of it."""

from __future__ import annotations

import math

from .calls import Sized
from .rule import Rule

_PASS = 32.0
"""An element that is read and written costs about as much as that many multiplications."""


def weight(rule: Rule | None, at: Sized) -> float:
    """Multiplications of a call, or their like."""
    if rule is not None and rule.moves:
        return 0.0
    elements = float(math.prod(at.shape))
    name = str(at.call.op).removeprefix("aten.").split(".")[0]
    if name == "scaled_dot_product_attention":
        return float(elements * 2 * at.shapes["key"][-2])
    if name in _PRODUCTS:
        return float(elements * at.shapes[_PRODUCTS[name]][-1])
    if name.startswith("conv"):
        return elements * float(math.prod(at.shapes["weight"][1:]))
    if name in _RECURRENT:
        return float(elements * 8 * at.shapes["params"][0][-1])
    return elements * _PASS


_PRODUCTS = {"linear": "input", "matmul": "self", "mm": "self", "bmm": "self", "addmm": "mat1",
             "baddbmm": "batch1"}  # fmt: skip
_RECURRENT = ("gru", "lstm", "rnn_tanh", "rnn_relu")
