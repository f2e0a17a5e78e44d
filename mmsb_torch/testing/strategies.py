"""Hypothesis strategies: any dense dtype and shape, tensors of random bits, updates and deltas."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from mmsb_torch.device import copy_of, flat_words, from_words, pack_mask, words
from mmsb_torch.types import Delta, Form, Region

_NOT_DENSE = {"qint8", "quint8", "qint32", "quint4x2", "quint2x4"}

DTYPES: tuple[torch.dtype, ...] = tuple(
    sorted(
        {
            dtype
            for name in dir(torch)
            if isinstance(dtype := getattr(torch, name), torch.dtype)
            and str(dtype).removeprefix("torch.") not in _NOT_DENSE
        },
        key=str,
    )
)
"""Every dtype that torch's dense tensors have, in this version of torch."""


def shapes(max_dims: int = 3, max_side: int = 5) -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes, 0-dim and empty ones included."""
    return st.lists(st.integers(0, max_side), max_size=max_dims).map(tuple)


@st.composite
def tensors(
    draw: st.DrawFn,
    shape: tuple[int, ...] | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Contiguous tensors of random bits (NaN payloads and -0.0 among them)."""
    shape = draw(shapes()) if shape is None else shape
    dtype = draw(st.sampled_from(DTYPES)) if dtype is None else dtype
    return random_bits(shape, dtype, draw(st.integers(0, 2**31)))


