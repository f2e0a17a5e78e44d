"""Small things of every kind, and what becomes of them as bytes."""

import pytest
import torch
import xxhash

from mmsb_torch.device import copy_of, same_bits
from mmsb_torch.runtime.store.contents import PageRecord, read, write
from mmsb_torch.runtime.store.envelope import MAX_NBYTES, Kind
from mmsb_torch.testing import random_bits
from mmsb_torch.types import Delta, Event, EventType, PageInfo, Region, Spec, Transaction, apply


def info_of(value, name="p", **changes):
    return PageInfo(1, name, Spec.of(value), False, {}, 0)._replace(**changes)


def record_of(value, name="p", epoch=0, **changes):
    return PageRecord(info_of(value, name, **changes), epoch, value)


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


def raw_of(name):
    content, sparse, _ = SAMPLES[name]
    return write(content, "none", sparse=sparse)


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


class Kit:
    """The samples and helpers above."""

    DELTA, DERIVED, EVENT, FEW, MASK = DELTA, DERIVED, EVENT, FEW, MASK
    ROWS, SAMPLES, TRANSACTION, VALUE = ROWS, SAMPLES, TRANSACTION, VALUE
    assert_same_content = staticmethod(assert_same_content)
    assert_same_delta = staticmethod(assert_same_delta)
    given_back = staticmethod(given_back)
    info_of = staticmethod(info_of)
    raw_of = staticmethod(raw_of)
    record_of = staticmethod(record_of)
    resealed = staticmethod(resealed)


@pytest.fixture(scope="session")
def kit():
    return Kit


@pytest.fixture(params=SAMPLES)
def name(request):
    """The name of a sample."""
    return request.param


@pytest.fixture(params=[name for name in SAMPLES if name != "event"])
def holder(request):
    """The name of a sample that holds tensors."""
    return request.param
