"""A journal never forgets a change, and is exact about what the last checkpoint lacks."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from mmsb_torch.runtime.state import Journal
from mmsb_torch.types import Form, Region

SIZE = 9
SHAPE = (SIZE,)


def rows(*numbers):
    return Region.rows(SHAPE, torch.tensor(sorted(numbers), dtype=torch.int64))


def inside(region):
    return set(region.mask().nonzero().view(-1).tolist())


steps = st.lists(
    st.one_of(st.just("checkpoint"), st.sets(st.integers(0, SIZE - 1), max_size=3)), max_size=60
)


@given(steps, st.integers(1, 6))
def test_every_cursor_is_told_at_least_what_changed_and_the_checkpoints_exactly(drawn, times):
    journal, changes = Journal(), []
    for step in drawn * times:
        if step == "checkpoint":
            journal.checkpoint = len(changes)
        else:
            changes.append(step)
            journal.add(len(changes), rows(*step))
    for cursor in range(len(changes) + 1):
        true = set().union(*changes[cursor:])
        told = inside(journal.since(cursor, SHAPE))
        assert told >= true
        if cursor == journal.checkpoint:
            assert told == true
    assert journal.since(len(changes), SHAPE).form is Form.NONE


@given(st.lists(st.sets(st.integers(0, SIZE - 1)), min_size=1, max_size=30))
def test_a_short_journal_is_exact_for_every_cursor(changes):
    journal = Journal()
    for epoch, step in enumerate(changes, 1):
        journal.add(epoch, rows(*step))
    for cursor in range(len(changes) + 1):
        assert inside(journal.since(cursor, SHAPE)) == set().union(*changes[cursor:])


def test_it_may_begin_at_any_epoch():
    journal = Journal(7)
    assert journal.checkpoint == 7
    assert journal.since(7, SHAPE).empty
    journal.add(8, rows(2))
    assert inside(journal.since(7, SHAPE)) == {2}
    assert journal.since(8, SHAPE).empty


def test_mixed_forms_are_joined():
    journal = Journal()
    shape = (4, 3)
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[3, 1] = True
    journal.add(1, Region.rows(shape, torch.tensor([0])))
    journal.add(2, Region.elements(shape, torch.tensor([5])))
    journal.add(3, Region.where(mask))
    journal.add(4, Region.none(shape))
    assert journal.since(0, shape).flat().tolist() == [0, 1, 2, 5, 10]
    assert journal.since(2, shape).flat().tolist() == [10]
    journal.add(5, Region.all(shape))
    assert journal.since(4, shape).form is Form.ALL


def test_a_new_shape_is_a_change_of_everything():
    journal = Journal()
    journal.add(1, rows(0))
    journal.add(2, Region.rows((3,), torch.tensor([1])))
    assert journal.since(0, (3,)).form is Form.ALL
    assert journal.since(1, (3,)).form is Form.ALL
    assert journal.since(2, (3,)).empty
    journal.add(3, Region.rows((3,), torch.tensor([1])))
    assert inside(journal.since(2, (3,))) == {1}


def test_a_long_journal_stays_short():
    journal = Journal()
    for epoch in range(1, 3_000):
        journal.add(epoch, rows(epoch % SIZE))
    assert len(journal._entries) < 100
    assert inside(journal.since(2_998, SHAPE)) == {2_999 % SIZE}
