"""What travels as bytes comes back bit for bit, or not at all."""

import base64
import copy
import json
import subprocess
import sys
import zlib

import pytest
import safetensors.torch
import torch
import xxhash
from hypothesis import example, given
from hypothesis import strategies as st

from mmsb_torch.device import copy_of, from_words, pack_mask, same_bits, zeros
from mmsb_torch.errors import CorruptStoreError, MMSBError, SerializationError, UnsupportedError
from mmsb_torch.runtime.store.contents import PageRecord, read, smallest, write
from mmsb_torch.runtime.store.envelope import HEADER_BYTES, MAX_NBYTES, Kind, unwrap, wrap
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


def given_back(content, codec="none", *, sparse=False):
    return read(write(content, codec, sparse=sparse), None, MAX_NBYTES)


def assert_same_delta(found, expected, seed=0):
    """The same fields, and bit for bit the same effect."""
    for name in ("id", "page_id", "base_epoch", "time_ns", "source"):
        assert getattr(found, name) == getattr(expected, name)
    assert found.values.dtype is expected.values.dtype
    assert found.region.shape == expected.region.shape
    assert torch.equal(found.region.mask(), expected.region.mask())
    assert found.region.count == int(expected.region.mask().sum())
    before = random_bits(expected.region.shape, expected.values.dtype, seed)
    one, other = copy_of(before), copy_of(before)
    apply(one, found)
    apply(other, expected)
    assert same_bits(one, other)


def info_of(value, name="p", **changes):
    return PageInfo(1, name, Spec.of(value), False, {}, 0)._replace(**changes)


def record_of(value, name="p", epoch=0, **changes):
    return PageRecord(info_of(value, name, **changes), epoch, value)


@given(st.data(), shapes(), st.sampled_from(DTYPES), CODECS)
def test_a_delta_comes_back(data, shape, dtype, codec):
    delta = data.draw(deltas(shape, dtype))
    delta = delta._replace(
        page_id=data.draw(COUNTS),
        base_epoch=data.draw(st.integers(-1, 2**70)),
        time_ns=data.draw(COUNTS),
        source=data.draw(TEXTS),
    )
    assert_same_delta(given_back(delta, codec), delta)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", Form)
def test_every_dtype_in_every_form(form, dtype):
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
    found = given_back(delta)
    assert_same_delta(found, delta)
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
def test_a_transaction_comes_back(transaction, codec):
    found = given_back(transaction, codec)
    assert (found.tx, found.time_ns, found.label, found.step) == (
        transaction.tx, transaction.time_ns, transaction.label, transaction.step
    )  # fmt: skip
    assert found.metadata == transaction.metadata
    assert [info._replace(metadata=dict(info.metadata)) for info in found.created] == list(
        transaction.created
    )
    assert len(found.deltas) == len(transaction.deltas)
    for one, other in zip(found.deltas, transaction.deltas, strict=True):
        assert_same_delta(one, other)


@pytest.mark.parametrize("label", ["\ud800", "a\udfffb", "\x00\x1f", "😀" * 50, '"\\', "\u2028"])
def test_odd_texts_come_back(label):
    transaction = Transaction(1, 2, (), (), label, None, {label: [label]})
    found = given_back(transaction)
    assert found.label == label
    assert found.metadata == {label: [label]}


@given(st.sampled_from(EventType), COUNTS, METADATA, CODECS)
def test_an_event_comes_back(kind, time_ns, fields, codec):
    event = Event(kind, time_ns, fields)
    assert given_back(event, codec) == event
    _, body = unwrap(write(event, "none"), Kind.EVENT, MAX_NBYTES)
    assert Event.from_bytes(bytes(body)) == event


@given(tensors(), COUNTS, METADATA, st.booleans(), CODECS, TEXTS)
@example(torch.zeros(0, 3), 0, {}, True, "none", "__metadata__")
@example(torch.zeros(()), 0, {}, True, "none", "")
def test_a_page_comes_back(value, epoch, metadata, sparse, codec, name):
    record = record_of(value, name, epoch, id=7, metadata=metadata, created_ns=9)
    found = given_back(record, codec, sparse=sparse)
    assert found.info._replace(metadata=dict(found.info.metadata)) == record.info
    assert found.epoch == epoch
    assert same_bits(found.value, value)
    assert same_bits(given_back(value, codec, sparse=sparse), value)


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
def test_a_sparse_page_comes_back_bit_for_bit(value, codec):
    found = given_back(record_of(value), codec, sparse=True).value
    assert same_bits(found, value)
    assert len(write(value, "none", sparse=True)) <= len(write(value, "none"))


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d is not torch.bool], ids=str)
@pytest.mark.parametrize(
    ("form", "step"), [(Form.ROWS, 1), (Form.ELEMENTS, 2000), (Form.MASK, 5)], ids=str
)
def test_every_dtype_in_every_sparse_form(form, step, dtype):
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
    assert same_bits(given_back(value, sparse=True), value)
    assert same_bits(given_back(record_of(value), "auto", sparse=True).value, value)


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


