"""What an update changes, and what of it counts: deltas, epochs, conflicts."""

import threading

import numpy as np
import pytest
import torch

import mmsb_torch as mmsb

A = torch.arange(15.0).view(5, 3)


def doubled(a):
    return a * 2


# update


@pytest.mark.parametrize("by", ["page", "name"])
def test_update_takes_a_page_or_its_name_and_says_its_transaction(ab, by):
    tx = ab.update(ab["a"] if by == "page" else "a", torch.ones(5, 3))
    assert tx == ab.tx == 3
    assert bool((ab["a"].tensor == 1).all())


ROWS = {
    "list": [4, 0, 2],
    "tuple": (4, 0, 2),
    "negative": [-1, 0, -3],
    "tensor": torch.tensor([4, 0, 2]),
    "int32 tensor": torch.tensor([4, 0, 2], dtype=torch.int32),
    "uint8 tensor": torch.tensor([4, 0, 2], dtype=torch.uint8),
    "strided tensor": torch.tensor([4, 9, 0, 9, 2, 9])[::2],
    "array": np.array([4, 0, 2]),
    "int16 array": np.array([-1, 0, 2], dtype=np.int16),
    "slice": slice(4, None, -2),
    "range": range(4, -1, -2),
}


@pytest.mark.parametrize(("name", "rows"), ROWS.items())
def test_rows_may_be_named_in_many_ways_and_in_any_order(ab, name, rows):
    values = torch.tensor([[4.0], [0.0], [2.0]]).expand(3, 3) + 100
    if name in {"slice", "range"}:
        values = torch.tensor([[4.0], [2.0], [0.0]]).expand(3, 3) + 100
    ab.update("a", values, rows=rows)
    expected = A.clone()
    for row in (0, 2, 4):
        expected[row] = row + 100
    assert torch.equal(ab["a"].tensor, expected)
    assert ab["a"].mask.any(1).tolist() == [True, False, True, False, True]


@pytest.mark.parametrize("row", [3, -2, np.int64(3)])
def test_one_row_by_its_number(ab, row):
    ab.update("a", torch.full((1, 3), -1.0), rows=row)
    assert ab["a"].tensor[3].tolist() == [-1, -1, -1]
    assert ab["a"].read(row).tolist() == [[-1, -1, -1]]


def test_many_rows_in_any_order_land_where_they_belong(mem):
    page = mem.page("x", torch.zeros(500, 2))
    order = torch.randperm(500, generator=torch.Generator().manual_seed(5))[:200]
    signs = torch.where(order % 2 == 0, order, order - 500)
    mem.update(page, order.float().view(-1, 1).expand(-1, 2), rows=signs)
    value = page.tensor
    assert torch.equal(value[order, 0], order.float())
    assert int((value[:, 0] != 0).sum()) == int((order != 0).sum())
    assert torch.equal(page.read(signs), value[order])


def test_a_mask_takes_values_of_the_pages_shape_or_a_scalar(ab):
    mask = A > 11
    ab.update("a", -A, mask=mask)
    assert torch.equal(ab["a"].tensor, torch.where(mask, -A, A))
    ab.update("a", torch.tensor(5.0), mask=~mask)
    ab.update("a", 6.0, mask=mask)
    assert torch.equal(ab["a"].tensor, torch.where(mask, 6.0, 5.0))


def test_mask_and_indices_of_many_elements(mem):
    page = mem.page("x", torch.zeros(64, 64))
    generator = torch.Generator().manual_seed(0)
    for share in (0.0, 0.001, 0.2, 0.7, 1.0):
        new = torch.rand(64, 64, generator=generator)
        mask = torch.rand(64, 64, generator=generator) < share
        expected = torch.where(mask, new, page.tensor)
        mem.update(page, new, mask=mask)
        assert torch.equal(page.tensor, expected)
        flat = mask.view(-1).nonzero().view(-1).flip(0)
        mem.update(page, -new.view(-1)[flat], indices=flat)
        assert torch.equal(page.tensor, torch.where(mask, -new, expected))


