"""Handing pages, deltas, transactions and events to somebody else as bytes."""

import subprocess
import sys
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mmsb_torch as mmsb
from mmsb_torch.device import same_bits
from mmsb_torch.testing import tensors
from mmsb_torch.types import Delta, Form, Region

NAMES = (
    "PageRecord", "compress_delta", "compress_page", "deserialize_delta", "deserialize_event",
    "deserialize_from_bytes", "deserialize_page", "serialize_delta", "serialize_event",
    "serialize_page", "serialize_to_bytes",
)  # fmt: skip


@given(tensors(), st.sampled_from([mmsb.serialize_page, mmsb.compress_page]))
def test_a_page_of_any_dtype_and_shape_goes_over(value, write):
    with mmsb.open() as mem:
        page = mem.page("p", value, metadata={"unit": "µ"}, page_id=7)
        found = mmsb.deserialize_page(write(page))
        assert same_bits(found.value, value)
        assert found.info._replace(metadata=dict(found.info.metadata)) == (
            7, "p", (value.dtype, tuple(value.shape), torch.device("cpu")), False, {"unit": "µ"},
            found.info.created_ns, None,
        )  # fmt: skip
        again = mem.page("again", found.value, metadata=found.info.metadata)
        assert same_bits(again.tensor, page.tensor)
        assert again.metadata == page.metadata


@pytest.mark.parametrize("name", ["emb ß", "层/0", "😀", "a" * 1024, "p.values", '"\\'])
def test_names_go_over(mem, name):
    page = mem.page(name, torch.eye(30))
    for raw in (mmsb.serialize_page(page), mmsb.compress_page(page)):
        assert mmsb.deserialize_page(raw).info.name == name


def test_epoch_and_time_go_over(ab, change):
    change(ab)
    for page in ab.pages():
        found = mmsb.deserialize_from_bytes(mmsb.serialize_to_bytes(page))
        assert found.epoch == page.epoch
        assert found.info.created_ns == page.history()[0].time_ns
        assert same_bits(found.value, page.tensor)


def test_a_derived_page_is_computed_and_stays_one(ab):
    total = ab.derive(lambda a: a.sum(0), name="total")
    first = mmsb.deserialize_page(mmsb.serialize_page(total))
    assert (first.info.derived, first.info.spec) == (True, None)
    assert first.value.tolist() == [30, 35, 40]
    ab.update("a", 0.0)
    second = mmsb.deserialize_page(mmsb.compress_page(total))
    assert second.value.tolist() == [0, 0, 0]
    assert second.epoch == first.epoch + 1 == total.epoch
    assert mmsb.serialize_page(second) == mmsb.serialize_page(total)


def test_a_recipe_has_no_epochs_to_give(ab):
    def written(a):
        del a
        mmsb.serialize_page(ab["b"])
        return torch.ones(1)

    ab.derive(written, name="written")
    with pytest.raises(mmsb.RecipeError) as caught:
        ab["written"].tensor  # noqa: B018
    assert isinstance(caught.value.__cause__, mmsb.UnsupportedError)
    assert "inside of a recipe" in str(caught.value.__cause__)
    inside = ab.derive(lambda b: torch.tensor(len(mmsb.compress_page(b))), name="inside")
    assert inside.tensor == len(mmsb.compress_page(ab["b"].tensor))


def test_epoch_and_value_are_of_one_moment(mem):
    page = mem.page("n", torch.zeros(2000, dtype=torch.int64))
    stop = threading.Event()

    def write():
        while not stop.is_set():
            mem.update(page, page.epoch + 1)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(300):
            found = mmsb.deserialize_page(mmsb.serialize_page(page))
            assert found.value.unique().tolist() == [found.epoch]
    finally:
        stop.set()
        writer.join()
    assert page.epoch > 10


def test_a_page_that_was_written_through_is_not_handed_over(ab):
    ab["a"].tensor[0] = 9
    with pytest.raises(mmsb.PageMutatedError):
        mmsb.serialize_page(ab["a"])
    assert mmsb.deserialize_page(mmsb.serialize_page(ab["a"])).value[0, 0] == 0