def test_minus_zero_is_a_value():
    value = torch.zeros(500)
    value[17] = -0.0
    assert form_of(value)[:2] == (Form.ROWS, 1)
    assert torch.signbit(given_back(value, sparse=True)).nonzero().tolist() == [[17]]
    assert form_of(torch.full((50,), -0.0))[0] is Form.ALL


def test_payloads_of_nan_are_kept():
    bits = torch.zeros(500, dtype=torch.int32)
    bits[3], bits[400] = 0x7F800001, -1  # a signalling NaN and one with every bit set
    found = given_back(bits.view(torch.float32), sparse=True)
    assert torch.equal(found.view(torch.int32), bits)


def test_bools_become_bits_unless_they_are_no_plain_bools():
    mask = torch.rand(999, generator=torch.Generator().manual_seed(0)) < 0.5
    assert len(write(mask, "none", sparse=True)) < len(write(mask, "none")) - 800
    assert same_bits(given_back(mask, sparse=True), mask)
    odd = mask.view(torch.uint8).mul(3).view(torch.bool)  # True too, but other bits
    assert torch.equal(given_back(odd, sparse=True).view(torch.uint8), odd.view(torch.uint8))
    few = torch.zeros(5000, dtype=torch.bool)
    few[4321] = True
    assert len(write(few, "none", sparse=True)) < 800
    assert same_bits(given_back(few, sparse=True), few)


@pytest.mark.parametrize("view", ["transposed", "strided", "conjugate", "negative", "parameter"])
def test_views_are_written_as_what_they_show(view):
    base = torch.randn(6, 6, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    value = {
        "transposed": base.t(),
        "strided": base[:, ::2],
        "conjugate": base.conj(),
        "negative": base.conj().imag,
        "parameter": torch.nn.Parameter(base),
    }[view]
    for sparse in (False, True):
        assert same_bits(given_back(value, sparse=sparse), copy_of(value))
    mask = torch.ones(value.shape, dtype=torch.bool)
    mask[0, 0] = False
    delta = Delta(1, 1, 0, Region.where(mask), value, 1, "user")
    expected = Delta(1, 1, 0, Region.where(mask), copy_of(value), 1, "user")
    assert_same_delta(given_back(delta), expected)


def test_what_is_read_owns_its_memory():
    raw = bytearray(write(torch.arange(100.0), "none"))
    found = read(raw, None, MAX_NBYTES)
    raw[:] = bytes(len(raw))
    assert torch.equal(found, torch.arange(100.0))
    assert found.untyped_storage().nbytes() == found.nbytes


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview], ids=lambda kind: kind.__name__)
def test_any_bytes_are_read(make):
    assert read(make(write(torch.ones(3), "none")), None, MAX_NBYTES).tolist() == [1, 1, 1]


# Small things of every kind, and their bytes in version 1 of the format.

