"""Edits of a function's inputs, its steps compared with full runs."""

import numpy as np
import torch
from hypothesis import strategies as st

from mmsb_torch.graph.rows import plan

LIMIT = 1 << 30


class Edited:
    """A function under edits: each is made by a step, and compared with a full run.

    Comparison is bit for bit where the plan says so.
    """

    def __init__(self, function, values, changed=(0,)):
        self.function = function
        self.values = [value.clone() for value in values]
        with torch.no_grad():
            self.whole = function(*self.values)
            self.plan = plan(function, self.values, self.whole, changed)
        self.first = (self.values, self.whole)
        self.again()

    def again(self):
        """Back to the first values."""
        self.values, self.whole = self.first
        self.kept = self.plan.start(self.values, LIMIT, self.whole)
        self.same(self.kept.value, self.whole, self.kept.exact)
        return self

    def same(self, found, wanted, exact=True):
        if exact:
            assert torch.equal(found, wanted)
        else:
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5, equal_nan=True)

    def edit(self, boxes, fill, grown=0):
        """Write `fill(shape, dtype)` into boxes of the inputs, append rows, and compare."""
        values = [value.clone() for value in self.values]
        if grown:
            for at in self.plan.graph.dynamic:
                more = fill((grown, *values[at].shape[1:]), values[at].dtype)
                values[at] = torch.cat([values[at], more])
        for value, box in zip(values, boxes, strict=True):
            if box is not None:
                where = index_of(box, value.shape)
                value[where] = fill(value[where].shape, value.dtype)
        found = self.kept.step(values, boxes)
        with torch.no_grad():
            whole = self.function(*values)
        patched = torch.full_like(whole, 0)
        old = self.whole
        patched[tuple(slice(0, size) for size in old.shape)] = old
        if found is not None:
            part, box = found
            patched[index_of(box, whole.shape)] = part.reshape(index_shape(box, whole.shape))
        self.values, self.whole = values, patched
        self.same(patched, whole, self.kept.exact)
        return found


def index_of(box, shape):
    if not shape:
        return ()
    parts = [
        np.arange(size) if part is None else np.asarray(part, np.int64)
        for part, size in zip(box, shape, strict=True)
    ]
    return tuple(torch.from_numpy(part) for part in np.ix_(*parts))


def index_shape(box, shape):
    return [size if part is None else len(part) for part, size in zip(box, shape, strict=True)]


def filler(seed):
    generator = torch.Generator().manual_seed(seed)

    def fill(shape, dtype):
        if dtype.is_floating_point:
            return torch.randn(shape, generator=generator, dtype=torch.float32).to(dtype)
        return torch.randint(0, 2 if dtype == torch.bool else 5, shape, generator=generator).to(
            dtype
        )

    return fill


@st.composite
def parts(draw, size):
    kind = draw(st.sampled_from(["all", "range", "list", "one"]))
    if kind == "all" or size == 0:
        return None
    if kind == "one":
        at = draw(st.integers(0, size - 1))
        return range(at, at + 1)
    if kind == "range":
        start = draw(st.integers(0, size - 1))
        return range(start, draw(st.integers(start + 1, size)))
    chosen = draw(st.sets(st.integers(0, size - 1), min_size=1, max_size=min(size, 5)))
    return np.array(sorted(chosen))


@st.composite
def boxes(draw, shape, rows_only=False):
    """A box of a tensor; mostly rows."""
    if rows_only or draw(st.booleans()):
        return (draw(parts(shape[0])), *[None] * (len(shape) - 1)) if shape else ()
    return tuple(draw(parts(size)) for size in shape)
