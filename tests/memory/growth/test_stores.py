"""Pages that grow: on disk, for readers, and as bytes."""

import json
import time

import pytest
import torch
from safetensors.torch import load_file

import mmsb_torch as mmsb
from mmsb_torch.device import same_bits
from mmsb_torch.runtime.store import durable, payload
from mmsb_torch.testing import abandon
from mmsb_torch.types import Delta, Region

A = torch.arange(12.0).view(4, 3)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.mmsb"


def grown(memory, count=6):
    """Appends, updates and restores, and every value there was by transaction."""
    page, wanted = memory.page("a", A), {}
    wanted[memory.tx] = page.read()
    for number in range(count):
        memory.append(page, torch.full((number % 3, 3), float(number)))
        wanted[memory.tx] = page.read()
        with memory.commit(f"both {number}") as tx:
            tx.append(page, torch.full((1, 3), -float(number)))
            tx.update(page, 100.0 + number, rows=[0, -1])
        wanted[memory.tx] = page.read()
        if number % 3 == 2:
            memory.restore(max(1, memory.tx - 3))
            wanted[memory.tx] = page.read()
    return wanted


def check(memory, wanted):
    assert all(same_bits(memory.at(tx)["a"], value) for tx, value in wanted.items())
    assert same_bits(memory["a"].tensor, wanted[memory.tx])
    assert memory["a"].shape == wanted[memory.tx].shape
    assert memory.verify() == []


@pytest.mark.parametrize("how", ["closed", "killed", "checkpointed", "segments"])
def test_it_comes_back(path, how, monkeypatch):
    if how == "segments":
        monkeypatch.setattr(durable, "INLINE_BYTES", 64)
    memory = mmsb.open(path)
    wanted = grown(memory)
    if how == "closed":
        memory.close()
    elif how == "checkpointed":
        memory.checkpoint()
        memory.append("a", torch.zeros(2, 3))
        wanted[memory.tx] = memory["a"].read()
    if how != "closed":
        abandon(memory)
    for mode in ("w", "r", "w"):
        with mmsb.open(path, mode=mode) as found:
            check(found, wanted)
            assert found["a"].epoch == len(wanted) - 1
            if mode == "w":
                found.append("a", torch.ones(1, 3))
                wanted[found.tx] = found["a"].read()
            assert found.page("a", A) == found["a"]


def test_a_whole_value_after_appends_is_all_that_is_read(path):
    memory = mmsb.open(path)
    page = memory.page("a", A)
    memory.append(page, torch.ones(2, 3))
    memory.append(page, torch.ones(1, 3))
    memory.update(page, torch.zeros(7, 3))
    memory.append(page, torch.ones(1, 3))
    abandon(memory)
    with mmsb.open(path) as found:
        assert found["a"].shape == (8, 3)
        assert found["a"].tensor[:, 0].tolist() == [0] * 7 + [1]
        assert [len(found.at(tx)["a"]) for tx in range(1, 6)] == [4, 6, 7, 7, 8]


def test_bytes_on_disk_are_those_of_the_rows(path):
    with mmsb.open(path, compaction=False) as memory:
        page = memory.page("a", torch.zeros(4000, 256))  # 4 MB

        def log_bytes():
            return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())

        for count in (1, 10, 100):
            before = log_bytes()
            memory.append(page, torch.randn(count, 256))
            assert log_bytes() - before <= count * (256 * 4 + 8) + 1024
        before = log_bytes()
        memory.restore(memory.tx - 1)  # what is taken away takes no bytes
        assert log_bytes() - before <= 1024


def test_a_checkpoint_holds_the_rows_and_no_room(path):
    with mmsb.open(path) as memory:
        page = memory.page("a", torch.zeros(0, 64))
        for number in range(100):
            memory.append(page, torch.full((1, 64), float(number)))
        assert page._entry.room > 100
        info = memory.checkpoint()
        files = list(info.path.glob("*.safetensors"))
        assert torch.equal(load_file(files[0])["a"], page.tensor)
        assert sum(file.stat().st_size for file in files) < 100 * 64 * 4 + 4096


def test_a_version_says_that_a_page_grew(path):
    with mmsb.open(path) as memory:
        grown(memory, 2)
        log = memory._router.log
        versions = {}
        for place in log.places():
            raw = place.path.read_bytes()[place.record.offset + 64 :][: place.record.header.length]
            header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
            ops = json.loads(header["__metadata__"]["mmsb.ops"])
            versions[ops["tx"]] = ops["version"], "rows_before" in ops["deltas"][0]
    assert versions == {1: (1, False), 2: (1, False), 3: (2, True), 4: (2, True), 5: (2, True)}


@pytest.mark.parametrize(
    ("version", "error"), [(3, mmsb.UnsupportedError), (0, mmsb.CorruptStoreError)]
)
def test_a_version_that_nobody_knows_is_refused(version, error):
    text = json.dumps({"version": version, "tx": 1, "created": [], "deltas": []})
    with pytest.raises(error, match="version"):
        payload.outline_of_text(text, "here")


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("mode", ["r", "follow"])
def test_readers(path, mode, mapped):
    with mmsb.open(path) as memory:
        wanted = grown(memory)
        memory.checkpoint()
        memory.append("a", torch.full((3, 3), 5.0))
        wanted[memory.tx] = memory["a"].read()
        with mmsb.open(path, mode=mode, mapped=mapped) as reader:
            twice = reader.derive(lambda a: a * 2, "a", name="twice")
            check(reader, wanted)
            assert torch.equal(twice.tensor, wanted[memory.tx] * 2)
            if mode == "follow":
                held, now = reader["a"].tensor, wanted[memory.tx]
                for number in range(20):
                    memory.append("a", torch.full((1, 3), float(number)))
                memory.restore(2)
                memory.append("a", torch.ones(1, 3))
                end = time.monotonic() + 10
                while reader.tx < memory.tx and time.monotonic() < end:
                    time.sleep(0.002)
                assert same_bits(reader["a"].tensor, memory["a"].tensor)
                assert torch.equal(twice.tensor, memory["a"].tensor * 2)
                assert same_bits(held, now)


