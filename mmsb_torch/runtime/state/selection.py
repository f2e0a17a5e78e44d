"""What `rows=` and `indices=` may be, turned into sorted, unique, in-range int64 positions."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmsb_torch.device import require_dense
from mmsb_torch.errors import InvalidDeltaError
from mmsb_torch.types import Region, Spec

_ONE = torch.Size([1])
_FEW = 64  # up to here a Python loop beats torch's calls


def row_region(name: str, spec: Spec, rows: Any) -> tuple[Region, int, Tensor | None]:
    """The region of these rows, how many they are, and the order to bring values into (as given).

    Raises:
        InvalidDeltaError: as `row_index`.
    """
    one = rows[0] if type(rows) is list and len(rows) == 1 else rows
    if (
        type(rows) is Tensor
        and rows.dtype is torch.int64
        and rows.shape == _ONE
        and rows.is_cpu
        and rows.layout is torch.strided
    ):
        one = rows.item()
    if type(one) is int and spec.shape and spec.device.type == "cpu":
        row = _in_range(name, "rows", one, spec.shape[0])
        return Region.one_row(spec.shape, row), 1, None
    index, order = row_index(name, spec, rows)
    return Region.rows(spec.shape, index), index.shape[0], order


def row_index(name: str, spec: Spec, rows: Any) -> tuple[Tensor, Tensor | None]:
    """Positions along dimension 0, and the order to bring values into (None: as given).

    Raises:
        InvalidDeltaError: not integers, out of range, given twice, or the page is 0-dim.
    """
    if not spec.shape:
        raise InvalidDeltaError(
            f"update of page {name!r}: a 0-dim page has no rows. Update it with a value alone."
        )
    if isinstance(rows, slice):
        try:
            rows = range(*rows.indices(spec.shape[0]))
        except (TypeError, ValueError) as error:
            raise InvalidDeltaError(
                f"update of page {name!r}: rows={rows!r} is no slice of integers: {error}"
            ) from None
    elif isinstance(rows, (int, np.integer)) and not isinstance(rows, bool):
        rows = [int(rows)]
    return _positions(name, "rows", rows, spec.shape[0], spec.device)


def element_index(name: str, spec: Spec, indices: Any) -> tuple[Tensor, Tensor | None]:
    """Flat positions in C order, and the order to bring values into (None: as given).

    Raises:
        InvalidDeltaError: not integers, out of range, given twice, or coordinates of another rank.
    """
    given = _integers(name, "indices", indices, math.prod(spec.shape))
    if given.dim() == 2:
        if given.shape[1] != len(spec.shape):
            raise InvalidDeltaError(
                f"update of page {name!r}: coordinates in indices= should be "
                f"[n, {len(spec.shape)}], found {list(given.shape)}"
            )
        given = _ravel(name, spec, given)
    return _positions(name, "indices", given, math.prod(spec.shape), spec.device)


def _positions(
    name: str, what: str, given: Any, size: int, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    if isinstance(given, range) and given:  # its ends tell before it is spelled out
        for position in (given[0], given[-1]):
            if not -size <= position < size:
                raise _out_of_range(name, what, position, size)
    if type(given) is list and 0 < len(given) <= _FEW and {*map(type, given)} == {int}:
        index, order = _few(name, what, given, size)
    else:
        index = _integers(name, what, given, size)
        if index.dim() != 1:
            raise InvalidDeltaError(
                f"update of page {name!r}: {what}= should be one list of positions, "
                f"found shape {list(index.shape)}"
            )
        if index.numel() <= _FEW:
            index, order = _few(name, what, index.tolist(), size)
        else:
            index, order = _many(name, what, index, size)
    if device.type == "cpu":
        return index, order
    return index.to(device), None if order is None else order.to(device)


_INTEGERS = frozenset(
    {
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.uint16,
        torch.int32,
        torch.uint32,
        torch.int64,
        torch.uint64,
    }
)


def _integers(name: str, what: str, given: Any, size: int) -> Tensor:
    """`given` as a CPU integer tensor (not yet a copy); refuses floats, NaN, bools."""
    if isinstance(given, Tensor):
        found = require_dense(given) or f"{given.dtype} on {given.device}"
        fine = given.dtype in _INTEGERS and given.layout is torch.strided and not given.is_nested
        if fine and given.device.type in {"cpu", "cuda"}:
            index = given.detach().cpu()
            if index.dtype is not torch.uint64:
                return index
            given = index.numpy()
    elif isinstance(given, list | tuple) and _holds_a_bool(given):
        found, given = "a bool among them", None
    if not isinstance(given, Tensor):
        array = _array(given)
        if array.dtype.kind in "iuO" and array.size:
            _check_huge(name, what, array, size)
        if array.dtype.kind in "iu":
            return torch.from_numpy(array.astype(np.int64))
        found = f"{array.dtype} {given!r:.60}" if given is not None else found
    hint = " Pass a bool tensor as mask=." if "bool" in found else ""
    raise InvalidDeltaError(
        f"update of page {name!r}: {what}= should be integers (a list or an integer tensor on the "
        f"CPU or the page's device), found {found}.{hint}"
    )


def _holds_a_bool(given: Any) -> bool:
    return any(
        isinstance(item, bool | np.bool_)
        or (isinstance(item, list | tuple) and _holds_a_bool(item))
        for item in given
    )


def _array(given: Any) -> np.ndarray[Any, Any]:
    """`given` as an array; of dtype object where that cannot be."""
    try:
        array = np.asarray(list(given) if isinstance(given, range) else given)
    except (ValueError, TypeError, OverflowError):
        return np.asarray(None)
    return array.astype(np.int64) if array.size == 0 and array.ndim == 1 else array


def _check_huge(name: str, what: str, array: np.ndarray[Any, Any], size: int) -> None:
    """Refuse integers that int64 cannot hold, before they wrap."""
    if array.dtype.kind == "i" or (array.dtype.kind == "u" and array.dtype.itemsize < 8):
        return
    for position in array.reshape(-1).tolist():
        if isinstance(position, int) and not -(2**63) <= position < 2**63:
            raise _out_of_range(name, what, position, size)


def _few(name: str, what: str, given: list[int], size: int) -> tuple[Tensor, Tensor | None]:
    positions = [_in_range(name, what, position, size) for position in given]
    ordered = sorted(positions)
    for before, after in itertools.pairwise(ordered):
        if before == after:
            raise _duplicated(name, what, before)
    order = None
    if ordered != positions:
        order = torch.from_numpy(np.argsort(np.array(positions), kind="stable"))
    return torch.from_numpy(np.array(ordered, dtype=np.int64)), order


def _in_range(name: str, what: str, position: int, size: int) -> int:
    if not -size <= position < size:
        raise _out_of_range(name, what, position, size)
    return position + size if position < 0 else position


def _many(name: str, what: str, index: Tensor, size: int) -> tuple[Tensor, Tensor | None]:
    positions = index.numpy().astype(np.int64)  # a copy of our own
    low, high = int(positions.min()), int(positions.max())
    if low < -size or high >= size:
        raise _out_of_range(name, what, low if low < -size else high, size)
    if low < 0:
        positions[positions < 0] += size
    if bool((positions[1:] > positions[:-1]).all()):
        return torch.from_numpy(positions), None
    order = np.argsort(positions, kind="stable")
    positions = positions[order]
    twice = np.flatnonzero(positions[1:] == positions[:-1])
    if twice.size:
        raise _duplicated(name, what, int(positions[twice[0]]))
    return torch.from_numpy(positions), torch.from_numpy(order)


def _ravel(name: str, spec: Spec, coordinates: Tensor) -> Tensor:
    sizes = np.array(spec.shape, dtype=np.int64)
    given = coordinates.numpy().astype(np.int64)
    outside = (given < -sizes) | (given >= sizes)
    if outside.any():
        where = int(np.flatnonzero(outside.any(axis=1))[0])
        raise InvalidDeltaError(
            f"update of page {name!r}: coordinate {given[where].tolist()} is outside {spec}"
        )
    given = np.where(given < 0, given + sizes, given)
    strides = np.array([math.prod(spec.shape[i + 1 :]) for i in range(len(spec.shape))])
    return torch.from_numpy((given * strides).sum(axis=1, dtype=np.int64))


def _out_of_range(name: str, what: str, position: int, size: int) -> InvalidDeltaError:
    return InvalidDeltaError(
        f"update of page {name!r}: {what}= holds {position}, expected {-size} to {size - 1}"
        if size
        else f"update of page {name!r}: {what}= holds {position}, but the page is empty"
    )


def _duplicated(name: str, what: str, position: int) -> InvalidDeltaError:
    return InvalidDeltaError(
        f"update of page {name!r}: {what}= holds {position} twice (negative positions wrap). "
        "Give each position once."
    )