VALUE = torch.tensor([[1.5, -0.0, float("nan")], [0.0, -2.0, 1e-45]])
PAGE = PageRecord(
    PageInfo(3, "emb ß", Spec.of(VALUE), False, {"unit": "µ", "n": [1, None]}, 5), 7, VALUE
)
DERIVED = PageRecord(PageInfo(4, "sum", None, True, {}, 6), 2, torch.tensor(2.5).bfloat16())
FEW = torch.zeros(20, 10, dtype=torch.float64)
FEW[3, 4] = -1.0
MASK = torch.arange(21).view(3, 7) % 3 == 0
DELTA = Delta(9, 3, 7, Region.where(MASK), torch.arange(21).view(3, 7).half(), 8, "user")
ROWS = Region.rows((4, 2), torch.tensor([1, 3]))
TRANSACTION = Transaction(
    12,
    13,
    (PAGE.info,),
    (
        Delta(10, 3, -1, Region.all((2, 3)), VALUE, 14, "create"),
        Delta(11, 4, 5, ROWS, torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8), 15, "user"),
    ),
    "épö",
    2,
    {"lr": 0.1},
)
EVENT = Event(EventType.DELTA_COMMITTED, 16, {"page": "emb ß", "tx": 12, "label": None})
SAMPLES = {
    "page": (PAGE, False, Kind.PAGE),
    "derived page": (DERIVED, False, Kind.PAGE),
    "sparse page": (PageRecord(info_of(FEW, "few"), 1, FEW), True, Kind.PAGE),
    "packed page": (PageRecord(info_of(MASK, "mask"), 0, MASK), True, Kind.PAGE),
    "delta": (DELTA, False, Kind.DELTA),
    "transaction": (TRANSACTION, False, Kind.TRANSACTION),
    "event": (EVENT, False, Kind.EVENT),
    "tensor": (torch.tensor([1 - 2j, -0j], dtype=torch.complex128), False, Kind.TENSOR),
}
GOLDEN = {
    "page": (
        "eNptUr1Ow0AMDjxJdXOE2oQi1KVSByYqhgoJKYmiS+JAxOVHuUsEVAGeghHECzAyV+IB2HkQBiZ8TqJCW2e4z599"
        "X2yf5/PFbHZ6Ntsz9GcYF/sGWX9u2ufP9+I5+pq/vt+dT9/un467vCXz/RQUj7jivs8mS5amMjjIC8kmbOmyGkqZ"
        "5JnLJiPTZeoGwVCDJAU/k+iN0RM8AIE4q4RAVyoo1l6vjgzqRVAmNUToxFxIwHjBw+s10SATlsAVUQ7eSDSwkc54"
        "CghdBmkwcN1qOIxil2EgUrdFG4lFzpVtESuvOLGOZdqezoI6Cdu0sKgo5X9pVZYoCpN2MKYU3bkzMnUv3p/aut6b"
        "VlgoLrtqyemGVPBL6GoPuNTwaGt0Mq/KviqSpr/GeZkSx4XY3czOlmsuKpDbM2q8hjUmcR8v+o3pOj7wiW0xsxXv"
        "tRltQh7HEhTugDM0rUOvaQYbZhirKa7PI54P3Yqt9B7+AlwwxL0="
    ),
    "derived page": (
        "eNptUbFOhEAQ5e5LzNbkcmcMJlcZCisvFjYmByEDDIruAmEXoiH7F36LvfEL/AJrewsbE4cBcnfmhoL33u68mdnZ"
        "bG58/+ranzn95zjzucMx/f+HXHy9n3/+PhSv3x8vt+Hbz2zQOxFFCg2kYCCKxLoTSul4UVZarEUXiBZrnZdFINYr"
        "NxDmicCyB7nCqNDEPGISYpSEi0ZKotpgtWOTOynkl2Kdt5gSMXWDdFxB8sg8A6nRkpLUCIalLSXkPTgjuQCFBMm+"
        "UYEgITXP1aDEmSzBrDyW9T2wvA37O9jmyXApqRo+3+9nr9w4jR2ypAE9NsBkHLuCOxzbiUHj9CoHj6HLpp5KsjVX"
        "zcpasQZSHmnz+CgtyAb1bmgbWmHdHveL4iTakn+58oQ7GLKf4GWWWabR0Bq3S/c0tPbkMC7+AAJBr9w="
    ),
    "sparse page": (
        "eNqFUsFOg0AQRT/Aiz9g9kwaME3T9IiJidHGg8dCyBQGJe4CYResaYhHr/6BB/9Dj/6Ax/6ANz/BYVksMTUOB2be"
        "vnkzszvz+ZXnXVx6e1b7WdbTvqWt//+254f3F3h9/PBODsT55vBzZXhrFoYCFcSgIAzZbM2EkMtRXkg2Y2uf1VjK"
        "NM98NnNtn6kVOU7rpALDTJqIwxI5+VnFOYVSYbGNenVCSC/GMq0xpiABLpHOC4hut0BDSFQiKA0tKCONTfEMBJLr"
        "swTvfEZArO4Lg/Ac1GSsUXkDGl0cO7brBC0P6zTqiFFRadKwqUFJM1LTZXEF0jShAzNtAddoWlqCxJ03IvOq7Etq"
        "aV01yUuhMeQoMFPyr4Z3DlYDr1D2NzDqQzpJsxhXPwdb8SZoWGMP2O37anF63NPJmNldcartBjbTO5AniURFzIVj"
        "TwOT3UsO88/+y5/a7iRomqOd1m3f1xsz+/kNeMLYGw=="
    ),
    "packed page": (
        "eNplUbFOw0AMTYGFkS8Abg6oVQeqSgx0Q6JiQExNFDmJA6GXXJS7RKDqfoARMfIDzOxMfA4fwIjjJKItzpD3Xuxn"
        "O57Pb2azq+vZwGkex9ndcTj693Z8XTyff78+HB5/vou3j/2Dn0Grr0QQZGggBgNBIKYrkWU6PFWFFlOx8kSNpU5V"
        "7onpyPWEeSQwbECaYZDrjkkIURLOKymJaoPFH+vdSSG/GMu0xphIAlIjfS8gWrJgygotCVGJYFhZUEEad71zyJAg"
        "GYJeeoKU2DwVrRQqJVnS98DSYuye+U0K1mnU5kRFxSnr86y167axbZU0oLsBmHSLFnCH3Tgh6AaejP79Da2qsu/J"
        "3tw2UWXGGsjtUf2NXao0NxPOqEFWqNd2tr4V1mXSXIpr6Ey3E+G2dq2b4GOqJNFo6IyLoTv2rT3aiMuXvV+AnK0q"
    ),
    "delta": (
        "eNqVUc1Kw0AQ3hZfwItnWTyG0pDS1h6D1KotHkQ8JCFsmokGNj9kN7UlBPoMPoYv4Ft4t0/i0dlNS1s9OZf9vm9m"
        "vg9mZ7MH257e2y3SJi1CyGmb6Nq9v+viarX5OrtO08n758fm9em71egV9f0EJAuZZL5PRxVNEhF0slzQEa1cuoBC"
        "xFnq0pFpuFQuEXQViBPwU7FlnAXAEacl50iFhHzPdu6oVDXyeQFMQojU8ZCGwCVTRk61JYgvsZGzZ0BoIQyYUHBw"
        "FDxUSVlZzFXLpaWAwqWoRVmRaCWIpdCKeGG5GnIsY6Aj5SpvliKeMWn29dSC8RKEllX0udXZKdiM0xCWh73GvPZq"
        "WhvH8+qGOgEPODb71GjyMR7Dqb5zFkUCJE46XcPseXsH5Xq4/zg8WLf+rps9wxx4dX3+78Kvt8l4PSG367v19Obt"
        "5AfDZag+"
    ),
    "transaction": (
        "eNp9k91q2zAUx+2mL7G7IGiv1GA7SuhyUwhjMNayi7Kr2Bg5lleD/IElZSnBdFd7jb1AH2KwPUTfYbBn6JEcE6sp"
        "1YWl8+H/+R193NzcLpfXX5auM3Jcx3EeR44Z/fxyqM/uh5/v/v89/3f69BTdnW33eTsUxwWTNKWSxjFa7FBRiGRS"
        "1QIt0C5EG9aIvCpDtPBxiORWLwK9ygsWl0KbUzA5TRgHI0RhqDyPva/NnM1DBFEhWQ1B/V9fC0xQ5w3M3sRvIbJu"
        "GJUsBccKIrleaOWSFswIsyIZG9E0M6KpvK+7SMYrKqdBV+qOGu8qwNNIZ7FNvu7S1rUyKTaCKnN5AE9mJkX3u/Jx"
        "qTiPBmxdw7O2E+aSij2tMfReeBCp6Te2h0+o0MsL394xokEr1fRgRt0UzqqmMD7K+ev9vNr1hnLFxPE2tXgI5x/g"
        "yAFuZrPNbDYlWGOTNdV3YaMRHNhoKi/l5UswXXlMJr0HgnmZsu0w1km3UQvgppE/v/SNNMJwHT9OA4S7sv2GIHNv"
        "qywTTAp9ZnNMPDgyu9pQ5OulpREcaxAPEzLQ0FRDhU9zMpQ4FvCwP4/advzWcPfv8vBcf1/B5wfMD71D57gno9Nn"
        "zvsh7Q=="
    ),
    "event": (
        "eNrz9Q12cvLxd2JkYGFgZGBgsGGAABiNDoReZorzTJ5XYyJ/wWniLbOHTAJQCX0grlbKSUxKzVGyUsgrzcnRUVAq"
        "SExPBfKUUnOTFGJKDQxS0pSAoiUVQDFDo1oAkNQXzQ=="
    ),
    "tensor": (
        "eNp1UktOwzAQTZG4B/I6oKYgVHWD1AUrKhZskJoquMkEIuzYip2oqDJwBMQBWHCSSmx7DNaAOAETx1E/gDcz8+b3"
        "xjOj0cVweHY+7Hi7XsfzvKsdz75Wbr/37+Xly/1r8PaweJp9fjz3XdycRBEHTROqaRSRwZxwrqYHQioyIPOQVFCo"
        "TOQhGQR+SPQMlW6tZByiXDmL0Skw1POSMTSVBrmy2uqIYL0EiqyCBI2UMgXolzS+XQEGkbgAqi00xowscV1yygFV"
        "bA65EkVIEEv0nWzAWHDJYBb0+tahbqh1jHuTOgyqLHZxsrQB67TWmrqhTJPFNFWOhjUcE0mvwalTqmp1P/j1KUqU"
        "RdvT1rZtU1Fwi1HG/iL63zwVZSWojfHNxBC/WZdNcxtr3Vs1DDG+89VbthmYcHp8hEUsiZqDjyyIvQWRpgo01hx3"
        "/cPexJi9jddcz9eJO6+Fk4+t/AHWUchU"
    ),
}
ZSTD = (
    "TU1TQkJMT0IBAAUBAgAAANQCAAAAAAAAsBkAAAAAAAAAAAAAAAAAAAAAAAAAAAAAnH++VDIPrb9OmCstuKrG+yi1"
    "L/1gsBisDwB2HncjENiaDgzDMAyD2xYkTW7fvfMyIvcmN9q2YFEaabHtg6RJHRJTAFgAfgCtY4yzj7/6/XOIfkny"
    "7q9SfPyd6vfX7eMH1f3+ezlHdz6/qPH9fK6fU5+jQxb9+xvdQP2p8H7GPt5X88/H+/t3rv7Y4buvbxrYurnRDTRb"
    "nU4HFwsUJEBwwEABAgMEBACgcyuWZI+8OvuCGHtJ8m7GeuzF3UxEWw+qe/TSWZ39fk6H7739e8/E1O+zvveMWb9/"
    "CvWTrk3g/t19PfekZ5y9vY9T9EvStZkx62NiwoD54qULly1aillaLMQrVobCrdkqa1AFplSm/KRE8WX0nMNQzCfl"
    "yzlpwmSJkiRIjhgpQmSIkCBAfviI68Fjh44cOG7YqEFjhowYMO4LOBe9Fix4K3akircUI4oTJkqQGCEiBAj/4Oah"
    "A4cNGjJguGChAoUJEiJAeOCgAYPbtGXDds1aNWrTpEWD9sxZM2bLlCVDdsxYMWLDhAUD9stXL167dOXCdctWLVqz"
    "ZMWC9cpVK1arVKVCdcpUKVKjRIUC9clTJ06bNGXCdMlSJUqTJEWC9MhRI0aLFCVCdMhQIUKDBAUC9MdPHz579OTB"
    "c8dOHTpz5MSB88ZNGzZr1KRBc8ZMGTJjAgYAALUaWP48nIHLgl8HTIOxCr9rKGV8BgDTyRwKEiA4YKAAgQECAgDQ"
    "uZHkKOdb+8yNrlLcd+7r9svq7MViUQtxit+BQR9/5/M9s8EUUdYnHafoy7ne2cfifdWF53v+ZR9JUs4z1kD1SUe9"
    "vU8F+/jLvm4fU9XTuZT0Kz7eD+rs7dXBOaBfE2OcTdfpdAECHQA0QAkfUMcHFOMDSviAOj6gGB9QwgfU8QHF+IAS"
    "PqAuH0dhbYLwCE8ErMLhQ4VtZ9gsWWG5wAkzUxQOsKQwrxyhAV2EiaGEDYwTCpEmvANJOEDlIqNIQCcBAAA="
)


