"""What a graph was captured for: whether a call is one of those."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmsb_torch.errors import ReplayError

from .ir_trees import flat_tree
from .ir_values import DTYPES


class Checks:
    """What must hold of the arguments of a call."""

    def __init__(self, document: Any) -> None:
        self._tree = repr(document["in"])
        self._specs = [spec["tensor"] for spec in document["graphs"][0]["inputs"]]
        self._known = [(DTYPES[spec[0]], torch.device(spec[3])) for spec in self._specs]
        self.flat = self._tree == repr(flat_tree(len(self._specs)))
        """The arguments are tensors alone."""
        self._ranges = {name: (least, most) for name, least, most in document["symbols"]}
        self._default = DTYPES[document["default_dtype"]]

    def arguments(self, leaves: Sequence[Any], tree: Any) -> None:
        """Raise ReplayError unless a call with these is the one that was captured."""
        if tree is not None and repr(tree) != self._tree:
            raise ReplayError(
                f"this graph was captured with the arguments {_text(self._tree)}, and called "
                f"with {_text(repr(tree))}. Run the function itself, or capture it again."
            )
        if len(leaves) != len(self._specs):
            raise ReplayError(f"expected {len(self._specs)} tensors, found {len(leaves)}")
        if torch.get_default_dtype() is not self._default:
            raise ReplayError(
                f"this graph was captured with the default dtype {self._default}, and it is "
                f"{torch.get_default_dtype()} now. Capture the function again."
            )
        sizes: dict[str, int] = {}
        for index, (leaf, spec) in enumerate(zip(leaves, self._specs, strict=True)):
            if (leaf.dtype, leaf.device) != self._known[index] or not _fits(
                leaf, spec, sizes, self._ranges
            ):
                found = (leaf.dtype, *map(list, (leaf.shape, leaf.stride())), str(leaf.device))
                raise ReplayError(
                    f"input {index} of this graph was captured as {spec}, and is "
                    f"{list(map(str, found))} now (dtype, shape, strides, device). Run the "
                    "function itself, or capture it again."
                )


def _fits(
    leaf: Tensor,
    spec: list[Any],
    sizes: dict[str, int],
    ranges: Mapping[str, tuple[int, int | None]],
) -> bool:
    """Whether a tensor has the shape and strides of a spec; notes sizes that vary in `sizes`."""
    _, shape, stride, _ = spec
    if leaf.layout is not torch.strided or leaf.dim() != len(shape):
        return False
    if list(leaf.shape) == shape and list(leaf.stride()) == stride:
        return True
    for size, expected in zip(leaf.shape, shape, strict=True):
        if isinstance(expected, str):
            least, most = ranges.get(expected, (0, None))
            if sizes.setdefault(expected, size) != size or size < least:
                return False
            if most is not None and size > most:
                return False
        elif size != expected:
            return False
    if any(isinstance(step, str) for step in stride) or leaf.numel() == 0:
        return leaf.is_contiguous()
    return all(
        step == wanted or size == 1
        for size, step, wanted in zip(leaf.shape, leaf.stride(), stride, strict=True)
    )


def _text(tree: str) -> str:
    """A tree in a message."""
    return tree if len(tree) < 200 else tree[:200] + ".."
