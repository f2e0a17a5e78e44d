"""What was committed is there again, with its history, in no more bytes than it takes."""

import errno
import os
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mmsb_torch as mmsb
from mmsb_torch.device import same_bits
from mmsb_torch.runtime.store import payload, payload_writer
from mmsb_torch.testing import (
    DTYPES,
    FailingDisk,
    abandon,
    deltas,
    open_on,
    random_bits,
    same_values,
    values,
    work,
)
from mmsb_torch.types import Form, PageInfo, Spec, Transaction, apply


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.mmsb"


def logs(path):
    return sorted((path / "log").glob("*.tlog"))


@pytest.mark.parametrize("durability", ["process", "full", "none"])
def test_what_was_committed_is_there_after_a_kill(path, durability):
    memory = mmsb.open(path, durability=durability)
    states = work(memory)
    abandon(memory)
    with mmsb.open(path) as memory:
        assert memory.tx == 20
        assert memory.tail is None
        assert same_values(values(memory), states[20])
        assert memory["a"].metadata == {"who": "ä\n"}
        for tx in range(1, 21):
            assert same_values(dict(memory.at(tx)), states[tx])
        assert memory.at(step=9).tx == memory.at("label 9").tx == 10
        epochs = [change.epoch for change in memory["a"].history()]
        assert epochs == list(range(len(epochs)))
        work(memory, 25, states)
        memory.restore(7)
        assert same_values(values(memory), states[7])


def test_nothing_is_replayed_twice_and_epochs_go_on(path):
    for turn in range(4):
        with mmsb.open(path) as memory:
            page = memory.page("a", torch.zeros(5))
            assert page.epoch == turn * 3
            for number in range(3):
                memory.update(page, float(turn * 3 + number), rows=[number])
        assert mmsb.open(path, mode="r")["a"].tensor.tolist()[:3] == [
            turn * 3.0,
            turn * 3 + 1.0,
            turn * 3 + 2.0,
        ]
    with mmsb.open(path) as memory:
        assert memory.at(2)["a"].tolist() == [0, 0, 0, 0, 0]
        assert memory.at(5)["a"].tolist() == [3, 1, 2, 0, 0]


def test_history_before_and_after_checkpoints(path):
    memory = mmsb.open(path)
    states = work(memory, 9)
    memory.checkpoint()
    work(memory, 15, states)
    memory.checkpoint(keep=1)
    work(memory, 18, states)
    for tx in range(1, 19):
        assert same_values(dict(memory.at(tx)), states[tx]), tx
    abandon(memory)
    assert len(logs(path)) == 3
    with mmsb.open(path) as memory:
        assert memory.tx == 18
        assert same_values(values(memory), states[18])
        for tx in range(18, 0, -1):
            assert same_values(dict(memory.at(tx)), states[tx]), tx
        assert list(memory.diff(2, 18)) == ["a", "b"]


def test_large_payloads_have_files_of_their_own(path, monkeypatch):
    big = torch.randn(300_000)
    memory = mmsb.open(path)
    memory.page("big", big)
    memory.update("big", big + 1)
    memory.update("big", big[:10], indices=list(range(10)))
    segments = sorted((path / "deltas").iterdir())
    assert [file.name[:20] for file in segments] == [f"{1:020d}", f"{2:020d}"]
    assert sum(file.stat().st_size for file in logs(path)) < 8192
    abandon(memory)
    from safetensors.torch import load_file

    assert torch.equal(load_file(segments[1])["big"], big + 1)
    with mmsb.open(path) as memory:
        assert torch.equal(memory["big"].tensor[10:], big[10:] + 1)
        assert torch.equal(memory["big"].tensor[:10], big[:10])
        assert torch.equal(memory.at(1)["big"], big)


def test_bytes_are_in_proportion_to_the_change(path):
    with mmsb.open(path) as memory:
        memory.page("table", torch.randn(20_000, 64))
        memory.checkpoint()
        before = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        rows = torch.randperm(20_000)[:200]
        for _ in range(5):
            memory.update("table", torch.randn(200, 64), rows=rows)
        written = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) - before
        assert written <= 1.1 * 5 * 200 * 64 * 4


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_comes_back(path, dtype):
    made = {}
    with mmsb.open(path) as memory:
        for number, shape in enumerate([(), (0,), (3,), (2, 0, 3), (5, 7)]):
            name = f"page {number}"
            value = random_bits(shape, dtype, number)
            memory.page(name, value)
            if shape and shape[0] > 1 and 0 not in shape:
                memory.update(name, random_bits((1, *shape[1:]), dtype, 9), rows=[1])
            made[name] = memory[name].read()
        abandon(memory)
    with mmsb.open(path) as memory:
        assert same_values(values(memory), made)