def test_what_the_collector_leaves_is_right(path):
    with mmsb.open(path, compaction=False) as memory:
        wanted = grown(memory)
        memory.checkpoint()
        for number in range(5):
            memory.append("a", torch.full((2, 3), float(number)))
            wanted[memory.tx] = memory["a"].read()
        memory.checkpoint()
        memory.collect(mmsb.Retention(keep_last=1))
        left = {}
        for tx, value in wanted.items():
            try:
                left[tx] = same_bits(memory.at(tx)["a"], value)
            except mmsb.HistoryError:
                continue
        assert left
        assert all(left.values())
        assert len(left) < len(wanted)
    with mmsb.open(path) as memory:
        assert same_bits(memory["a"].tensor, wanted[memory.tx])


def test_compaction_counts_what_was_appended(path, monkeypatch):
    from mmsb_torch.memory import compaction

    monkeypatch.setattr(compaction, "LEAST_BYTES", 20_000)
    monkeypatch.setattr(compaction, "COMMIT_BYTES", 0)
    with mmsb.open(path) as memory:
        page = memory.page("a", torch.zeros(1, 100))
        for number in range(300):
            memory.append(page, torch.full((1, 100), float(number)))
        memory._compactor.wait()
        assert memory._store.list_checkpoints()
    with mmsb.open(path) as memory:
        assert memory["a"].tensor[1:, 7].tolist() == list(range(300))


def test_not_waiting(path):
    with mmsb.open(path) as memory:
        page = memory.page("a", A)
        for number in range(20):
            with memory.commit(wait=False) as tx:
                tx.append(page, torch.full((1, 3), float(number)))
            if number % 5 == 4:
                with memory.commit(wait=False) as tx:
                    tx.update(page, page.read())
        memory.sync()
    with mmsb.open(path) as memory:
        assert memory["a"].tensor[4:, 0].tolist() == list(range(20))


def test_what_a_page_may_be_made_with_is_kept(path):
    for _ in range(3):
        with mmsb.open(path) as memory:
            memory.append(memory.page("a", A), torch.ones(1, 3))
    with mmsb.open(path) as memory:
        assert memory["a"].shape == (7, 3)
        with pytest.raises(mmsb.PageExistsError):
            memory.page("a", shape=(6, 3))


def test_the_journal_says_everything_of_what_it_does_not_know(path):
    """Reopened and restored: what changed since an epoch is never less than what did."""
    with mmsb.open(path) as memory:
        page = memory.page("a", A)
        memory.update(page, 1.0, rows=[0])
        memory.append(page, torch.ones(1, 3))
        memory.checkpoint()
        memory.update(page, 1.0, rows=[1])
        abandon(memory)
    memory = mmsb.open(path)
    journal = memory["a"]._entry.journal
    assert journal.since(0, (5, 3)).form.value == "all"
    assert journal.since(1, (5, 3)).form.value == "all"
    assert journal.since(2, (5, 3)).index.tolist() == [1]
    memory.restore(1)
    assert journal.since(3, (4, 3)).mask().any(1).tolist() == [True, True, False, False]
    assert journal.since(1, (4, 3)).form.value == "all"
    memory.close()


def test_bytes_of_deltas_transactions_and_pages(path):
    with mmsb.open(path) as memory:
        grown(memory, 2)
        log = memory._router.log
        for tx in range(2, memory.tx + 1):
            delta = log[tx].deltas[0]
            found = mmsb.deserialize_delta(mmsb.serialize_delta(delta))
            assert found.rows_before == delta.rows_before
            assert (found.region, found.base_epoch) == (delta.region, delta.base_epoch)
            assert same_bits(found.values, delta.values)
            again = mmsb.deserialize_from_bytes(mmsb.serialize_to_bytes(log[tx]))
            assert again.deltas[0].rows_before == delta.rows_before
        record = mmsb.deserialize_page(mmsb.serialize_page(memory["a"]))
        assert same_bits(record.value, memory["a"].tensor)
        assert record.info.spec.shape == memory["a"].shape


@pytest.mark.parametrize(
    ("region", "values", "rows_before"),
    [
        (Region.rows((6, 3), torch.tensor([5])), torch.ones(1, 3), 4),  # row 4 is not written
        (Region.rows((6, 3), torch.tensor([4])), torch.ones(1, 3), 4),
        (Region.none((6, 3)), torch.ones(0), 4),
        (Region.elements((6, 3), torch.arange(13, 18)), torch.ones(5), 4),
        (Region.rows((6, 3), torch.tensor([4, 5])), torch.ones(2, 3), -1),
        (Region.rows((6, 3), torch.tensor([4, 5])), torch.ones(2, 3), 6),
        (Region.all(()), torch.tensor(1.0), 4),
    ],
)
def test_a_delta_that_leaves_rows_open_is_no_delta(region, values, rows_before):
    delta = Delta(1, 1, 0, region, values, 1, "user", rows_before)
    with pytest.raises(mmsb.SerializationError):
        mmsb.serialize_delta(delta)
