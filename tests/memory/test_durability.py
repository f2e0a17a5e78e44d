"""What was acknowledged survives; what is damaged is never loaded silently."""

import contextlib
import errno
import os
import random
import shutil
import signal
import struct
import sys
import time
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mmsb_torch as mmsb
from mmsb_torch.device import same_bits
from mmsb_torch.runtime.store import durable, logwriter, payload
from mmsb_torch.testing import (
    DTYPES,
    FailingDisk,
    RecordingDisk,
    ShortDisk,
    abandon,
    crash_states,
    deltas,
    open_on,
    random_bits,
)
from mmsb_torch.types import Form, PageInfo, Spec, Transaction, apply

SOAK = os.environ.get("MMSB_GATE") == "1"


class Fast(FailingDisk):
    """The real disk, not waited for."""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.mmsb"


def logs(path):
    return sorted((path / "log").glob("*.tlog"))


def values(memory):
    return {name: memory[name].read() for name in memory if not memory[name].derived}


def same(found, wanted):
    return found.keys() == wanted.keys() and all(same_bits(found[n], wanted[n]) for n in wanted)


def work(memory, count=20, states=None):
    """Edits of every form; `states[n]` is the state after transaction n."""
    states = {} if states is None else states
    states.setdefault(0, {})

    def note():
        states[memory.tx] = values(memory)

    memory.page("a", torch.arange(12.0).view(4, 3), metadata={"who": "ä\n"})
    note()
    memory.page("b", torch.arange(8, dtype=torch.int16))
    note()
    numbers = random.Random(0)
    while memory.tx < count:
        kind = memory.tx % 5
        value = float(memory.tx)
        if kind == 0:
            memory.update("a", torch.full((4, 3), value))
        elif kind == 1:
            memory.update("a", torch.full((1, 3), value), rows=[numbers.randrange(4)])
        elif kind == 2:
            memory.update("b", memory.tx, indices=[numbers.randrange(8)])
        elif kind == 3:
            mask = torch.rand(4, 3, generator=torch.Generator().manual_seed(memory.tx)) < 0.4
            memory.update("a", torch.full((4, 3), -value), mask=mask)
        else:
            with memory.commit(f"label {memory.tx}", step=memory.tx) as tx:
                tx.update("a", value, rows=[0])
                tx.update("b", torch.arange(8, dtype=torch.int16) * memory.tx)
        note()
    return states


# coming back


@pytest.mark.parametrize("durability", ["process", "full", "none"])
def test_what_was_committed_is_there_after_a_kill(path, durability):
    memory = mmsb.open(path, durability=durability)
    states = work(memory)
    abandon(memory)
    with mmsb.open(path) as memory:
        assert memory.tx == 20
        assert memory.tail is None
        assert same(values(memory), states[20])
        assert memory["a"].metadata == {"who": "ä\n"}
        for tx in range(1, 21):
            assert same(dict(memory.at(tx)), states[tx])
        assert memory.at(step=9).tx == memory.at("label 9").tx == 10
        epochs = [change.epoch for change in memory["a"].history()]
        assert epochs == list(range(len(epochs)))
        work(memory, 25, states)
        memory.restore(7)
        assert same(values(memory), states[7])


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
        assert same(dict(memory.at(tx)), states[tx]), tx
    abandon(memory)
    assert len(logs(path)) == 3
    with mmsb.open(path) as memory:
        assert memory.tx == 18
        assert same(values(memory), states[18])
        for tx in range(18, 0, -1):
            assert same(dict(memory.at(tx)), states[tx]), tx
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
        assert same(values(memory), made)


# what a record is


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
    raw = b"".join(payload.encode(record, {delta.page_id: "__metadata__"}))
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


# kills

KILLS = 500 if SOAK else 25


