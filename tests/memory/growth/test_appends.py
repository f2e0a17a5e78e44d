"""Pages that grow: in memory."""

import contextlib
import threading

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.device import same_bits
from mmsb_torch.testing import DTYPES, random_bits


def rows(count, start=0.0, width=3):
    return torch.arange(start, start + count * width).view(count, width)


@pytest.fixture
def page(mem):
    return mem.page("a", rows(4))


def test_an_append_is_one_delta_one_epoch_one_transaction(mem, page):
    before = mem.tx
    assert mem.append(page, torch.ones(2, 3)) == mem.tx == before + 1
    assert (page.epoch, page.shape) == (1, (6, 3))
    assert torch.equal(page.tensor, torch.cat([rows(4), torch.ones(2, 3)]))
    change = page.history()[-1]
    assert (change.rows_before, change.region.index.tolist()) == (4, [4, 5])
    assert "4 to 6 rows" in repr(change)
    assert page.nbytes == 6 * 3 * 4
    assert page.mask.sum() == page.changed.count == 6


def test_no_rows_are_a_change_of_nothing(mem, page):
    mem.append(page, torch.ones(0, 3))
    assert (page.epoch, mem.tx, page.shape) == (1, 2, (4, 3))
    assert page.history()[-1].region.empty
    assert page.history()[-1].rows_before is None


def test_a_page_may_begin_without_rows_and_rows_without_elements(mem):
    empty, flat = mem.page("e", torch.empty(0, 2)), mem.page("f", torch.empty(2, 0))
    mem.append(empty, torch.ones(1, 2))
    mem.append(empty, torch.zeros(1, 2))
    mem.append(flat, torch.empty(3, 0))
    assert empty.tensor.tolist() == [[1, 1], [0, 0]]
    assert flat.shape == (5, 0)
    assert flat.history()[-1].rows_before == 2
    mem.restore(2)
    assert (empty.shape, flat.shape) == ((0, 2), (2, 0))


def test_an_alias_keeps_its_rows_and_costs_no_copy(mem, page):
    mem.append(page, torch.ones(1, 3))
    held, at = page.tensor, page.tensor.data_ptr()
    moment, moment_value = mem.at(mem.tx), mem.at(mem.tx)["a"]
    for number in range(3):
        mem.append(page, torch.full((1, 3), float(number)))
    assert held.shape == (5, 3)
    assert torch.equal(held, torch.cat([rows(4), torch.ones(1, 3)]))
    assert page.tensor.data_ptr() == at  # there was room
    assert torch.equal(moment["a"], held)
    assert torch.equal(moment_value, held)
    mem.update(page, 9.0, rows=[0])  # somebody holds it: copied
    assert held[0].tolist() == [0, 1, 2]
    assert page.tensor[0].tolist() == [9, 9, 9]
    assert page.tensor[7].tolist() == [2, 2, 2]


def test_rows_that_were_taken_away_are_never_written_over(mem, page):
    mem.append(page, torch.ones(2, 3))
    longer = page.tensor
    wanted = longer.clone()
    mem.restore(1)
    shorter = page.tensor
    mem.append(page, torch.full((2, 3), 7.0))
    mem.append(page, torch.full((2, 3), 8.0))
    assert torch.equal(longer, wanted)
    assert torch.equal(shorter, rows(4))
    assert page.tensor[4:].tolist() == [[7.0] * 3] * 2 + [[8.0] * 3] * 2


def test_writing_through_an_older_alias_is_noticed(mem, page):
    mem.append(page, torch.ones(1, 3))
    alias = page.tensor
    mem.append(page, torch.ones(1, 3))
    alias[0, 0] = 100.0
    with pytest.raises(mmsb.PageMutatedError):
        _ = page.tensor
    assert torch.equal(page.tensor, torch.cat([rows(4), torch.ones(2, 3)]))
    mem.append(page, torch.zeros(1, 3))
    assert page.shape == (7, 3)