@given(st.data(), st.integers(0, 2**31))
def test_a_transaction_survives_its_bytes(data, seed):
    shape = data.draw(st.lists(st.integers(0, 5), max_size=3).map(tuple))
    dtype = data.draw(st.sampled_from(DTYPES))
    delta = data.draw(deltas(shape, dtype))
    label = data.draw(st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
    step = data.draw(st.none() | st.integers(0, 2**40))
    spec = Spec(dtype, shape, torch.device("cpu"))
    info = PageInfo(3, "page __metadata__", spec, False, {"a": [1, None, "ü"]}, seed)
    record = Transaction(9, seed, (info,), (delta,), label, step, {"x": 1.5})
    raw = b"".join(payload_writer.encode(record, {delta.page_id: "__metadata__"}))
    found = payload.decode(memoryview(raw), "here")
    assert found[:3] == record[:3]
    assert found[4:] == record[4:]
    [back] = found.deltas
    assert (back.id, back.page_id, back.base_epoch, back.time_ns, back.source) == (
        delta.id, delta.page_id, delta.base_epoch, delta.time_ns, delta.source
    )  # fmt: skip
    assert back.region == delta.region
    ours, theirs = random_bits(shape, dtype, seed), random_bits(shape, dtype, seed)
    apply(ours, delta)
    apply(theirs, back)
    assert same_bits(ours, theirs)
    if delta.region.form is Form.MASK:
        assert len(raw) < 2000 + delta.nbytes


def test_a_child_writes_nothing_into_its_parents_log(path):
    memory = mmsb.open(path)
    memory.page("a", torch.zeros(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            memory.update("a", 1.0)
        except mmsb.ReadOnlyError:
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    memory.update("a", 2.0)
    abandon(memory)
    assert mmsb.open(path, mode="r").tx == 2


def inodes(path, tx):
    folder = path / "checkpoints" / f"{tx:020d}"
    return {file.stat().st_ino: file.stat().st_size for file in folder.glob("*.safetensors")}


def test_checkpoints_share_the_files_of_what_did_not_change(path):
    with mmsb.open(path) as memory:
        for number in range(4):
            memory.page(f"frozen {number}", torch.randn(1000, 30))
        memory.page("hot", torch.randn(1000))
        doubled = memory.derive(lambda h: h * 2, "hot", name="doubled")
        halved = memory.derive(lambda f: f / 2, "frozen 1", name="halved")
        _ = doubled.tensor, halved.tensor
        memory.checkpoint()
        first = inodes(path, memory.tx)
        for step in range(3):
            before = inodes(path, memory.tx)
            memory.update("hot", float(step))
            _ = doubled.tensor
            memory.checkpoint()
            now = inodes(path, memory.tx)
            shared = sum(size for node, size in now.items() if node in before)
            written = sum(size for node, size in now.items() if node not in before)
            if step:
                assert shared > 5 * 120_000 > 10_000 > written
        assert not first.keys() & now.keys()  # the first mixed quiet and busy pages
        wanted = {name: memory[name].read() for name in memory}
        memory.checkpoint(keep=1)
    with mmsb.open(path) as memory:
        memory._store.verify()
        assert all(same_bits(memory[name].tensor, value) for name, value in wanted.items())
        before = inodes(path, memory.tx)
        memory.update("frozen 0", 1.0, rows=[0])
        memory.checkpoint(keep=1)
        assert same_bits(memory["frozen 1"].tensor, wanted["frozen 1"])
        memory.update("hot", 0.5)
        memory.checkpoint(keep=2)
        wanted = {name: memory[name].read() for name in memory if not memory[name].derived}
    from safetensors.torch import load_file

    with mmsb.open(path) as memory:
        assert memory._store.verify() == []
        assert same_values(values(memory), wanted)
        newest = path / "checkpoints" / f"{memory.tx:020d}"
        found = {}
        for file in newest.glob("*.safetensors"):
            found |= load_file(file)
        assert all(same_bits(found[name], value) for name, value in wanted.items())


class NoLinks(FailingDisk):
    def link(self, source, target):
        raise OSError(errno.EPERM, "no links")


def test_where_there_are_no_links_everything_is_written(path):
    memory = open_on(NoLinks(), path)
    memory.page("frozen", torch.randn(1000))
    memory.page("hot", torch.zeros(3))
    memory.checkpoint()
    memory.update("hot", 1.0)
    memory.checkpoint()
    memory.update("hot", 2.0)
    memory.checkpoint()
    wanted = values(memory)
    memory.close()
    with mmsb.open(path) as memory:
        assert same_values(values(memory), wanted)
