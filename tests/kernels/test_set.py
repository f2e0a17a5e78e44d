"""Copies, fills, differences, digests, masks, gathering and batches against the reference."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mmsb_kernels
from mmsb_kernels import reference
from mmsb_kernels.reference.digest import BLOCK_WORDS

SIZES = (0, 1, 7, 2049)
sizes = pytest.mark.parametrize("size", SIZES)


def alike(found, expected):
    """Whether results have the same dtypes, shapes and bits."""
    if isinstance(found, tuple):
        return all(alike(*pair) for pair in zip(found, expected, strict=True))
    shown = (found.dtype, found.shape, found.device)
    return shown == (expected.dtype, expected.shape, expected.device) and bool(
        reference.same_bits(found, expected)
    )


def changed(place, tensor, count):
    """A copy whose bits differ in `count` bytes at most."""
    other = tensor.clone()
    if tensor.numel():
        raw = other.view(-1).view(torch.uint8)
        raw[place.choice(len(raw), min(count, len(raw)))] ^= 1
    return other


@sizes
def test_copies_and_fills(place, dtype, size):
    for skip in (0, 1):
        target, source = place.bits((size,), dtype, skip), place.bits((size,), dtype, skip)
        before = place.surroundings(target)
        edge = skip * dtype.itemsize
        value = place.bits((), dtype)
        expected = target.clone()
        reference.page_fill(expected, value)
        with place.entered():
            for write, want in (
                (lambda t=target, s=source: mmsb_kernels.page_copy(t, s), source),
                (lambda t=target, v=value: mmsb_kernels.page_fill(t, v), expected),
                (lambda t=target: mmsb_kernels.page_zero(t), torch.zeros_like(source)),
            ):
                assert write() is None
                assert alike(target, want)
        after = place.surroundings(target)
        assert torch.equal(after[:edge], before[:edge])
        assert torch.equal(after[len(after) - edge :], before[len(before) - edge :])


@sizes
def test_differences_and_sameness(place, dtype, size):
    for skip, count in ((0, 0), (0, 1), (1, size), (0, 8 * size)):
        old = place.bits((size,), dtype, skip)
        new = changed(place, old, count) if dtype != torch.bool else old ^ place.mask((size,), 0.3)
        with place.entered():
            assert alike(mmsb_kernels.same_bits(old, new), reference.same_bits(old, new))
            found = mmsb_kernels.page_diff(old, new)
            assert alike(found, reference.page_diff(old, new))
            bits, values, told = found
            mmsb_kernels.delta_merge_bits(old, values, bits)
        assert int(told) == len(values)
        assert alike(old, new)


def test_a_difference_with_room_for_some(place):
    old = torch.zeros(3000, dtype=torch.int32, device=place.device)
    new = torch.arange(3000, dtype=torch.int32, device=place.device)
    with place.entered():
        for room in (0, 5, 2999, 4000):
            bits, values, count = mmsb_kernels.page_diff(old, new, room)
            assert int(count) == 2999
            assert values.shape == (room,)
            assert torch.equal(values[:2999], new[1:][:room])
            assert alike(bits, reference.pack_mask(new != 0))


@sizes
def test_digests(place, dtype, size):
    for skip in (0, 1):
        tensor = place.bits((size,), dtype, skip)
        with place.entered():
            assert alike(mmsb_kernels.block_digest(tensor), reference.block_digest(tensor))


@given(word=st.integers(0, 3 * BLOCK_WORDS - 1), bit=st.integers(0, 63), seed=st.integers(0, 99))
def test_one_bit_changes_both_numbers_of_its_block_and_no_other(word, bit, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-(2**63), 2**63 - 1, (3 * BLOCK_WORDS,), generator=generator)
    other = values.clone()
    other[word] ^= 1 << bit if bit < 63 else -(2**63)
    differs = reference.block_digest(values) != reference.block_digest(other)
    assert differs.sum() == 2
    assert differs[word // BLOCK_WORDS].all()


def test_digests_of_moved_and_joined_values():
    values = torch.randn(4 * BLOCK_WORDS, generator=torch.Generator().manual_seed(1)).double()
    whole = reference.block_digest(values).sum(0)
    for other in (values.flip(0), values.roll(1), -values, values.roll(BLOCK_WORDS)):
        assert not (reference.block_digest(other).sum(0) == whole).any()


@sizes
def test_masks(place, size):
    a, b = place.mask((size,), 0.5), place.mask((size,), 0.5)
    one, two = reference.pack_mask(a), reference.pack_mask(b)
    with place.entered():
        assert alike(mmsb_kernels.pack_mask(a), one)
        assert alike(mmsb_kernels.unpack_mask(one, (size,)), a)
        assert alike(mmsb_kernels.and_masks(one, two), reference.pack_mask(a & b))
        assert alike(mmsb_kernels.or_masks(one, two), reference.pack_mask(a | b))
        assert alike(mmsb_kernels.or_masks(a, b), a | b)
        full = torch.full_like(one, 255)  # the bits past the end are no elements
        for bits in (one, full):
            assert alike(mmsb_kernels.count_mask(bits, size), reference.count_mask(bits, size))
    assert int(reference.count_mask(full, size)) == size


@pytest.mark.parametrize("columns", [0, 1, 3, 16, 700])
def test_gathering(place, dtype, columns):
    for skip in (0, 1):
        source = place.bits((7, columns), dtype, skip)
        for rows in ([], [3], [6, 0, 3, 3]):
            index = torch.tensor(rows, dtype=torch.int64, device=place.device)
            with place.entered():
                found = mmsb_kernels.gather_rows(source, index)
            assert alike(found, reference.gather_rows(source, index))


def test_rows_that_are_not_there_are_zeros_and_refused_by_the_reference(place):
    source = place.bits((3, 5), torch.int32)
    index = torch.tensor([-1, 1, 3], device=place.device)
    with place.entered():
        found = mmsb_kernels.gather_rows(source, index)
    assert torch.equal(found[1], source[1])
    assert not found[[0, 2]].any()
    with pytest.raises(IndexError, match="gather_rows: rows: expected indices in"):
        reference.gather_rows(source, index)


def batch(place, unit, lengths, skip):
    """Bases, values and pieces of `lengths` units of bytes, one behind the other with gaps."""
    total = sum(lengths) + len(lengths) + 1
    bases = [place.bits((total * unit,), torch.uint8, skip) for _ in range(3)]
    values = place.bits((total * unit,), torch.uint8, skip)
    pieces, at = [], 1
    for number, length in enumerate(lengths):
        pieces.append([number % 3, at * unit, (at - 1) * unit, length * unit])
        at += length + 1
    return bases, values, torch.tensor(pieces, dtype=torch.int64).view(-1, 4)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(
    unit=st.sampled_from([1, 2, 4, 8, 16]),
    lengths=st.lists(st.integers(0, 700), max_size=9),
    skip=st.sampled_from([0, 1, 8, 16]),
)
def test_batches(place, unit, lengths, skip):
    bases, values, pieces = batch(place, unit, lengths, skip)
    wholes = [place.surroundings(base) for base in bases]
    expected = [whole[skip : skip + len(base)] for whole, base in zip(wholes, bases, strict=True)]
    reference.delta_merge_many(expected, values, pieces)
    with place.entered():
        assert mmsb_kernels.delta_merge_many(bases, values, pieces) is None
    for base, whole in zip(bases, wholes, strict=True):
        assert torch.equal(place.surroundings(base), whole)


OUTSIDE = [[3, 0, 0, 1], [-1, 0, 0, 1], [0, -1, 0, 1], [0, 0, -1, 1], [0, 0, 0, -1],
           [0, 99, 0, 2], [0, 0, 99, 2], [0, 2**62, 0, 2**62]]  # fmt: skip


@pytest.mark.parametrize("home", [reference, mmsb_kernels], ids=["reference", "launcher"])
@pytest.mark.parametrize("piece", OUTSIDE)
def test_a_piece_that_is_not_inside_writes_nothing(home, piece):
    bases = [torch.zeros(100, dtype=torch.uint8) for _ in range(3)]
    pieces = torch.tensor([[0, 0, 0, 10], piece])
    with mmsb_kernels.interpreted(), pytest.raises(IndexError, match=r"in line 1\. Nothing was"):
        home.delta_merge_many(bases, torch.ones(100, dtype=torch.uint8), pieces)
    assert not any(base.any() for base in bases)


@pytest.mark.parametrize("name", ["page_copy", "same_bits", "page_diff", "and_masks", "or_masks"])
def test_two_tensors_that_are_not_alike(name):
    one = torch.zeros(4, 3, dtype=torch.int32)
    for home in (reference, mmsb_kernels):
        call = getattr(home, name)
        with mmsb_kernels.interpreted():
            with pytest.raises(ValueError, match=f"^{name}: .*: expected shape"):
                call(one, one[:2])
            with pytest.raises(TypeError, match=f"^{name}: .*: expected torch.int32"):
                call(one, one.long())
    with mmsb_kernels.interpreted(), pytest.raises(ValueError, match="expected a contiguous"):
        getattr(mmsb_kernels, name)(one.t(), one.t())