@pytest.mark.parametrize(
    ("selection", "values"),
    [
        ({}, torch.full((5, 3), 100.0)),
        ({"rows": torch.tensor([1, 3])}, torch.full((2, 3), 100.0)),
        ({"rows": np.array([1, 3])}, torch.full((2, 3), 100.0)),
        ({"indices": torch.tensor([1, 3])}, torch.full((2,), 100.0)),
        ({"indices": torch.tensor([[1, 2], [3, 0]])}, torch.full((2,), 100.0)),
        ({"mask": A > 3}, torch.full((5, 3), 100.0)),
        ({"mask": A > 12}, torch.full((5, 3), 100.0)),
        ({}, np.full((5, 3), 100.0, dtype=np.float32)),
    ],
)
def test_values_rows_and_masks_are_copied_before_update_returns(ab, selection, values):
    selection = {
        key: part.clone() if isinstance(part, torch.Tensor) else part.copy()
        for key, part in selection.items()
    }
    values = values.clone() if isinstance(values, torch.Tensor) else values.copy()
    with ab.commit() as tx:
        tx.update("a", values, **selection)
        values[...] = -8
        for part in selection.values():
            part[...] = 0
    now, epoch = ab["a"].clone(), ab["a"].epoch
    assert not bool((now == -8).any())
    assert int((now == 100).sum()) == len(ab["a"].mask.nonzero())
    values[...] = -9
    assert torch.equal(ab["a"].tensor, now)
    assert torch.equal(ab.at(ab.tx)["a"], now)
    ab.update("a", 0.0)
    ab.restore(3)
    assert torch.equal(ab["a"].tensor, now)
    assert ab["a"].epoch == epoch + 2


def test_a_page_may_be_updated_from_itself(ab):
    ab.update("a", ab["a"].tensor[[4, 3]], rows=[0, 1])
    assert ab["a"].tensor[0].tolist() == [12, 13, 14]
    ab.update("a", ab["a"].tensor.flip(0))
    assert ab["a"].tensor[4].tolist() == [12, 13, 14]


def test_updates_mean_the_same_in_every_context(ab, twin, change, context, picture_of):
    change(twin)
    with context():
        change(ab)
    assert picture_of(ab) == picture_of(twin)
    ab["a"].tensor.clone().requires_grad_().sum().backward()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_the_default_dtype_changes_no_update(ab, twin, change, dtype, picture_of):
    change(twin)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        change(ab)
        assert ab.page("zero", shape=(2,)).dtype is dtype
    finally:
        torch.set_default_dtype(before)
    found, expected = picture_of(ab)[0], picture_of(twin)[0]
    del found["zero"]
    assert found == expected


def test_what_is_read_in_any_context_can_be_used_outside(ab, context):
    page, derived = ab["a"], ab.derive(doubled, "a")
    ab.update("a", 100.0, rows=[0])
    with context():
        zero = ab.page("zero", shape=(2, 2), dtype=torch.int8, device="cpu")
        taken = [page.tensor, page.clone(), page.read([1]), page.mask, derived.tensor]
        taken += [ab.at(1)["a"], ab.at(1)["doubled"], zero.tensor]
        region = ab.diff(1, 3)["a"].region
    for tensor in taken:
        assert tensor.device.type == "cpu"
        assert not tensor.is_inference()
        assert not tensor.requires_grad
    assert region.flat().tolist() == [0, 1, 2]
    assert torch.equal(ab["doubled"].tensor, ab["a"].tensor * 2)


# each explicit update is one delta and one epoch


def again(memory):
    memory.update("a", memory["a"].clone())


def again_rows(memory):
    memory.update("a", memory["a"].clone()[[1, 4]], rows=[1, 4])


def again_elements(memory):
    memory.update("a", torch.tensor([14.0, 3.0]), indices=[14, 3])


def again_masked(memory):
    memory.update("a", memory["a"].clone(), mask=A > 2)


def again_twice(memory):
    with memory.commit() as tx:
        tx.update("a", 100.0, rows=[2])
        tx.update("a", A[2:3], rows=[2])


NO_CHANGE = [again, again_rows, again_elements, again_masked, again_twice]


