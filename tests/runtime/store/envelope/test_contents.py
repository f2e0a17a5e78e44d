"""What travels as bytes comes back bit for bit."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from mmsb_torch.device import copy_of, from_words, pack_mask, same_bits, zeros
from mmsb_torch.runtime.store.contents import read, smallest, write
from mmsb_torch.runtime.store.envelope import MAX_NBYTES, Kind, unwrap
from mmsb_torch.testing import DTYPES, deltas, random_bits, shapes, tensors
from mmsb_torch.types import (
    Delta,
    Event,
    EventType,
    Form,
    PageInfo,
    Region,
    Spec,
    Transaction,
    apply,
)

CPU = torch.device("cpu")
CODECS = st.sampled_from(["none", "auto", "zstd"])
TEXTS = st.text(max_size=20)  # any unicode but lone surrogates
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
METADATA = st.dictionaries(TEXTS, PLAIN, max_size=3)
COUNTS = st.integers(0, 2**64 - 1)


@given(st.data(), shapes(), st.sampled_from(DTYPES), CODECS)
def test_a_delta_comes_back(kit, data, shape, dtype, codec):
    delta = data.draw(deltas(shape, dtype))
    delta = delta._replace(
        page_id=data.draw(COUNTS),
        base_epoch=data.draw(st.integers(-1, 2**70)),
        time_ns=data.draw(COUNTS),
        source=data.draw(TEXTS),
    )
    kit.assert_same_delta(kit.given_back(delta, codec), delta)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", Form)
def test_every_dtype_in_every_form(form, dtype, kit):
    shape = (6, 3)
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[1], mask[4] = True, True
    index = torch.tensor([1, 4])
    region, width = {
        Form.NONE: (Region.none(shape), (0,)),
        Form.ALL: (Region.all(shape), shape),
        Form.ROWS: (Region.rows(shape, index), (2, 3)),
        Form.ELEMENTS: (Region.elements(shape, index), (2,)),
        Form.MASK: (Region.where(mask), shape),
        Form.BITS: (Region(Form.BITS, shape, pack_mask(mask), 6), (6,)),
    }[form]
    delta = Delta(1, 2, 3, region, random_bits(width, dtype, 1), 4, "user")
    found = kit.given_back(delta)
    kit.assert_same_delta(found, delta)
    assert found.region.form is (Form.BITS if form is Form.MASK else form)


@st.composite
def transactions(draw):
    numbers = draw(st.lists(st.integers(1, 2**63 - 1), unique=True, max_size=4))
    specs = {n: (draw(shapes()), draw(st.sampled_from(DTYPES))) for n in numbers}
    created = tuple(
        PageInfo(n, draw(TEXTS), Spec(dtype, shape, CPU), False, draw(METADATA), draw(COUNTS))
        for n, (shape, dtype) in specs.items()
        if draw(st.booleans())
    )
    changes = tuple(
        draw(deltas(shape, dtype))._replace(page_id=n) for n, (shape, dtype) in specs.items()
    )
    label, step = draw(st.none() | st.text(max_size=20)), draw(st.none() | st.integers())
    return Transaction(draw(COUNTS), draw(COUNTS), created, changes, label, step, draw(METADATA))


@given(transactions(), CODECS)
def test_a_transaction_comes_back(kit, transaction, codec):
    found = kit.given_back(transaction, codec)
    assert (found.tx, found.time_ns, found.label, found.step) == (
        transaction.tx, transaction.time_ns, transaction.label, transaction.step
    )  # fmt: skip
    assert found.metadata == transaction.metadata
    assert [info._replace(metadata=dict(info.metadata)) for info in found.created] == list(
        transaction.created
    )
    assert len(found.deltas) == len(transaction.deltas)
    for one, other in zip(found.deltas, transaction.deltas, strict=True):
        kit.assert_same_delta(one, other)


@pytest.mark.parametrize("label", ["\ud800", "a\udfffb", "\x00\x1f", "😀" * 50, '"\\', "\u2028"])
def test_odd_texts_come_back(label, kit):
    transaction = Transaction(1, 2, (), (), label, None, {label: [label]})
    found = kit.given_back(transaction)
    assert found.label == label
    assert found.metadata == {label: [label]}


@given(st.sampled_from(EventType), COUNTS, METADATA, CODECS)
def test_an_event_comes_back(kit, kind, time_ns, fields, codec):
    event = Event(kind, time_ns, fields)
    assert kit.given_back(event, codec) == event
    _, body = unwrap(write(event, "none"), Kind.EVENT, MAX_NBYTES)
    assert Event.from_bytes(bytes(body)) == event


@given(tensors(), COUNTS, METADATA, st.booleans(), CODECS, TEXTS)
@example(torch.zeros(0, 3), 0, {}, True, "none", "__metadata__")
@example(torch.zeros(()), 0, {}, True, "none", "")
def test_a_page_comes_back(kit, value, epoch, metadata, sparse, codec, name):
    record = kit.record_of(value, name, epoch, id=7, metadata=metadata, created_ns=9)
    found = kit.given_back(record, codec, sparse=sparse)
    assert found.info._replace(metadata=dict(found.info.metadata)) == record.info
    assert found.epoch == epoch
    assert same_bits(found.value, value)
    assert same_bits(kit.given_back(value, codec, sparse=sparse), value)


@st.composite
def sparse_values(draw):
    """Tensors of which most elements have no bit set, whole rows of them or here and there."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.tuples(st.integers(1, 40), st.integers(1, 9)))
    value = zeros(shape, dtype, CPU)
    kind = draw(st.sampled_from(["rows", "elements"]))
    size = shape[0] if kind == "rows" else shape[0] * shape[1]
    chosen = draw(st.lists(st.integers(0, size - 1), unique=True, min_size=1, max_size=20))
    index = torch.tensor(sorted(chosen))
    make = Region.rows if kind == "rows" else Region.elements
    width = (len(chosen), shape[1]) if kind == "rows" else (len(chosen),)
    region = make(shape, index)
    values = random_bits(
        shape if region.form is Form.ALL else width, dtype, draw(st.integers(0, 99))
    )
    apply(value, Delta(1, 1, 0, region, values, 1, "test"))
    return value


