"""What no page can be made of is refused, and nothing is changed."""

import json
import sys

import pytest
import torch

import mmsb_torch as mmsb

pa = pytest.importorskip("pyarrow", reason="the extra 'arrow' is not installed")
KEY = b"mmsb.page"


@pytest.fixture
def mem():
    with mmsb.open() as memory:
        memory.page("p", torch.arange(12.0).view(4, 3))
        memory.derive(lambda p: p + 1, "p", name="d")
        yield memory


def saying(table, **fields):
    """A table whose metadata says something else."""
    about = json.loads(table.schema.metadata[KEY]) | fields
    return table.replace_schema_metadata({KEY: json.dumps(about)})


CASES = {
    "rows are missing": (lambda t: t.slice(1), mmsb.SerializationError, "replace_schema_metadata"),
    "another width": (lambda t: saying(t, shape=[4, 4]), mmsb.SerializationError, "expected 4 of"),
    "another dtype": (lambda t: saying(t, dtype="int64"), mmsb.SerializationError, "expected 4"),
    "a wild dtype": (lambda t: saying(t, dtype="nn"), mmsb.SerializationError, "page_to_arrow"),
    "a negative size": (lambda t: saying(t, shape=[-4]), mmsb.SerializationError, "page_to_arrow"),
    "a huge size": (lambda t: saying(t, shape=[0, 2**63]), mmsb.SerializationError, "page_to_arrow"),
    "a size that is none": (lambda t: saying(t, shape=[True]), mmsb.SerializationError, None),
    "no JSON": (
        lambda t: t.replace_schema_metadata({KEY: b"{"}),
        mmsb.SerializationError,
        "not the JSON",
    ),
    "no object": (
        lambda t: t.replace_schema_metadata({KEY: b"[]"}),
        mmsb.SerializationError,
        "page_to_arrow",
    ),
    "a newer version": (lambda t: saying(t, version=2), mmsb.UnsupportedError, "version 2"),
    "nothing": (lambda t: None, mmsb.SerializationError, "no Arrow table"),
    "no page": (
        lambda t: t.replace_schema_metadata(None),
        mmsb.SerializationError,
        "give name=",
    ),
    "two columns": (
        lambda t: pa.table({"a": [1], "b": [2]}),
        mmsb.SerializationError,
        "Give column=",
    ),
    "texts": (lambda t: pa.table({"p": ["a"]}), mmsb.SerializationError, "expected bools"),
    "lists of any length": (
        lambda t: pa.table({"p": [[1], [1, 2]]}),
        mmsb.SerializationError,
        "fixed-size",
    ),
    "nulls": (
        lambda t: saying(t.cast(pa.schema([pa.field("value", t["value"].type)], t.schema.metadata))
                         .set_column(0, "value", pa.array([None, [1, 2, 3]] * 2, t["value"].type))
                         .replace_schema_metadata(t.schema.metadata)),
        mmsb.SerializationError,
        "nulls",
    ),
    "another shape than the page's": (
        lambda t: saying(t.slice(1), shape=[3, 3]),
        mmsb.InvalidDeltaError,
        r"expected torch.float32\[4, 3\]",
    ),
    "one number, which would fill the page": (
        lambda t: saying(pa.table({"value": pa.array([1.0], pa.float32())}, metadata=t.schema.metadata), shape=[]),
        mmsb.InvalidDeltaError,
        "expected",
    ),
    "of a derived page": (
        lambda t: saying(t, name="d"),
        mmsb.DerivedPageError,
        None,
    ),
    "of no name that a page has": (lambda t: saying(t, name=""), mmsb.InvalidPageError, None),
}  # fmt: skip


@pytest.mark.parametrize(("make", "error", "match"), CASES.values(), ids=CASES)
def test_it_is_refused(mem, make, error, match):
    table = make(mmsb.page_to_arrow(mem["p"]))
    before = (mem.tx, list(mem))
    with pytest.raises(error, match=match):
        mmsb.arrow_to_page(mem, table)
    assert (mem.tx, list(mem)) == before


def test_a_cut_table_is_taken_as_it_is_if_asked(mem):
    table = mmsb.page_to_arrow(mem["p"]).slice(1).replace_schema_metadata(None)
    assert mmsb.arrow_to_page(mem, table, "q").tensor.tolist() == mem["p"].tensor[1:].tolist()


def test_only_pages_go_out(mem, monkeypatch):
    with pytest.raises(mmsb.SerializationError, match="expected a Page"):
        mmsb.page_to_arrow(torch.zeros(2))
    mem.close()
    with pytest.raises(mmsb.ClosedError):
        mmsb.page_to_arrow(mem["p"])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(mmsb.UnsupportedError, match=r"mmsb-torch\[arrow\]"):
        mmsb.page_to_arrow(torch.zeros(2))


def test_a_reader_writes_nothing(mem, tmp_path):
    with mmsb.open(tmp_path / "run.mmsb") as other:
        other.page("p", torch.zeros(4, 3))
    with mmsb.open(tmp_path / "run.mmsb", mode="r") as reader, pytest.raises(mmsb.ReadOnlyError):
        mmsb.arrow_to_page(reader, mmsb.page_to_arrow(mem["p"]))
