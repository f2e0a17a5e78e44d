"""Pages of every dtype and shape, bit for bit: made, updated in every form, filled, kept."""

import itertools
import math

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.device import flat_words, from_words, same_bits, words
from mmsb_torch.testing import DTYPES

SHAPES = [(), (0,), (3,), (2, 0, 3), (5, 7)]


def name_of(dtype):
    return str(dtype).removeprefix("torch.")


@pytest.fixture(params=DTYPES, ids=name_of)
def dtype(request):
    return request.param


@pytest.fixture
def draw(dtype, random_bits):
    """Draws tensors of random bits of the dtype, another one each time."""
    seeds = itertools.count(1)
    return lambda shape: random_bits(shape, dtype, next(seeds))


def merged(old, new, chosen):
    """`new` where `chosen` (flat positions) says so, else `old`; `new` has one value a position."""
    bits = words(old).clone()
    flat = bits.view(-1, 2) if old.dtype is torch.complex128 else bits.view(-1)
    values = flat_words(new.contiguous())
    for number, position in enumerate(chosen):
        flat[position] = values[number]
    return from_words(bits, old.dtype, tuple(old.shape))


def test_a_page_holds_the_bits_it_was_given(mem, dtype, draw):
    for shape in SHAPES:
        value = draw(shape)
        page = mem.page(str(shape), value)
        assert same_bits(page.tensor, value), shape
        assert same_bits(page.clone(), value), shape
        assert same_bits(page.read(), value), shape
        assert (page.dtype, page.shape, page.device.type) == (dtype, torch.Size(shape), "cpu")
        assert page.nbytes == math.prod(shape) * dtype.itemsize
        assert page.location is mmsb.PageLocation.CPU
        assert page.mask.shape == page.shape
        assert not bool(page.mask.any())


def test_a_zero_page_is_zero_in_every_bit(mem, dtype):
    for shape in SHAPES:
        page = mem.page(str(shape), shape=shape, dtype=dtype)
        assert (page.dtype, page.shape, page.epoch) == (dtype, torch.Size(shape), 0)
        assert int(torch.count_nonzero(words(page.tensor))) == 0, shape


def elements(tensor, mask):
    """The elements of `tensor` where `mask` is True, in C order, moved as words."""
    chosen = flat_words(tensor)[mask.view(-1).nonzero().view(-1)]
    return from_words(chosen, tensor.dtype, (int(mask.sum()),))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_form_of_update_moves_bits_and_none_is_forgotten(mem, dtype, draw, shape):
    page = mem.page("x", draw(shape))
    total, history = math.prod(shape), [page.clone()]

    def update(values, expected, **selection):
        mem.update(page, values, **selection)
        assert same_bits(page.tensor, expected), selection
        history.append(expected)

    new = draw(shape)
    update(new, new)
    positions = [p for p in (4, 0, 2) if p < total]
    new = draw((len(positions),))
    update(new, merged(page.tensor, new, positions), indices=positions)
    mask = torch.arange(total).view(shape) % 3 == 1
    new = draw(shape)
    chosen = mask.view(-1).nonzero().view(-1).tolist()
    update(new, merged(page.tensor, elements(new, mask), chosen), mask=mask)
    update(new, new, mask=~mask)
    if shape and shape[0]:
        rows, width, new = [shape[0] - 1, 0], total // shape[0], draw((2, *shape[1:]))
        chosen = [row * width + column for row in rows for column in range(width)]
        update(new, merged(page.tensor, new, chosen), rows=rows)
    for number, value in enumerate(history, 1):
        assert same_bits(mem.at(number)["x"], value)
    assert page.epoch == len(history) - 1
    mem.restore(1)
    assert same_bits(page.tensor, history[0])
    mem.restore(len(history))
    assert same_bits(page.tensor, history[-1])


def repeated(value, count):
    """A 0-dim tensor `count` times, moved as words."""
    bits = flat_words(value)
    return from_words(bits.repeat(count, *[1] * (bits.dim() - 1)), value.dtype, (count,))


