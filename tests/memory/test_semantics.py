"""What was decided about pages, updates and transactions, statement by statement."""

import threading

import numpy as np
import pytest
import torch

import mmsb_torch as mmsb

A = torch.arange(15.0).view(5, 3)


def doubled(a):
    return a * 2


# 1. page() copies


def leaf():
    return torch.arange(6.0).requires_grad_()


def made_in_inference_mode():
    with torch.inference_mode():
        return torch.arange(6.0)


SOURCES = {
    "plain": lambda: torch.arange(6.0),
    "requires_grad": leaf,
    "not a leaf": lambda: leaf() * 2,
    "parameter": lambda: torch.nn.Parameter(torch.arange(6.0)),
    "inference": made_in_inference_mode,
    "transposed": lambda: torch.arange(6.0).view(2, 3).t(),
    "strided": lambda: torch.arange(12.0)[::2],
    "view of larger": lambda: torch.arange(100.0)[50:56],
    "expanded": lambda: torch.arange(2.0).view(2, 1).expand(2, 3),
    "channels last": lambda: (
        torch.arange(16.0).view(1, 2, 2, 4).to(memory_format=torch.channels_last)
    ),
    "conj": lambda: torch.complex(torch.arange(3.0), torch.arange(3.0)).conj(),
    "neg": lambda: torch.complex(torch.arange(3.0), torch.arange(1.0, 4.0)).conj().imag,
    "from numpy": lambda: torch.from_numpy(np.arange(6.0)),
    "0-dim": lambda: torch.tensor(5.0),
    "empty": lambda: torch.empty(0, 3),
}


@pytest.fixture(params=SOURCES.values(), ids=SOURCES.keys())
def source(request):
    return request.param()


def numbers(tensor):
    return tensor.detach().resolve_conj().resolve_neg().tolist()


def test_a_page_is_a_plain_contiguous_copy(mem, source):
    before = numbers(source)
    page = mem.page("x", source)
    with torch.no_grad(), torch.inference_mode():
        if source._is_view() and 0 in source.stride():
            source = source._base
        source.fill_(-7)
    value = page.tensor
    assert numbers(value) == before
    assert type(value) is torch.Tensor
    assert value.is_contiguous()
    assert not value.requires_grad
    assert not value.is_inference()
    assert not value.is_conj()
    assert not value.is_neg()
    assert page.epoch == 0
    assert value.untyped_storage().nbytes() == value.nbytes


def test_an_update_copies_too(mem, source):
    page = mem.page("x", torch.zeros(tuple(source.shape), dtype=source.dtype))
    before = numbers(source)
    mem.update(page, source)
    with torch.no_grad(), torch.inference_mode():
        if source._is_view() and 0 in source.stride():
            source = source._base
        source.fill_(-7)
    assert numbers(page.tensor) == before
    assert not page.tensor.is_inference()


def test_an_existing_name_gives_its_page_and_ignores_the_value(ab):
    before = ab.tx
    page = ab.page("a", torch.full((5, 3), 9.0))
    assert page is ab["a"]
    assert page == ab.page("a")
    assert torch.equal(page.tensor, A)
    assert (page.epoch, ab.tx) == (0, before)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"value": torch.zeros(5, 4)}, ["[5, 4]", "[5, 3]"]),
        ({"value": torch.zeros(5, 3, dtype=torch.float64)}, ["float64", "float32"]),
        ({"value": torch.zeros(4, dtype=torch.int64)}, ["[4]", "int64"]),
        ({"shape": (3, 5)}, ["[3, 5]", "[5, 3]"]),
        ({"shape": (5, 3), "dtype": torch.int8}, ["int8", "float32"]),
        ({"dtype": torch.int8}, ["int8", "float32"]),
        ({"page_id": 77}, ["77", "1"]),
    ],
)
def test_an_existing_name_with_another_spec_is_refused(ab, options, words, picture_of):
    before = picture_of(ab)
    with pytest.raises(mmsb.PageExistsError) as caught:
        ab.page("a", **options)
    assert all(word in str(caught.value) for word in ["'a'", *words])
    assert picture_of(ab) == before