def test_growing_row_by_row_copies_little(mem):
    page = mem.page("a", torch.zeros(0, 64))
    places = set()
    for number in range(2000):
        mem.append(page, torch.full((1, 64), float(number)))
        places.add(page.tensor.data_ptr())
    assert len(places) < 16
    assert torch.equal(page.tensor[:, 5], torch.arange(2000.0))
    entry = page._entry
    assert entry.tensor.untyped_storage().nbytes() <= 1.5 * page.nbytes + 4096


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("inference", [False, True])
def test_every_dtype(mem, dtype, inference):
    first, more = random_bits((2, 3), dtype, 1), [random_bits((1, 3), dtype, n) for n in range(5)]
    page = mem.page("a", first)
    with torch.inference_mode(mode=inference):
        for item in more:
            mem.append(page, item)
    assert all(same_bits(page.read(rows=[2 + n]), item) for n, item in enumerate(more))
    assert same_bits(page.read(rows=[0, 1]), first)
    assert not page.tensor.is_inference()
    assert page.tensor._version == page._entry.version


def test_values_are_copied_and_any_layout_will_do(mem, page):
    values = torch.arange(12.0).view(3, 4)
    mem.append(page, values.T[:2])
    mem.append(page, values[:1, :3].expand(2, 3))
    mem.append(page, torch.zeros(1, 3).numpy())
    mem.append(page, torch.nn.Parameter(torch.ones(1, 3)))
    values.zero_()
    assert page.tensor[4:].tolist() == [
        [0, 4, 8],
        [1, 5, 9],
        [0, 1, 2],
        [0, 1, 2],
        [0] * 3,
        [1] * 3,
    ]
    assert not page.tensor.requires_grad


def test_updates_before_between_and_after_compose(mem, page):
    with mem.commit("both") as tx:
        tx.update(page, 1.0, rows=[0])
        tx.append(page, torch.full((2, 3), 5.0))
        tx.update(page, 6.0, rows=[-1, 1])
        tx.append(page, torch.full((1, 3), 7.0))
        tx.update(page, 8.0, indices=[20])
        assert page.shape == (4, 3)
    wanted = torch.cat([rows(4), torch.full((2, 3), 5.0), torch.full((1, 3), 7.0)])
    wanted[0], wanted[1], wanted[5] = 1.0, 6.0, 6.0
    wanted[6, 2] = 8.0
    assert torch.equal(page.tensor, wanted)
    assert (page.epoch, mem.tx) == (1, 2)
    assert mem["a"].history()[-1].rows_before == 4


def test_a_whole_update_takes_the_rows_that_were_appended(mem, page):
    with mem.commit() as tx:
        tx.append(page, torch.ones(1, 3))
        tx.update(page, rows(5, 100.0))
        with pytest.raises(mmsb.InvalidDeltaError, match=r"\[5, 3\]"):
            tx.update(page, rows(4))
        with pytest.raises(mmsb.InvalidDeltaError, match="-5 to 4"):
            tx.update(page, 1.0, rows=[5])
    assert torch.equal(page.tensor, rows(5, 100.0))
    large = mem.page("large", torch.zeros(100, 64))
    with mem.commit() as tx:
        tx.update(large, torch.eye(100, 64))  # compared with what is there
        tx.append(large, torch.ones(1, 64))
        mem.update(large, 3.0, rows=[99])  # and changed meanwhile
        mem.append(large, torch.full((2, 64), 4.0))
    assert torch.equal(large.tensor[:100], torch.eye(100, 64))
    assert large.tensor[100:].mean(1).tolist() == [4, 4, 1]


def test_what_others_append_meanwhile_comes_first(mem, page):
    with mem.commit() as tx:
        tx.update(page, 1.0, rows=[0])
        mem.append(page, torch.full((1, 3), 50.0))
        tx.update(page, 2.0, rows=[4])  # it has five by now
        tx.append(page, torch.full((1, 3), 60.0))
        mem.append(page, torch.full((1, 3), 51.0))
        tx.update(page, 61.0, rows=[5])  # its own
    assert page.tensor[:, 0].tolist() == [1, 3, 6, 9, 2, 51, 61]


