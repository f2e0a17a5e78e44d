"""Where something changed: the one type that is a delta's mask, a journal entry and a stale set."""

from __future__ import annotations

import enum
import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmsb_torch.device import copy_of, pack_mask, take_rows, unpack_mask, zeros

_SHOWN = 6  # indices named before the rest is counted


class Form(enum.Enum):
    """How a region is written down."""

    NONE = "none"
    ALL = "all"
    ROWS = "rows"  # sorted unique int64 [n] along dimension 0
    ELEMENTS = "elements"  # sorted unique int64 [n], flat in C order
    MASK = "mask"  # bool of the page's shape
    BITS = "bits"  # the same, packed: uint8 [ceil(numel / 8)]

    __hash__ = object.__hash__  # by identity, as equality is: Enum's own is a call of Python


class _Fields(NamedTuple):
    form: Form
    shape: tuple[int, ...]
    index: Tensor | int | None  # type: ignore[assignment] # hides tuple.index, which nobody needs
    """By the form; of one row on the CPU its number alone."""
    count: int  # type: ignore[assignment] # likewise
    """Number of elements inside."""


class Region(_Fields):
    """A set of elements of a tensor of `shape`. Immutable; `index` must not be written.

    Make one with the class methods; they leave out what is not needed (an empty selection is
    NONE, a full one ALL).
    """

    __slots__ = ()

    @property
    def index(self) -> Tensor | None:  # type: ignore[override]
        """Where it is, by the form; of one row made here, for it takes longer than writing the row."""
        index = self[2]
        return torch.from_numpy(np.array([index])) if type(index) is int else index  # type: ignore[return-value]

    @property
    def row(self) -> int | None:
        """The number of the row, if this is one row and no index tensor was made of it."""
        index = self[2]
        return index if type(index) is int else None

    @classmethod
    def none(cls, shape: tuple[int, ...]) -> Region:
        """The empty region."""
        return cls(Form.NONE, shape, None, 0)

    @classmethod
    def all(cls, shape: tuple[int, ...]) -> Region:
        """Every element."""
        return cls(Form.ALL, shape, None, math.prod(shape))

    @classmethod
    def rows(cls, shape: tuple[int, ...], index: Tensor) -> Region:
        """Rows `index` (sorted, unique, in range: checked by the caller) of dimension 0."""
        number = index.shape[0]
        if number == 0:
            return cls.none(shape)
        if number == shape[0]:
            return cls.all(shape)
        return _make((Form.ROWS, shape, index, number * math.prod(shape[1:])))

    @classmethod
    def one_row(cls, shape: tuple[int, ...], row: int) -> Region:
        """Row `row` (in range: checked by the caller) of dimension 0 of a tensor on the CPU."""
        if shape[0] == 1:
            return cls.all(shape)
        return _make((Form.ROWS, shape, row, math.prod(shape[1:])))

    @classmethod
    def elements(cls, shape: tuple[int, ...], index: Tensor) -> Region:
        """Elements by sorted, unique flat index in C order."""
        number = index.numel()
        if number == 0:
            return cls.none(shape)
        if number == math.prod(shape):
            return cls.all(shape)
        return cls(Form.ELEMENTS, shape, index, number)

    @classmethod
    def where(cls, mask: Tensor) -> Region:
        """The True elements of a bool mask, which is kept, not copied."""
        shape = tuple(mask.shape)
        count = int(torch.count_nonzero(mask)) if mask.is_cuda else _count(mask)
        if count == 0:
            return cls.none(shape)
        if count == mask.numel():
            return cls.all(shape)
        return cls(Form.MASK, shape, mask, count)

    @property
    def empty(self) -> bool:
        """Whether nothing is inside."""
        return self.count == 0

    @property
    def share(self) -> float:
        """The part of the tensor inside, 0 to 1."""
        total = math.prod(self.shape)
        return self.count / total if total else 0.0

    @property
    def nbytes(self) -> int:
        """Bytes that writing the region down takes."""
        index = self[2]
        return 0 if index is None else _ROW_BYTES if type(index) is int else index.nbytes  # type: ignore[union-attr]

    def mask(self, device: torch.device | None = None) -> Tensor:
        """A new bool tensor of `shape`: True inside. On the region's device unless told."""
        index = self[2]
        where = device or (index.device if isinstance(index, Tensor) else torch.device("cpu"))
        if self.form is Form.MASK:
            return self._index.to(where, copy=True)
        if self.form is Form.BITS:
            return unpack_mask(self._index, self.shape).to(where)
        mask = zeros(self.shape, torch.bool, where)
        if self.form is Form.ALL:
            mask.fill_(True)
        elif self.form is Form.ROWS:
            mask.index_fill_(0, self._index.to(where), True)
        elif self.form is Form.ELEMENTS:
            mask.view(-1).index_fill_(0, self._index.to(where), True)
        return mask

    def flat(self) -> Tensor:
        """Sorted flat int64 indices of what is inside (a new tensor, or `index` itself)."""
        if self.form is Form.ELEMENTS:
            return self._index
        return self.mask().view(-1).nonzero().view(-1)

    def touched_rows(self) -> Tensor | None:
        """Sorted int64 entries of dimension 0 with anything inside; None if that is all, or 0-dim."""
        if self.form is Form.ALL or not self.shape:
            return None
        if self.form is Form.NONE:
            return torch.empty(0, dtype=torch.int64)
        if self.form is Form.ROWS:
            return self._index
        rows: Tensor
        if self.form is Form.ELEMENTS:
            rows = torch.unique_consecutive(self._index // math.prod(self.shape[1:]))
            return rows
        mask = self._index if self.form is Form.MASK else self.mask()
        rows = mask.view(mask.shape[0], -1).any(1).nonzero().view(-1)
        return rows

    def union(self, *others: Region) -> Region:
        """Every element inside any of the regions, which have one shape."""
        parts = [region for region in (self, *others) if region.form is not Form.NONE]
        if len(parts) < 2:
            return parts[0] if parts else self
        whole = next((region for region in parts if region.form is Form.ALL), None)
        if whole is not None:
            return whole
        forms = {region.form for region in parts}
        if len(forms) == 1 and forms <= _INDEXED:
            joined = torch.unique(positions(parts))
            make = Region.rows if Form.ROWS in forms else Region.elements
            return make(self.shape, joined)
        mask = parts[0].mask()
        for region in parts[1:]:
            mask |= region.mask()
        return Region.where(mask).compact()

    def compact(self) -> Region:
        """The same elements as rows if they are whole rows, else as indices or bits, what is less.

        Rows take the fewest bytes but for pages of very narrow rows with most of them inside.
        """
        if self[2] is None:
            return self
        mask = self._index if self.form is Form.MASK else self.mask()
        rows = _whole_rows(mask, self.count)
        if rows is not None:
            return Region.rows(self.shape, rows)
        if self.count * 8 <= (mask.numel() + 7) // 8:
            return Region.elements(self.shape, mask.view(-1).nonzero().view(-1))
        return Region(Form.BITS, self.shape, pack_mask(mask), self.count)

    def resized(self, rows: int, device: torch.device | None = None) -> Region:
        """The same elements of a tensor of `rows` rows: those beyond are cut off, new rows are outside.

        The form stays, but for everything, which becomes the rows of before (on `device`).
        """
        shape = (rows, *self.shape[1:])
        if shape == self.shape:
            return self
        grown, total = rows > self.shape[0], math.prod(shape)
        if self.form is Form.NONE:
            return Region.none(shape)
        if self.form is Form.ALL:
            if not grown:
                return Region.all(shape)
            return Region.rows(shape, torch.arange(self.shape[0], device=device or "cpu"))
        index = self._index
        if self.form in _INDEXED:
            whole = self.form is Form.ROWS
            if not grown:
                index = index[: int((index < (rows if whole else total)).sum())]
            return (Region.rows if whole else Region.elements)(shape, index)
        if grown:
            bits = self.form is Form.BITS
            wider = zeros((-(-total // 8),) if bits else shape, index.dtype, index.device)
            wider[: index.shape[0]] = index
            return Region(self.form, shape, wider, self.count)
        mask = self.mask()[:rows]
        found = Region.where(mask)
        if self.form is Form.MASK or found.form is not Form.MASK:
            return found
        return Region(Form.BITS, shape, pack_mask(mask), found.count)

    def covers_from(self, row: int) -> bool:
        """Whether every element of row `row` and of those after it is inside."""
        total, start = math.prod(self.shape), row * math.prod(self.shape[1:])
        if start >= total or self.form is Form.ALL:
            return True
        if self.form is Form.NONE:
            return False
        if self.form is Form.MASK:
            return bool(self._index[row:].all())
        if self.form is Form.BITS:
            return _all_set(self._index, start, total)
        first, last = (row, self.shape[0]) if self.form is Form.ROWS else (start, total)
        beyond = last - first
        return self._index.numel() >= beyond and int(self._index[-beyond]) == first

    def pick(self, dense: Tensor) -> Tensor:
        """Copy what is inside out of a contiguous tensor of `shape`, in C order.

        Rows come as [n, *shape[1:]], ALL as the whole, everything else as [count].
        """
        if self.form is Form.ALL:
            return copy_of(dense)
        if self.form is Form.ROWS:
            return take_rows(dense, self._index)
        return take_rows(dense.view(-1), self.flat())

    @property
    def _index(self) -> Tensor:
        index = self.index
        assert index is not None
        return index

    def __str__(self) -> str:
        if self.form in {Form.NONE, Form.ALL}:
            return {Form.NONE: "nothing", Form.ALL: "everything"}[self.form]
        if self.form in _INDEXED:
            named = ", ".join(str(i) for i in self._index[:_SHOWN].tolist())
            more = ", ..." if self._index.numel() > _SHOWN else ""
            total = self.shape[0] if self.form is Form.ROWS else math.prod(self.shape)
            return f"{self.form.value} {named}{more} ({self._index.numel()} of {total})"
        return f"{self.count} of {math.prod(self.shape)} elements"

    def __repr__(self) -> str:
        return f"<Region {self} of {list(self.shape)}>"

    def __eq__(self, other: object) -> bool:
        """Same shape and same elements, whatever the form."""
        if not isinstance(other, Region):
            return NotImplemented
        if self.shape != other.shape or self.count != other.count:
            return False
        return self is other or torch.equal(self.mask().cpu(), other.mask().cpu())

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((self.shape, self.count))


def positions(regions: Sequence[Region]) -> Tensor:
    """The indices of regions of rows (or of elements), one after another: a new tensor."""
    rows = [region.row for region in regions]
    if None in rows:
        return torch.cat([region.index for region in regions if region.index is not None])
    return torch.from_numpy(np.array(rows))


_make = functools.partial(tuple.__new__, Region)  # a third of the constructor's cost
_ROW_BYTES = 8
_INDEXED = frozenset({Form.ROWS, Form.ELEMENTS})


def _count(mask: Tensor) -> int:
    return int(np.count_nonzero(mask.numpy()))


def _all_set(bits: Tensor, start: int, stop: int) -> bool:
    """Whether all bits from `start` to before `stop`, one at least, are set."""
    first, last = start // 8, (stop - 1) // 8
    ends = {first: 0xFF << start % 8 & 0xFF, last: 0xFF >> -stop % 8}
    if first == last:
        ends = {first: ends[first] & 0xFF << start % 8}
    between = bits[first + 1 : last]
    return bool((between == 0xFF).all()) and all(
        int(bits[at]) & wanted == wanted for at, wanted in ends.items()
    )


def _whole_rows(mask: Tensor, count: int) -> Tensor | None:
    """The rows that are all True, if every other row is all False; else None.

    `count` is the number of True elements: most masks are told apart by it alone.
    """
    width = math.prod(mask.shape[1:])
    if mask.dim() == 0 or mask.numel() == 0 or count % width:
        return None
    if int(mask.view(mask.shape[0], -1)[:, 0].sum()) != count // width:
        return None
    flat = mask.view(mask.shape[0], -1)
    some = flat.any(1)
    return some.nonzero().view(-1) if torch.equal(some, flat.all(1)) else None
