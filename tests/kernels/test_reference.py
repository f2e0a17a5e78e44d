"""The reference against Python lists, and the words that say what it refuses."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmsb_kernels import reference


def octets(tensor):
    """The elements in C order, each as its bytes."""
    flat = tensor.contiguous().reshape(-1).view(torch.uint8)
    return [bytes(element) for element in flat.reshape(tensor.numel(), -1).tolist()]


@pytest.fixture(params=[False, True], ids=["contiguous", "strided"])
def base(request, random_cpu, dtype):
    """A tensor of shape (5, 6), one of them a view with gaps and exchanged dimensions."""
    if not request.param:
        return random_cpu.bits((5, 6), dtype)
    return random_cpu.bits((6, 15), dtype)[:, ::3].t()


@pytest.fixture
def delta(random_cpu, dtype):
    return random_cpu.bits((5, 6), dtype)


@pytest.fixture
def mask(random_cpu):
    return random_cpu.mask((5, 6), 0.4)


def merged(base, delta, chosen):
    return [
        new if pick else old
        for old, new, pick in zip(
            octets(base), octets(delta), chosen.view(-1).tolist(), strict=True
        )
    ]


def test_dense(base, delta, mask):
    want = merged(base, delta, mask)
    assert reference.delta_merge(base, delta, mask) is None
    assert octets(base) == want


def test_bits(base, delta, mask):
    want = merged(base, delta, mask)
    values = delta.view(-1)[mask.view(-1).nonzero().view(-1)]
    assert reference.delta_merge_bits(base, values, reference.pack_mask(mask)) is None
    assert octets(base) == want


def test_elements(base, delta, mask):
    want = merged(base, delta, mask)
    at = mask.view(-1).nonzero().view(-1).flip(0)
    assert reference.delta_merge_elements(base, delta.view(-1)[at], at) is None
    assert octets(base) == want


def test_rows(base, delta):
    rows = torch.tensor([4, 0])
    want = merged(base, delta, torch.tensor([[1], [0], [0], [0], [1]]).expand(5, 6).reshape(-1))
    assert reference.delta_merge_rows(base, delta[rows], rows) is None
    assert octets(base) == want


def test_zero_dimensions(random_cpu, dtype):
    for merge, arguments in (
        (reference.delta_merge, ((), torch.tensor(True))),
        (reference.delta_merge_elements, ((1,), torch.tensor([0]))),
        (reference.delta_merge_bits, ((1,), torch.tensor([1], dtype=torch.uint8))),
    ):
        base, values = random_cpu.bits((), dtype), random_cpu.bits(arguments[0], dtype)
        merge(base, values, arguments[1])
        assert octets(base) == octets(values)


@pytest.mark.parametrize("merge", [reference.delta_merge_rows, reference.delta_merge_elements])
@pytest.mark.parametrize("index", [-1, 3])
def test_an_index_out_of_range_is_refused_before_anything_is_written(merge, index):
    base = torch.zeros(3)
    with pytest.raises(IndexError, match=r"expected indices in \[0, 3\)"):
        merge(base, torch.ones(2), torch.tensor([0, index]))
    assert base.tolist() == [0.0] * 3


def test_bits_want_one_value_for_each():
    bits = torch.tensor([0b101], dtype=torch.uint8)
    with pytest.raises(ValueError, match="expected 2 values, one for each bit set, found 3"):
        reference.delta_merge_bits(torch.zeros(3), torch.ones(3), bits)


def test_autograd_hears_of_the_change():
    base = torch.ones(4, requires_grad=True)
    product = (base * base).sum()
    reference.delta_merge(base, torch.zeros(4), torch.ones(4, dtype=torch.bool))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


@given(st.lists(st.booleans(), max_size=70))
def test_packing_and_back(flags):
    mask = torch.tensor(flags, dtype=torch.bool)
    bits = reference.pack_mask(mask)
    assert bits.dtype == torch.uint8
    number = int.from_bytes(bytes(bits.tolist()), "little")
    assert number == sum(1 << at for at, flag in enumerate(flags) if flag)
    assert torch.equal(reference.unpack_mask(bits, (len(flags),)), mask)


def test_packing_keeps_c_order_and_the_shape():
    mask = torch.tensor([[True, False], [True, True], [False, False]]).t()  # TTF, FTF
    assert reference.pack_mask(mask).tolist() == [0b010011]
    assert torch.equal(reference.unpack_mask(reference.pack_mask(mask), (2, 3)), mask)
    assert reference.unpack_mask(reference.pack_mask(torch.tensor(True)), ()).item() is True


def test_packing_refuses_what_is_no_mask():
    with pytest.raises(TypeError, match=r"expected torch.bool, found torch.uint8"):
        reference.pack_mask(torch.zeros(3, dtype=torch.uint8))
    with pytest.raises(TypeError, match=r"expected torch.uint8, found torch.bool"):
        reference.unpack_mask(torch.zeros(1, dtype=torch.bool), (3,))
    with pytest.raises(ValueError, match=r"expected shape \(1,\) for a mask of 3"):
        reference.unpack_mask(torch.zeros(2, dtype=torch.uint8), (3,))


def test_same_bits(base):
    assert reference.same_bits(base, base.clone())
    assert reference.same_bits(base, base.contiguous())
    other = base.clone(memory_format=torch.contiguous_format)
    raw = other.view(torch.uint8)
    raw[2, 3] ^= 1
    assert not reference.same_bits(base, other)


def test_same_bits_looks_at_bits_not_numbers():
    nan = torch.tensor([0x7FC00001], dtype=torch.int32).view(torch.float32)
    assert reference.same_bits(nan, nan.clone())
    assert not reference.same_bits(nan, torch.tensor([float("nan")]))
    assert not reference.same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    with pytest.raises(TypeError, match=r"same_bits: b: expected torch\.float32"):
        reference.same_bits(torch.zeros(2), torch.zeros(2, dtype=torch.int32))
    with pytest.raises(ValueError, match="same_bits: b: expected shape"):
        reference.same_bits(torch.zeros(2), torch.zeros(3))
    assert reference.same_bits(torch.tensor(1.0), torch.tensor(1.0))
