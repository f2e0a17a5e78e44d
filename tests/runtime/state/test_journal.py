"""A journal never forgets a change, and is exact about what the last checkpoint lacks."""

from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmsb_torch.device import pack_mask
from mmsb_torch.runtime.state import Journal, journal
from mmsb_torch.types import Form, Region

SIZE = 9
SHAPE = (SIZE,)


@pytest.fixture(autouse=True, scope="module")
def short():
    """Journals that grow long soon."""
    with mock.patch.multiple(journal, _LONGEST=16, _COALESCED=12):
        yield


def rows(*numbers):
    return Region.rows(SHAPE, torch.tensor(sorted(numbers), dtype=torch.int64))


def inside(region):
    return set(region.mask().nonzero().view(-1).tolist())


steps = st.lists(
    st.one_of(st.just("checkpoint"), st.sets(st.integers(0, SIZE - 1), max_size=3)), max_size=40
)


@given(steps, st.integers(1, 4))
def test_every_cursor_is_told_at_least_what_changed_and_the_checkpoints_exactly(drawn, times):
    kept, changes = Journal(), []
    for step in drawn * times:
        if step == "checkpoint":
            kept.checkpoint = len(changes)
        else:
            changes.append(step)
            kept.add(len(changes), rows(*step))
    for cursor in range(len(changes) + 1):
        true = set().union(*changes[cursor:])
        told = inside(kept.since(cursor, SHAPE))
        assert told >= true
        if cursor == kept.checkpoint:
            assert told == true
    assert kept.since(len(changes), SHAPE).form is Form.NONE


@given(st.lists(st.sets(st.integers(0, SIZE - 1)), min_size=1, max_size=16))
def test_a_short_journal_is_exact_for_every_cursor(changes):
    kept = Journal()
    for epoch, step in enumerate(changes, 1):
        kept.add(epoch, rows(*step))
    for cursor in range(len(changes) + 1):
        assert inside(kept.since(cursor, SHAPE)) == set().union(*changes[cursor:])


def test_it_may_begin_at_any_epoch():
    kept = Journal(7)
    assert kept.checkpoint == 7
    assert kept.since(7, SHAPE).empty
    kept.add(8, rows(2))
    assert inside(kept.since(7, SHAPE)) == {2}
    assert kept.since(8, SHAPE).empty


def test_before_it_began_everything_changed():
    kept = Journal(7)
    assert kept.since(6, SHAPE).form is Form.ALL
    kept.add(8, rows(2))
    assert kept.since(6, SHAPE).form is Form.ALL
    assert inside(kept.since(7, SHAPE)) == {2}


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("rows"), st.integers(0, 12)),
            st.tuples(st.just("write"), st.sets(st.integers(0, 12), max_size=3)),
        ),
        max_size=40,
    ),
    st.sampled_from(["rows", "elements", "mask", "bits"]),
)
def test_rows_that_came_later_changed(steps, form):
    """The model: a list of the epochs that wrote each row, cut and extended."""
    kept, written = Journal(), [0] * 5
    for epoch, (what, given_) in enumerate(steps, 1):
        if what == "rows":
            size, wrote = given_, set(range(len(written), given_))
        else:
            size, wrote = len(written), {row for row in given_ if row < len(written)}
        written = [epoch if r in wrote else (written + [0] * size)[r] for r in range(size)]
        kept.add(epoch, spelled(form, (size, 2), wrote))
    for cursor in range(len(steps) + 1):
        told = kept.since(cursor, (len(written), 2)).mask()
        true = {row for row, epoch in enumerate(written) if epoch > cursor}
        found = set(told.any(1).nonzero().view(-1).tolist())
        assert found >= true


def spelled(form, shape, chosen):
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[sorted(chosen)] = True
    if form == "rows":
        return Region.rows(shape, torch.tensor(sorted(chosen), dtype=torch.int64))
    if form == "elements":
        return Region.elements(shape, mask.view(-1).nonzero().view(-1))
    region = Region.where(mask)
    if form == "bits" and region.form is Form.MASK:
        return Region(Form.BITS, shape, pack_mask(mask), region.count)
    return region


def test_mixed_forms_are_joined():
    kept = Journal()
    shape = (4, 3)
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[3, 1] = True
    kept.add(1, Region.rows(shape, torch.tensor([0])))
    kept.add(2, Region.elements(shape, torch.tensor([5])))
    kept.add(3, Region.where(mask))
    kept.add(4, Region.none(shape))
    assert kept.since(0, shape).flat().tolist() == [0, 1, 2, 5, 10]
    assert kept.since(2, shape).flat().tolist() == [10]
    kept.add(5, Region.all(shape))
    assert kept.since(4, shape).form is Form.ALL


def test_a_new_shape_is_a_change_of_everything():
    kept = Journal()
    kept.add(1, rows(0))
    new = (3, 2)
    kept.add(2, Region.rows(new, torch.tensor([1])))
    assert kept.since(0, new).form is Form.ALL
    assert kept.since(1, new).form is Form.ALL
    assert kept.since(2, new).empty
    kept.add(3, Region.rows(new, torch.tensor([1])))
    assert kept.since(2, new).index.tolist() == [1]
    kept.add(4, Region.none(()))  # 0-dim, 1-dim: the same sizes but one
    kept.add(5, Region.rows((3,), torch.tensor([1])))
    assert kept.since(3, (3,)).form is Form.ALL


def test_a_long_journal_stays_short():
    kept = Journal()
    for epoch in range(1, 400):
        kept.add(epoch, rows(epoch % SIZE))
    assert len(kept._entries) <= 16
    assert inside(kept.since(398, SHAPE)) == {399 % SIZE}
