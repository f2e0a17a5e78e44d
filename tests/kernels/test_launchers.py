"""The launchers against the reference, bit for bit: interpreted on CPU tensors, or on a GPU."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mmsb_kernels
from mmsb_kernels import reference
from mmsb_kernels.tiles import ROW_TILE, SCATTER_TILE, TILE, row_tile, row_word

DENSITIES = (0.0, 0.5, 1.0)
SIZES = {
    "empty": lambda tile: 0,
    "one": lambda tile: 1,
    "seven": lambda tile: 7,
    "below_a_tile": lambda tile: tile - 1,
    "a_tile": lambda tile: tile,
    "above_a_tile": lambda tile: tile + 1,
    "tiles": lambda tile: 3 * tile + 5,
}
size = pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)


def masks(place, numel, tile):
    """One mask of every kind that the kernels treat on its own, and an alignment for each."""
    for density in DENSITIES:
        yield place.mask((numel,), density), 0
    if numel:
        one = place.mask((numel,), 0.0)
        one[place.choice(numel, 1)] = True
        yield one, 1
        yield ~one, 0
    if numel > tile:  # one tile all true, one all false, one mixed, and the end
        striped = place.mask((numel,), 0.5)
        striped[:tile] = True
        striped[tile : 2 * tile] = False
        yield striped, 0
        yield striped, 1


@size
def test_dense(place, agree, dtype, size):
    tile = TILE[dtype.itemsize]
    numel = size(tile)
    for mask, skip in masks(place, numel, tile):
        base = place.bits((numel,), dtype, skip)
        agree("delta_merge", base, place.bits((numel,), dtype, skip), mask)


@size
def test_bits(place, agree, dtype, size):
    tile = TILE[dtype.itemsize]
    numel = size(tile)
    for mask, skip in masks(place, numel, tile):
        base = place.bits((numel,), dtype, skip)
        values = place.bits((int(mask.sum()),), dtype, skip)
        agree("delta_merge_bits", base, values, reference.pack_mask(mask))


@size
def test_elements(place, agree, dtype, size):
    count = size(SCATTER_TILE)
    numel = count + count // 2
    for skip in (0, 1):
        base = place.bits((numel,), dtype, skip)
        values = place.bits((count,), dtype, skip)
        agree("delta_merge_elements", base, values, place.choice(numel, count))


@pytest.mark.parametrize("columns", [0, 1, 3, 16, 700])
def test_rows(place, agree, dtype, columns):
    for count, skip in ((0, 0), (1, 0), (5, 1), (7, 0)):
        base = place.bits((7, columns), dtype, skip)
        values = place.bits((count, columns), dtype, skip)
        agree("delta_merge_rows", base, values, place.choice(7, count))


@pytest.mark.parametrize("skip", [0, 1])
def test_rows_longer_than_a_tile(place, agree, skip):
    base = place.bits((4, 5001), torch.int16, skip)
    agree("delta_merge_rows", base, place.bits((2, 5001), torch.int16, skip), place.choice(4, 2))


def test_more_rows_than_one_tile_holds(place, agree):
    base = place.bits((4000, 3), torch.int8)
    agree("delta_merge_rows", base, place.bits((3000, 3), torch.int8), place.choice(4000, 3000))


@pytest.mark.parametrize("chosen", [True, False])
def test_zero_dimensions(place, agree, dtype, chosen):
    mask = torch.tensor(chosen, device=place.device)
    agree("delta_merge", place.bits((), dtype), place.bits((), dtype), mask)
    agree(
        "delta_merge_bits",
        place.bits((), dtype),
        place.bits((int(chosen),), dtype),
        reference.pack_mask(mask),
    )
    index = torch.zeros(int(chosen), dtype=torch.int64, device=place.device)
    agree("delta_merge_elements", place.bits((), dtype), place.bits((int(chosen),), dtype), index)


def test_nan_payloads_and_negative_zero(place):
    odd = torch.tensor([0x7FA00001, -0x00400123, -(2**31), 0x7F800000], dtype=torch.int32)
    odd = odd.to(place.device)
    base = torch.cat([odd, odd]).view(torch.float32)
    mask = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1], dtype=torch.bool, device=place.device)
    base[4:] = 0.0
    with place.entered():
        mmsb_kernels.delta_merge(base, torch.cat([odd, odd]).view(torch.float32), mask)
    assert base.view(torch.int32).tolist() == [*odd.tolist(), *odd.tolist()]


def test_a_bool_mask_of_other_bytes_than_one_is_true(place, agree):
    strange = torch.tensor([0, 2, 255, 128, 0, 1], dtype=torch.uint8, device=place.device)
    base = place.bits((6,), torch.int32)
    values = place.bits((6,), torch.int32)
    want = torch.where(strange != 0, values, base)
    with place.entered():
        mmsb_kernels.delta_merge(base, values, strange.view(torch.bool))
    assert torch.equal(base, want)


def test_values_may_be_base_itself(place):
    base = place.bits((2000,), torch.int32)
    want = base.clone()
    with place.entered():
        mmsb_kernels.delta_merge(base, base, place.mask((2000,), 0.5))
    assert torch.equal(base, want)


@pytest.mark.parametrize(
    ("name", "shape", "inside"),
    [("delta_merge_rows", (6, 4), [0, 5]), ("delta_merge_elements", (24,), [0, 23])],
)
def test_what_is_out_of_range_is_not_written(place, name, shape, inside):
    base = place.bits(shape, torch.int32, skip=8)
    values = place.bits((4, *shape[1:]), torch.int32)
    outside = torch.tensor([-1, inside[0], shape[0], inside[1]], device=place.device)
    before = place.surroundings(base)
    want = base.clone()
    want[inside] = values[[1, 3]]
    with place.entered():
        getattr(mmsb_kernels, name)(base, values, outside)
    assert torch.equal(base, want)
    after = place.surroundings(base)
    assert torch.equal(after[: 4 * 8], before[: 4 * 8])
    assert torch.equal(after[-4 * 8 :], before[-4 * 8 :])


@pytest.mark.parametrize("given_values", [1, 1024, 1500, 3000])
def test_bits_with_too_few_or_too_many_values(place, given_values):
    mask = place.mask((2048,), 1.0)
    mask[1024::2] = False
    base = place.bits((2048,), torch.int32)
    values = place.bits((given_values,), torch.int32)
    want = base.clone()
    at = mask.nonzero().view(-1)[:given_values]
    want[at] = values[: at.numel()]
    with place.entered():
        mmsb_kernels.delta_merge_bits(base, values, reference.pack_mask(mask))
    # A tile of which not all values are there may be written in part, never with other bytes.
    assert torch.equal(base, want)


def test_bits_past_the_end_do_not_matter(place, agree):
    bits = torch.full((2,), 255, dtype=torch.uint8, device=place.device)
    agree("delta_merge_bits", place.bits((9,), torch.int16, 1), place.bits((9,), torch.int16), bits)


def test_bits_past_the_end_are_not_written_even_if_there_are_values(place):
    base = place.bits((9,), torch.int16, skip=8)
    values = place.bits((16,), torch.int16)
    before = place.surroundings(base)
    bits = torch.full((2,), 255, dtype=torch.uint8, device=place.device)
    with place.entered():
        mmsb_kernels.delta_merge_bits(base, values, bits)
    assert torch.equal(base, values[:9])
    assert torch.equal(place.surroundings(base)[-16:], before[-16:])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(
    shape=st.lists(st.integers(0, 17), max_size=4).map(tuple),
    density=st.sampled_from([0.0, 0.1, 0.9, 1.0]),
    skip=st.integers(0, 5),
    dtype=st.sampled_from([torch.int8, torch.bfloat16, torch.float32, torch.complex128]),
)
def test_shapes(place, agree, shape, density, skip, dtype):
    mask = place.mask(shape, density)
    delta = place.bits(shape, dtype, skip)
    agree("delta_merge", place.bits(shape, dtype, skip), delta, mask)
    chosen = mask.view(-1).nonzero().view(-1)
    agree("delta_merge_elements", place.bits(shape, dtype, skip), delta.view(-1)[chosen], chosen)
    agree(
        "delta_merge_bits", place.bits(shape, dtype, skip), delta[mask], reference.pack_mask(mask)
    )
    if shape:
        rows = place.choice(shape[0], round(shape[0] * density))
        agree("delta_merge_rows", place.bits(shape, dtype, skip), delta[rows], rows)


@given(words=st.integers(1, 10**7), width=st.sampled_from([1, 2, 4, 8]))
def test_a_row_tile_has_one_size_and_is_not_wasted(words, width):
    rows, cols = row_tile(words, width)
    assert rows * cols == ROW_TILE[width]
    assert rows == 1 or words <= cols < 2 * words


@given(row=st.integers(1, 4096), a=st.integers(0, 64), b=st.integers(0, 64))
def test_a_row_word_divides_the_row_and_the_addresses(row, a, b):
    width = row_word(row, a, b)
    assert not any(number % width for number in (row, a, b))
    assert width == 8 or any(number % (2 * width) for number in (row, a, b))


def test_autograd_hears_of_the_change(place):
    base = torch.ones(4, device=place.device, requires_grad=True)
    product = (base * base).sum()  # saves base
    with place.entered():
        mmsb_kernels.delta_merge(
            base, torch.zeros_like(base), torch.ones_like(base, dtype=torch.bool)
        )
    assert base.tolist() == [0.0] * 4
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def test_inference_tensors(place):
    with torch.inference_mode(), place.entered():
        base = place.bits((5,), torch.int32)
        values = place.bits((5,), torch.int32)
        mmsb_kernels.delta_merge(base, values, place.mask((5,), 1.0))
    assert torch.equal(base, values)


@pytest.mark.gpu
def test_more_than_two_to_the_31_elements():
    base = torch.zeros(2**31 + 5000, dtype=torch.int8, device="cuda")
    far = torch.tensor([3, 2**31 + 7, 2**31 + 4999], device="cuda")
    mmsb_kernels.delta_merge_elements(base, torch.full_like(far, 7, dtype=torch.int8), far)
    assert torch.equal(base.nonzero().view(-1), far)
    mask = base != 0
    base.zero_()
    mmsb_kernels.delta_merge(base, mask.view(torch.int8) + 1, mask)
    assert torch.equal(base.nonzero().view(-1), far)
    rows = base.zero_()[: 2**31 + 4096].view(-1, 4096)
    mmsb_kernels.delta_merge_rows(rows, torch.ones_like(rows[:1]), far[1:2] // 4096)
    assert torch.equal(base.nonzero().view(-1), torch.arange(2**31, 2**31 + 4096, device="cuda"))


@pytest.mark.gpu
def test_the_current_stream_is_used():
    base = torch.zeros(2**22, device="cuda")
    mask = torch.ones_like(base, dtype=torch.bool)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10**8)
        values = torch.ones_like(base)
        mmsb_kernels.delta_merge(base, values, mask)
        assert not stream.query()  # the launcher did not wait
    stream.synchronize()
    assert torch.equal(base, torch.ones_like(base))
