"""Convolutions and pools: batches and channels."""

from __future__ import annotations

from typing import Any

import torch

from mmsb_torch.graph.rows.calls import Sized, schema_of
from mmsb_torch.graph.rows.rule import MIXED, Links, Rule

from . import products

_aten = torch.ops.aten


def convolution(at: Sized) -> Links:
    """Image by image; the weight's first dimension is the result's channels."""
    rank = len(at.shapes["weight"])
    shape = at.shapes["input"]
    mixed = (MIXED,) * (rank - 1)
    if at.arg("transposed", False):
        return {"input": (0, *mixed)}
    if len(shape) < rank:  # one image without a batch
        return {"weight": (0, *mixed), "bias": (0,)}
    return {"input": (0, *mixed), "weight": (1, *mixed), "bias": (1,)}


def pool(at: Sized) -> Links:
    """Image by image and channel by channel: only the last dimensions are mixed."""
    name = at.call.places[0][0]
    rank, plain = len(at.shapes[name]), _plain_dims(at)
    return {name: (*range(rank - plain), *(MIXED,) * plain)}


def _plain_dims(at: Sized) -> int:
    """How many dimensions a pool or resize works on."""
    name = schema_of(at.call.op).name
    found = next((int(letter) for letter in name if letter in "123"), None)
    return found if found is not None else len(at.shape) - 2


_POOLS = (
    "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d",
    "adaptive_max_pool2d", "adaptive_max_pool3d", "max_pool2d_with_indices", "_adaptive_avg_pool2d",
    "upsample_nearest2d", "upsample_bilinear2d", "upsample_nearest1d", "upsample_linear1d",
)  # fmt: skip


def rules() -> dict[Any, Rule]:
    """A convolution of a single image may differ in the last bits, so two are computed."""
    found: dict[Any, Rule] = {}
    for name in ("conv1d", "conv2d", "conv3d", "convolution"):
        packet = getattr(_aten, name)
        for overload in packet.overloads():
            if "out" not in overload:
                found[getattr(packet, overload)] = Rule(
                    convolution, build=products.build_convolution
                )
    for name in _POOLS:
        packet = getattr(_aten, name)
        for overload in packet.overloads():
            op = getattr(packet, overload)
            if not schema_of(op).is_mutable and "out" not in overload:
                found[op] = Rule(pool)
    return found