def raw_of(name):
    content, sparse, _ = SAMPLES[name]
    return write(content, "none", sparse=sparse)


def assert_same_content(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, Delta):
        assert_same_delta(found, expected)
    elif isinstance(expected, Transaction):
        assert found[:2] + found[4:] == expected[:2] + expected[4:]
        assert found.created == expected.created
        for one, other in zip(found.deltas, expected.deltas, strict=True):
            assert_same_delta(one, other)
    elif isinstance(expected, PageRecord):
        assert (found.info, found.epoch) == (expected.info, expected.epoch)
        assert same_bits(found.value, expected.value)
    elif isinstance(expected, torch.Tensor):
        assert same_bits(found, expected)
    else:
        assert found == expected


@pytest.mark.parametrize("name", SAMPLES)
def test_version_1_stays_what_it_is(name):
    golden = zlib.decompress(base64.b64decode(GOLDEN[name]))
    assert raw_of(name) == golden
    assert_same_content(read(golden, SAMPLES[name][2], MAX_NBYTES), SAMPLES[name][0])


def test_what_was_compressed_in_version_1_is_read():
    golden = base64.b64decode(ZSTD)
    assert golden[11:13] == b"\1\2"
    found = read(golden, Kind.TENSOR, MAX_NBYTES)
    assert torch.equal(found, torch.arange(3000, dtype=torch.int16))


