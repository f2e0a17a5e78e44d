"""Staging: what a user hands over becomes a validated delta of its own memory.

Nothing here takes a lock or changes a page, so bad input leaves everything as it was.
"""

from __future__ import annotations

import cmath
import itertools
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmsb_torch.device import copy_of, fill, require_dense, take_rows, zeros
from mmsb_torch.errors import DerivedPageError, InvalidDeltaError
from mmsb_torch.runtime.state.selection import element_index, row_region
from mmsb_torch.runtime.state.table import Entry
from mmsb_torch.types import Delta, Form, Region, Spec, make_delta, rebased

_ids = itertools.count(1)
_DENSE_FROM = 0.5  # above this share a mask keeps dense values: picking them costs more


def next_delta_id() -> int:
    """A delta id, unique in this process."""
    return next(_ids)


def stage(
    entry: Entry,
    values: Any,
    *,
    rows: Any = None,
    indices: Any = None,
    mask: Any = None,
    source: str = "user",
    spec: Spec | None = None,
) -> Delta:
    """Turn a change of `entry`'s page into a delta; copies whatever it keeps.

    Args:
        entry: the page.
        values: tensor of the page's dtype and device shaped as the selection asks, or a scalar
            (0-dim tensor of the dtype, or a number that the dtype holds) that fills it.
        rows: int, list, range, slice or integer tensor: rows of dimension 0; negative ones wrap.
        indices: flat positions in C order (list or integer tensor [n]), or coordinates [n, ndim].
        mask: bool tensor of the page's shape.
        source: who asks.
        spec: what the page looks like by then, if it gets other rows before; its own if left out.

    Raises:
        InvalidDeltaError: anything that does not fit the page.
        DerivedPageError: the page has a recipe.
    """
    if torch.is_inference_mode_enabled():  # what is kept must have a version counter
        with torch.inference_mode(mode=False):
            return stage(
                entry, values, rows=rows, indices=indices, mask=mask, source=source, spec=spec
            )
    spec = spec or entry.info.spec
    if spec is None:
        raise _is_derived(entry)
    if rows is not None and indices is None and mask is None:
        region, number, order = row_region(entry.info.name, spec, rows)
        shape = (number, *spec.shape[1:])
        staged = _values(entry, spec, values, shape, "rows")
        if order is not None:
            staged = take_rows(staged, order)
    elif rows is None and indices is None and mask is None:
        region = Region.all(spec.shape)
        staged = _values(entry, spec, values, spec.shape, "all of it")
    elif indices is not None and rows is None and mask is None:
        index, order = element_index(entry.info.name, spec, indices)
        region = Region.elements(spec.shape, index)
        staged = _values(entry, spec, values, (index.numel(),), "elements")
        if order is not None:
            staged = take_rows(staged, order)
        if region.form is Form.ALL:
            staged = staged.view(spec.shape)
    elif mask is not None and rows is None and indices is None:
        region, staged = _masked(entry, spec, values, mask)
    else:
        given = [
            n for n, v in (("rows", rows), ("indices", indices), ("mask", mask)) if v is not None
        ]
        raise InvalidDeltaError(
            f"update of page {entry.info.name!r}: expected one of rows=, indices=, mask= at most, "
            f"found {' and '.join(given)}. Make two updates inside one `with mem.commit()`.",
            page_id=entry.info.id,
        )
    now = time.time_ns()
    return make_delta((next(_ids), entry.info.id, -1, region, staged, now, source, None))