def test_a_scalar_tensor_fills_any_selection(mem, dtype, draw):
    for shape in SHAPES:
        page, value, total = mem.page(str(shape), draw(shape)), draw(()), math.prod(shape)
        some = [p for p in (1, 3) if p < total]
        mask = torch.arange(total).view(shape) % 2 == 0
        cases = [(some, {"indices": some}), (range(0, total, 2), {"mask": mask})]
        if shape and shape[0]:
            cases.append((range(total // shape[0]), {"rows": [0]}))
        for chosen, selection in [*cases, (range(total), {})]:
            expected = merged(page.tensor, repeated(value, len(chosen)), chosen)
            mem.update(page, value, **selection)
            assert same_bits(page.tensor, expected), (shape, selection)
            mem.update(page, draw(shape))


def test_the_difference_of_two_moments_is_exact(mem, dtype, draw):
    for shape in SHAPES:
        old, new, name = draw(shape), draw(shape), str(shape)
        mem.page(name, old)
        mem.update(name, new)
        diff = mem.diff(mem.tx - 1, mem.tx)
        differs = flat_words(old) != flat_words(new)
        differs = (differs.any(1) if differs.dim() == 2 else differs).view(shape)
        assert (name in diff) == bool(differs.any())
        if name in diff:
            assert torch.equal(diff[name].region.mask(), differs)
            assert same_bits(diff[name].before, old)
            assert same_bits(diff[name].after, new)


def test_rows_are_read_in_the_order_asked_for(mem, dtype, draw):
    value = draw((5, 2))
    page = mem.page("x", value)
    for rows in ([3, 0, -1], [4, 3, 2, 1, 0], [2], torch.tensor([1, 4]), slice(None, None, -2)):
        wanted = range(5)[rows] if isinstance(rows, slice) else [int(row) % 5 for row in rows]
        found = page.read(rows)
        assert found.shape == (len(wanted), 2)
        assert found.dtype is dtype
        for number, row in enumerate(wanted):
            assert same_bits(found[number : number + 1], value[row : row + 1])


def test_no_rows_have_the_width_of_rows(mem):
    for shape in ((5, 2), (5,), (5, 2, 3), (0, 4)):
        page = mem.page(str(shape), torch.zeros(shape))
        for rows in ([], torch.empty(0, dtype=torch.int64), slice(0, 0), range(0)):
            assert page.read(rows).shape == (0, *shape[1:])


def test_the_same_row_may_not_be_read_twice(mem):
    page = mem.page("x", torch.arange(10.0).view(5, 2))
    with pytest.raises(mmsb.InvalidDeltaError) as caught:
        page.read([1, 3, -4])
    assert all(word in str(caught.value) for word in ("'x'", "read", "1 twice"))
    assert "update of" not in str(caught.value)


def test_many_rows_are_read_in_the_order_asked_for(mem):
    page = mem.page("x", torch.arange(1000.0).view(500, 2))
    order = torch.randperm(500, generator=torch.Generator().manual_seed(1))
    assert torch.equal(page.read(order), page.tensor[order])
    assert torch.equal(page.read(order[:300] - 500), page.tensor[order[:300]])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_all_dtypes_survive_a_checkpoint(path, shape, random_bits):
    values = {name_of(dtype): random_bits(shape, dtype, 7) for dtype in DTYPES}
    with mmsb.open(path) as memory:
        for name, value in values.items():
            memory.page(name, value)
        memory.update("float32", 1.0)
        memory.update("float32", values["float32"])
        memory.checkpoint()
        epochs = {page.name: page.epoch for page in memory.pages()}
    with mmsb.open(path) as memory:
        assert list(memory) == list(values)
        for name, value in values.items():
            page = memory[name]
            assert same_bits(page.tensor, value), name
            assert page.epoch == epochs[name]
            assert not bool(page.mask.any())
            memory.update(page, page.tensor)
            assert same_bits(page.tensor, value), name


NANS = {
    torch.float32: ([0x7FC00001, 0x7F800001, 0xFFFFFFFF, 0x80000000, 0x00000001], torch.int32),
    torch.float64: ([0x7FF8000000000123, 0xFFF0000000000001, 0x8000000000000000], torch.int64),
    torch.bfloat16: ([0x7FC1, 0x7F81, 0xFFFF, 0x8000], torch.int16),
    torch.float16: ([0x7E01, 0x7C01, 0xFFFF, 0x8000], torch.int16),
}


@pytest.mark.parametrize(("kind", "patterns"), NANS.items(), ids=lambda item: str(item)[:20])
def test_nan_payloads_and_minus_zero_are_kept(path, kind, patterns):
    patterns, carrier = patterns
    bits = torch.tensor(
        [
            p - (1 << carrier.itemsize * 8) if p >> (carrier.itemsize * 8 - 1) else p
            for p in patterns
        ],
        dtype=carrier,
    )
    value = bits.view(kind)
    zero = torch.zeros_like(value)

    def found(memory):
        return memory["x"].tensor.view(carrier).tolist()

    with mmsb.open(path) as memory:
        page = memory.page("x", value)
        doubled = memory.derive(lambda x: x.clone(), "x", name="copy")
        assert found(memory) == bits.tolist()
        for options in (
            {},
            {"rows": range(len(patterns))},
            {"rows": list(range(len(patterns)))[::-1], "flip": True},
            {"indices": list(range(len(patterns)))},
            {"mask": torch.ones(len(patterns), dtype=torch.bool)},
        ):
            memory.update(page, zero)
            flip = options.pop("flip", False)
            memory.update(
                page, value.view(carrier).flip(0).view(kind) if flip else value, **options
            )
            assert found(memory) == bits.tolist()
            assert doubled.tensor.view(carrier).tolist() == bits.tolist()
        for position in range(len(patterns)):
            memory.update(page, zero)
            memory.update(page, value[position], mask=torch.arange(len(patterns)) == position)
            assert found(memory)[position] == bits[position]
        memory.update(page, value)
    with mmsb.open(path, mode="r") as memory:
        assert found(memory) == bits.tolist()


def test_minus_zero_for_zero_is_a_change_of_bits(mem):
    mem.page("x", torch.tensor([0.0, 1.0]))
    sign = mem.derive(lambda x: torch.signbit(x), "x", name="sign")
    assert sign.tensor.tolist() == [False, False]
    mem.update("x", -0.0, rows=[0])
    assert sign.tensor.tolist() == [True, False]
    assert len(mem.diff(1, 2)) == 1


def test_the_same_nan_is_no_change_of_bits(mem):
    mem.page("x", torch.tensor([float("nan"), 1.0]))
    derived = mem.derive(lambda x: x * 2, "x", name="d")
    _ = derived.tensor
    mem.update("x", torch.tensor([float("nan"), 1.0]))
    _ = derived.tensor
    assert mem.stats()["recomputed"] == 1
    assert len(mem.diff(1, 2)) == 0


# numbers that fill


HELD = [
    (torch.uint8, 255),
    (torch.int8, -128),
    (torch.int64, 2**63 - 1),
    (torch.int64, -(2**63)),
    (torch.uint64, 2**64 - 1),
    (torch.uint16, 65535),
    (torch.uint32, 2**32 - 1),
    (torch.float32, 0.1),
    (torch.float32, 3),
    (torch.float16, 65504.0),
    (torch.float64, float("inf")),
    (torch.bool, True),
    (torch.complex64, 1 + 2j),
    (torch.complex128, 3),
    (torch.bfloat16, float("-inf")),
]


@pytest.mark.parametrize(("kind", "number"), HELD)
def test_a_number_that_the_dtype_holds_fills(mem, kind, number):
    page = mem.page("x", shape=(3,), dtype=kind)
    mem.update(page, number, indices=[0, 2])
    expected = torch.tensor([number, 0, number], dtype=kind)
    assert same_bits(page.tensor, expected)
    mem.update(page, number)
    assert same_bits(page.tensor, torch.tensor([number] * 3, dtype=kind))


NOT_HELD = [
    (torch.uint8, -1),
    (torch.uint8, 256),
    (torch.int8, 128),
    (torch.int8, -129),
    (torch.uint16, -1),
    (torch.uint32, 2**32),
    (torch.uint64, -1),
    (torch.uint64, 2**64),
    (torch.int64, 2**63),
    (torch.int64, 2**70),
    (torch.int32, 1.5),
    (torch.int32, 1.0),
    (torch.int32, True),
    (torch.bool, 1),
    (torch.bool, 0.0),
    (torch.float32, True),
    (torch.float32, 1j),
    (torch.float16, 1e6),
    (torch.float32, 10**400),
]


@pytest.mark.parametrize(("kind", "number"), NOT_HELD)
def test_a_number_that_the_dtype_does_not_hold_is_refused(mem, kind, number, picture_of):
    page = mem.page("x", shape=(3,), dtype=kind)
    before = picture_of(mem)
    for selection in ({}, {"rows": [1]}, {"indices": [0, 2]}, {"mask": torch.ones(3).bool()}):
        with pytest.raises(mmsb.InvalidDeltaError) as caught:
            mem.update(page, number, **selection)
        assert all(w in str(caught.value) for w in ("'x'", name_of(kind), str(number)[:60]))
    assert picture_of(mem) == before
