"""Deltas that add or take away rows keep the laws of deltas."""

import functools

import torch
from hypothesis import given
from hypothesis import strategies as st

from mmsb_torch.device import copy_of, same_bits, words
from mmsb_torch.testing import DTYPES, deltas, resizing_deltas, shapes, tensors
from mmsb_torch.types import (
    ANY_ROWS,
    Delta,
    Form,
    Region,
    after,
    changes_bits,
    compose,
    compose_all,
    compress,
    is_append,
    narrow,
    rebased,
)

specs = st.tuples(shapes().filter(len), st.sampled_from(DTYPES))


def applied(tensor, *deltas):
    return after(copy_of(tensor), deltas)


def obvious(tensor, delta):
    """Cut or extend, then element by element."""
    shape = delta.region.shape
    old = words(tensor)[: shape[0]]
    extra = torch.full((shape[0] - len(old), *old.shape[1:]), 77, dtype=old.dtype)
    result = torch.cat([old, extra])
    mask = delta.region.mask()
    if delta.region.form is Form.MASK:
        new = words(delta.values)
    else:
        new = torch.zeros_like(result)
        kept = words(delta.values)
        new[mask] = kept.reshape(new[mask].shape)
    result[mask] = new[mask]
    return result


@given(st.data(), specs)
def test_it_cuts_or_extends_and_then_writes(data, spec):
    page = data.draw(tensors(*spec))
    delta = data.draw(resizing_deltas(*spec))
    assert torch.equal(words(applied(page, delta)), obvious(page, delta))
    assert delta.region.covers_from(min(len(page), delta.region.shape[0]))


@given(st.data(), specs)
def test_applying_twice_is_applying_once(data, spec):
    page, delta = data.draw(tensors(*spec)), data.draw(resizing_deltas(*spec))
    once = applied(page, delta)
    assert same_bits(applied(once, delta), once)
    assert not changes_bits(once, delta)
    assert changes_bits(page, delta) == (not same_bits(page, once))


@st.composite
def chains(draw, spec, least=2, most=6):
    """Deltas, each for the shape that the one before leaves."""
    shape, dtype = spec
    found = []
    for _ in range(draw(st.integers(least, most))):
        found.append(draw(resizing_deltas(shape, dtype)))
        shape = found[-1].region.shape
    return found


@given(st.data(), specs)
def test_composition_is_one_delta_with_the_effect_of_both(data, spec):
    page = data.draw(tensors(*spec))
    a, b = data.draw(chains(spec, 2, 2))
    both = compose(a, b)
    assert same_bits(applied(page, both), applied(page, a, b))
    rows = both.region.shape[0]
    assert both.rows_before == (None if rows == len(page) else len(page))
    assert both.region.covers_from(min(rows, len(page)))
    assert torch.equal(both.region.mask(), lifted(a, rows) | b.region.mask())


def lifted(delta, rows):
    mask = torch.zeros((rows, *delta.region.shape[1:]), dtype=torch.bool)
    kept = delta.region.mask()[:rows]
    mask[: len(kept)] = kept
    return mask


@given(st.data(), specs)
def test_composition_is_associative(data, spec):
    page = data.draw(tensors(*spec))
    a, b, c = data.draw(chains(spec, 3, 3))
    left, right = compose(compose(a, b), c), compose(a, compose(b, c))
    assert same_bits(applied(page, left), applied(page, right))
    assert left.rows_before == right.rows_before


@given(st.data(), specs)
def test_composing_all_is_composing_one_by_one(data, spec):
    page, changes = data.draw(tensors(*spec)), data.draw(chains(spec, 1, 8))
    one_by_one, at_once = functools.reduce(compose, changes), compose_all(changes)
    assert same_bits(applied(page, at_once), applied(page, *changes))
    assert at_once.region == one_by_one.region
    assert at_once.rows_before == one_by_one.rows_before
    assert at_once[:3] == one_by_one[:3]


@given(st.data(), specs)
def test_compression_keeps_the_effect_and_never_grows(data, spec):
    page, delta = data.draw(tensors(*spec)), data.draw(resizing_deltas(*spec))
    small = compress(delta)
    assert small.nbytes <= delta.nbytes
    assert small.rows_before == delta.rows_before
    assert same_bits(applied(page, small), applied(page, delta))
    assert narrow(delta, page).rows_before == delta.rows_before


