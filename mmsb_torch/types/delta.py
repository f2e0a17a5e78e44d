"""Deltas: immutable masked changes of one page, and their algebra.

Laws, tested: `apply` twice is `apply` once; `apply(apply(p, a), b) == apply(p, compose(a, b))`;
deltas of disjoint regions commute; `compress` changes the form, never the effect.

A page may get more or fewer rows (dimension 0). A delta's region has the shape that the page has
afterwards, and every row that was not there before is inside; `rows_before` says how many were there
if that is another number. So what a delta does is: cut or extend to its shape, then write its region.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mmsb_torch.device import (
    changed_elements,
    copy_of,
    delta_merge,
    delta_merge_bits,
    delta_merge_elements,
    delta_merge_row,
    delta_merge_rows,
    from_words,
    pack_mask,
    same_bits,
    take_rows,
    touched_rows,
    words,
    zeros,
)
from mmsb_torch.types.region import Form, Region, positions


class Delta(NamedTuple):
    """A masked change of one page. Immutable: its tensors are never written after it is made.

    `values` by the form of `region`: ALL and MASK [*shape] (outside the mask anything), ROWS
    [n, *shape[1:]], ELEMENTS and BITS [n] in C order, NONE empty. Values are absolute, so
    applying a delta twice is applying it once.
    """

    id: int
    page_id: int
    base_epoch: int
    """The page's epoch before this delta; the router sets it when the delta commits."""
    region: Region
    values: Tensor
    time_ns: int
    source: str
    """Who made it: "user", "recompute", "restore", "create", "load"."""
    rows_before: int | None = None
    """Rows of the page before this delta, if afterwards it has another number of them.

    `ANY_ROWS` until it commits: however many there are then."""

    @property
    def nbytes(self) -> int:
        """Bytes of values and mask together."""
        return self.values.nbytes + self.region.nbytes

    def at(self, epoch: int) -> Delta:
        """The same change of the page at `epoch` (`_replace` takes eight times as long)."""
        number, page_id, _, region, values, time_ns, source, rows_before = self
        return make_delta((number, page_id, epoch, region, values, time_ns, source, rows_before))

    def compress(self) -> Delta:
        """The same change in the form that takes the fewest bytes; see `compress`."""
        return compress(self)

    @property
    def effect(self) -> str:
        """What it writes, and how many rows the page has before and after if that differs."""
        if self.rows_before is None:
            return str(self.region)
        return f"{self.region}; {self.rows_before} to {self.region.shape[0]} rows"

    def _repr_html_(self) -> str:
        from mmsb_torch.types.picture import delta_html  # noqa: PLC0415 - drawing loads when asked

        return delta_html(self)

    def __repr__(self) -> str:
        return (
            f"<Delta {self.id} of page {self.page_id} epoch {self.base_epoch} -> "
            f"{self.base_epoch + 1}: {self.effect}, {self.nbytes} bytes, {self.source}>"
        )

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other

    def __hash__(self) -> int:
        return id(self)


ANY_ROWS = -1
"""`rows_before` of a staged delta that gives a page its rows, however many it has by then."""
NARROW_BYTES = 4096
"""Whole-page writes from this size on are compared with what is there."""
_LARGE = 1 << 20
_PROBES = 128  # each is a cache miss or two
_WORTH = 0.75  # a narrowed delta has to be smaller than this share of the whole

make_delta: Callable[[tuple[int, int, int, Region, Tensor, int, str, int | None]], Delta]
make_delta = functools.partial(tuple.__new__, Delta)
"""A delta from its fields in order, at a third of the constructor's cost."""


def apply(tensor: Tensor, delta: Delta) -> None:
    """Merge `delta` into `tensor` in place: contiguous, of the page's dtype, device and new shape."""
    region = delta.region
    row = region.row
    if row is not None:
        delta_merge_row(tensor, delta.values, row)
    elif region.form is Form.ROWS:
        delta_merge_rows(tensor, delta.values, _index(region))
    elif region.form is Form.ALL:
        words(tensor).copy_(words(delta.values))
    elif region.form is Form.ELEMENTS:
        delta_merge_elements(tensor, delta.values, _index(region))
    elif region.form is Form.MASK:
        delta_merge(tensor, delta.values, _index(region))
    elif region.form is Form.BITS:
        delta_merge_bits(tensor, delta.values, _index(region))


