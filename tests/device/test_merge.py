"""Delta merges on the CPU against the plain reference: every branch of the rule, every dtype."""

import pytest
import torch

from mmsb_kernels import reference
from mmsb_torch.device import (
    changed_elements,
    changed_rows,
    delta_merge,
    delta_merge_bits,
    delta_merge_elements,
    delta_merge_rows,
    flat_words,
    from_words,
    merge,
    pack_mask,
    same_bits,
    take_rows,
    words,
    zeros,
)
from mmsb_torch.testing import DTYPES

WIDTHS = (torch.bool, torch.uint8, torch.bfloat16, torch.float32, torch.float64, torch.complex128)


def name_of(dtype):
    return str(dtype).removeprefix("torch.")


def bits(shape, dtype, seed=0):
    """Random bits: NaN payloads and -0.0 among them; bools are 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    count = torch.Size(shape).numel()
    top = 2 if dtype is torch.bool else 256
    raw = torch.randint(0, top, (count * dtype.itemsize,), dtype=torch.uint8, generator=generator)
    if dtype is torch.complex128:
        return torch.view_as_complex(raw.view(torch.float64).view(-1, 2)).view(shape)
    return raw.view(dtype).view(shape)


def mask_of(shape, density, seed=0):
    """A mask with exactly the share `density` of its elements True, at random places."""
    count = torch.Size(shape).numel()
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(count, dtype=torch.bool)
    mask[torch.randperm(count, generator=generator)[: round(density * count)]] = True
    return mask.view(shape)


def merged_by_reference(function, base, *args):
    expected = bits(base.shape, base.dtype)
    words(expected).copy_(words(base))
    function(expected, *args)
    return expected


# numbers of elements and densities on both sides of every threshold of the rule
SIZES = (0, 1, 7, 8_191, 8_192, 100_001, 262_143, 262_144, 300_007)
DENSITIES = (0.0, 0.001, 0.005, 0.006, 0.07, 0.08, 0.5, 0.85, 0.86, 0.999, 1.0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.complex128], ids=name_of)
def test_a_dense_mask_of_any_size_and_density(size, dtype):
    values, start = bits((size,), dtype, 1), bits((size,), dtype, 2)
    for density in DENSITIES:
        mask = mask_of((size,), density, 3)
        base = from_words(flat_words(start).clone(), dtype, (size,))
        expected = merged_by_reference(reference.delta_merge, base, values, mask)
        assert delta_merge(base, values, mask) is None
        assert same_bits(base, expected), density


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("shape", [(), (0,), (5, 7), (97, 91), (3, 0, 2)], ids=str)
def test_every_dtype_and_shape(dtype, shape):
    for density in (0.0, 0.004, 0.4, 1.0):
        base, values, mask = bits(shape, dtype, 1), bits(shape, dtype, 2), mask_of(shape, density)
        expected = merged_by_reference(reference.delta_merge, base, values, mask)
        delta_merge(base, values, mask)
        assert same_bits(base, expected), density


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_rows_elements_and_bits(dtype):
    for shape in ((6,), (6, 5), (4, 0), (3, 2, 2)):
        rows = torch.tensor([0, shape[0] - 1])
        some = torch.tensor([0, 3, 5]) if 0 not in shape else torch.empty(0, dtype=torch.int64)
        mask = torch.zeros(shape, dtype=torch.bool)
        mask.view(-1)[some] = True
        cases = (
            (delta_merge_rows, reference.delta_merge_rows, (2, *shape[1:]), rows),
            (delta_merge_elements, reference.delta_merge_elements, some.shape, some),
            (delta_merge_bits, reference.delta_merge_bits, some.shape, pack_mask(mask)),
        )
        for function, by_reference, values_shape, where in cases:
            base, values = bits(shape, dtype, 1), bits(values_shape, dtype, 2)
            expected = merged_by_reference(by_reference, base, values, where)
            assert function(base, values, where) is None
            assert same_bits(base, expected), (function, shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_an_empty_selection_changes_nothing(dtype):
    nothing = torch.empty(0, dtype=torch.int64)
    for shape in ((4, 3), (0, 3)):
        base, before = bits(shape, dtype, 1), bits(shape, dtype, 1)
        delta_merge_rows(base, bits((0, 3), dtype), nothing)
        delta_merge_elements(base, bits((0,), dtype), nothing)
        delta_merge_bits(base, bits((0,), dtype), pack_mask(torch.zeros(shape, dtype=torch.bool)))
        delta_merge(base, bits(shape, dtype, 3), torch.zeros(shape, dtype=torch.bool))
        assert same_bits(base, before)


@pytest.mark.parametrize("dtype", WIDTHS, ids=name_of)
def test_many_rows_and_elements(dtype):
    generator = torch.Generator().manual_seed(1)
    rows = torch.randperm(20_000, generator=generator)[:7_000].sort().values
    base, values = bits((20_000, 3), dtype, 1), bits((7_000, 3), dtype, 2)
    expected = merged_by_reference(reference.delta_merge_rows, base, values, rows)
    delta_merge_rows(base, values, rows)
    assert same_bits(base, expected)
    some = torch.randperm(60_000, generator=generator)[:9_000].sort().values
    expected = merged_by_reference(
        reference.delta_merge_elements, base, values.view(-1)[:9_000], some
    )
    delta_merge_elements(base, values.view(-1)[:9_000], some)
    assert same_bits(base, expected)


def test_the_thresholds_are_those_that_the_sizes_above_straddle():
    assert (merge._SMALL, merge._SELECT_FROM) == (8_192, 262_144)
    assert (merge._SPARSE, *merge._MIXED) == (0.005, 0.08, 0.85)
    assert 300_007 % merge._BLOCK


def test_merging_leaves_values_and_mask_alone():
    for size in (100, 300_007):
        for density in (0.001, 0.5, 0.9, 1.0):
            base, values = bits((size,), torch.float32, 1), bits((size,), torch.float32, 2)
            mask = mask_of((size,), density)
            copies = bits((size,), torch.float32, 2), mask.clone()
            delta_merge(base, values, mask)
            assert same_bits(values, copies[0])
            assert torch.equal(mask, copies[1])


def test_merging_is_one_write_that_the_version_counter_sees():
    for size in (10, 300_007):
        for density in (0.001, 0.5, 0.9, 1.0):
            base = torch.zeros(size)
            before = base._version
            delta_merge(base, torch.ones(size), mask_of((size,), density))
            assert int(base.sum()) == round(density * size)
            assert base._version >= before


# the ops


def samples(dtype):
    base, mask = bits((6, 5), dtype, 1), mask_of((6, 5), 0.4)
    count = int(mask.sum())
    return {
        "delta_merge": (base, bits((6, 5), dtype, 2), mask),
        "delta_merge_rows": (base, bits((2, 5), dtype, 2), torch.tensor([1, 4])),
        "delta_merge_elements": (base, bits((3,), dtype, 2), torch.tensor([0, 7, 29])),
        "delta_merge_bits": (base, bits((count,), dtype, 2), pack_mask(mask)),
    }


OPS = tuple(samples(torch.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64], ids=name_of)
@pytest.mark.parametrize("name", OPS)
def test_the_ops_keep_the_rules_of_the_dispatcher(name, dtype):
    operator = getattr(torch.ops.mmsb, name).default
    found = torch.library.opcheck(
        operator,
        samples(dtype)[name],
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )
    assert set(found.values()) == {"SUCCESS"}


@pytest.mark.parametrize("name", OPS)
def test_the_ops_do_what_the_functions_do(name):
    base, values, where = samples(torch.float32)[name]
    expected = merged_by_reference(getattr(reference, name), base, values, where)
    assert getattr(torch.ops.mmsb, name)(base, values, where) is None
    assert same_bits(base, expected)


@pytest.mark.parametrize("name", OPS)
def test_on_meta_nothing_happens(name):
    arguments = [part.to("meta") for part in samples(torch.float32)[name]]
    assert getattr(torch.ops.mmsb, name)(*arguments) is None


@pytest.mark.parametrize("name", OPS)
def test_the_first_argument_is_written_and_nothing_returned(name):
    schema = getattr(torch.ops.mmsb, name).default._schema
    assert schema.is_mutable
    assert [bool(a.alias_info and a.alias_info.is_write) for a in schema.arguments] == [
        True,
        False,
        False,
    ]
    assert not schema.returns


# words and comparison


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_words_are_the_same_memory_and_lead_back(dtype):
    for shape in ((), (0,), (3,), (2, 3)):
        value = bits(shape, dtype, 1)
        assert words(value).data_ptr() == value.data_ptr()
        assert words(value).nbytes == value.nbytes
        assert flat_words(value).shape[0] == value.numel()
        back = from_words(flat_words(value), dtype, shape)
        assert (back.dtype, tuple(back.shape), back.data_ptr()) == (dtype, shape, value.data_ptr())
        assert same_bits(back, value)


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_zeros_and_rows_of_any_dtype(dtype):
    empty = zeros((2, 3), dtype, torch.device("cpu"))
    assert (empty.dtype, tuple(empty.shape)) == (dtype, (2, 3))
    assert not bool(words(empty).any())
    value = bits((4, 2), dtype, 1)
    taken = take_rows(value, torch.tensor([3, 1, 3]))
    assert (taken.dtype, tuple(taken.shape)) == (dtype, (3, 2))
    assert all(same_bits(taken[i : i + 1], value[r : r + 1]) for i, r in enumerate((3, 1, 3)))
    assert taken.data_ptr() != value.data_ptr()


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_one_bit_is_enough_to_differ(dtype):
    value, other = bits((4, 3), dtype, 1), bits((4, 3), dtype, 1)
    assert same_bits(value, other)
    assert not bool(changed_elements(value, other).any())
    flat = flat_words(other).view(-1)
    flat[-1] ^= 1
    assert not same_bits(value, other)
    assert changed_rows(value, other).tolist() == [3]
    assert changed_elements(value, other).nonzero().tolist() == [[3, 2]]


def test_what_looks_equal_but_is_not():
    one = torch.tensor([0.0, float("nan")])
    assert same_bits(one, one.clone())
    assert not same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert not same_bits(torch.zeros(2), torch.zeros(2, dtype=torch.int32))
    assert not same_bits(torch.zeros(2), torch.zeros(2, 1))
    assert not same_bits(torch.zeros(0), torch.zeros(0, 1))
    assert not same_bits(torch.zeros(2), torch.zeros(2, device="meta"))
    quiet, other = (torch.tensor([word]).view(torch.float32) for word in (0x7FC00001, 0x7FC00002))
    assert not same_bits(*(t.int() if not t.is_floating_point() else t for t in (quiet, other)))