def test_a_closed_memory_hands_nothing_over(ab):
    page = ab["a"]
    ab.close()
    with pytest.raises(mmsb.ClosedError):
        mmsb.serialize_page(page)


def test_writing_and_reading_work_in_any_context(ab, context):
    page = ab["a"]
    expected = page.clone()
    delta = ab._router.log[1].deltas[0]
    with context():
        for raw in (mmsb.serialize_page(page), mmsb.compress_page(page, "zstd")):
            found = mmsb.deserialize_page(raw)
            assert found.value.device.type == "cpu"
            assert not found.value.is_inference()
        sparse = mmsb.deserialize_from_bytes(mmsb.compress_page(torch.eye(99, device="cpu")))
        again = mmsb.deserialize_delta(mmsb.serialize_delta(delta))
    assert same_bits(found.value, expected)
    assert same_bits(sparse, torch.eye(99))
    assert same_bits(again.values, delta.values)
    found.value.add_(1)


def test_history_goes_over(ab, change):
    change(ab)
    for number in range(1, ab.tx + 1):
        record = ab._router.log[number]
        found = mmsb.deserialize_from_bytes(mmsb.serialize_to_bytes(record, "zstd"))
        assert (found.tx, found.label, found.time_ns) == (number, record.label, record.time_ns)
        assert found.created == record.created
        for one, other in zip(found.deltas, record.deltas, strict=True):
            assert one[:3] + one[5:] == other[:3] + other[5:]
            assert one.region == other.region
            assert same_bits(one.region.pick(one.values) if one.region.form is Form.ALL
                             else one.values,
                             other.region.pick(other.values)
                             if other.region.form in {Form.ALL, Form.MASK} else other.values)  # fmt: skip


def test_events_go_over(mem):
    heard = []
    mem.subscribe(heard.append)
    mem.page("a", torch.zeros(3))
    mem.update("a", torch.ones(1), rows=[1])
    mem.derive(lambda a: a + 1, name="more").tensor  # noqa: B018
    mem.update("a", 2.0)
    assert len({event.type for event in heard}) >= 4
    for event in heard:
        assert mmsb.deserialize_event(mmsb.serialize_event(event)) == event
        assert mmsb.deserialize_from_bytes(mmsb.serialize_to_bytes(event, "auto")) == event


def test_compress_page_takes_tensors(mem):
    weights = torch.randn(300, 100, generator=torch.Generator().manual_seed(0))
    mask = weights > 1
    for value, share in (
        (torch.eye(300), 0.02),
        (mask, 0.13),
        (weights, 0.88),
        (weights.relu(), 0.6),
    ):
        raw = mmsb.compress_page(value)
        assert len(raw) < share * value.nbytes + 600
        assert same_bits(mmsb.deserialize_from_bytes(raw), value)
    page = mem.page("mask", mask)
    assert same_bits(mmsb.deserialize_page(mmsb.compress_page(page)).value, mask)


def test_compress_delta_keeps_the_effect():
    mask = torch.zeros(1000, dtype=torch.bool)
    mask[3] = True
    delta = Delta(1, 1, 0, Region.where(mask), torch.randn(1000), 1, "user")
    small = mmsb.compress_delta(delta)
    assert small.nbytes < delta.nbytes / 100
    assert small.region == delta.region
    assert same_bits(small.values, delta.values[3:4])
    assert mmsb.deserialize_delta(mmsb.serialize_delta(small)).region == delta.region


EVENT = mmsb.Event(mmsb.EventType.STALE, 1, {"page": "a"})
DELTA = Delta(1, 1, 0, Region.all((2,)), torch.ones(2), 1, "user")