@pytest.mark.parametrize("change_nothing", NO_CHANGE)
def test_an_update_that_changes_no_bit_is_a_delta_and_cuts_dependants_off(ab, change_nothing):
    page, derived = ab["a"], ab.derive(doubled, "a")
    _ = derived.tensor
    events = []
    ab.subscribe(events.append, [mmsb.EventType.RECOMPUTED])
    for number in (1, 2):
        change_nothing(ab)
        assert page.epoch == number
        assert len(page.history()) == 1 + number
        assert torch.equal(derived.tensor, A * 2)
    assert ab.tx == 4
    assert not events
    assert ab.stats()["recomputed"] == 1
    assert derived.epoch == 1
    assert bool(page.mask.any())
    assert len(ab.diff(2, 4)) == 0


NOTHING = {
    "no rows": {"rows": [], "values": torch.empty(0, 3)},
    "no rows, a number": {"rows": [], "values": 1.0},
    "empty tensor": {"rows": torch.empty(0, dtype=torch.int64), "values": torch.empty(0, 3)},
    "empty slice": {"rows": slice(2, 2), "values": torch.empty(0, 3)},
    "no indices": {"indices": [], "values": torch.empty(0)},
    "empty mask": {"mask": A < 0, "values": torch.ones(5, 3)},
    "empty mask, a number": {"mask": A < 0, "values": 1.0},
}


@pytest.mark.parametrize("update", NOTHING.values(), ids=NOTHING.keys())
def test_an_update_of_nothing_is_a_delta_all_the_same(ab, update):
    options = dict(update)
    ab.update("a", options.pop("values"), **options)
    assert (ab["a"].epoch, ab.tx) == (1, 3)
    assert not bool(ab["a"].mask.any())
    assert torch.equal(ab["a"].tensor, A)
    assert str(ab["a"].history()[-1].region) == "nothing"


# conflicts


def test_the_last_update_wins(ab):
    ab.update("a", 1.0)
    ab.update("a", 2.0, rows=[0])
    ab.update("a", 3.0, rows=[0])
    assert ab["a"].tensor[:, 0].tolist() == [3, 1, 1, 1, 1]


def test_an_expected_epoch_is_checked(ab, picture_of):
    ab.update("a", 1.0, epoch=0)
    before = picture_of(ab)
    with pytest.raises(mmsb.EpochConflictError) as caught:
        ab.update("a", 2.0, epoch=0)
    assert all(w in str(caught.value) for w in ("'a'", "epoch 1", "expected 0", "Read it again"))
    assert isinstance(caught.value, RuntimeError)
    assert caught.value.page_id == ab["a"].id
    assert picture_of(ab) == before
    ab.update("a", 2.0, epoch=1)
    assert ab["a"].epoch == 2


def test_a_conflict_on_one_page_stops_the_whole_transaction(ab, picture_of):
    before = picture_of(ab)

    def commit():
        with ab.commit("never") as tx:
            tx.update("b", 7)
            tx.update("a", 7.0, epoch=4)

    with pytest.raises(mmsb.EpochConflictError, match="'a'"):
        commit()
    assert picture_of(ab) == before
    with pytest.raises(mmsb.HistoryError, match="never"):
        ab.at("never")


@pytest.mark.parametrize("expected", [(5, 0), (0, 5), (0, 1)])
def test_every_expected_epoch_of_a_transaction_counts(ab, expected):
    def commit():
        with ab.commit() as tx:
            for epoch in expected:
                tx.update("a", 7.0, epoch=epoch)

    with pytest.raises(mmsb.EpochConflictError):
        commit()
    assert ab["a"].epoch == 0


def test_with_epochs_no_increment_is_lost(mem):
    mem.page("count", torch.tensor(0))

    def count():
        for _ in range(20):
            while True:
                epoch = mem["count"].epoch
                value = mem["count"].clone()
                try:
                    mem.update("count", value + 1, epoch=epoch)
                except mmsb.EpochConflictError:
                    continue
                break

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # a value read together with an older epoch would have been refused, a newer one is not older
    assert mem["count"].tensor.item() == mem["count"].epoch == 80
