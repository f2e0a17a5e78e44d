"""The registry and the history as tables, and all tables in other tools."""

import json

import numpy as np
import pytest
import torch

import mmsb_torch as mmsb

pa = pytest.importorskip("pyarrow", reason="the extra 'arrow' is not installed")


@pytest.fixture
def mem(tmp_path):
    with mmsb.open(tmp_path / "run.mmsb") as memory:
        memory.page("emb", torch.arange(12.0).view(4, 3), metadata={"unit": "m"})
        memory.page("flags", torch.tensor([True, False, True]))
        memory.derive(lambda emb: emb.sum(1), "emb", name="sums")
        memory.derive(lambda sums: sums + 1, "sums", name="later")
        _ = memory["sums"].tensor
        with memory.commit("relabel", step=7, metadata={"loss": 0.5}) as tx:
            tx.update("emb", 1.0, rows=[0, 2])
            tx.update("flags", torch.zeros(3, dtype=torch.bool))
        with memory.commit("nothing"):
            pass
        memory.append("emb", torch.zeros(2, 3))
        yield memory


def by_name(table):
    return {row["name"]: row for row in table.to_pylist()}


def test_the_registry_is_what_the_memory_says(mem):
    rows = by_name(mmsb.registry_to_arrow(mem))
    assert list(rows) == list(mem)
    for name in ("emb", "flags"):
        page = mem[name]
        row = rows[name]
        assert (row["page"], row["epoch"], row["nbytes"]) == (page.id, page.epoch, page.nbytes)
        assert (tuple(row["shape"]), row["dtype"]) == (page.shape, str(page.dtype)[6:])
        assert json.loads(row["metadata"]) == page.metadata
    sums, later = rows["sums"], rows["later"]
    assert (sums["derived"], sums["inputs"], sums["seen"]) == (True, [rows["emb"]["page"]], [0])
    assert sums["as_of"] == 2
    assert (later["dtype"], later["shape"], later["as_of"]) == (None, None, None)


@pytest.mark.parametrize("reopened", [False, True])
def test_the_history_is_what_the_pages_say(mem, reopened, tmp_path):
    if reopened:
        mem.checkpoint()
        mem.close()
        mem = mmsb.open(tmp_path / "run.mmsb", mode="r")
    rows = mmsb.history_to_arrow(mem).to_pylist()
    assert [row["tx"] for row in rows] == [1, 2, 3, 3, 4, 5]
    for name in ("emb", "flags"):
        found = [row for row in rows if row["name"] == name]
        for row, change in zip(found, mem[name].history(), strict=True):
            assert (row["tx"], row["epoch"], row["label"]) == change[:3]
            assert (row["source"], row["changed"]) == (change.source, change.region.count)
            assert row["rows_before"] == change.rows_before
            assert row["time"].value == change.time_ns
    assert [row["label"] for row in rows if row["page"] is None] == ["nothing"]
    assert json.loads(rows[2]["metadata"]) == {"loss": 0.5}
    mem.close()


def test_history_that_was_collected_is_left_out(tmp_path):
    with mmsb.open(tmp_path / "run.mmsb") as mem:
        mem.page("a", torch.zeros(2))
        mem.update("a", 1.0)
        mem.checkpoint(keep=1)
        mem.update("a", 2.0)
        mem.collect(mmsb.Retention(keep_last=1))
        rows = mmsb.history_to_arrow(mem).to_pylist()
        assert [row["tx"] for row in rows] == [change.tx for change in mem["a"].history()]


def test_an_empty_memory_has_empty_tables():
    with mmsb.open() as mem:
        assert mmsb.registry_to_arrow(mem).num_rows == 0
        assert mmsb.history_to_arrow(mem).num_rows == 0
        assert "tx" in mmsb.history_to_arrow(mem).column_names


def test_a_closed_memory_has_none(mem):
    mem.close()
    for table in (mmsb.registry_to_arrow, mmsb.history_to_arrow):
        with pytest.raises(mmsb.ClosedError):
            table(mem)


def test_pandas_opens_them(mem):
    pytest.importorskip("pandas")
    frame = mmsb.page_to_arrow(mem["emb"]).to_pandas()
    assert np.array_equal(np.stack(frame["value"]), mem["emb"].tensor.numpy())
    history = mmsb.history_to_arrow(mem).to_pandas()
    assert history.groupby("name")["changed"].sum().to_dict() == {"emb": 24, "flags": 6}
    back = mmsb.page_to_arrow(mem["sums"]).to_pandas()
    assert torch.equal(mmsb.arrow_to_page(mem, back, "b").tensor, mem["sums"].tensor)


def test_polars_opens_them(mem):
    pl = pytest.importorskip("polars")
    frame = pl.from_arrow(mmsb.page_to_arrow(mem["emb"]))
    assert np.array_equal(frame["value"].to_numpy(), mem["emb"].tensor.numpy())
    assert pl.from_arrow(mmsb.page_to_arrow(mem["flags"]))["value"].to_list() == [False] * 3
    history = pl.from_arrow(mmsb.history_to_arrow(mem))
    assert history.filter(pl.col("label") == "relabel")["step"].to_list() == [7, 7]
    assert pl.from_arrow(mmsb.registry_to_arrow(mem)).height == 4
    back = mmsb.arrow_to_page(mem, frame, "back")
    assert torch.equal(back.tensor, mem["emb"].tensor)


def test_duckdb_opens_them(mem):
    duckdb = pytest.importorskip("duckdb")
    emb, history = mmsb.page_to_arrow(mem["emb"]), mmsb.history_to_arrow(mem)
    with duckdb.connect() as base:
        base.register("emb", emb)
        base.register("history", history)
        sums = base.sql("select value[1] + value[2] + value[3] from emb").fetchall()
        assert [row[0] for row in sums] == mem["emb"].tensor.sum(1).tolist()
        asked = "select name, max(epoch) from history where page is not null group by 1 order by 1"
        assert base.sql(asked).fetchall() == [("emb", 2), ("flags", 1)]
        back = mmsb.arrow_to_page(mem, base.sql("select value from emb"), "back")
    assert torch.equal(back.tensor, mem["emb"].tensor)
