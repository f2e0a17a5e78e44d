"""Pages as Arrow tables: bit for bit through every way a table travels, and safe from each other."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mmsb_torch as mmsb
from mmsb_torch.device import copy_of, same_bits
from mmsb_torch.testing.strategies import (
    DTYPES,
    appends,
    apply_append,
    apply_update,
    random_bits,
    tensors,
    updates,
)

pa = pytest.importorskip("pyarrow", reason="the extra 'arrow' is not installed")
pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
ZERO_COPY = [dtype for dtype in DTYPES if dtype is not torch.bool]


def leaves_of(table):
    column = table["value"].chunk(0)
    return column.flatten() if pa.types.is_fixed_size_list(column.type) else column


def parquet(table):
    import pyarrow.parquet as pq

    raw = io.BytesIO()
    pq.write_table(table, raw)
    return pq.read_table(io.BytesIO(raw.getvalue()))


def ipc(table):
    raw = io.BytesIO()
    with pa.ipc.new_file(raw, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return pa.ipc.open_file(io.BytesIO(raw.getvalue())).read_all()


class Capsule:
    """Nothing but the C data interface."""

    def __init__(self, table):
        self._table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self._table.__arrow_c_stream__(requested_schema)


def shifted(table):
    """The same rows, somewhere in the middle of larger memory."""
    return pa.concat_tables([table, table, table]).combine_chunks().slice(len(table), len(table))


WAYS = {
    "itself": lambda t: t,
    "parquet": parquet,
    "ipc": ipc,
    "the C data interface": Capsule,
    "a reader": lambda t: t.to_reader(),
    "a slice": shifted,
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@given(st.data())
def test_a_page_comes_back_bit_for_bit(way, data):
    value = data.draw(tensors())
    with mmsb.open() as mem:
        page = mem.page("p", value, metadata={"unit": "m", "nested": [1, {"a": None}]})
        sent = way(mmsb.page_to_arrow(page, copy=data.draw(st.booleans())))
        with mmsb.open() as other:
            back = mmsb.arrow_to_page(other, sent)
            assert back.name == "p"
            assert (back.dtype, back.shape) == (value.dtype, value.shape)
            assert same_bits(back.tensor, value)
            assert back.metadata == page.metadata


@given(st.data())
def test_a_table_is_never_changed_by_what_the_page_does_later(data):
    """The law of `page.tensor`: whatever comes later, what was handed out stays as it was."""
    value = data.draw(tensors())
    with mmsb.open() as mem:
        page = mem.page("p", value)
        handed, now = [], value
        for _ in range(data.draw(st.integers(1, 5))):
            handed.append((mmsb.page_to_arrow(page), copy_of(now)))
            grows = now.dim() > 0 and data.draw(st.booleans())
            change = data.draw((appends if grows else updates)(tuple(now.shape), now.dtype))
            if grows:
                mem.append(page, change.values)
                now = apply_append(now, change)
            else:
                mem.update(page, change.values, **change.options)
                now = apply_update(now, change)
        assert same_bits(page.tensor, now)
        with mmsb.open() as other:
            for number, (table, before) in enumerate(handed):
                assert same_bits(mmsb.arrow_to_page(other, table, f"p{number}").tensor, before)


@pytest.mark.parametrize("dtype", ZERO_COPY, ids=str)
@pytest.mark.parametrize("shape", [(), (7,), (3, 2, 4)], ids=str)
def test_nothing_is_copied_but_bools(dtype, shape):
    with mmsb.open() as mem:
        page = mem.page("p", random_bits(shape, dtype, 1))
        buffer = leaves_of(mmsb.page_to_arrow(page)).buffers()[1]
        assert buffer.address == page.tensor.data_ptr()
        assert not buffer.is_mutable
        copied = leaves_of(mmsb.page_to_arrow(page, copy=True)).buffers()[1]
        assert copied.address != page.tensor.data_ptr()


def test_a_bool_takes_a_bit():
    with mmsb.open() as mem:
        table = mmsb.page_to_arrow(mem.page("p", torch.tensor([True, False, True] * 8)))
        assert leaves_of(table).buffers()[1].size == 3
        assert table["value"].to_pylist() == [True, False, True] * 8


def test_a_table_outlives_its_memory(tmp_path):
    value = torch.randn(50, 4)
    with mmsb.open(tmp_path / "run.mmsb") as mem:
        mem.page("p", value)
    mem = mmsb.open(tmp_path / "run.mmsb", mode="r")
    table = mmsb.page_to_arrow(mem["p"])
    mem.close()
    del mem
    assert np.array_equal(np.stack(table["value"].to_numpy()), value.numpy())


def test_what_arrow_gives_cannot_be_written():
    with mmsb.open() as mem:
        page = mem.page("p", torch.zeros(8))
        array = mmsb.page_to_arrow(page)["value"].chunk(0).to_numpy()
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            np.frombuffer(leaves_of(mmsb.page_to_arrow(page)).buffers()[1])[0] = 1


def test_a_page_has_nothing_of_the_table_it_came_from():
    array = np.arange(6.0)
    source = pa.table(
        {"value": pa.Array.from_buffers(pa.float64(), 6, [None, pa.py_buffer(array)])}
    )
    with mmsb.open() as mem:
        page = mmsb.arrow_to_page(mem, source, "p")
        array[:] = -1
        assert page.tensor.tolist() == [0, 1, 2, 3, 4, 5]


def test_a_page_that_exists_gets_one_delta():
    with mmsb.open() as mem:
        page = mem.page("p", torch.zeros(4, 2))
        table = mmsb.page_to_arrow(page)
        mem.update(page, torch.ones(4, 2))
        assert mmsb.arrow_to_page(mem, table) == page
        assert (page.epoch, page.tensor.sum().item()) == (2, 0)


def test_a_derived_page_is_computed_first():
    with mmsb.open() as mem:
        mem.page("a", torch.ones(3))
        mem.derive(lambda a: a * 2, "a", name="b")
        mem.update("a", torch.full((3,), 5.0))
        assert mmsb.page_to_arrow(mem["b"])["value"].to_pylist() == [10, 10, 10]


def test_a_record_is_as_good_as_a_page():
    with mmsb.open() as mem:
        raw = mmsb.serialize_page(mem.page("p", torch.arange(3)))
    table = mmsb.page_to_arrow(mmsb.deserialize_page(raw))
    assert table["value"].to_pylist() == [0, 1, 2]