def test_each_door_refuses_what_is_not_its_own(ab):
    raws = {
        "page": mmsb.serialize_page(ab["a"]),
        "delta": mmsb.serialize_delta(DELTA),
        "event": mmsb.serialize_event(EVENT),
        "transaction": mmsb.serialize_to_bytes(ab._router.log[1]),
        "tensor": mmsb.serialize_to_bytes(torch.ones(2)),
    }
    doors = {
        "page": mmsb.deserialize_page,
        "delta": mmsb.deserialize_delta,
        "event": mmsb.deserialize_event,
    }
    for wanted, door in doors.items():
        for kind, raw in raws.items():
            if kind == wanted:
                assert type(door(raw)) is type(mmsb.deserialize_from_bytes(raw))
                continue
            with pytest.raises(
                mmsb.SerializationError, match=f"hold a[n]? {kind}: expected a[n]? {wanted}"
            ):
                door(raw)


@pytest.mark.parametrize(
    "thing", [None, b"raw", "page", {"a": torch.ones(1)}, 1.0, [DELTA]], ids=str
)
@pytest.mark.parametrize("name", [name for name in NAMES if name[0] in "sc"])
def test_other_things_are_refused(name, thing):
    with pytest.raises(
        mmsb.SerializationError, match=f"found a {type(thing).__name__}: expected a"
    ):
        getattr(mmsb, name)(thing)


def test_a_door_for_one_kind_takes_no_other():
    for door, thing in (
        (mmsb.serialize_page, DELTA),
        (mmsb.serialize_page, torch.ones(1)),
        (mmsb.serialize_delta, EVENT),
        (mmsb.serialize_event, DELTA),
        (mmsb.compress_page, DELTA),
        (mmsb.compress_delta, torch.ones(1)),
    ):
        with pytest.raises(mmsb.SerializationError, match="expected a"):
            door(thing)


@pytest.mark.parametrize("raw", ["text", None, 3, [1], torch.ones(3).numpy()], ids=str)
def test_only_bytes_are_read(raw):
    with pytest.raises(mmsb.SerializationError):
        mmsb.deserialize_from_bytes(raw)


def test_the_reader_says_how_large_a_page_may_get(mem):
    raw = mmsb.compress_page(mem.page("zeros", torch.zeros(1000, 1000)))
    assert len(raw) < 1000
    with pytest.raises(mmsb.SerializationError, match="pass max_nbytes=4000000"):
        mmsb.deserialize_page(raw, max_nbytes=3_999_999)
    assert mmsb.deserialize_page(raw, max_nbytes=4_000_000).value.shape == (1000, 1000)


def test_without_the_extra(monkeypatch, mem):
    page = mem.page("p", torch.ones(1000))
    raw = mmsb.serialize_page(page, "zstd")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(mmsb.UnsupportedError, match=r"pip install 'mmsb-torch\[zstd\]'"):
        mmsb.deserialize_page(raw)
    assert mmsb.serialize_page(page, "auto") == mmsb.serialize_page(page)
    assert same_bits(mmsb.deserialize_page(mmsb.compress_page(page)).value, page.tensor)


def test_a_record_says_what_it_is(mem):
    record = mmsb.deserialize_page(mmsb.serialize_page(mem.page("p", torch.ones(3).to(torch.int8))))
    assert repr(record) == "<PageRecord 'p' epoch 0 int8[3]>"
    assert record != mmsb.deserialize_page(mmsb.serialize_page(mem["p"]))
    with pytest.raises(AttributeError):
        record.epoch = 1


def test_the_names_load_when_they_are_used():
    code = f"""
import sys
import mmsb_torch as mmsb
late = {{"mmsb_torch.memory.exchange", "mmsb_torch.runtime.store.codecs", "zstandard", "safetensors"}}
print(sorted(late & set(sys.modules)))
print([name for name in {NAMES!r} if not callable(getattr(mmsb, name))])
mmsb.serialize_to_bytes(mmsb.open().page("a", __import__("torch").ones(1)))
print(sorted(late & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "[]",
        "[]",
        "['mmsb_torch.memory.exchange', 'mmsb_torch.runtime.store.codecs']",
    ]
    assert set(NAMES) <= set(mmsb.__all__)