def after(tensor: Tensor, deltas: Sequence[Delta]) -> Tensor:
    """What the deltas, one after another, make of `tensor`, which is given up: it may be written.

    Rows that a delta adds and does not cover would be zero.
    """
    if torch.is_inference_mode_enabled():  # what is kept must have a version counter
        with torch.inference_mode(mode=False):
            return after(tensor, deltas)
    shapes = [delta.region.shape for delta in deltas]
    if all(shape == tensor.shape for shape in shapes):
        for delta in deltas:
            apply(tensor, delta)
        return tensor
    most, rows = max(len(tensor), *(shape[0] for shape in shapes)), len(tensor)
    room = zeros((most, *tensor.shape[1:]), tensor.dtype, tensor.device)
    words(room)[:rows].copy_(words(tensor))
    for delta in deltas:
        rows = delta.region.shape[0]
        apply(room[:rows], delta)
    return room if rows == most else copy_of(room[:rows])


def changes_bits(tensor: Tensor, delta: Delta) -> bool:
    """Whether applying `delta` to `tensor` would change a bit; reads what the region covers."""
    region = delta.region
    if region.shape != tensor.shape:
        return True
    if region.form is Form.NONE:
        return False
    if region.form is Form.ALL:
        return not same_bits(tensor, delta.values)
    if region.form is Form.MASK:
        return bool((changed_elements(tensor, delta.values) & _index(region)).any())
    return not same_bits(region.pick(tensor), delta.values)


def compose(first: Delta, second: Delta) -> Delta:
    """One delta that does what `first` and then `second` do to the same page, exactly.

    Keeps `first`'s base epoch and `second`'s id, time and source. Copies values.
    """
    if torch.is_inference_mode_enabled():  # what is kept must have a version counter
        with torch.inference_mode(mode=False):
            return compose(first, second)
    a, b = first.region, second.region
    if b.form is Form.ALL:
        return _over(second, first, b, second.values)
    if a.form is Form.ALL and not (_is_nothing(b) and a.shape == b.shape):
        return _over(second, first, Region.all(b.shape), after(copy_of(first.values), [second]))
    before, first = first, fitted(first, b.shape)
    a = first.region
    if _is_nothing(a):
        return _unless_nothing(_over(second, before, b, second.values))
    if _is_nothing(b):
        return _unless_nothing(_over(second, before, a, first.values))
    if a.form is b.form and a.form in {Form.ROWS, Form.ELEMENTS}:
        return _unless_nothing(_over(second, before, *_overlay([first, second])))
    values = _dense(first)
    apply(values, second)
    mask = a.mask() | b.mask()
    region = Region.where(mask)
    return compress(_over(second, before, region, values))


def compose_all(deltas: Sequence[Delta]) -> Delta:
    """`compose` from the first to the last: the same delta, values that are covered again left out.

    Takes rows after rows, elements after elements and anything after a whole page at once, so that
    many small changes of one page do not cost a copy of what came before each.
    """
    if torch.is_inference_mode_enabled():  # as in `compose`
        with torch.inference_mode(mode=False):
            return compose_all(deltas)
    whole = [at for at, delta in enumerate(deltas) if delta.region.form is Form.ALL]
    found, at = deltas[0], 1
    if whole:  # what came before is covered
        last = deltas[whole[-1]]
        found, at = _over(last, found, last.region, last.values), whole[-1] + 1
    while at < len(deltas):
        stop = at + 1
        if found.region.form is Form.ALL:
            last, stop = deltas[-1], len(deltas)
            values = after(copy_of(found.values), deltas[at:])
            found = _over(last, found, Region.all(last.region.shape), values)
        elif _follows(found, deltas[at]):
            while stop < len(deltas) and _follows(deltas[stop - 1], deltas[stop]):
                stop += 1
            found = _unless_nothing(
                _over(deltas[stop - 1], found, *_overlay([found, *deltas[at:stop]]))
            )
        else:
            found = compose(found, deltas[at])
        at = stop
    return found


def _follows(first: Delta, second: Delta) -> bool:
    """Whether both are rows, or both elements, not none of them, and none of the first are cut off."""
    a, b = first.region, second.region
    return (
        a.form is b.form
        and a.form in {Form.ROWS, Form.ELEMENTS}
        and not (a.empty or b.empty)
        and a.shape[:1] <= b.shape[:1]
    )


def fitted(delta: Delta, shape: tuple[int, ...]) -> Delta:
    """The same change of a page that has the rows of `shape` meanwhile: those beyond are cut off.

    For what comes before or after it in a transaction; `rows_before` is left as it is.
    """
    region, values = delta.region, delta.values
    if region.shape == shape:
        return delta
    if region.form is Form.MASK:
        region, values = region.compact(), region.compact().pick(values)
    region = region.resized(shape[0], values.device)
    expected: tuple[int, ...] = (region.count,)
    if region.form is Form.ALL:
        expected = shape
    elif region.form is Form.ROWS:
        expected = (_index(region).numel(), *shape[1:])
    kept = values.reshape(-1)[: math.prod(expected)].view(expected)
    return delta._replace(region=region, values=kept)