def test_kill_9_loses_nothing_acknowledged(path):
    instants = random.Random(1)
    mmsb.open(path).close()
    acknowledged = lost = torn = 0
    for turn in range(KILLS):
        reader, writer = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            try:
                os.close(reader)
                _write_for_ever(path, writer, checkpoints=turn % 3 == 2)
            finally:
                os._exit(1)
        os.close(writer)
        time.sleep(instants.uniform(0.002, 0.15))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raw = b""
        while piece := os.read(reader, 1 << 16):
            raw += piece
        os.close(reader)
        if len(raw) >= 8:
            acknowledged = struct.unpack("<Q", raw[: len(raw) // 8 * 8][-8:])[0]
        with mmsb.open(path) as memory:
            torn += memory.tail is not None
            lost += memory.tx < acknowledged
            assert memory.tx in {acknowledged, acknowledged + 1}
            if memory.tx > 1:
                assert memory["a"].tensor[memory.tx % 50].tolist() == [float(memory.tx)] * 40
                assert memory["a"].epoch == memory.tx - 1
                back = max(memory.tx - 7, 2)
                assert memory.at(back)["a"][back % 50, 0] == back
            abandon(memory)
    assert lost == 0
    assert acknowledged > 20


def _write_for_ever(path, pipe, *, checkpoints):
    memory = mmsb.open(path)
    page = memory.page("a", torch.zeros(50, 40))
    while True:
        tx = memory.tx + 1
        memory.update(page, float(tx), rows=[tx % 50])
        os.write(pipe, struct.pack("<Q", tx))
        if checkpoints and tx % 9 == 0:
            memory.checkpoint(keep=2)


# damage


def made_small(path):
    memory = open_on(Fast(), path)
    states = work(memory, 14)
    abandon(memory)
    return states


def opened(path):
    """The state of a store and its last transaction, or the error that opening it raises."""
    try:
        memory = open_on(Fast(), path, mode="r")
    except mmsb.MMSBError as error:
        return error
    found = memory.tx, values(memory), memory.tail
    closed(memory)
    return found


def closed(memory):
    memory._router.log.close()
    memory._store.close()


def test_a_log_cut_at_every_byte_is_a_prefix(path):
    states = made_small(path)
    [log] = logs(path)
    whole = log.read_bytes()
    step = 1 if SOAK else 7
    before = len(states)
    for end in range(len(whole) - 1, -1, -step):
        log.write_bytes(whole[:end])
        tx, found, tail = opened(path)
        assert tx <= before
        before = tx
        assert same(found, states[tx])
        assert (tail is None) == _is_boundary(whole, end)
    assert before == 0


def _is_boundary(whole, end):
    from mmsb_torch.runtime.store.frame import RecordHeader

    offset = 64
    while offset < end:
        offset += RecordHeader.unpack(whole[offset : offset + 64]).span
    return offset == end


def test_a_writer_cuts_a_torn_tail_and_keeps_a_copy(path):
    states = made_small(path)
    [log] = logs(path)
    whole = log.read_bytes()
    log.write_bytes(whole[:-100])
    with mmsb.open(path) as memory:
        assert memory.tx == 13
        assert memory.tail is not None
        assert memory.tail.kept.read_bytes() == whole[memory.tail.start : -100]
        assert same(values(memory), states[13])
        memory.update("a", 1.0)
        abandon(memory)
    with mmsb.open(path) as memory:
        assert memory.tx == 14
        assert memory.tail is None


def test_a_flipped_byte_anywhere_is_never_silent(path):
    states = made_small(path)
    [log] = logs(path)
    whole = log.read_bytes()
    last = max(n for n in range(0, len(whole), 64) if whole[n : n + 4] == b"MREC")
    outcomes = {"error": 0, "tail": 0}
    for at in range(0, len(whole), 1 if SOAK else 11):
        flipped = bytearray(whole)
        flipped[at] ^= 0x40
        log.write_bytes(flipped)
        found = opened(path)
        if isinstance(found, mmsb.MMSBError):
            assert isinstance(found, mmsb.CorruptLogError | mmsb.UnsupportedError), found
            assert log.name in str(found)
            outcomes["error"] += 1
            continue
        tx, state, tail = found
        if tail is None:  # padding: no byte of it means anything
            assert (tx, same(state, states[14])) == (14, True)
            assert flipped[at] == 0x40
            continue
        assert at >= last  # the last record cannot be told from a torn write
        assert (tx, same(state, states[13])) == (13, True)
        outcomes["tail"] += 1
    assert min(outcomes.values()) > 3


def test_after_a_clean_close_a_damaged_last_transaction_is_damage(path):
    with mmsb.open(path) as memory:
        memory.page("a", torch.zeros(3))
        memory.update("a", 1.0)
        memory._checkpointed = (2, *memory._checkpointed[1:])  # as if there was nothing to keep
        memory._store.list_checkpoints()
        memory._router.log.close()
        memory._router.shut()
        memory._store.close()
    [log] = logs(path)
    raw = bytearray(log.read_bytes())
    at = raw.rindex(b"mmsb.ops")
    raw[at] ^= 1
    log.write_bytes(raw)
    error = opened(path)
    assert isinstance(error, mmsb.CorruptLogError)
    assert "damaged" in str(error)


def test_a_log_file_that_is_missing_or_foreign_is_noticed(path, tmp_path):
    memory = mmsb.open(path)
    work(memory, 5)
    memory.checkpoint()
    work(memory, 8)
    memory.checkpoint()
    work(memory, 12)
    abandon(memory)
    _, second, third = logs(path)
    other = tmp_path / "other.mmsb"
    made_small(other)
    keep = third.read_bytes()
    shutil.copy(logs(other)[0], third)
    assert isinstance(opened(path), mmsb.CorruptLogError)
    third.write_bytes(keep)
    assert opened(path)[0] == 12
    shutil.rmtree(path / "checkpoints" / f"{8:020d}")
    assert opened(path)[0] == 12  # from the older checkpoint, through both logs
    second.unlink()
    error = opened(path)
    assert isinstance(error, mmsb.CorruptLogError)


def test_a_segment_that_is_damaged_or_gone_is_an_error(path):
    memory = mmsb.open(path)
    memory.page("big", torch.randn(300_000))
    abandon(memory)
    [segment] = (path / "deltas").iterdir()
    raw = bytearray(segment.read_bytes())
    for at in (0, 9, 500, len(raw) - 1):
        raw[at] ^= 1
        segment.write_bytes(raw)
        assert isinstance(opened(path), mmsb.CorruptLogError)
        raw[at] ^= 1
    segment.write_bytes(raw[:-1])
    assert isinstance(opened(path), mmsb.CorruptLogError)
    segment.unlink()
    error = opened(path)
    assert isinstance(error, mmsb.CorruptLogError)
    assert segment.name in str(error)


# disks that fail


def faults(path, only=FailingDisk.METHODS):
    counter = FailingDisk(only=only)
    memory = open_on(counter, path / "count")
    before = len(counter.calls)
    work(memory, 10)
    memory.checkpoint()
    work(memory, 12)
    abandon(memory)
    return before, len(counter.calls)


@pytest.mark.parametrize("persistent", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_any_call_that_fails(tmp_path, code, persistent):
    begin, end = faults(tmp_path)
    for number in range(begin, end, 1 if SOAK else 5):
        path = tmp_path / f"{number}.mmsb"
        memory = open_on(FailingDisk(number, code, persistent=persistent), path)
        states, refused = {}, 0
        try:
            work(memory, 10, states)
            memory.checkpoint()
            work(memory, 12, states)
        except mmsb.StoreError as error:
            refused = 1
            told = error.errno == code or "takes no more records" in str(error)
            done = memory.tx
            assert told
            assert same(values(memory), states[done])
            if not persistent:  # the next attempt is right, or refused for good
                try:
                    memory.update("b", -1, indices=[0])
                    states[memory.tx] = values(memory)
                except mmsb.MMSBError:
                    pass
        done = memory.tx
        with_suppressed(lambda memory=memory: abandon(memory))
        again = open_on(Fast(), path)
        assert again.tx in {done, done + 1}, number
        if again.tx == done:
            assert same(values(again), states[done])
        abandon(again)
        shutil.rmtree(path)
        assert refused or number >= end - 8


def with_suppressed(call):
    with contextlib.suppress(mmsb.MMSBError, OSError):
        call()


@pytest.mark.parametrize("durability", ["process", "full"])
def test_a_failed_fsync_is_never_retried(path, durability):
    disk = FailingDisk(only=("datasync",))
    memory = open_on(disk, path, durability=durability)
    states = work(memory, 6)
    calls = len(disk.calls)
    disk._nth, disk._code = calls, errno.EIO
    with pytest.raises(mmsb.StoreError):
        (memory.update("a", 99.0), memory.sync())
    for _ in range(2):
        with pytest.raises(mmsb.StoreError, match="no more records"):
            memory.update("b", 1)
        with pytest.raises(mmsb.StoreError, match="no more records"):
            memory.sync()
    assert len(disk.calls) == calls + 1
    assert memory.tx in {6, 7}
    assert same({"b": values(memory)["b"]}, {"b": states[6]["b"]})
    with_suppressed(lambda: abandon(memory))
    with mmsb.open(path) as memory:
        assert memory.tx in {6, 7}


def test_a_disk_that_does_little_at_a_time(path):
    memory = open_on(ShortDisk(5), path)
    states = work(memory, 8)
    abandon(memory)
    with open_on(ShortDisk(3), path) as memory:
        assert same(values(memory), states[8])


def test_the_log_is_synced_by_itself(path, monkeypatch):
    monkeypatch.setattr(logwriter, "SYNC_SECONDS", 0.05)
    disk = FailingDisk(only=("datasync",))
    memory = open_on(disk, path)
    memory.page("a", torch.zeros(2))
    before = time.monotonic()
    while not disk.calls and time.monotonic() < before + 10:
        time.sleep(0.01)
    assert disk.calls
    count = len(disk.calls)
    time.sleep(0.2)
    assert len(disk.calls) == count  # nothing to do, nothing done
    memory.close()


# power cuts and kills, every one of them


@pytest.mark.parametrize("durability", ["process", "full"])
def test_every_state_that_a_crash_may_leave(tmp_path, durability, monkeypatch):
    monkeypatch.setattr(durable, "INLINE_BYTES", 700)  # some payloads in files of their own
    monkeypatch.setattr(logwriter, "SYNC_SECONDS", 3600.0)
    root, disk = tmp_path / "run.mmsb", RecordingDisk()
    memory = open_on(disk, root, durability=durability)
    states, marks = {0: {}}, [(len(disk.changes), 0)]
    original = memory._router.log.append

    def append(transaction, kept):
        original(transaction, kept)
        marks.append((len(disk.changes), transaction.tx))

    monkeypatch.setattr(memory._router.log, "append", append)
    born = len(disk.changes)
    work(memory, 8, states)
    memory.checkpoint()
    for turn in range(3):
        memory.update("b", turn, indices=[turn])  # "a" stays: its file is shared
        states[memory.tx] = values(memory)
        memory.checkpoint(keep=2)
    assert any(change.what == "link" for change in disk.changes)
    work(memory, 14, states)
    memory.sync()
    memory.checkpoint(keep=1)
    work(memory, 16, states)
    abandon(memory)
    counts = {"same": 0, "older": 0, "refused": 0}
    share = 1.0 if SOAK else 0.35
    for crash in crash_states(disk, root, tmp_path / "states", random.Random(2), share):
        if crash.after < born:  # there was no store yet to lose anything
            continue
        whole = crash.after - (crash.how == "torn")
        acknowledged = max(tx for at, tx in marks if at <= whole)
        found = opened(crash.path)
        shutil.rmtree(crash.path)
        safe = durability == "full" or crash.how in {"killed", "torn"}
        if isinstance(found, mmsb.MMSBError):
            assert not safe, (crash, found)
            assert crash.how == "some lost", (crash, found)
            counts["refused"] += 1
            continue
        tx, state, _ = found
        assert same(state, states[tx]), crash
        assert tx <= acknowledged + 1, crash
        assert tx >= acknowledged or not safe, crash
        counts["same" if tx >= acknowledged else "older"] += 1
    assert counts["same"] > 50
    assert (counts["older"] > 0) == (durability == "process")


# many processes


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


# checkpoints that share


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
        assert same(values(memory), wanted)
        newest = path / "checkpoints" / f"{memory.tx:020d}"
        found = {}
        for file in newest.glob("*.safetensors"):
            found |= load_file(file)
        assert all(same_bits(found[name], value) for name, value in wanted.items())


class NoLinks(Fast):
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
        assert same(values(memory), wanted)


# what was found by looking for it


class Interrupted(Fast):
    """A disk on which somebody presses Ctrl-C during the n-th call of one kind."""

    def __init__(self, name, nth):
        super().__init__()
        self._name, self._left = name, nth
        setattr(self, name, self._interrupt(getattr(self, name)))

    def _interrupt(self, call):
        def wrapper(*args):
            result = call(*args)
            self._left -= 1
            if self._left == 0:
                raise KeyboardInterrupt
            return result

        return wrapper


@pytest.mark.parametrize("size", [4, 300_000], ids=["inline", "in a file"])
@pytest.mark.parametrize(("name", "durability"), [("datasync", "full"), ("write", "process")])
def test_an_interrupt_during_a_commit_is_no_commit_or_a_whole_one(path, name, durability, size):
    for nth in range(2, 9):
        shutil.rmtree(path, ignore_errors=True)
        memory = open_on(Interrupted(name, 10_000), path, durability=durability)
        memory.page("a", torch.zeros(size))
        memory._store._files._left = nth
        done = []
        for step in range(1, 6):
            try:
                done.append(memory.update("a", torch.full((size,), float(step))))
            except KeyboardInterrupt:
                done.append(None)
        tx, value = memory.tx, memory["a"].tensor[0].item()
        assert [number for number in done if number] == list(range(2, tx + 1))
        abandon(memory)
        with mmsb.open(path) as memory:
            assert (memory.tx, memory["a"].tensor[0].item()) == (tx, value)
            memory.update("a", 9.0)


def test_an_interrupt_between_log_and_memory_is_no_commit(path):
    memory = open_on(Fast(), path)
    memory.page("a", torch.zeros(4))
    original = memory._router.log.append

    def append(transaction, kept):
        memory._router.log.append = original
        raise KeyboardInterrupt

    memory._router.log.append = append
    with pytest.raises(KeyboardInterrupt):
        memory.update("a", 1.0)
    assert (memory.tx, memory["a"].tensor[0].item()) == (1, 0.0)
    memory.update("a", 2.0)
    abandon(memory)
    with mmsb.open(path) as memory:
        assert (memory.tx, memory["a"].tensor[0].item()) == (2, 2.0)
        assert memory.at(1)["a"][0] == 0


def test_a_failed_fsync_of_a_large_commit_leaves_a_store_that_opens(path):
    disk = FailingDisk(only=("datasync",))
    memory = open_on(disk, path, durability="full")
    memory.page("big", torch.zeros(300_000))
    disk._nth, disk._code = len(disk.calls), errno.EIO
    with pytest.raises(mmsb.StoreError):
        memory.update("big", 1.0)
    abandon(memory)
    with mmsb.open(path) as memory:
        assert memory.tx in {1, 2}
        assert memory["big"].tensor[0] == memory.tx - 1


def test_a_torn_record_that_holds_a_log_is_torn(path, tmp_path):
    made_small(tmp_path / "other.mmsb")
    inner = torch.frombuffer(
        bytearray(logs(tmp_path / "other.mmsb")[0].read_bytes()), dtype=torch.uint8
    )
    memory = open_on(Fast(), path)
    memory.page("a", torch.zeros(4))
    memory.page("archive", inner)
    abandon(memory)
    [log] = logs(path)
    log.write_bytes(log.read_bytes()[:-100])
    with mmsb.open(path) as memory:
        assert memory.tx == 1
        assert memory.tail is not None


def test_a_file_that_was_begun_with_garbage_breaks_no_chain(path):
    memory = open_on(Fast(), path)
    work(memory, 5)
    memory.checkpoint()
    abandon(memory)
    newest = logs(path)[-1]
    newest.write_bytes(os.urandom(64))
    with mmsb.open(path) as memory:
        memory.update("a", 1.0)
        abandon(memory)
    with mmsb.open(path) as memory:
        assert memory.tx == 6
        assert memory.at(1)["a"].shape == (4, 3)
        assert memory.verify() == []


def test_damage_in_the_past_is_told_every_time(path):
    memory = open_on(Fast(), path)
    work(memory, 5)
    memory.checkpoint()
    memory.close()
    first = logs(path)[0]
    raw = bytearray(first.read_bytes())
    raw[200] ^= 1
    first.write_bytes(raw)
    with mmsb.open(path) as memory:
        for _ in range(2):
            with pytest.raises(mmsb.CorruptLogError):
                memory.at(1)
            with pytest.raises(mmsb.CorruptLogError):
                memory["a"].history()


def test_an_interrupt_at_any_line_of_an_append(path):
    code, lines = logwriter.LogWriter.append.__code__, 0

    def tracer(left):
        def local(_frame, event, _arg):
            nonlocal lines
            if event == "line":
                lines += 1
                if lines == left:
                    raise KeyboardInterrupt
            return local

        return lambda frame, _event, _arg: local if frame.f_code is code else None

    for number in range(1, 40):
        shutil.rmtree(path, ignore_errors=True)
        memory = open_on(Fast(), path, durability="full")
        memory.page("a", torch.zeros(4))
        lines, before = 0, sys.gettrace()
        sys.settrace(tracer(number))
        try:
            memory.update("a", 1.0)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        tx = memory.tx
        assert memory["a"].tensor[0] == tx - 1
        memory.update("a", 5.0)
        abandon(memory)
        with mmsb.open(path) as memory:
            assert (memory.tx, memory["a"].tensor[0].item()) == (tx + 1, 5.0)
        if lines < number:
            break
    assert lines < number
    assert number > 10
