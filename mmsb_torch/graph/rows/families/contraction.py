"""Products of matrices, and attention."""

from __future__ import annotations

from typing import Any

import torch

from mmsb_torch.graph.rows.calls import Sized
from mmsb_torch.graph.rows.rule import MIXED, Links, Rule

from . import attending, products
from .pointwise import broadcast

_aten = torch.ops.aten


def linear(at: Sized) -> Links:
    """[..., k] by [n, k]: rows of the input, columns by rows of the weight."""
    rank, last = len(at.shapes["input"]), len(at.shape) - 1
    if len(at.shapes["weight"]) == 1:
        return {"input": (*range(rank - 1), MIXED), "weight": (MIXED,)}
    return {
        "input": (*range(rank - 1), MIXED),
        "weight": (last, MIXED),
        "bias": broadcast(at.shapes.get("bias", ()), at.shape),
    }


def matmul(at: Sized) -> Links:
    """Any ranks: rows of the first, columns of the second, batches broadcast."""
    (one, left), (other, right) = at.shapes.items()
    rank = len(at.shape)
    rows = rank - 2 if len(right) > 1 else rank - 1
    batch = at.shape[: max(rank - (len(left) > 1) - (len(right) > 1), 0)]
    first: list[int | None] = [*broadcast(left[:-2], batch)]  # type: ignore[list-item]
    second: list[int | None] = [*broadcast(right[:-2], batch)]  # type: ignore[list-item]
    first += [rows, MIXED] if len(left) > 1 else [MIXED]
    second += [MIXED, rank - 1] if len(right) > 1 else [MIXED]
    return {one: first, other: second}


def addmm(at: Sized) -> Links:
    """A product and what is added to it."""
    (added, bias), (one, left), (other, _) = at.shapes.items()
    if len(left) == 3:
        products: Any = {one: (0, 1, MIXED), other: (0, MIXED, 2)}
    else:
        products = {one: (0, MIXED), other: (MIXED, 1)}
    return {added: broadcast(bias, at.shape), **products}


def einsum(at: Sized) -> Links:
    """By the letters of the equation; any repetition or dots mix all."""
    equation = at.arg("equation").replace(" ", "")
    if "->" not in equation or "." in equation:
        return {}
    given, result = equation.split("->")
    terms = given.split(",")
    if any(len(set(term)) < len(term) for term in (*terms, result)):
        return {}
    sizes = at.shapes["tensors"]
    return {
        "tensors": [
            [
                result.index(letter)
                if letter in result and size == at.shape[result.index(letter)]
                else MIXED
                for letter, size in zip(term, shape, strict=True)
            ]
            for term, shape in zip(terms, sizes, strict=True)
        ]
    }


def attention(at: Sized) -> Links:
    """[..., heads, length, width]: each query looks at all keys of its batch and head."""
    query, key = at.shapes["query"], at.shapes["key"]
    rank = len(query)
    batch = list(range(rank - 2))
    aligned = [dim if key[dim] == query[dim] else MIXED for dim in batch]
    links: dict[str, Any] = {
        "query": (*batch, rank - 2, MIXED),
        "key": (*aligned, MIXED, MIXED),
        "value": (*aligned, MIXED, rank - 1),
    }
    if "attn_mask" in at.shapes:
        mask = at.shapes["attn_mask"]
        scores = (*query[:-1], key[-2])
        links["attn_mask"] = (*broadcast(mask, scores)[:-1], MIXED)
    return links


def rules() -> dict[Any, Rule]:
    """Products are exact if they have enough rows; attention of some of the queries is not."""
    product = Rule(matmul, whole=all_columns, build=products.build_matmul)
    return {
        _aten.linear.default: Rule(linear, whole=all_columns, build=products.build_linear),
        **{op.default: product for op in (_aten.matmul, _aten.mm, _aten.bmm, _aten.mv, _aten.dot)},
        _aten.addmm.default: Rule(addmm, whole=all_columns, exact=False),
        _aten.baddbmm.default: Rule(addmm, whole=all_columns, exact=False),
        _aten.einsum.default: Rule(einsum, exact=False),
        _aten.scaled_dot_product_attention.default: Rule(
            attention,
            exact=lambda _, box: box[-2] is None,
            spread=attending.spread,
            need=attending.need,
            whole=all_columns,
            build=attending.build,
        ),
    }


def all_columns(context: Any, box: Any) -> Any:
    """Products of fewer columns may differ in the last bits, so all are computed."""
    carried = context[1].carried
    return tuple(
        part if dim in carried and dim < len(box) - 1 else None for dim, part in enumerate(box)
    )