def compress(delta: Delta) -> Delta:
    """Choose the form that takes the fewest bytes of values and mask; the effect is the same."""
    region = delta.region
    if region.form in {Form.ALL, Form.NONE}:
        return delta
    item = delta.values.dtype.itemsize
    total, count = math.prod(region.shape), region.count
    small = region.compact()
    sizes = {
        delta.region.form: delta.nbytes,
        small.form: small.nbytes + count * item,
        Form.MASK: total + total * item,
    }
    best = min(sizes, key=lambda form: (sizes[form], form is not region.form))
    if best is region.form:
        return delta
    dense = _dense(delta)
    if best is Form.MASK:
        return delta._replace(region=Region.where(region.mask()), values=dense)
    return delta._replace(region=small, values=small.pick(dense))


def narrow(delta: Delta, present: Tensor) -> Delta:
    """A whole-page delta as what it changes in `present`, if that takes fewer bytes.

    Of a page of `NARROW_BYTES` or more; a smaller one is written as it is. Where it differs, a look
    at a few elements comes first: if most of them change, everything is kept.
    """
    values = delta.values
    if (
        delta.region.form is not Form.ALL
        or values.nbytes < NARROW_BYTES
        or values.shape != present.shape
    ):
        return delta
    if same_bits(present, values):  # reads up to the first difference
        region = Region.none(delta.region.shape)
        return delta._replace(region=region, values=zeros((0,), values.dtype, values.device))
    step = max(values.numel() // _PROBES, 1)
    old, new = present.view(-1)[::step], values.view(-1)[::step]
    if int(changed_elements(old, new).sum()) > len(new) // 2:
        return delta
    found = _in_rows(delta, present)
    if found is not None:
        return found
    mask = changed_elements(present, values)
    region = Region.where(mask).compact()
    if region.form is Form.ALL:
        return delta
    if region.nbytes > -(-values.numel() // 8):  # many narrow rows: a bit an element takes less
        region = Region(Form.BITS, region.shape, pack_mask(mask), region.count)
    picked = region.count * values.dtype.itemsize
    if region.nbytes + picked > values.nbytes * _WORTH:
        return delta
    return delta._replace(region=region, values=region.pick(values))


def _in_rows(delta: Delta, present: Tensor) -> Delta | None:
    """As `narrow`, of a large page of which few rows differ, in all of their elements; None if not so."""
    values, shape = delta.values, delta.region.shape
    if values.nbytes < _LARGE or values.dim() < 2 or not present.is_contiguous():
        return None
    rows = touched_rows(present, values)
    if len(rows) > len(values) // 4:
        return None
    picked = take_rows(values, rows)
    if not bool(changed_elements(take_rows(present, rows), picked).all()):
        return None
    return delta._replace(region=Region.rows(shape, rows), values=picked)


def _over(second: Delta, first: Delta, region: Region, values: Tensor) -> Delta:
    """What both do, as `region` and `values`: the first's past, the second's name."""
    before = first.region.shape[:1] if first.rows_before is None else (first.rows_before,)
    rows_before = None if before == region.shape[:1] else before[0]
    return second._replace(
        base_epoch=first.base_epoch, region=region, values=values, rows_before=rows_before
    )


def _is_nothing(region: Region) -> bool:
    return region.empty and region.form is not Form.ALL


def _unless_nothing(delta: Delta) -> Delta:
    """The delta; one that covers no element in the one form that says so."""
    region = delta.region
    if not region.empty or region.form is Form.ALL:
        return delta
    nothing = zeros((0,), delta.values.dtype, delta.values.device)
    return delta._replace(region=Region.none(region.shape), values=nothing)


def _overlay(deltas: Sequence[Delta]) -> tuple[Region, Tensor]:
    """Union of row (or of element) deltas: where several speak, the last is heard."""
    given = positions([delta.region for delta in deltas])
    index, order = torch.sort(given, stable=True)
    last = torch.ones_like(index, dtype=torch.bool)
    torch.ne(index[1:], index[:-1], out=last[:-1])
    first, joined = deltas[0], index[last]
    make = Region.rows if first.region.form is Form.ROWS else Region.elements
    region = make(deltas[-1].region.shape, joined)
    bits = torch.cat([words(delta.values) for delta in deltas]).index_select(0, order[last])
    shape = (joined.numel(), *first.values.shape[1:])
    values = from_words(bits, first.values.dtype, shape)
    return region, values.view(region.shape) if region.form is Form.ALL else values


def _dense(delta: Delta) -> Tensor:
    """`delta`'s values spread over a tensor of the page's shape; unspecified outside the region."""
    if delta.region.form in {Form.ALL, Form.MASK}:
        return copy_of(delta.values)
    shape = delta.region.shape
    dense = zeros(shape, delta.values.dtype, delta.values.device)
    apply(dense, delta)
    return dense


def _index(region: Region) -> Tensor:
    index = region.index
    assert index is not None
    return index