def stage_append(entry: Entry, values: Any, *, spec: Spec | None = None) -> Delta:
    """Turn rows that come after a page's last into a delta; copies them.

    Args:
        entry: the page.
        values: tensor [n, *shape[1:]] of the page's dtype and device, or such a numpy array.
        spec: as of `stage`.

    Raises:
        InvalidDeltaError: they do not fit, or a page without dimensions, which has no rows.
        DerivedPageError: the page has a recipe.
    """
    if torch.is_inference_mode_enabled():  # as in `stage`
        with torch.inference_mode(mode=False):
            return stage_append(entry, values, spec=spec)
    spec = spec or entry.info.spec
    if spec is None:
        raise _is_derived(entry)
    if not spec.shape:
        raise InvalidDeltaError(
            f"append to page {entry.info.name!r}: a 0-dim page has no rows. "
            "Make a page with a first dimension, or update this one.",
            page_id=entry.info.id,
        )
    if isinstance(values, np.ndarray):
        values = _from_numpy(entry, values)
    problem = require_dense(values)
    if problem is None and (
        values.dim() == 0
        or tuple(values.shape[1:]) != spec.shape[1:]
        or values.dtype != spec.dtype
        or values.device != spec.device
    ):
        problem = f"{Spec.of(values)} on {values.device}"
    if problem is not None:
        sizes = ", ".join(["n", *map(str, spec.shape[1:])])
        raise InvalidDeltaError(
            f"append to page {entry.info.name!r} (epoch {entry.epoch}): expected {spec.dtype_name}"
            f"[{sizes}] on {spec.device}, found {problem}. {_append_advice(spec, values)}",
            page_id=entry.info.id,
        )
    rows, added = spec.shape[0], values.shape[0]
    region = Region.none(spec.shape)
    if added:
        shape = (rows + added, *spec.shape[1:])
        index = torch.arange(rows, rows + added, device=spec.device)
        region = Region.rows(shape, index)
    staged = copy_of(values.detach()) if added else zeros((0,), spec.dtype, spec.device)
    fields = next(_ids), entry.info.id, -1, region, staged, time.time_ns(), "user"
    return make_delta((*fields, rows if added else None))


def at_size(entry: Entry, delta: Delta, rows: int) -> Delta:
    """A staged delta as one of the page's rows by now, which may be others than when it was staged.

    Raises:
        InvalidDeltaError: it writes rows that are gone.
    """
    found = rebased(delta, rows)
    if found is None:
        raise InvalidDeltaError(
            f"page {entry.info.name!r} has {rows} rows by now (epoch {entry.epoch}): expected a change "
            f"of those, found one of {delta.region} that was made before. Somebody took rows away in "
            "between: look at the page again and redo the change.",
            page_id=entry.info.id,
        )
    return found


def _append_advice(spec: Spec, values: Any) -> str:
    if isinstance(values, Tensor) and tuple(values.shape) == spec.shape[1:]:
        return "Append one row as row[None]."
    if isinstance(values, Tensor) and values.shape[1:] == spec.shape[1:]:
        return _advice(spec, values)
    return "Pass a tensor of rows."


def _is_derived(entry: Entry) -> DerivedPageError:
    name = entry.info.name
    return DerivedPageError(
        f"page {name!r} is derived: its recipe alone changes it. Update one of its inputs instead.",
        page_id=entry.info.id,
    )


def _values(entry: Entry, spec: Spec, values: Any, shape: Sequence[int], what: str) -> Tensor:
    """`values` as a new contiguous tensor of `shape`, checked against the page's spec."""
    if (
        type(values) is Tensor
        and values.dtype is spec.dtype
        and values.device == spec.device
        and values.layout is torch.strided
        and not values.is_nested
    ):
        if values.shape == shape:
            return copy_of(values)
    elif isinstance(values, (bool, int, float, complex)):
        return _filled(entry, spec, values, shape)
    elif isinstance(values, np.ndarray):
        return _values(entry, spec, _from_numpy(entry, values), shape, what)
    problem = require_dense(values)
    if problem is None:
        problem = _mismatch(spec, values, shape)
    if problem is not None:
        raise InvalidDeltaError(
            f"cannot write page {entry.info.name!r} (epoch {entry.epoch}): expected ({what}) "
            f"{Spec(spec.dtype, tuple(shape), spec.device)} on {spec.device}, found {problem}. "
            f"{_advice(spec, values)}",
            page_id=entry.info.id,
        )
    source = values.detach()
    if source.shape != torch.Size(shape):  # a 0-dim tensor fills the selection
        return fill(source, tuple(shape))
    return copy_of(source)


def _mismatch(spec: Spec, values: Tensor, shape: Sequence[int]) -> str | None:
    found = f"{Spec.of(values)} on {values.device}"
    if values.dtype != spec.dtype or values.device != spec.device:
        return found
    if values.dim() != 0 and tuple(values.shape) != tuple(shape):
        return found
    return None


