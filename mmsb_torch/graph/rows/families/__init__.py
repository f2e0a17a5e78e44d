"""The rules of torch's operators, by families.

- `pointwise`: element by element; `rowwise`: softmax, norms, sums; `contraction`: products, attention
- `views`: what moves elements; `shifts`: pieces of dimensions; `lookup`: tables and indices
- `spatial`: convolutions and pools; `recurrent`: gru, lstm; `factory`: what is made from sizes
"""

from __future__ import annotations

from typing import Any

from mmsb_torch.graph.rows.rule import Rule

from . import contraction, lookup, pointwise, recurrent, rowwise, spatial, views


def all_rules() -> dict[Any, Rule]:
    """Every rule there is, but for those of tagged pointwise operators."""
    found: dict[Any, Rule] = {}
    for family in (pointwise, rowwise, contraction, views, lookup, spatial, recurrent):
        found.update(family.rules())
    return found
