"""The bytes of a transaction against an obvious writer: one JSON object inside of another."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmsb_torch.device import pack_mask
from mmsb_torch.runtime.store import payload, payload_writer
from mmsb_torch.runtime.store.dtypes import encoding
from mmsb_torch.testing import DTYPES, deltas, random_bits
from mmsb_torch.types import Form, PageInfo, Region, Spec, Transaction

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


def plain(tensor):
    return bytes(tensor.contiguous().view(-1).untyped_storage())[: tensor.nbytes]


def ops_of(record, names, tensors):
    """`__metadata__["mmsb.ops"]` as a plain object; adds what it names to `tensors`."""
    found = []
    for delta in record.deltas:
        region, values = delta.region, delta.values
        if region.empty and region.form is not Form.ALL:
            region = Region.none(region.shape)
        if region.form is Form.MASK:
            values = region.pick(values)
            region = Region(Form.BITS, region.shape, pack_mask(region.index), region.count)
        op = {
            "delta": delta.id, "page": delta.page_id, "base": delta.base_epoch,
            "time_ns": delta.time_ns, "source": delta.source, "form": region.form.value,
            "shape": list(region.shape), "dtype": str(values.dtype).removeprefix("torch."),
        }  # fmt: skip
        name = names[delta.page_id]
        if region.form is not Form.NONE:
            op["values"] = name if region.form is Form.ALL else f"{name}.values"
            tensors[op["values"]] = values
        if region.index is not None:
            op["index"] = f"{name}.{region.form.value}"
            tensors[op["index"]] = region.index
        found.append(op)
    created = [
        {
            "id": info.id, "name": info.name, "dtype": info.spec.dtype_name,
            "shape": list(info.spec.shape), "device": "cpu", "metadata": info.metadata,
            "created_ns": info.created_ns,
        }
        for info in record.created
    ]  # fmt: skip
    return {
        "version": 1, "tx": record.tx, "time_ns": record.time_ns, "label": record.label,
        "step": record.step, "metadata": record.metadata, "created": created, "deltas": found,
    }  # fmt: skip


def obvious(record, names):
    tensors = {}
    text = json.dumps(ops_of(record, names, tensors), separators=(",", ":"))
    header = {"__metadata__": {"mmsb.ops": text}}
    carried = {name: encoding(value.dtype).name for name, value in tensors.items()}
    if carried := {name: dtype for name, dtype in carried.items() if dtype}:
        told = json.dumps(carried, ensure_ascii=False, separators=(",", ":"))
        header["__metadata__"]["mmsb.dtypes"] = told
    order = sorted(
        tensors, key=lambda name: (tensors[name].nbytes % 64 != 0, -tensors[name].dtype.itemsize)
    )
    ends, data = {}, b""
    for name in order:
        data += plain(tensors[name])
        ends[name] = len(data)
    for name, value in tensors.items():
        written = encoding(value.dtype)
        header[name] = {
            "dtype": written.tag,
            "shape": [*value.shape, 2] if written.paired else list(value.shape),
            "data_offsets": [ends[name] - value.nbytes, ends[name]],
        }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)
    return len(text).to_bytes(8, "little") + text + data


@given(st.data())
def test_a_transaction_is_the_bytes_that_the_obvious_writer_gives(data):
    changes, names = [], {}
    for page in range(data.draw(st.integers(0, 3))):
        shape = data.draw(st.lists(st.integers(0, 5), max_size=3).map(tuple))
        delta = data.draw(deltas(shape, data.draw(st.sampled_from(DTYPES))))
        changes.append(delta._replace(page_id=page, base_epoch=data.draw(st.integers(-1, 9))))
        names[page] = f"{page} {data.draw(TEXTS)}"
    info = PageInfo(
        3, "ü", Spec(torch.int8, (2, 3), torch.device("cpu")), False, {"a": [1, None, "ü"]}, 5
    )
    record = Transaction(
        data.draw(st.integers(1, 2**63)),
        data.draw(st.integers(0, 2**63)),
        data.draw(st.sampled_from([(), (info,)])),
        tuple(changes),
        data.draw(st.none() | TEXTS),
        data.draw(st.none() | st.integers(0, 2**40)),
        data.draw(st.sampled_from([{}, {"x": 1.5, "ü": [True]}])),
    )
    assert b"".join(payload_writer.encode(record, names)) == obvious(record, names)


@given(st.data())
def test_one_row_is_the_bytes_that_the_obvious_writer_gives(data):
    dtype = data.draw(st.sampled_from(DTYPES))
    shape = (data.draw(st.integers(2, 9)), *data.draw(st.lists(st.integers(0, 70), max_size=2)))
    name = data.draw(st.just("%d") | TEXTS | st.just(f"{payload_writer._MARKS[1]}"))
    numbers = st.integers(0, 2**63)
    for _ in range(2):  # the second time by what was kept
        row = data.draw(st.integers(0, shape[0] - 1))
        values = random_bits((1, *shape[1:]), dtype, data.draw(st.integers(0, 99)))
        region = Region.one_row(shape, row)
        delta = payload.Delta(
            data.draw(numbers), 4, data.draw(numbers), region, values, data.draw(numbers), "user"
        )
        record = Transaction(
            data.draw(st.integers(1, 2**63)), data.draw(numbers), (), (delta,), None, None, {}
        )
        told = delta._replace(region=Region.rows(shape, torch.tensor([row])))
        found = b"".join(payload_writer.encode(record, {4: name}))
        assert found == obvious(record._replace(deltas=(told,)), {4: name})


@pytest.mark.parametrize("shape", [(True, 2), (1.0, 2)])
def test_a_shape_that_only_equals_one_is_never_what_is_written(shape):
    values = torch.zeros(1, 2)
    info = PageInfo(1, "p", Spec(torch.float32, (1, 2), torch.device("cpu")), False, {}, 0)
    delta = payload.Delta(1, 1, 0, Region(Form.ALL, shape, None, 2), values, 0, repr(shape))
    for form in (shape, (1, 2)):
        changed = delta._replace(region=Region(Form.ALL, form, None, 2))
        record = Transaction(2, 0, (info,), (changed,), None, None, {})
        try:
            raw = b"".join(payload_writer.encode(record, {1: "p"}))
        except TypeError:
            assert form is shape
        else:
            assert payload.decode(memoryview(raw), "here").deltas[0].region.shape == (1, 2)
