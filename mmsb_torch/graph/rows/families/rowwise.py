"""Operators that mix some dimensions and leave the others alone: softmax, norms, sums, sorting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from mmsb_torch.graph.rows.calls import Sized
from mmsb_torch.graph.rows.rule import MIXED, Links, Rule

from . import products
from .vectors import outside

_aten = torch.ops.aten
_L = Callable[["Sized"], Links]


def keeping(rank: int, mixed: Sequence[int]) -> tuple[int | None, ...]:
    """A result of the argument's shape that mixes some dimensions."""
    return tuple(MIXED if dim in mixed else dim for dim in range(rank))


def reducing(rank: int, mixed: Sequence[int], *, keep: bool) -> tuple[int | None, ...]:
    """A result without the dimensions that it mixes, or with size 1 there."""
    if keep:
        return keeping(rank, mixed)
    left = [dim for dim in range(rank) if dim not in mixed]
    return tuple(left.index(dim) if dim in left else MIXED for dim in range(rank))


def _self_name(at: Sized) -> str:
    return at.call.places[0][0]


def along(at: Sized) -> Links:
    """`f(x, dim)` of x's shape."""
    name = _self_name(at)
    rank = len(at.shapes[name])
    return {name: keeping(rank, [at.dim("dim", rank, -1)])}


def reduction(at: Sized) -> Links:
    """`f(x, dims, keepdim)`."""
    name = _self_name(at)
    rank = len(at.shapes[name])
    return {name: reducing(rank, at.dims("dim", rank), keep=bool(at.arg("keepdim", False)))}


def similarity(at: Sized) -> Links:
    """`cosine_similarity(x1, x2, dim)`, broadcast against each other."""
    shapes = [at.shapes[name] for name in ("x1", "x2")]
    both = torch.broadcast_shapes(*shapes)
    mixed = at.dim("dim", len(both), 1)
    dims = reducing(len(both), [mixed], keep=False)
    found = {}
    for name, shape in zip(("x1", "x2"), shapes, strict=True):
        shift = len(both) - len(shape)
        found[name] = [
            dims[one + shift] if size == both[one + shift] else MIXED
            for one, size in enumerate(shape)
        ]
    return found


def layer_norm(at: Sized) -> Links:
    """Mixes the last dimensions; weight and bias belong to those."""
    shape = at.shapes["input"]
    count = len(at.arg("normalized_shape"))
    first = len(shape) - count
    return {"input": keeping(len(shape), range(first, len(shape)))}


def batch_norm(at: Sized) -> Links:
    """Statistics that are given: every element by itself, its channel in dimension 1."""
    shape = at.shapes["input"]
    if at.arg("training", False) or "running_mean" not in at.shapes:
        return {"input": tuple(MIXED if dim != 1 else 1 for dim in range(len(shape)))}
    channel = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (1,))
    return {"input": tuple(range(len(shape))), **channel}


def group_norm(at: Sized) -> Links:
    """Mixes all but the batch."""
    return {"input": (0,) + (MIXED,) * (len(at.shapes["input"]) - 1)}


def _overloads(
    names: Sequence[str], links: _L, build: Callable[[Any], Any] | None = None
) -> dict[Any, Rule]:
    found = {}
    for full in names:
        name, _, overload = full.partition(".")
        op = getattr(getattr(_aten, name, None), overload or "default", None)
        if op is not None:
            found[op] = Rule(links, exact=outside, build=build)
    return found


def rules() -> dict[Any, Rule]:
    """Softmax and sorting; sums; norms."""
    return {
        **_overloads(
            (
                "softmax.int", "log_softmax.int", "_softmax", "_log_softmax", "cumsum", "cumprod",
                "sort", "sort.stable", "argsort", "argsort.stable", "topk", "glu", "logcumsumexp",
                "cummax", "cummin", "_safe_softmax", "special_softmax",
            ),
            along,
        ),
        **_overloads(
            (
                "sum.dim_IntList", "sum", "mean.dim", "mean", "amax", "amin", "prod.dim_int", "prod",
                "var.correction", "var.dim", "var", "std.correction", "std.dim", "std", "all.dim",
                "all", "all.dims", "any.dim", "any", "any.dims", "argmax", "argmin", "logsumexp",
                "linalg_vector_norm", "norm.ScalarOpt_dim", "norm.Scalar", "max.dim", "min.dim",
                "max", "min", "median.dim", "nansum", "nanmean", "count_nonzero.dim_IntList",
                "var_mean.correction", "std_mean.correction", "mode", "aminmax", "kthvalue",
                "count_nonzero",
            ),
            reduction,
        ),
        **_overloads(("cosine_similarity",), similarity),
        **_overloads(("layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm"), layer_norm),
        **_overloads(("batch_norm", "_native_batch_norm_legit_no_training"), batch_norm, products.build_contiguous),
        **_overloads(("group_norm",), group_norm),
    }  # fmt: skip
