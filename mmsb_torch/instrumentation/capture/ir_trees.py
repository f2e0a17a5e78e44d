"""Arguments and results: nested containers as a list of tensors and a tree that says how they lay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .ir_values import Ref, from_data, to_data

_LEAVES = (Tensor, torch.SymInt, torch.SymFloat, torch.SymBool)


def flatten(value: object) -> tuple[list[Any], Any]:
    """The tensors in plain containers, and the tree as data whose leaves are {"in": i}.

    Dicts are walked in the order of their keys. Everything else in the tree is a plain value.

    Raises:
        UnsupportedError: it holds what a graph cannot.
    """
    leaves: list[Any] = []

    def ref(item: object) -> Ref | None:
        if not isinstance(item, _LEAVES):
            return None
        leaves.append(item)
        return Ref("in", len(leaves) - 1)

    return leaves, to_data(value, ref)


def unflatten(tree: Any, leaves: Sequence[Any]) -> Any:
    """What `flatten` took apart; named tuples and mappings come back as tuples and dicts."""
    return from_data(tree, lambda _, index: leaves[index])


def flat_tree(count: int) -> Any:
    """The tree of the arguments of a function of tensors alone."""
    return {"tuple": [{"tuple": [{"in": index} for index in range(count)]}, {"dict": []}]}
