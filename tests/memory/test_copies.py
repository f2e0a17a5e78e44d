"""What is handed in is copied; what is handed out is for reading."""

import numpy as np
import pytest
import torch

import mmsb_torch as mmsb

A = torch.arange(15.0).view(5, 3)


def doubled(a):
    return a * 2


# page() copies


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


# page.tensor is for reading


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


ROUNDS = 40


def write(memory, name):
    for step in range(1, ROUNDS + 1):
        memory.update(name, float(step), rows=[step % 16, (step + 5) % 16])
