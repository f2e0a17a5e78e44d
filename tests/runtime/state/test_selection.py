"""Rows and elements against Python lists."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from mmsb_torch.errors import InvalidDeltaError
from mmsb_torch.runtime.state import row_index
from mmsb_torch.runtime.state.selection import element_index
from mmsb_torch.types import Spec

CPU = torch.device("cpu")

# as a user may write them; each turns a list of integers into it
WRITTEN = {
    "list": list,
    "tuple": tuple,
    "int64": lambda given: torch.tensor(given, dtype=torch.int64),
    "int32": lambda given: torch.tensor(given, dtype=torch.int32),
    "numpy": lambda given: np.array(given, dtype=np.int64),
    "numpy int16": lambda given: np.array(given, dtype=np.int16),
    "strided": lambda given: torch.tensor(given, dtype=torch.int64).repeat_interleave(2)[::2],
    "numpy reversed": lambda given: np.array(given[::-1], dtype=np.int64)[::-1],
}

sizes = st.one_of(st.integers(0, 6), st.integers(60, 300))


def spec(*shape):
    return Spec(torch.float32, shape, CPU)


def ordered(index, order, given, size):
    """What `row_index` promises: sorted positions, and the order that brings values there."""
    positions = [position % size for position in given]
    assert index.dtype is torch.int64
    assert index.tolist() == sorted(positions)
    if order is None:
        assert positions == sorted(positions)
    else:
        assert [positions[i] for i in order.tolist()] == sorted(positions)


@given(st.data(), sizes, st.sampled_from(sorted(WRITTEN)))
def test_distinct_rows_in_any_order_and_writing(data, size, written):
    chosen = data.draw(
        st.permutations(range(size)).map(lambda p: p[: data.draw(st.integers(0, size))])
    )
    signs = data.draw(st.integers(0, 2))
    given = [p - size if signs and (p + signs) % 2 else p for p in chosen]
    index, order = row_index("x", spec(size, 2), WRITTEN[written](given))
    ordered(index, order, given, size)
    index, order = element_index("x", spec(size), WRITTEN[written](given))
    ordered(index, order, given, size)


@given(st.data(), sizes, st.sampled_from(sorted(WRITTEN)))
def test_duplicates_are_refused_however_they_are_written(data, size, written):
    assume(size)
    count = data.draw(st.sampled_from([2, 3, min(size, 70), size]))
    given = [p % size for p in range(count)]
    twice = data.draw(st.sampled_from(given))
    given.insert(
        data.draw(st.integers(0, len(given))), data.draw(st.sampled_from([twice, twice - size]))
    )
    for call in (row_index, element_index):
        with pytest.raises(InvalidDeltaError) as caught:
            call("x", spec(size), WRITTEN[written](given))
        message = str(caught.value)
        assert "'x'" in message
        named = int(message.split("holds ")[1].split(" twice", maxsplit=1)[0])
        assert [p % size for p in given].count(named) > 1


@given(st.data(), sizes, st.sampled_from(sorted(WRITTEN)))
def test_positions_out_of_range_are_refused_and_named(data, size, written):
    count = min(size, data.draw(st.sampled_from([0, 1, 70, size])))
    given = list(range(count))
    bad = data.draw(st.sampled_from([size, size + 1, size + 500, -size - 1, -size - 400]))
    given.insert(data.draw(st.integers(0, count)), bad)
    for call in (row_index, element_index):
        with pytest.raises(InvalidDeltaError, match="'x'") as caught:
            call("x", spec(size), WRITTEN[written](given))
        assert f"holds {bad}" in str(caught.value)


slices = st.builds(
    slice,
    *[st.one_of(st.none(), st.integers(-9, 9))] * 2,
    st.one_of(st.none(), st.integers(-4, 4).filter(bool)),
)


@given(st.integers(0, 8), slices)
def test_slices_mean_what_they_mean_to_lists(size, chosen):
    index, order = row_index("x", spec(size, 3), chosen)
    ordered(index, order, list(range(size))[chosen], size)


@given(st.integers(1, 100), st.data())
def test_ranges(size, data):
    step = data.draw(st.sampled_from([-7, -2, -1, 1, 2, 5]))
    given = range(0, size, step) if step > 0 else range(size - 1, -1, step)
    ordered(*row_index("x", spec(size), given), list(given), size)
    ordered(*element_index("x", spec(size), given), list(given), size)


@pytest.mark.parametrize("size", [5, 500])
def test_one_row(size):
    for row in (0, 3, -1, -size, np.int8(2), np.uint8(4), torch.tensor([3]), [size - 1]):
        index, order = row_index("x", spec(size), row)
        number = int(row[0] if isinstance(row, (list, torch.Tensor)) else row)
        assert index.tolist() == [number % size]
        assert order is None


shapes = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)


@given(shapes, st.data())
def test_coordinates_are_flat_positions_in_c_order(shape, data):
    every = list(itertools.product(*(range(size) for size in shape)))
    picked = data.draw(st.permutations(range(len(every))))[: data.draw(st.integers(1, len(every)))]
    sign = data.draw(st.integers(0, 1))
    given = [
        [c - size if sign and (c + i) % 2 else c for c, size in zip(every[i], shape, strict=True)]
        for i in picked
    ]
    for written in (given, np.array(given), torch.tensor(given), torch.tensor(given).short()):
        index, order = element_index("x", spec(*shape), written)
        ordered(index, order, picked, len(every))


@given(shapes, st.data())
def test_coordinates_out_of_range_are_refused(shape, data):
    axis = data.draw(st.integers(0, len(shape) - 1))
    bad = [0] * len(shape)
    bad[axis] = data.draw(st.sampled_from([shape[axis], -shape[axis] - 1, 2**40]))
    with pytest.raises(InvalidDeltaError, match=r"'x'.*outside"):
        element_index("x", spec(*shape), [[0] * len(shape), bad])


def test_huge_pages_overflow_nothing():
    shape = (2**31, 2**31)
    index, _ = element_index("x", spec(*shape), [[2**31 - 1, 2**31 - 1], [-1, -2], [0, 5]])
    assert index.tolist() == [5, 2**62 - 2, 2**62 - 1]
    with pytest.raises(InvalidDeltaError, match=str(2**62)):
        element_index("x", spec(*shape), [2**62])
    index, _ = row_index("x", spec(2**40), [-1, 2**40 - 2])
    assert index.tolist() == [2**40 - 2, 2**40 - 1]


@pytest.mark.parametrize("count", [1, 2, 70])
def test_positions_on_another_kind_of_device_are_refused(count):
    for call in (row_index, element_index):
        with pytest.raises(InvalidDeltaError, match=r"'x'.*meta"):
            call("x", spec(100), torch.arange(count, device="meta"))


@pytest.mark.parametrize("count", [1, 2, 70])
def test_sparse_positions_are_refused(count):
    given = torch.arange(1, count + 1).to_sparse()
    for call in (row_index, element_index):
        with pytest.raises(InvalidDeltaError, match="'x'"):
            call("x", spec(100), given)


@pytest.mark.parametrize("count", [1, 5, 200])
def test_what_comes_back_shares_nothing_with_what_was_given(count):
    for mine in (torch.arange(count), np.arange(count)):
        index, _ = row_index("x", spec(300), mine)
        mine[...] = 0
        assert index.tolist() == list(range(count))
