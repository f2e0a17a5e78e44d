"""The laws of deltas, over every dtype, shape and form."""

import functools

import torch
from hypothesis import given
from hypothesis import strategies as st

from mmsb_torch.device import copy_of, same_bits
from mmsb_torch.testing import DTYPES, deltas, shapes, tensors
from mmsb_torch.types import (
    Delta,
    Form,
    Region,
    apply,
    changes_bits,
    compose,
    compose_all,
    compress,
)

specs = st.tuples(shapes(), st.sampled_from(DTYPES))


def applied(tensor, *changes):
    result = copy_of(tensor)
    for change in changes:
        apply(result, change)
    return result


@given(st.data(), specs)
def test_applying_twice_is_applying_once(data, spec):
    page, delta = data.draw(tensors(*spec)), data.draw(deltas(*spec))
    once = applied(page, delta)
    assert same_bits(applied(once, delta), once)
    assert not changes_bits(once, delta)


@given(st.data(), specs)
def test_a_row_by_its_number_is_the_row_by_its_index(data, spec):
    shape, dtype = spec
    if not shape or shape[0] < 2:
        return
    row = data.draw(st.integers(0, shape[0] - 1))
    by_number, by_index = Region.one_row(shape, row), Region.rows(shape, torch.tensor([row]))
    assert by_number == by_index
    assert (by_number.form, by_number.count, by_number.nbytes, str(by_number)) == (
        by_index.form, by_index.count, by_index.nbytes, str(by_index)
    )  # fmt: skip
    assert torch.equal(by_number.index, by_index.index)
    assert torch.equal(by_number.mask(), by_index.mask())
    page, values = data.draw(tensors(*spec)), data.draw(tensors((1, *shape[1:]), dtype))
    one = Delta(1, 1, 0, by_number, copy_of(values), 1, "test")
    other = one._replace(region=by_index)
    assert same_bits(applied(page, one), applied(page, other))
    again = data.draw(deltas(*spec))
    assert compose(one, again).region == compose(other, again).region
    assert same_bits(applied(page, compose(one, again)), applied(page, other, again))


@given(st.data(), specs)
def test_only_the_region_changes_and_takes_the_values(data, spec):
    page, delta = data.draw(tensors(*spec)), data.draw(deltas(*spec))
    after, mask = applied(page, delta), delta.region.mask()
    assert int(mask.sum()) == delta.region.count
    outside = Region.where(~mask)
    if not outside.empty:
        assert same_bits(outside.pick(after), outside.pick(page))
    if delta.region.form not in {Form.MASK, Form.NONE}:
        assert same_bits(delta.region.pick(after), delta.values)
    assert changes_bits(page, delta) == (not same_bits(page, after))


@given(st.data(), specs)
def test_composition_is_one_delta_with_the_effect_of_both(data, spec):
    page = data.draw(tensors(*spec))
    a, b = data.draw(deltas(*spec)), data.draw(deltas(*spec))
    both = compose(a, b)
    assert same_bits(applied(page, both), applied(page, a, b))
    assert torch.equal(both.region.mask(), a.region.mask() | b.region.mask())
    assert (both.base_epoch, both.id) == (a.base_epoch, b.id)


@given(st.data(), specs)
def test_composition_is_associative(data, spec):
    page = data.draw(tensors(*spec))
    a, b, c = (data.draw(deltas(*spec)) for _ in range(3))
    left, right = compose(compose(a, b), c), compose(a, compose(b, c))
    assert same_bits(applied(page, left), applied(page, right))


@given(st.data(), specs)
def test_disjoint_deltas_commute(data, spec):
    page = data.draw(tensors(*spec))
    a, b = data.draw(deltas(*spec)), data.draw(deltas(*spec))
    if bool((a.region.mask() & b.region.mask()).any()):
        return
    assert same_bits(applied(page, a, b), applied(page, b, a))


@given(st.data(), specs)
def test_compression_keeps_the_effect_and_never_grows(data, spec):
    page, delta = data.draw(tensors(*spec)), data.draw(deltas(*spec))
    small = compress(delta)
    assert small.nbytes <= delta.nbytes
    assert same_bits(applied(page, small), applied(page, delta))
    assert small.region == delta.region


def of(mask, dtype=torch.float32):
    region = Region.where(mask)
    return Delta(1, 1, 0, region, torch.randn(mask.shape).to(dtype), 1, "test")


def test_the_smallest_form_is_chosen():
    whole_rows = torch.zeros(1000, 64, dtype=torch.bool)
    whole_rows[[3, 5]] = True
    few = torch.zeros(1000, 64, dtype=torch.bool)
    few[0, 0] = few[999, 63] = True
    some = torch.rand(1000, 64) < 0.3
    assert compress(of(whole_rows)).region.form is Form.ROWS
    assert compress(of(few)).region.form is Form.ELEMENTS
    assert compress(of(some)).region.form is Form.BITS
    assert compress(of(torch.ones(3, 3, dtype=torch.bool))).region.form is Form.ALL
    assert compress(of(few)).nbytes == 2 * (8 + 4)


def test_a_delta_is_immutable_and_says_what_it_is():
    delta = of(torch.tensor([True, False]))
    try:
        delta.values = torch.zeros(2)
    except AttributeError:
        pass
    else:
        raise AssertionError
    assert "epoch 0 -> 1" in repr(delta)
    assert "1 of 2 elements" in repr(delta)
    assert delta == delta
    assert delta != delta._replace(id=2)
    assert len({delta, delta}) == 1


@given(st.data(), specs, st.integers(1, 8))
def test_composing_all_is_composing_one_by_one(data, spec, count):
    changes = [data.draw(deltas(*spec)) for _ in range(count)]
    assert_composed_alike(changes, data.draw(tensors(*spec)))


@given(st.data(), specs, st.sampled_from([Form.ROWS, Form.ELEMENTS]), st.integers(2, 20))
def test_runs_of_rows_and_elements_compose_alike(data, spec, form, count):
    drawn = [data.draw(deltas(*spec)) for _ in range(count)]
    changes = [delta for delta in drawn if delta.region.form is form]
    if changes:
        assert_composed_alike(changes, data.draw(tensors(*spec)))


def assert_composed_alike(changes, page):
    one_by_one, at_once = functools.reduce(compose, changes), compose_all(changes)
    assert at_once.region.form is one_by_one.region.form
    assert torch.equal(at_once.region.mask(), one_by_one.region.mask())
    if at_once.region.form is not Form.MASK:  # outside of a mask values mean nothing
        assert same_bits(at_once.values, one_by_one.values)
    assert same_bits(applied(page, at_once), applied(page, *changes))
    assert at_once[:3] == one_by_one[:3]
    assert at_once[5:] == one_by_one[5:]


def test_many_rows_compose_to_the_last_word_about_each():
    shape, changes = (50, 3), []
    for number in range(200):
        region = Region.rows(shape, torch.tensor([number * 7 % 40]))
        changes.append(Delta(number, 1, -1, region, torch.full((1, 3), float(number)), number, ""))
    found = compose_all(changes)
    assert found.region.index.tolist() == list(range(40))
    expected = [max(n for n in range(200) if n * 7 % 40 == row) for row in range(40)]
    assert found.values[:, 0].tolist() == expected
    assert (found.id, found.base_epoch) == (199, -1)


def test_changes_of_nothing_compose_to_nothing():
    empty = torch.empty(0, dtype=torch.int64)
    for count in (2, 3, 4):
        changes = [
            Delta(n, 1, -1, Region.elements((), empty), torch.empty(0), n, "") for n in range(count)
        ]
        assert_composed_alike(changes, torch.tensor(3.0))