def _advice(spec: Spec, values: Any) -> str:
    if not isinstance(values, Tensor):
        return "Pass a torch.Tensor, or a number to fill with."
    if values.device != spec.device and values.device.type in {"cpu", "cuda"}:
        return f"Move it with value.to({str(spec.device)!r})."
    if values.dtype != spec.dtype:
        return f"Cast with value.to({spec.dtype}), or make a new page."
    return "Reshape the value, or select what it covers with rows=, indices= or mask=."


def _from_numpy(entry: Entry, values: np.ndarray[Any, Any]) -> Tensor:
    try:
        return torch.from_numpy(np.array(values))
    except (TypeError, ValueError) as error:
        raise InvalidDeltaError(
            f"cannot write page {entry.info.name!r}: expected a numpy array that torch can hold, found "
            f"dtype {values.dtype} in byte order {values.dtype.byteorder!r}. "
            "Convert it with array.astype(...).",
            page_id=entry.info.id,
        ) from error


def _filled(entry: Entry, spec: Spec, number: complex, shape: Sequence[int]) -> Tensor:
    """A Python number spread over `shape`, if the page's dtype can hold it."""
    kind = spec.dtype
    fits = (
        isinstance(number, bool)
        if kind is torch.bool
        else not isinstance(number, bool)
        and (
            kind.is_complex
            or (kind.is_floating_point and not isinstance(number, complex))
            or isinstance(number, int)
        )
    )
    try:
        if not fits:
            raise TypeError(f"{number!r} is no {spec.dtype_name}")
        one = torch.full((), number, dtype=kind, device="cpu")
        if not _holds(one, number):
            raise OverflowError(f"{number!r} does not fit {spec.dtype_name}")
        return fill(one.to(spec.device), tuple(shape))
    except (RuntimeError, TypeError, OverflowError, NotImplementedError) as error:
        raise InvalidDeltaError(
            f"cannot write page {entry.info.name!r} (epoch {entry.epoch}): expected a number that "
            f"{spec.dtype_name} holds, found {number!r}. Pass a tensor of {kind}.",
            page_id=entry.info.id,
        ) from error


def _holds(one: Tensor, number: complex) -> bool:
    """Whether a 0-dim tensor holds `number`: integers exactly, others without overflow."""
    if one.dtype is torch.bool or not (one.is_floating_point() or one.is_complex()):
        return bool(one.item() == number)
    return cmath.isfinite(one.to(torch.complex128).item()) or not cmath.isfinite(number)


def _masked(entry: Entry, spec: Spec, values: Any, mask: Any) -> tuple[Region, Tensor]:
    """Region and values of a masked update: sparse when that is smaller."""
    problem = require_dense(mask)
    if problem is None and (
        mask.dtype is not torch.bool
        or tuple(mask.shape) != spec.shape
        or mask.device != spec.device
    ):
        problem = f"{Spec.of(mask)} on {mask.device}"
    if problem is not None:
        raise InvalidDeltaError(
            f"update of page {entry.info.name!r}: expected mask= to be "
            f"bool[{', '.join(map(str, spec.shape))}] on {spec.device}, found {problem}. "
            "Pass positions with rows= or indices= instead of a mask of another shape.",
            page_id=entry.info.id,
        )
    region = Region.where(mask.detach().contiguous())
    if (
        isinstance(values, Tensor)
        and values.dim() == len(spec.shape)
        and region.share < _DENSE_FROM
    ):
        dense = values.detach()
        problem = require_dense(values) or _mismatch(spec, values, spec.shape)
        if problem is None and region.form is Form.MASK and tuple(dense.shape) == spec.shape:
            small = region.compact()
            if not dense.is_contiguous() or dense.is_conj() or dense.is_neg():
                dense = copy_of(dense)  # torch itself copies not every dtype
            return small, small.pick(dense)
    staged = _values(entry, spec, values, spec.shape, "where the mask is True")
    if region.form is Form.MASK:
        region = region._replace(index=region.mask())
    elif region.form is Form.NONE:
        staged = staged.new_empty((0,))
    return region, staged