@pytest.mark.parametrize("name", [name for name in SAMPLES if name != "event"])
def test_the_body_is_a_safetensors_file(name):
    raw = raw_of(name)
    found = safetensors.torch.load(raw[HEADER_BYTES:])
    if name == "page":
        assert same_bits(found["emb ß"], VALUE)
    if name == "delta":
        assert found["page 3.values"].tolist() == [0, 3, 6, 9, 12, 15, 18]
        assert torch.equal(found["page 3.bits"], pack_mask(MASK))
    if name == "tensor":
        assert torch.equal(torch.view_as_complex(found["tensor"]), SAMPLES[name][0])
    length = int.from_bytes(raw[HEADER_BYTES : HEADER_BYTES + 8], "little")
    header = json.loads(raw[HEADER_BYTES + 8 : HEADER_BYTES + 8 + length])
    ops = json.loads(header["__metadata__"]["mmsb.ops"])
    assert len(ops["deltas"]) == (2 if name == "transaction" else 1)


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_cut_anywhere_it_is_refused(name, codec):
    content, sparse, _ = SAMPLES[name]
    raw = write(content, codec, sparse=sparse)
    for stop in range(len(raw)):
        with pytest.raises(SerializationError):
            read(raw[:stop], None, MAX_NBYTES)
    for more in (b"\0", b" ", raw):
        with pytest.raises(CorruptStoreError, match="cut or run on"):
            read(raw + more, None, MAX_NBYTES)


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_any_flipped_bit_is_noticed(name, codec):
    content, sparse, _ = SAMPLES[name]
    raw = bytearray(write(content, codec, sparse=sparse))
    for position in range(len(raw)):
        for bit in range(8):
            raw[position] ^= 1 << bit
            with pytest.raises((SerializationError, UnsupportedError)):
                read(raw, None, MAX_NBYTES)
            raw[position] ^= 1 << bit
    read(raw, None, MAX_NBYTES)


