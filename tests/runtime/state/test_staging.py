"""What is staged belongs to nobody else, whatever form it was given in."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmsb_torch.device import copy_of, same_bits
from mmsb_torch.errors import DerivedPageError, InvalidDeltaError
from mmsb_torch.runtime.state import Entry, next_delta_id, stage
from mmsb_torch.testing import (
    DTYPES,
    Update,
    apply_update,
    random_bits,
    shapes,
    tensors,
    updates,
)
from mmsb_torch.types import Form, PageInfo, Spec, apply

X = torch.arange(40.0).view(10, 4)


@given(st.data(), shapes(), st.sampled_from(DTYPES))
def test_a_staged_update_does_what_it_should(data, shape, dtype):
    value = data.draw(tensors(shape, dtype))
    update = data.draw(updates(shape, dtype))
    info = PageInfo(5, "x", Spec.of(value), False, {}, 0)
    delta = stage(Entry(info), update.values, **update.options)
    result = copy_of(value)
    apply(result, delta)
    assert same_bits(result, apply_update(value, update))
    assert (delta.page_id, delta.base_epoch, delta.source) == (5, -1, "user")


VALUES = {
    "plain": lambda shape: torch.full(shape, 7.0),
    "leaf": lambda shape: torch.full(shape, 7.0, requires_grad=True),
    "parameter": lambda shape: torch.nn.Parameter(torch.full(shape, 7.0)),
    "strided": lambda shape: torch.full((*shape, 2), 7.0)[..., 0],
    "part": lambda shape: torch.full((50, *shape), 7.0)[3],
    "numpy": lambda shape: np.full(shape, 7.0, dtype=np.float32),
    "from numpy": lambda shape: torch.from_numpy(np.full(shape, 7.0, dtype=np.float32)),
}
MASK = torch.zeros(10, 4, dtype=torch.bool)
MASK[2, 1] = MASK[9, 3] = True
MOST = ~MASK
SELECTIONS = {
    "everything": ((10, 4), dict),
    "one row": ((1, 4), lambda: {"rows": torch.tensor([2])}),
    "rows": ((3, 4), lambda: {"rows": torch.tensor([7, 2, 4])}),
    "sorted rows": ((3, 4), lambda: {"rows": torch.tensor([2, 4, 7])}),
    "numpy rows": ((3, 4), lambda: {"rows": np.array([2, 4, 7])}),
    "list of rows": ((3, 4), lambda: {"rows": [2, 4, 7]}),
    "every row": ((10, 4), lambda: {"rows": torch.arange(10)}),
    "elements": ((3,), lambda: {"indices": torch.tensor([39, 0, 8])}),
    "sorted elements": ((3,), lambda: {"indices": torch.tensor([0, 8, 39])}),
    "every element": ((40,), lambda: {"indices": torch.arange(40)}),
    "coordinates": ((2,), lambda: {"indices": torch.tensor([[1, 2], [9, 3]])}),
    "sparse mask": ((10, 4), lambda: {"mask": MASK.clone()}),
    "dense mask": ((10, 4), lambda: {"mask": MOST.clone()}),
    "full mask": ((10, 4), lambda: {"mask": torch.ones(10, 4, dtype=torch.bool)}),
    "empty mask": ((10, 4), lambda: {"mask": torch.zeros(10, 4, dtype=torch.bool)}),
}


def overwrite(given):
    """Write over whatever a user may still hold."""
    if isinstance(given, list):
        given[:] = [0] * len(given)
    elif isinstance(given, np.ndarray):
        given[...] = 0
    else:
        with torch.no_grad():
            given.zero_()
            given.untyped_storage().fill_(0)


@pytest.mark.parametrize("make", VALUES.values(), ids=VALUES.keys())
@pytest.mark.parametrize(("shape", "select"), SELECTIONS.values(), ids=SELECTIONS.keys())
def test_nothing_that_was_handed_over_is_kept(kit, make, shape, select):
    values, selection = make(shape), select()
    delta = stage(kit.entry(X), values, **selection)
    before = delta.values.clone(), str(delta.region), delta.region.mask()
    expected = X.clone()
    apply(expected, delta)
    overwrite(values)
    for part in selection.values():
        overwrite(part)
    assert same_bits(delta.values, before[0])
    assert str(delta.region) == before[1]
    assert torch.equal(delta.region.mask(), before[2])
    result = X.clone()
    apply(result, delta)
    assert same_bits(result, expected)
    assert set(result[delta.region.mask()].tolist()) <= {7.0}
    assert not delta.values.requires_grad
    assert delta.values.is_contiguous()


@pytest.mark.parametrize(
    ("selection", "form"),
    [
        ({}, Form.ALL),
        ({"rows": [3]}, Form.ROWS),
        ({"rows": range(10)}, Form.ALL),
        ({"rows": []}, Form.NONE),
        ({"indices": [3]}, Form.ELEMENTS),
        ({"indices": range(40)}, Form.ALL),
        ({"indices": []}, Form.NONE),
        ({"mask": MOST}, Form.MASK),
        ({"mask": MASK & False}, Form.NONE),
        ({"mask": MASK | True}, Form.ALL),
    ],
)
def test_the_region_is_written_down_as_simply_as_it_can_be(kit, selection, form):
    delta = stage(kit.entry(X), 7.0, **selection)
    assert delta.region.form is form
    result = X.clone()
    apply(result, delta)
    assert torch.equal(result == 7, delta.region.mask() | (X == 7))


def test_a_sparse_mask_keeps_only_what_it_selects(kit):
    delta = stage(kit.entry(X), torch.full((10, 4), 7.0), mask=MASK)
    assert delta.nbytes < 40
    assert delta.region.count == 2


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_sparse_mask_takes_values_of_any_layout(dtype):
    value, other = random_bits((10, 4), dtype, 1), random_bits((4, 10), dtype, 2).t()
    delta = stage(Entry(PageInfo(5, "x", Spec.of(value), False, {}, 0)), other, mask=MASK)
    result, wanted = copy_of(value), apply_update(value, Update(copy_of(other), mask=MASK))
    apply(result, delta)
    assert same_bits(result, wanted)


def test_rows_that_come_unsorted_bring_their_values_along(kit):
    values = torch.tensor([[7.0] * 4, [2.0] * 4, [4.0] * 4])
    delta = stage(kit.entry(X), values, rows=[7, 2, -6])
    assert str(delta.region) == "rows 2, 4, 7 (3 of 10)"
    assert delta.values[:, 0].tolist() == [2, 4, 7]


def test_staging_changes_no_page_and_counts_on(kit):
    entry = kit.entry(X)
    ids = [next_delta_id()]
    ids += [stage(entry, 7.0).id for _ in range(3)]
    assert ids == sorted(set(ids))
    assert torch.equal(entry.tensor, X)
    assert entry.epoch == 0
    assert entry.is_unwritten()


def test_a_derived_page_is_not_staged(kit):
    with pytest.raises(DerivedPageError, match="'page' is derived"):
        stage(kit.entry(X, derived=True), X)


def test_at_most_one_selection(kit):
    with pytest.raises(InvalidDeltaError, match="rows and mask") as caught:
        stage(kit.entry(X), 7.0, rows=[1], mask=MASK)
    assert caught.value.page_id == 1


@pytest.mark.parametrize("selection", [{}, {"rows": [1, 2]}, {"indices": [1]}, {"mask": MASK}])
def test_in_inference_mode_a_normal_delta_is_staged(kit, selection):
    entry = kit.entry(X)
    with torch.inference_mode():
        delta = stage(entry, torch.full((), 7.0), **selection)
    assert not delta.values.is_inference()
    assert delta.region.index is None or not delta.region.index.is_inference()


def test_a_tensor_on_another_device_is_never_moved_silently(kit):
    with pytest.raises(InvalidDeltaError, match="meta"):
        stage(kit.entry(X), torch.zeros(10, 4, device="meta"))