@given(st.data(), specs, st.integers(0, 4))
def test_what_was_staged_before_an_append_commits_after_it(data, spec, others):
    shape, dtype = spec
    page = data.draw(tensors(shape, dtype))
    mine = data.draw(resizing_deltas(shape, dtype, shrink=False))
    extra = data.draw(tensors((others, *shape[1:]), dtype))
    theirs = appended(shape, extra)
    both = rebased(mine, shape[0] + others)
    assert both is not None
    found = applied(page, theirs, both)
    alone = applied(page, mine)
    assert same_bits(found[: len(page)], alone[: len(page)])
    assert same_bits(found[len(page) : len(page) + others].contiguous(), extra)
    assert same_bits(found[len(page) + others :].contiguous(), alone[len(page) :].contiguous())


def appended(shape, values):
    rows = shape[0] + len(values)
    index = torch.arange(shape[0], rows)
    region = Region.rows((rows, *shape[1:]), index)
    kept = values if region.form is not Form.NONE else values.reshape(-1)[:0]
    before = shape[0] if rows != shape[0] else None
    return Delta(1, 1, 0, region, kept, 1, "test", before)


@given(st.data(), specs, st.integers(0, 5))
def test_what_writes_rows_that_are_gone_is_refused_and_else_cut(data, spec, left):
    shape, dtype = spec
    page = data.draw(tensors(shape, dtype))
    mine = data.draw(resizing_deltas(shape, dtype, shrink=False))
    left = min(left, shape[0])
    found = rebased(mine, left)
    head = mine.region.mask()[: shape[0]]
    if bool(head[left:].any()):
        assert found is None
    elif found is None:
        assert page.numel() == 0  # everything of a page without elements: it may be refused, too
    else:
        alone, kept = applied(page, mine), applied(copy_of(page[:left]), found)
        assert same_bits(kept[:left], alone[:left])
        assert same_bits(kept[left:].contiguous(), alone[shape[0] :].contiguous())


def test_an_append_is_told_from_other_growth():
    values = torch.ones(2, 3)
    pure = appended((4, 3), values)
    assert is_append(pure)
    assert pure.region.index.tolist() == [4, 5]
    assert not is_append(pure._replace(rows_before=None))
    also = compose(pure, Delta(2, 1, 1, Region.rows((6, 3), torch.tensor([0])), values[:1], 1, ""))
    assert not is_append(also)
    assert (also.rows_before, also.region.index.tolist()) == (4, [0, 4, 5])
    assert "4 to 6 rows" in repr(also)
    shorter = Delta(3, 1, 1, Region.none((2, 3)), values[:0].view(-1)[:0], 1, "", 6)
    assert compose(also, shorter).region.index.tolist() == [0]
    assert compose(also, shorter).rows_before == 4


def test_a_value_of_any_size_gives_the_page_its_rows():
    whole = Delta(1, 1, -1, Region.all((2, 3)), torch.ones(2, 3), 1, "restore", ANY_ROWS)
    assert rebased(whole, 2).rows_before is None
    assert rebased(whole, 5).rows_before == 5
    assert rebased(whole, 5).region.form is Form.ALL


@given(st.data(), shapes().filter(len), st.integers(0, 8))
def test_covering_is_told_for_every_form(data, shape, row):
    region = data.draw(deltas(shape, torch.uint8)).region
    assert region.covers_from(row) == bool(region.mask()[row:].all())


@given(st.data(), shapes().filter(len), st.integers(0, 8))
def test_a_region_keeps_its_elements_in_another_size(data, shape, rows):
    region = data.draw(deltas(shape, torch.uint8)).region
    found = region.resized(rows)
    wanted = torch.zeros((rows, *shape[1:]), dtype=torch.bool)
    kept = region.mask()[:rows]
    wanted[: len(kept)] = kept
    assert found.shape == tuple(wanted.shape)
    assert torch.equal(found.mask(), wanted)
    assert found.count == int(wanted.sum())