def test_rows_that_went_meanwhile_cannot_be_written(mem, page):
    mem.append(page, torch.ones(2, 3))
    late = mem.commit()
    late.__enter__().update(page, 2.0, rows=[0, 5])
    mem.restore(1)
    with pytest.raises(mmsb.InvalidDeltaError, match="rows away"):
        late.__exit__(None, None, None)
    assert torch.equal(page.tensor, rows(4))
    with mem.commit() as tx:
        tx.update(page, 2.0, rows=[0])
        mem.append(page, torch.ones(1, 3))
        mem.restore(1)
    assert page.tensor[:, 0].tolist() == [2, 3, 6, 9]


def test_epochs_are_checked(mem, page):
    mem.append(page, torch.ones(1, 3), epoch=0)
    with pytest.raises(mmsb.EpochConflictError):
        mem.append(page, torch.ones(1, 3), epoch=0)
    with mem.commit() as tx:
        tx.append(page, torch.ones(1, 3), epoch=1)
        with pytest.raises(mmsb.EpochConflictError):
            tx.append(page, torch.ones(1, 3), epoch=2)
    assert page.shape == (6, 3)


def test_an_exception_appends_nothing(mem, page):
    tx = mem.commit()
    with contextlib.suppress(KeyboardInterrupt), tx:
        tx.append(page, torch.ones(1, 3))
        raise KeyboardInterrupt
    assert (page.shape, page.epoch, mem.tx) == ((4, 3), 0, 1)
    with pytest.raises(mmsb.TransactionError):
        tx.append(page, torch.ones(1, 3))


def test_many_threads_append_and_update(mem):
    page, each = mem.page("a", torch.zeros(8, 4)), 40

    def work(number):
        for turn in range(each):
            mem.append(page, torch.full((1, 4), float(number * 1000 + turn)))
            mem.update(page, float(turn), rows=[number])
            held = page.tensor
            kept = held.clone()
            with mem.commit() as tx:
                tx.append(page, torch.full((2, 4), float(-number)))
                tx.update(page, -float(number), rows=[number])
            assert torch.equal(held, kept)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    value = page.tensor
    assert value.shape == (8 + 4 * each * 3, 4)
    found = [v for v in value[8:, 0].tolist() if v >= 1000 or 0 < v < each]
    for number in range(1, 4):
        own = [v for v in found if number * 1000 <= v < number * 1000 + each]
        assert own == [number * 1000 + turn for turn in range(each)]
    assert value[:4, 0].tolist() == [0, -1, -2, -3]
    assert torch.equal(mem.at(mem.tx)["a"], value)


def test_the_past_and_back(mem, page):
    for number in range(5):
        mem.append(page, torch.full((2, 3), float(number)))
        mem.update(page, -float(number), rows=[number])
    wanted = {tx: mem.at(tx)["a"].clone() for tx in range(1, mem.tx + 1)}
    assert [len(value) for value in wanted.values()] == [4, 6, 6, 8, 8, 10, 10, 12, 12, 14, 14]
    for tx in (3, 11, 1, 8):
        mem.restore(tx)
        assert torch.equal(page.tensor, wanted[tx])
    found = mem.diff(1, 8)["a"]
    assert (found.before.shape, found.after.shape) == ((4, 3), (12, 3))
    assert found.region.shape == (12, 3)
    assert bool(found.region.mask()[4:].all())
    assert "4 to 12 rows" in repr(found)
    assert mem.diff(8, 1)["a"].region == found.region
    assert torch.equal(mem.at(3)["a"], wanted[3])


def test_a_restore_among_busy_writers_gives_back_the_rows(mem, page, monkeypatch):
    from mmsb_torch.memory import moment

    mem.append(page, torch.ones(2, 3))
    monkeypatch.setattr(moment, "_TRIES", 0)
    mem.restore(1)
    assert torch.equal(page.tensor, rows(4))
    assert page.history()[-1].rows_before == 6
    mem.restore(2)
    assert page.shape == (6, 3)
    assert torch.equal(mem.at(4)["a"], page.tensor)


def test_it_is_opened_again_by_what_it_was_made_with(mem, page):
    mem.append(page, torch.ones(1, 3))
    assert mem.page("a", rows(4)) == page
    assert mem.page("a", shape=(5, 3)) == page
    with pytest.raises(mmsb.PageExistsError):
        mem.page("a", shape=(6, 3))
    with pytest.raises(mmsb.PageExistsError):
        mem.page("a", shape=(4, 4))