def test_an_unknown_page_is_not_found_and_close_names_are_suggested(ab):
    ab.page("embedding", torch.zeros(1))
    for look_up in (lambda: ab.page("embeding"), lambda: ab["embeding"]):
        with pytest.raises(mmsb.PageNotFoundError, match="Did you mean 'embedding'") as caught:
            look_up()
        assert isinstance(caught.value, KeyError)
        assert "'embeding'" in str(caught.value)
    assert "embeding" not in ab


# 2. page.tensor is for reading


def from_dlpack(tensor):
    return torch.from_dlpack(np.from_dlpack(tensor))


def over_storage(tensor):
    storage = tensor.untyped_storage()
    return torch.empty(0).set_(storage, 0, tensor.shape, tensor.stride())


HOLDS = {
    "alias": lambda t: t,
    "view": lambda t: t[1:],
    "transposed": lambda t: t.t(),
    "one element": lambda t: t[4, 2],
    "numpy": lambda t: t.numpy(),
    "numpy of a view": lambda t: t[2].numpy(),
    "memoryview": lambda t: memoryview(t.numpy()),
    "dlpack": from_dlpack,
    "storage": over_storage,
    "parameter": lambda t: torch.nn.Parameter(t, requires_grad=False),
}


@pytest.mark.parametrize("hold", HOLDS.values(), ids=HOLDS.keys())
def test_what_was_read_never_changes(ab, change, hold):
    held = hold(ab["a"].tensor)
    before = held.tolist()
    change(ab)
    change(ab)
    assert held.tolist() == before
    assert ab["a"].epoch >= 2


