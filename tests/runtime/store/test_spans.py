"""Ranges of transactions, against sets."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from mmsb_torch.runtime.store.spans import covers, merged, runs, spelled, without

spans = st.lists(
    st.builds(lambda a, n: range(a, a + n), st.integers(0, 30), st.integers(0, 8)), max_size=6
)


def numbers(ranges):
    return {number for item in ranges for number in item}


@given(spans)
def test_merged(ranges):
    found = merged(ranges)
    assert numbers(found) == numbers(ranges)
    assert all(found)
    assert all(a.stop < b.start for a, b in itertools.pairwise(found))
    assert runs(sorted(numbers(ranges))) == found


@given(spans, spans)
def test_without(ranges, removed):
    found = without(ranges, removed)
    assert numbers(found) == numbers(ranges) - numbers(removed)
    assert all(found)
    assert len(numbers(found)) == sum(map(len, found))


@given(spans, st.integers(0, 30), st.integers(0, 8))
def test_covers(ranges, start, count):
    wanted = range(start, start + count)
    assert covers(ranges, wanted) == (set(wanted) <= numbers(ranges))


def test_spelled():
    assert spelled([range(5, 9), range(1, 2), range(7, 10)]) == "1, 5 to 9"
    assert spelled([]) == "none"