@given(sparse_values(), CODECS)
def test_a_sparse_page_comes_back_bit_for_bit(kit, value, codec):
    found = kit.given_back(kit.record_of(value), codec, sparse=True).value
    assert same_bits(found, value)
    assert len(write(value, "none", sparse=True)) <= len(write(value, "none"))


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d is not torch.bool], ids=str)
@pytest.mark.parametrize(
    ("form", "step"), [(Form.ROWS, 1), (Form.ELEMENTS, 2000), (Form.MASK, 5)], ids=str
)
def test_every_dtype_in_every_sparse_form(form, step, dtype, kit):
    shape = (200, 50)
    value = zeros(shape, dtype, CPU)
    if form is Form.ROWS:
        region = Region.rows(shape, torch.tensor([3, 199]))
    else:
        region = Region.elements(shape, torch.arange(1, 10_000, step))
    ones = torch.full((region.count * dtype.itemsize,), 129, dtype=torch.uint8)
    width = (2, 50) if form is Form.ROWS else (region.count,)
    values = (
        from_words(ones.view(torch.int64).view(-1, 2), dtype, width)
        if (dtype is torch.complex128)
        else ones.view(dtype).view(width)
    )
    apply(value, Delta(1, 1, 0, region, values, 1, "test"))
    assert smallest(value)[0].form is form
    assert same_bits(kit.given_back(value, sparse=True), value)
    assert same_bits(kit.given_back(kit.record_of(value), "auto", sparse=True).value, value)


def form_of(value):
    region, held = smallest(value)
    return region.form, region.count, tuple(held.shape)


def test_the_form_is_the_one_of_fewest_bytes():
    value = torch.zeros(640, 32)
    assert form_of(value) == (Form.NONE, 0, (0,))
    value[3] = 1
    assert form_of(value) == (Form.ROWS, 32, (1, 32))
    value[4, 5] = 1
    assert form_of(value) == (Form.ELEMENTS, 33, (33,))
    value[:, ::4] = 1  # a quarter: a bit an element, which is all that a mask costs when written
    assert form_of(value)[0] is Form.MASK
    value[:, :30] = 1  # 15/16 of the values and 1/32 for the mask do not save a tenth
    assert form_of(value)[0] is Form.ALL
    assert form_of(torch.ones(3)) == (Form.ALL, 3, (3,))
    assert form_of(torch.zeros(30))[0] is Form.ALL  # naming an index would take more than it saves


def test_minus_zero_is_a_value(kit):
    value = torch.zeros(500)
    value[17] = -0.0
    assert form_of(value)[:2] == (Form.ROWS, 1)
    assert torch.signbit(kit.given_back(value, sparse=True)).nonzero().tolist() == [[17]]
    assert form_of(torch.full((50,), -0.0))[0] is Form.ALL


def test_payloads_of_nan_are_kept(kit):
    bits = torch.zeros(500, dtype=torch.int32)
    bits[3], bits[400] = 0x7F800001, -1  # a signalling NaN and one with every bit set
    found = kit.given_back(bits.view(torch.float32), sparse=True)
    assert torch.equal(found.view(torch.int32), bits)


def test_bools_become_bits_unless_they_are_no_plain_bools(kit):
    mask = torch.rand(999, generator=torch.Generator().manual_seed(0)) < 0.5
    assert len(write(mask, "none", sparse=True)) < len(write(mask, "none")) - 800
    assert same_bits(kit.given_back(mask, sparse=True), mask)
    odd = mask.view(torch.uint8).mul(3).view(torch.bool)  # True too, but other bits
    assert torch.equal(kit.given_back(odd, sparse=True).view(torch.uint8), odd.view(torch.uint8))
    few = torch.zeros(5000, dtype=torch.bool)
    few[4321] = True
    assert len(write(few, "none", sparse=True)) < 800
    assert same_bits(kit.given_back(few, sparse=True), few)


@pytest.mark.parametrize("view", ["transposed", "strided", "conjugate", "negative", "parameter"])
def test_views_are_written_as_what_they_show(view, kit):
    base = torch.randn(6, 6, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    value = {
        "transposed": base.t(),
        "strided": base[:, ::2],
        "conjugate": base.conj(),
        "negative": base.conj().imag,
        "parameter": torch.nn.Parameter(base),
    }[view]
    for sparse in (False, True):
        assert same_bits(kit.given_back(value, sparse=sparse), copy_of(value))
    mask = torch.ones(value.shape, dtype=torch.bool)
    mask[0, 0] = False
    delta = Delta(1, 1, 0, Region.where(mask), value, 1, "user")
    expected = Delta(1, 1, 0, Region.where(mask), copy_of(value), 1, "user")
    kit.assert_same_delta(kit.given_back(delta), expected)


def test_what_is_read_owns_its_memory():
    raw = bytearray(write(torch.arange(100.0), "none"))
    found = read(raw, None, MAX_NBYTES)
    raw[:] = bytes(len(raw))
    assert torch.equal(found, torch.arange(100.0))
    assert found.untyped_storage().nbytes() == found.nbytes


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview], ids=lambda kind: kind.__name__)
def test_any_bytes_are_read(make):
    assert read(make(write(torch.ones(3), "none")), None, MAX_NBYTES).tolist() == [1, 1, 1]