def test_every_alias_ever_taken_keeps_its_value(ab, change):
    taken = []
    for number in range(8):
        ab.update("a", float(number))
        alias = ab["a"].tensor
        taken.append((alias, alias.clone()))
        change(ab)
        if number % 3 == 0:
            del taken[number // 2]  # frees a buffer that the writer may use again
    for alias, copy in taken:
        assert torch.equal(alias, copy)


def test_an_alias_of_a_derived_page_never_changes(ab):
    page = ab.derive(doubled, "a")
    taken = []
    for number in range(6):
        alias = page.tensor
        taken.append((alias, alias.clone()))
        ab.update("a", torch.full((1, 3), float(number)), rows=[number % 5])
    assert all(torch.equal(alias, copy) for alias, copy in taken)


def test_reading_rows_or_a_clone_gives_memory_of_ones_own(ab, change):
    rows, whole, clone = ab["a"].read([3, 1]), ab["a"].read(), ab["a"].clone()
    for mine in (rows, whole, clone):
        mine.fill_(-5)
    assert torch.equal(ab["a"].tensor, A)
    change(ab)
    assert all(bool((mine == -5).all()) for mine in (rows, whole, clone))


def in_inference_mode(t):
    with torch.inference_mode():
        t.add_(1)


def by_no_grad_copy(t):
    with torch.no_grad():
        t.copy_(torch.ones(5, 3))


def by_set_item(t):
    t[2, 1] = 99.0


def by_autograd_leaf(t):
    torch.nn.init.zeros_(torch.nn.Parameter(t))


WRITES = {
    "add_": lambda t: t.add_(1),
    "item": by_set_item,
    "view": lambda t: t.view(-1)[3:5].zero_(),
    "transposed": lambda t: t.t().mul_(2),
    "out=": lambda t: torch.add(torch.ones(5, 3), 1, out=t),
    "same bits": lambda t: t.add_(0),
    "inference": in_inference_mode,
    "no_grad": by_no_grad_copy,
    "nn.init": by_autograd_leaf,
    "reinterpreted": lambda t: t.view(torch.int32).add_(1),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_writing_through_it_raises_once_and_puts_the_value_back(ab, write):
    page, derived = ab["a"], ab.derive(doubled, "a")
    assert torch.equal(derived.tensor, A * 2)
    write(page.tensor)
    with pytest.raises(mmsb.PageMutatedError) as caught:
        _ = page.tensor
    assert isinstance(caught.value, RuntimeError)
    assert all(
        word in str(caught.value) for word in ("'a'", "page.tensor", "mem.update", "clone()")
    )
    assert torch.equal(page.tensor, A)
    assert torch.equal(derived.tensor, A * 2)
    assert (page.epoch, ab.tx) == (0, 2)


def touch_by_commit(memory):
    with memory.commit("never") as tx:
        tx.update("b", 5)
        tx.update("a", 5.0)


TOUCHES = {
    "tensor": lambda m: m["a"].tensor,
    "read": lambda m: m["a"].read([1]),
    "clone": lambda m: m["a"].clone(),
    "update": lambda m: m.update("a", 5.0),
    "update rows": lambda m: m.update("a", 5.0, rows=[0]),
    "commit": touch_by_commit,
    "update_many": lambda m: m.update_many([("b", None, 5), ("a", None, 5.0)]),
    "at": lambda m: m.at(m.tx)["a"],
    "stale dependant": lambda m: m["d"].tensor,
    "propagate": lambda m: m.propagate(),
    "restore": lambda m: m.restore(1),
}


@pytest.mark.parametrize("touch", TOUCHES.values(), ids=TOUCHES.keys())
def test_every_touch_notices_a_write_and_changes_nothing(ab, touch):
    ab.derive(doubled, "a", name="d")
    ab.update("a", 3.0, rows=[0])
    value, tx = ab["a"].clone(), ab.tx
    ab["a"].tensor.add_(1)
    with pytest.raises(mmsb.PageMutatedError, match="'a'"):
        touch(ab)
    assert torch.equal(ab["a"].tensor, value)
    assert torch.equal(ab["d"].tensor, value * 2)
    assert torch.equal(ab["b"].tensor, torch.arange(4))
    assert (ab["a"].epoch, ab["b"].epoch, ab.tx) == (1, 0, tx)
    assert torch.equal(ab.at(1)["a"], A)


def test_a_checkpoint_never_holds_what_was_written_through_an_alias(path):
    with mmsb.open(path) as memory:
        memory.page("a", A)
        memory["a"].tensor.add_(1)
        with pytest.raises(mmsb.PageMutatedError, match="'a'"):
            memory.checkpoint()
    with mmsb.open(path, mode="r") as memory:
        assert torch.equal(memory["a"].tensor, A)


def test_a_write_to_an_alias_of_a_derived_page_is_noticed_and_computed_away(ab):
    page = ab.derive(doubled, "a")
    page.tensor.add_(1)
    with pytest.raises(mmsb.PageMutatedError, match="'doubled'"):
        _ = page.tensor
    assert torch.equal(page.tensor, A * 2)


def test_a_written_derived_page_does_not_stop_its_dependants(ab, bounded):
    ab.derive(doubled, "a", name="d")
    below = ab.derive(lambda d, b: d[:4, 0] + b, "d", "b", name="below")
    assert below.tensor.tolist() == [0, 7, 14, 21]
    ab["d"].tensor.add_(100)
    ab.update("b", 0)

    def read_below():
        try:
            return below.tensor
        except mmsb.PageMutatedError:
            return below.tensor

    assert bounded(read_below).tolist() == [0, 6, 12, 18]
    assert torch.equal(ab["a"].tensor, A)


def test_writing_to_an_alias_that_an_update_left_behind_is_nobodys_business(ab):
    old = ab["a"].tensor
    ab.update("a", 1.0, rows=[0])
    old.fill_(55)
    now = ab["a"].tensor
    assert now[0].tolist() == [1, 1, 1]
    assert torch.equal(now[1:], A[1:])
    del old, now
    ab.update("a", 2.0, rows=[1])
    assert torch.equal(ab["a"].tensor[2:], A[2:])


# 3. update


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


# 4. each explicit update is one delta and one epoch


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


# 5. conflicts


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


# 6. transactions


def test_reads_inside_a_transaction_see_the_state_before_it(ab):
    ab.derive(doubled, "a", name="d")
    with ab.commit() as tx:
        tx.update("a", 5.0)
        assert torch.equal(ab["a"].tensor, A)
        assert torch.equal(ab["d"].tensor, A * 2)
        assert (ab["a"].epoch, ab.tx) == (0, 2)
        assert not bool(ab["a"].mask.any())
    assert bool((ab["a"].tensor == 5).all())
    assert bool((ab["d"].tensor == 10).all())


def test_several_updates_of_a_page_are_one_epoch_in_order(ab):
    with ab.commit("both") as tx:
        tx.update("a", 1.0)
        tx.update("a", torch.full((2, 3), 2.0), rows=[4, 0])
        tx.update("a", torch.tensor([3.0, 4.0]), indices=[0, 7])
        tx.update("a", 5.0, mask=A == 7)
        tx.update("b", 9)
    expected = torch.ones(5, 3)
    expected[[0, 4]] = 2
    expected.view(-1)[0] = 3
    expected.view(-1)[7] = 5
    assert torch.equal(ab["a"].tensor, expected)
    assert (ab["a"].epoch, ab["b"].epoch, ab.tx) == (1, 1, 3)
    assert len(ab["a"].history()) == 2
    assert ab["a"].history()[-1].label == "both"
    assert tx.number == 3
    assert "committed" in repr(tx)


def test_an_exception_leaves_everything_as_it_was(ab, picture_of):
    ab.derive(doubled, "a")
    before = picture_of(ab)

    def commit(tx, error):
        with tx:
            tx.update("a", 5.0)
            tx.update("b", 5)
            raise error

    for error in (ValueError("mine"), KeyboardInterrupt()):
        tx = ab.commit("never", step=3)
        with pytest.raises(type(error)):
            commit(tx, error)
        assert tx.number is None
        assert "committed" not in repr(tx)
    assert picture_of(ab) == before
    ab.update("a", 1.0)
    assert ab.tx == 3


def test_a_refused_update_inside_a_transaction_leaves_the_others(ab):
    with ab.commit() as tx:
        tx.update("b", 5)
        with pytest.raises(mmsb.InvalidDeltaError):
            tx.update("a", torch.ones(2, 3), rows=[1, 1])
    assert ab["b"].tensor.tolist() == [5, 5, 5, 5]
    assert ab["a"].epoch == 0


def test_a_transaction_is_used_once_and_inside_its_block(ab, picture_of):
    before = picture_of(ab)
    outside = ab.commit()
    with pytest.raises(mmsb.TransactionError, match="with mem"):
        outside.update("a", 1.0)
    with ab.commit() as done:
        pass
    with pytest.raises(mmsb.TransactionError) as caught:
        done.update("a", 1.0)
    assert isinstance(caught.value, RuntimeError)
    with pytest.raises(mmsb.TransactionError, match="new mem"), done:
        pass
    nested = ab.commit()
    with pytest.raises(mmsb.TransactionError), nested:  # noqa: SIM117 - the inner one raises
        with nested:
            pass
    assert picture_of(ab) == before


def test_a_transaction_that_conflicts_does_not_say_that_it_committed(ab):
    tx = ab.commit()
    with pytest.raises(mmsb.EpochConflictError), tx:
        tx.update("a", 1.0, epoch=9)
    assert tx.number is None
    assert "committed" not in repr(tx)
    with pytest.raises(mmsb.TransactionError):
        tx.update("a", 1.0)


def test_an_empty_transaction_is_none_unless_it_is_named(ab):
    with ab.commit() as tx:
        pass
    assert tx.number is None
    assert ab.tx == 2
    for options in ({"label": "here"}, {"step": 4}, {"metadata": {"loss": 0.5}}):
        with ab.commit(**options) as tx:
            pass
        assert tx.number == ab.tx
    assert ab.tx == 5
    assert (ab.at("here").tx, ab.at(step=4).tx) == (3, 4)
    assert torch.equal(ab.at("here")["a"], A)


def test_no_updates_at_all_make_no_transaction(ab):
    assert ab.update_many([]) == ab.tx == 2


def test_update_many_is_one_transaction_in_order(ab):
    number = ab.update_many(
        [("a", [0, 1], torch.ones(2, 3)), (ab["b"], None, 4), ("a", [1], torch.zeros(1, 3))],
        label="all",
    )
    assert number == ab.tx == ab.at("all").tx == 3
    assert ab["a"].tensor[:, 0].tolist() == [1, 0, 6, 9, 12]
    assert (ab["a"].epoch, ab["b"].epoch) == (1, 1)


def test_a_label_and_a_step_name_the_moment(ab):
    with ab.commit("relabel", step=7) as tx:
        tx.update("a", 1.0)
    ab.update("a", 2.0)
    for moment in (ab.at("relabel"), ab.at(step=7), ab.at(3)):
        assert (moment.tx, moment.label, moment.step) == (3, "relabel", 7)
        assert bool((moment["a"] == 1).all())
    with ab.commit("relabel", step=7) as tx:
        tx.update("a", 3.0)
    assert ab.at("relabel").tx == ab.at(step=7).tx == 5


# 7. what update and commit acknowledge


def test_when_update_returns_every_thread_sees_it(ab, bounded):
    number = ab.update("a", 4.0)

    def look():
        return ab.tx, ab["a"].epoch, ab["a"].tensor.sum().item(), ab.at(number)["a"].sum().item()

    assert bounded(look) == (number, 1, 60.0, 60.0)


# all at once


def test_an_update_beside_an_open_transaction_commits_by_itself(ab):
    with ab.commit() as tx:
        tx.update("a", 1.0, rows=[0])
        assert ab.update("a", 5.0) == 3
    assert ab.tx == 4
    assert ab["a"].tensor[:, 0].tolist() == [1, 5, 5, 5, 5]
    assert ab["a"].epoch == 2


ROUNDS = 40


def write(memory, name):
    for step in range(1, ROUNDS + 1):
        memory.update(name, float(step), rows=[step % 16, (step + 5) % 16])


def read(memory):
    last = torch.zeros(3)
    for _ in range(ROUNDS):
        now = memory["total"].tensor.amax(1)
        assert bool((now >= last).all())
        last = now


def declare(memory):
    for step in range(ROUNDS // 4):
        page = memory.derive(lambda x0: x0 * 2, name=f"d{step % 3}")
        memory.propagate()
        assert page.tensor.shape == (16,)


def look_back(memory):
    for _ in range(ROUNDS // 2):
        moment = memory.at(memory.tx)
        assert torch.equal(moment["total"][1], moment["x1"])
        memory.stats(), str(memory.graph), str(memory.why("total")), memory["x1"].mask


def keep(memory):
    for _ in range(3):
        memory.checkpoint(keep=2)


JOBS = [
    (write, "x0"),
    (write, "x1"),
    (write, "x2"),
    (read,),
    (read,),
    (declare,),
    (look_back,),
    (keep,),
]


def test_threads_that_do_everything_at_once_lose_nothing(path, bounded):
    memory, failures = mmsb.open(path), []
    for number in range(3):
        memory.page(f"x{number}", torch.zeros(16))
    memory.derive(lambda x0, x1, x2: torch.stack([x0, x1, x2]), name="total")

    def guarded(job, *args):
        try:
            job(memory, *args)
        except BaseException as error:
            failures.append(error)

    def all_at_once():
        threads = [threading.Thread(target=guarded, args=job, daemon=True) for job in JOBS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    bounded(all_at_once, 60)
    assert not failures
    expected = torch.zeros(16)
    for step in range(1, ROUNDS + 1):
        expected[[step % 16, (step + 5) % 16]] = float(step)
    assert all(torch.equal(memory[f"x{n}"].tensor, expected) for n in range(3))
    assert [memory[f"x{n}"].epoch for n in range(3)] == [ROUNDS] * 3
    assert memory.tx == 3 + 3 * ROUNDS
    assert torch.equal(memory["total"].tensor, expected.expand(3, 16))
    memory.close()
    with mmsb.open(path, mode="r") as again:
        assert torch.equal(again["total"].tensor, expected.expand(3, 16))