def random_bits(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """A tensor of random bits, the same for the same seed; bools are 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    if dtype is torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    nbytes = math.prod(shape) * dtype.itemsize
    raw = torch.randint(0, 256, (nbytes,), dtype=torch.uint8, generator=generator)
    if dtype is torch.complex128:
        return from_words(raw.view(torch.int64).view(-1, 2), dtype, shape)
    return raw.view(dtype).view(shape)


@dataclass(frozen=True, slots=True, repr=False)
class Update:
    """Arguments of `mem.update`: at most one of rows, indices, mask."""

    values: Tensor
    rows: list[int] | None = None
    indices: list[int] | None = None
    mask: Tensor | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The keyword that selects, if one does."""
        given = {"rows": self.rows, "indices": self.indices, "mask": self.mask}
        return {name: value for name, value in given.items() if value is not None}

    def __repr__(self) -> str:
        # torch cannot print a tensor of every dtype
        where = self.mask.tolist() if self.mask is not None else self.rows or self.indices
        return f"Update({next(iter(self.options), 'all')}={where}, {words(self.values).tolist()})"


@dataclass(frozen=True, slots=True, repr=False)
class Append:
    """The argument of `mem.append`: rows, [n, *shape[1:]]."""

    values: Tensor

    def __repr__(self) -> str:
        return f"Append({words(self.values).tolist()})"


@st.composite
def appends(draw: st.DrawFn, shape: tuple[int, ...], dtype: torch.dtype) -> Append:
    """Rows for a page of `shape` (not 0-dim) and `dtype`, none of them too."""
    return Append(draw(tensors((draw(st.integers(0, 3)), *shape[1:]), dtype)))


@st.composite
def updates(draw: st.DrawFn, shape: tuple[int, ...], dtype: torch.dtype) -> Update:
    """Valid updates of a page of `shape` and `dtype`, in every form."""
    total = math.prod(shape)
    forms = ["all", "mask", *(["rows"] if shape else []), "indices"]
    form = draw(st.sampled_from(forms))
    if form == "rows":
        rows = draw(_positions(shape[0]))
        return Update(draw(tensors((len(rows), *shape[1:]), dtype)), rows=rows)
    if form == "indices":
        indices = draw(_positions(total))
        return Update(draw(tensors((len(indices),), dtype)), indices=indices)
    values = draw(tensors(shape, dtype))
    if form == "mask":
        flags = draw(st.lists(st.booleans(), min_size=total, max_size=total))
        return Update(values, mask=torch.tensor(flags, dtype=torch.bool).view(shape))
    return Update(values)


@st.composite
def _positions(draw: st.DrawFn, size: int) -> list[int]:
    """Distinct positions in any order, some of them written as negative ones."""
    if size == 0:
        return []
    chosen = draw(st.lists(st.integers(0, size - 1), unique=True, max_size=6))
    signs = draw(st.lists(st.booleans(), min_size=len(chosen), max_size=len(chosen)))
    return [p - size if negative else p for p, negative in zip(chosen, signs, strict=True)]


def apply_update(tensor: Tensor, update: Update) -> Tensor:
    """What the page should be afterwards, in the most obvious way: element by element, as bits."""
    result = words(tensor).clone()
    bits = result.view(-1, 2) if tensor.dtype is torch.complex128 else result.view(-1)
    new = flat_words(update.values)
    total = tensor.numel()
    if update.rows is not None:
        width = total // tensor.shape[0] if tensor.shape[0] else 0
        for i, row in enumerate(update.rows):
            start = (row % tensor.shape[0]) * width
            bits[start : start + width] = new[i * width : (i + 1) * width]
    elif update.indices is not None:
        for i, index in enumerate(update.indices):
            bits[index % total] = new[i]
    else:
        where = range(total)
        if update.mask is not None:
            where = [i for i, flag in enumerate(update.mask.view(-1).tolist()) if flag]  # type: ignore[assignment]
        for i in where:
            bits[i] = new[i]
    return from_words(result, tensor.dtype, tuple(tensor.shape))


def apply_append(tensor: Tensor, change: Append) -> Tensor:
    """What the page should be afterwards."""
    bits = torch.cat([words(tensor), words(change.values)])
    rows = len(tensor) + len(change.values)
    return from_words(bits, tensor.dtype, (rows, *tensor.shape[1:]))


@st.composite
def deltas(draw: st.DrawFn, shape: tuple[int, ...], dtype: torch.dtype) -> Delta:
    """Deltas of a page of `shape` and `dtype` in every form that a delta has."""
    total = math.prod(shape)
    form = draw(st.sampled_from([f for f in Form if shape or f is not Form.ROWS]))
    number = draw(st.integers(1, 2**40))
    region = Region.none(shape)
    values_shape: tuple[int, ...] = (0,)
    if form is Form.ALL:
        region, values_shape = Region.all(shape), shape
    elif form in {Form.ROWS, Form.ELEMENTS}:
        size = shape[0] if form is Form.ROWS else total
        chosen = sorted(p % size for p in draw(_positions(size))) if size else []
        index = torch.tensor(chosen, dtype=torch.int64)
        rest = shape[1:] if form is Form.ROWS else ()
        count = len(chosen) * math.prod(rest)
        region, values_shape = Region(form, shape, index, count), (len(chosen), *rest)
        if form is Form.ROWS and len(chosen) == 1 and draw(st.booleans()):
            region = Region.one_row(shape, chosen[0])  # no tensor is made of its number
    elif form in {Form.MASK, Form.BITS}:
        flags = draw(st.lists(st.booleans(), min_size=total, max_size=total))
        mask = torch.tensor(flags, dtype=torch.bool).view(shape)
        count = sum(flags)
        if form is Form.MASK:
            region, values_shape = Region(form, shape, mask, count), shape
        else:
            region, values_shape = Region(form, shape, pack_mask(mask), count), (count,)
    values = draw(tensors(values_shape, dtype))
    if region.row is not None:
        values = copy_of(values)
    return Delta(number, 1, 0, region, values, number, "test")


@st.composite
def resizing_deltas(
    draw: st.DrawFn, shape: tuple[int, ...], dtype: torch.dtype, *, shrink: bool = True
) -> Delta:
    """Deltas of a page of `shape` (not 0-dim) that give it any number of rows, the same one too."""
    rows = draw(st.integers(0 if shrink else shape[0], shape[0] + 4))
    delta = draw(deltas((rows, *shape[1:]), dtype))
    delta = delta._replace(rows_before=None if rows == shape[0] else shape[0])
    if delta.region.covers_from(shape[0]):
        return delta
    mask = delta.region.mask()  # rows that are added have to be covered
    mask[shape[0] :] = True
    values = draw(tensors((rows, *shape[1:]), dtype))
    region = Region.where(mask)
    dense = delta._replace(region=region, values=values)
    if region.form is Form.ALL or draw(st.booleans()):
        return dense
    small = region.compact()
    return delta._replace(region=small, values=small.pick(values))