def resealed(raw, **fields):
    """The same bytes with other header fields and a checksum that fits."""
    places = {"version": (8, 2), "kind": (10, 1), "codec": (11, 1), "width": (12, 1), "zero": (13, 1),
              "size": (16, 8), "nbytes": (24, 8), "zeros": (40, 1)}  # fmt: skip
    raw = bytearray(raw)
    for name, value in fields.items():
        start, length = places[name]
        raw[start : start + length] = value.to_bytes(length, "little")
    raw[48:64] = xxhash.xxh3_128(bytes(raw[:48]) + bytes(raw[64:])).digest()
    return bytes(raw)


@pytest.mark.parametrize(
    ("fields", "error", "said"),
    [
        ({"version": 2}, UnsupportedError, "format version 2, this mmsb_torch knows 1.*newer"),
        ({"version": 0}, UnsupportedError, "version 0"),
        ({"kind": 0}, UnsupportedError, "kind 0"),
        ({"kind": 99}, UnsupportedError, "kind 99"),
        ({"codec": 7}, UnsupportedError, "codec 7"),
        ({"width": 4}, UnsupportedError, "width 4"),
        ({"zero": 1}, UnsupportedError, "features"),
        ({"zeros": 1}, UnsupportedError, "features"),
        ({"size": 1 << 63}, CorruptStoreError, "cut or run on"),
        ({"nbytes": 1 << 63}, CorruptStoreError, "expected a body of"),
        ({"codec": 1}, CorruptStoreError, "no whole zstd frame"),
        (
            {"codec": 1, "nbytes": 1 << 63},
            SerializationError,
            "pass max_nbytes=9223372036854775808",
        ),
        ({"kind": 4}, CorruptStoreError, "no event"),
        ({"kind": 2}, CorruptStoreError, "delta with 1 pages created"),
    ],
    ids=str,
)
def test_a_header_is_believed_only_as_far_as_it_is_known(fields, error, said):
    raw = raw_of("page")
    assert resealed(raw) == raw
    with pytest.raises(error, match=said) as caught:
        read(resealed(raw, **fields), None, MAX_NBYTES)
    assert str(caught.value).startswith("these bytes")


@pytest.mark.parametrize(
    "raw", [b"", b"PK\3\4" + bytes(100), b"MMSBTLOG" + bytes(100), "text", None]
)
def test_foreign_bytes_are_told_apart(raw):
    with pytest.raises(SerializationError):
        read(raw, None, MAX_NBYTES)


def test_bytes_with_gaps_are_refused():
    with pytest.raises(SerializationError, match="memoryview"):
        read(memoryview(raw_of("page"))[::2], None, MAX_NBYTES)


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("expected", Kind)
def test_another_kind_is_refused(name, expected):
    kind = SAMPLES[name][2]
    if kind is expected:
        assert_same_content(read(raw_of(name), expected, MAX_NBYTES), SAMPLES[name][0])
        return
    with pytest.raises(SerializationError, match=f"expected an? {expected.name.lower()}"):
        read(raw_of(name), expected, MAX_NBYTES)


# What somebody could write on purpose: every checksum fits.


def parts_of(raw):
    length = int.from_bytes(raw[HEADER_BYTES : HEADER_BYTES + 8], "little")
    start = HEADER_BYTES + 8
    return Kind(raw[10]), json.loads(raw[start : start + length]), raw[start + length :]


def forged(kind, header, data, codec="none"):
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)
    return wrap(kind, [len(text).to_bytes(8, "little") + text, data], codec)


def with_ops(raw, change):
    """The bytes with "mmsb.ops" changed by `change(ops)`."""
    kind, header, data = parts_of(raw)
    ops = json.loads(header["__metadata__"]["mmsb.ops"])
    change(ops)
    header["__metadata__"]["mmsb.ops"] = json.dumps(ops)
    return forged(kind, header, data)


