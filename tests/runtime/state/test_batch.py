"""Batches: what commits is what was handed in, whatever happened to the page meanwhile."""

import contextlib
import functools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmsb_torch.device import copy_of, same_bits
from mmsb_torch.errors import InvalidDeltaError, PageMutatedError
from mmsb_torch.runtime.state import Batch, Router, stage
from mmsb_torch.runtime.state.batch import compared
from mmsb_torch.runtime.store.log import Log
from mmsb_torch.types import Form, PageInfo, Spec, apply, compose

SHAPE = (64, 32)  # 8 KiB: large enough to be compared


def router_with(value):
    router = Router(Log())
    info = PageInfo(1, "x", Spec.of(value), False, {}, 1)
    return router, router.create(info, copy_of(value))


def noise(seed, shape=SHAPE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


rows = st.lists(st.integers(0, 63), min_size=1, max_size=5, unique=True)
seeds = st.integers(0, 3)  # few, so that changes meet what is there already
steps = st.one_of(
    st.tuples(st.just("whole"), rows, seeds),
    st.tuples(st.just("new"), rows, seeds),
    st.tuples(st.just("rows"), rows, seeds),
    st.tuples(st.just("elements"), rows, seeds),
    st.tuples(st.just("somebody else"), rows, seeds),
    st.tuples(st.just("somebody else, whole"), rows, seeds),
    st.tuples(st.just("scribble"), rows, seeds),
)


@given(st.lists(steps, min_size=1, max_size=8))
def test_what_commits_is_what_was_handed_in(changes):
    """The model: what was handed in last as a whole, or what is there at the end, then the parts."""
    router, entry = router_with(noise(0))
    batch, whole, after, present, old = Batch(router.table), None, [], noise(0), []
    for what, where, seed in changes:
        values, index = noise(seed)[: len(where)], sorted(where)
        part = present.clone() if whole is None else whole.clone()
        part[index] = values
        if what in {"whole", "new"}:
            handed = part if what == "whole" else noise(seed)
            batch.update(entry, handed)
            whole, after = handed.clone(), []
            handed.fill_(float("nan"))  # nobody looks at it any more
        elif what == "rows":
            batch.update(entry, values, rows=index)
            after.append(lambda t, i=index, v=values: t.index_copy_(0, torch.tensor(i), v))
        elif what == "elements":
            batch.update(entry, values[:, 0], indices=index)
            after.append(
                lambda t, i=index, v=values: t.view(-1).index_copy_(0, torch.tensor(i), v[:, 0])
            )
        elif what == "scribble":  # on values of before, which somebody still has
            old = [tensor for tensor in old if tensor.data_ptr() != entry.tensor.data_ptr()]
            for tensor in old:
                tensor.fill_(7)
            old.append(router.read(entry))
        else:
            old.append(router.read(entry))
            options = {} if what.endswith("whole") else {"rows": index}
            values = part if options == {} else values
            router.commit([stage(entry, values, **options)])
            present = router.read(entry).clone()
    expected = present.clone() if whole is None else whole
    for change in after:
        change(expected)
    deltas = batch.take()
    if not deltas:
        return
    del old
    router.commit(deltas, bases=batch.bases)
    assert same_bits(router.read(entry), expected)
    assert not batch.bases
    assert same_bits(router.read_at(entry, router.tx), expected)


@given(st.lists(st.tuples(st.sampled_from(["rows", "elements"]), rows, seeds), max_size=30))
def test_parts_compose_as_they_would_one_by_one(changes):
    router, entry = router_with(noise(0))
    batch, single = Batch(router.table), []
    for what, where, seed in changes:
        values = noise(seed)[: len(where)]
        values, options = (
            (values, {"rows": where}) if what == "rows" else (values[:, 0], {"indices": where})
        )
        batch.update(entry, values, **options)
        single.append(stage(entry, values, **options))
    found = batch.take()
    assert len(found) == min(len(changes), 1)
    if found:
        expected = functools.reduce(compose, single)
        assert found[0].region.form is expected.region.form
        assert torch.equal(found[0].region.mask(), expected.region.mask())
        results = [copy_of(entry.tensor), copy_of(entry.tensor)]
        apply(results[0], found[0])
        apply(results[1], expected)
        assert same_bits(*results)


def test_what_did_not_change_is_neither_copied_nor_moved():
    router, entry = router_with(noise(0))
    router.commit([stage(entry, 1.0, rows=[0])])  # now the page has memory of its own
    place, value = entry.tensor.data_ptr(), entry.tensor.clone()
    for change in range(3):
        value[5] = change
        batch = Batch(router.table)
        batch.update(entry, value)
        (delta,) = batch.take()
        assert delta.region.form is Form.ROWS
        assert delta.values.shape == (1, 32)
        router.commit([delta], bases=batch.bases)
        assert entry.tensor.data_ptr() == place
    batch.update(entry, value)
    (delta,) = batch.take()
    assert delta.region.form is Form.NONE
    held = router.read(entry)
    router.commit([delta], bases=batch.bases)
    assert entry.tensor.data_ptr() == held.data_ptr()
    assert entry.epoch == 5


def test_many_small_changes_are_composed_on_the_way():
    router, entry = router_with(noise(0))
    batch = Batch(router.table)
    for number in range(3000):
        batch.update(entry, float(number), rows=[number % 64])
    assert len(batch._staged[1]) < 2000
    router.commit(batch.take(), bases=batch.bases)
    assert router.read(entry)[:, 0].tolist() == [
        max(n for n in range(3000) if n % 64 == row) for row in range(64)
    ]


@pytest.mark.parametrize(
    "value",
    [
        noise(0).double(),
        noise(0).t().contiguous().t(),
        noise(0)[:3],
        noise(0).to_sparse(),
        [1.0],
        noise(0, (31, 32)),
    ],
    ids=["dtype", "strides", "rows", "sparse", "list", "shape"],
)
def test_what_cannot_be_compared_is_left_to_staging(value):
    router, entry = router_with(noise(0))
    assert compared(router.table, entry, value) is None
    with contextlib.suppress(InvalidDeltaError):
        batch = Batch(router.table)
        batch.update(entry, value)
        assert same_bits(batch.take()[0].values, noise(0))


def test_a_page_that_somebody_wrote_to_is_refused():
    router, entry = router_with(noise(0))
    alias = router.read(entry)
    batch = Batch(router.table)
    batch.update(entry, noise(0))
    alias[0] = 5
    with pytest.raises(PageMutatedError):
        router.commit(batch.take(), bases=batch.bases)
    alias = router.read(entry)
    alias[0] = 5
    assert compared(router.table, entry, noise(0)) is None
    batch.update(entry, noise(1))
    with pytest.raises(PageMutatedError):
        router.commit(batch.take(), bases=batch.bases)
    assert same_bits(router.read(entry), noise(0))


def test_in_inference_mode_too():
    router, entry = router_with(noise(0))
    with torch.inference_mode():
        value = noise(0)
        value[3] = 9
        batch = Batch(router.table)
        batch.update(entry, value)
    (delta,) = batch.take()
    assert delta.region.form is Form.ROWS
    router.commit([delta], bases=batch.bases)
    assert not router.read(entry).is_inference()
    assert router.read(entry)[3, 3] == 9