ODD = [None, True, -1, 0, 2, 3, 1 << 63, 1 << 70, "", "x", "bool", "uint8", "qint8", "complex128",
       "none", "all", "rows", "elements", "bits", "mask", [], [0], [-1], [1 << 62, 1 << 62],
       [0, 1 << 62, 1 << 62], [1] * 5000, {}, {"a": 1}, 1.5, [[]], [2, 3], [3, 7], [21]]  # fmt: skip


def leaves(node, path=()):
    if path:
        yield path
    if isinstance(node, dict | list):
        for key in node if isinstance(node, dict) else range(len(node)):
            yield from leaves(node[key], (*path, key))


@pytest.mark.parametrize("name", [name for name in SAMPLES if name != "event"])
def test_nothing_that_is_written_on_purpose_does_harm(name):
    """Each field of the ops replaced by each odd value: a typed error, or something well-formed."""
    kind, header, data = parts_of(raw_of(name))
    ops = json.loads(header["__metadata__"]["mmsb.ops"])
    refused = 0
    for path in list(leaves(ops)):
        for value in ODD:
            changed = copy.deepcopy(ops)
            place = changed
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = value
            header["__metadata__"]["mmsb.ops"] = json.dumps(changed)
            try:
                found = read(forged(kind, header, data), None, 1 << 24)
            except MMSBError as error:
                refused += bool(str(error))
            else:
                write(found, "none")
    assert refused > 300


def without_values(ops, shape):
    ops["created"][0]["shape"] = ops["deltas"][0]["shape"] = shape
    ops["deltas"][0]["form"] = "none"


@pytest.mark.parametrize("shape", [[1 << 40], [1 << 20, 1 << 20], [1 << 60, 4]])
def test_a_sparse_page_takes_no_more_than_was_allowed(shape):
    raw = with_ops(raw_of("page"), lambda ops: without_values(ops, shape))
    with pytest.raises(SerializationError, match=r"expected at most 4294967296.*pass max_nbytes="):
        read(raw, None, MAX_NBYTES)


def test_the_limit_is_the_readers():
    value = torch.zeros(1000)
    raw = write(value, "zstd", sparse=True)
    with pytest.raises(SerializationError, match="pass max_nbytes=4000"):
        read(raw, None, 3999)
    assert same_bits(read(raw, None, 4000), value)
    raw = write(value, "zstd")
    with pytest.raises(SerializationError, match="compressed"):
        read(raw, None, 4000)  # the header of the file counts too
    assert same_bits(read(raw, None, 5000), value)
    assert same_bits(read(write(value, "none"), None, 0), value)  # what is there is no bomb


def test_a_shape_of_many_sizes_is_refused_at_once():
    raw = with_ops(raw_of("page"), lambda ops: without_values(ops, [(1 << 62) - 1] * 600_000))
    code = (
        "import sys\n"
        "from mmsb_torch.runtime.store.contents import read\n"
        "from mmsb_torch.errors import CorruptStoreError\n"
        "try:\n"
        "    read(sys.stdin.buffer.read(), None, 1 << 32)\n"
        "except CorruptStoreError as error:\n"
        "    print('shape' in str(error))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=raw, capture_output=True, timeout=60, check=True
    )
    assert done.stdout.strip() == b"True"


def bombs():
    """Small bytes that would take a lot if they were believed."""
    yield with_ops(raw_of("page"), lambda ops: without_values(ops, [1 << 40]))
    yield with_ops(raw_of("packed page"), lambda ops: ops["created"][0].update(shape=[1 << 40]))
    yield resealed(write(torch.zeros(1000), "zstd"), nbytes=3 << 30)
    yield forged(
        Kind.TENSOR, {"a": {"dtype": "U8", "shape": [1 << 40], "data_offsets": [0, 1 << 40]}}, b""
    )
    yield wrap(Kind.EVENT, [b"\0" * (160 << 20)], "zstd")


BOMBED = """
import resource, sys
from mmsb_torch.errors import MMSBError
from mmsb_torch.runtime.store.contents import read

sizes = [int(n) for n in sys.argv[1:]]
raws = [sys.stdin.buffer.read(n) for n in sizes]
import zstandard
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20),) * 2)
for raw in raws:
    try:
        read(raw, None, 128 << 20)
    except MMSBError as error:
        print(type(error).__name__)
"""


def test_bombs_are_refused_before_they_take_memory():
    raws = list(bombs())
    done = subprocess.run(
        [sys.executable, "-c", BOMBED, *(str(len(raw)) for raw in raws)],
        input=b"".join(raws), capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert len(done.stdout.split()) == len(raws)


PACKED = """
import resource, sys
from mmsb_torch.errors import MMSBError
from mmsb_torch.runtime.store.contents import read

raw = sys.stdin.buffer.read()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 3 * len(raw) // 2 + (64 << 20),) * 2)
print(read(raw, None, 1 << 30).region.count)
"""


def test_packed_bits_are_counted_in_little_memory():
    """As a mask of bytes these bits would take eight times their size."""
    shape = (1 << 30,)
    bits = torch.zeros(1 << 27, dtype=torch.uint8)
    bits[-1] = 128
    delta = Delta(1, 1, 0, Region(Form.BITS, shape, bits, 1), torch.ones(1), 1, "user")
    done = subprocess.run(
        [sys.executable, "-c", PACKED],
        input=write(delta, "none"), capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == b"1", done.stderr.decode()


def test_bits_beyond_a_delta_are_refused():
    kind, header, data = parts_of(raw_of("delta"))
    bits = DELTA.region.mask().view(-1).tolist()
    assert data.endswith(bytes(pack_mask(torch.tensor(bits)).tolist()))
    with pytest.raises(CorruptStoreError, match="bits beyond"):
        read(forged(kind, header, data[:-1] + bytes([data[-1] | 128])), None, MAX_NBYTES)


def test_bits_beyond_a_packed_page_are_refused():
    kind, header, data = parts_of(raw_of("packed page"))
    assert read(forged(kind, header, data), None, MAX_NBYTES).value.shape == (3, 7)
    with pytest.raises(CorruptStoreError, match="bits beyond"):
        read(forged(kind, header, data[:2] + b"\xff"), None, MAX_NBYTES)


# What cannot be read back is not written.


def shifted(**changes):
    return DELTA._replace(**changes)


NEVER_WRITTEN = {
    "negative id": (shifted(id=-1), "unsigned 64-bit"),
    "id of numpy's": (shifted(id=torch.ones(1).numpy()[0]), "serializable"),
    "no source": (shifted(source=None), "'source'"),
    "source of bytes": (shifted(source=b"user"), "bytes"),
    "values of another shape": (shifted(values=torch.ones(3)), "contradicts itself"),
    "an index too many": (shifted(region=ROWS._replace(form=Form.ALL)), "contradicts itself"),
    "no index": (shifted(region=ROWS._replace(index=None)), "contradicts itself"),
    "index out of range": (
        shifted(region=Region(Form.ROWS, (2, 2), torch.tensor([1, 5]), 4), values=VALUE[:, :2]),
        "positions should rise",
    ),
    "index not rising": (
        shifted(region=ROWS._replace(index=torch.tensor([3, 1])), values=VALUE[:, :2]),
        "positions should rise",
    ),
    "NaN in metadata": (TRANSACTION._replace(metadata={"a": float("nan")}), r"\['a'\]"),
    "tuple in metadata": (TRANSACTION._replace(metadata={"a": (1, 2)}), "tuple"),
    "label of bytes": (TRANSACTION._replace(label=b"x"), "bytes"),
    "two deltas of a page": (TRANSACTION._replace(deltas=(DELTA, DELTA)), "two deltas"),
    "a derived page": (TRANSACTION._replace(created=(DERIVED.info,)), "derived"),
    "tuple in a page": (PageRecord(info_of(VALUE, metadata={"a": ()}), 0, VALUE), "tuple"),
    "a lone surrogate in a name": (record_of(VALUE, "\ud800"), "unicode"),
    "a name of bytes": (record_of(VALUE, b"p"), "bytes"),
    "another spec": (PageRecord(info_of(FEW), 0, VALUE), "is said to be"),
    "no spec": (PageRecord(info_of(FEW, spec=None), 0, FEW), "is said to be"),
    "a negative epoch": (record_of(VALUE, epoch=-1), "epoch"),
    "event of no type": (EVENT._replace(type=2), "EventType"),
    "event before time": (EVENT._replace(time_ns=-1), "cannot be written"),
    "a set in an event": (EVENT._replace(fields={"a": {1}}), "set"),
    "a large event": (EVENT._replace(fields={"a": "x" * (17 << 20)}), "at most 16777216"),
}


@pytest.mark.parametrize("case", NEVER_WRITTEN)
def test_what_would_not_come_back_is_not_written(case):
    content, said = NEVER_WRITTEN[case]
    with pytest.raises(SerializationError, match=said):
        write(content, "none")


@pytest.mark.parametrize("value", [torch.eye(3).to_sparse(), torch.ones(3, device="meta")], ids=str)
def test_only_dense_tensors_are_written(value):
    with pytest.raises(UnsupportedError, match="dense"):
        write(value, "none")
    with pytest.raises(UnsupportedError, match="dense"):
        write(shifted(region=Region.all((3,)), values=value), "none")
