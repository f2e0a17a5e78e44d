"""Collecting the past: what the rule keeps can be read bit for bit, what goes is gone, always."""

import contextlib
import errno
import fnmatch
import os
import random
import shutil
import tempfile
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import mmsb_torch as mmsb
from mmsb_torch.device import same_bits
from mmsb_torch.runtime.store import Files, list_checkpoints
from mmsb_torch.testing import FailingDisk, RecordingDisk, abandon, crash_states, open_on

GATE = os.environ.get("MMSB_GATE") == "1"
SHARE = 1.0 if GATE else 0.15
"""Of the moments at which a crash is tried."""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.mmsb"


def values(memory):
    return {name: memory[name].read() for name in memory}


def same(found, wanted):
    return found.keys() == wanted.keys() and all(same_bits(found[n], wanted[n]) for n in wanted)


def at_hand(memory):
    """Moment -> its values, of every moment that there is."""
    found = {}
    for tx in range(memory.tx + 1):
        with contextlib.suppress(mmsb.HistoryError):
            found[tx] = dict(memory.at(tx))
    return found


def size(path):
    """Bytes of a store; what checkpoints share counts once."""
    sizes = {}
    for item in path.rglob("*"):
        if item.is_file():
            status = item.stat()
            sizes[status.st_ino] = status.st_size
    return sum(sizes.values())


def checkpoints(path):
    return [ref.tx for ref in list_checkpoints(path)]


def run(memory, count, states, every=5):
    """Commits of every form, some labelled, a checkpoint now and then."""
    numbers = random.Random(memory.tx)
    for _ in range(count):
        tx = memory.tx
        if tx % 9 == 0:
            memory.page(f"page {tx}", torch.randn(4, 8))
        elif tx % 9 == 4:
            memory.update("page 0", torch.randn(4, 8))
        elif tx % 9 == 6:
            with memory.commit(f"release-{tx}", step=10 * tx) as changes:
                changes.update("page 0", float(tx), rows=[0])
        elif tx % 9 == 7 and "big" not in memory:
            memory.page("big", torch.randn(300_000))
        elif tx % 9 == 7:
            memory.update("big", torch.randn(300_000))
        else:
            memory.update("page 0", torch.randn(2, 8), rows=numbers.sample(range(4), 2))
        states[memory.tx] = values(memory)
        if every and memory.tx % every == 0:
            memory.checkpoint()


def test_the_newest_checkpoints_and_everything_since(path):
    states = {}
    with mmsb.open(path) as memory:
        run(memory, 32, states)
        before = size(path)
        planned = memory.collect(mmsb.Retention(keep_last=2), dry_run=True)
        assert size(path) == before
        assert set(at_hand(memory)) == set(range(1, 33))
        done = memory.collect(mmsb.Retention(keep_last=2))
        assert done == planned
        record = size(path) - done.left  # what says what went
        assert 0 < record <= 256
        assert before + record - size(path) == done.nbytes
        assert checkpoints(path) == [25, 30]
        assert [(span[0], span[-1]) for span in done.transactions] == [(1, 25)]
        assert str(done).startswith("checkpoints: 5, 10, 15, 20\ntransactions: 1 to 25\n")
        found = at_hand(memory)
        assert set(found) == set(range(25, 33))
        assert all(same(found[tx], states[tx]) for tx in found)
        with pytest.raises(mmsb.HistoryError, match="holds 25 to 32"):
            memory.at(7)
        with pytest.raises(mmsb.HistoryError, match="no transaction has label 'release-6'"):
            memory.at("release-6")
        assert memory.at(26).tx == 26
        assert next(change.tx for change in memory["page 0"].history()) > 25
        assert memory.verify() == []
        assert memory.collect(mmsb.Retention(keep_last=2)).empty
        run(memory, 3, states, every=0)
    for mode in "rw":
        with mmsb.open(path, mode=mode) as memory:
            found = at_hand(memory)
            assert set(found) == set(range(25, 36))
            assert all(same(found[tx], states[tx]) for tx in found)
            assert memory.verify() == []


def test_one_in_so_many_and_what_is_tagged(path):
    states = {}
    with mmsb.open(path) as memory:
        run(memory, 60, states)
        rule = mmsb.Retention(keep_last=1, every=20, tags=("release-1*",))
        memory.collect(rule)
        wanted = {5, 20, 40, 60, *range(15, 17)}  # release-15 is transaction 16
        found = at_hand(memory)
        assert wanted <= set(found)
        assert memory.at("release-15").tx == 16
        assert all(same(found[tx], states[tx]) for tx in found)
        assert set(checkpoints(path)) == {5, 15, 20, 40, 60}
        with pytest.raises(mmsb.HistoryError):
            memory.at("release-24")
        assert memory.verify() == []
        changed = memory.diff(5, 40)
        assert same({n: d.after for n, d in changed.items()}, {n: states[40][n] for n in changed})
        memory.restore("release-15")
        assert same_bits(memory["big"].read(), states[16]["big"])
        assert same_bits(memory["page 0"].read(), states[16]["page 0"])
    with mmsb.open(path) as memory:
        assert set(at_hand(memory)) >= wanted | {61}
        assert memory.verify() == []


def test_a_budget_of_bytes(path):
    states = {}
    with mmsb.open(path) as memory:
        run(memory, 60, states)
        whole = size(path)
        for budget in (whole // 2, whole // 4, 1):
            done = memory.collect(mmsb.Retention(max_bytes=budget))
            assert 0 <= size(path) - done.left <= 256  # what says what went
            assert done.left <= budget or done.over_budget
            found = at_hand(memory)
            assert memory.tx in found
            assert all(same(found[tx], states[tx]) for tx in found)
        assert done.over_budget
        assert "too small" in str(done)
        assert checkpoints(path) == [60]
        assert memory.verify() == []


def test_every_checkpoint_collects_if_the_memory_was_opened_so(path):
    states = {}
    with mmsb.open(path, retention=mmsb.Retention(keep_last=2)) as memory:
        heard = []
        memory.subscribe(heard.append, [mmsb.EventType.COLLECTED])
        run(memory, 33, states)
        assert checkpoints(path) == [25, 30]
        assert set(at_hand(memory)) == set(range(25, 34))
        assert len(heard) >= 4
        assert heard[0].fields["bytes"] > 0


def test_what_killed_writers_left_goes(path):
    with mmsb.open(path) as memory:
        memory.page("big", torch.zeros(300_000))
        memory.checkpoint()
        memory.update("big", torch.randn(300_000))
        named = sorted((path / "deltas").iterdir())
        orphans = [
            path / "deltas" / f"{2:020d}-r00009.safetensors",
            path / "deltas" / f"{77:020d}-r00000.safetensors",
        ]
        for orphan in orphans:
            orphan.write_bytes(bytes(100))
        torn = path / "log" / f"{1:020d}.tlog.torn-0badcafe"
        torn.write_bytes(bytes(10))
        foreign = path / "deltas" / "mine.txt"
        foreign.write_text("of the user")
        plan = memory.collect(dry_run=True)
        assert set(plan.leftovers) == set(orphans)  # the torn copy is newer than the checkpoint
        memory.checkpoint()
        assert set(memory.collect().leftovers) == {*orphans, torn}
        assert sorted((path / "deltas").iterdir()) == sorted([*named, foreign])
        assert memory.verify() == []
        assert set(at_hand(memory)) == {1, 2}


def test_a_moment_taken_before_is_never_wrong(path):
    """Its base may be gone: what is left of the past must not be taken for it."""
    with mmsb.open(path) as memory:
        memory.page("a", torch.zeros(4))
        twice = memory.derive(lambda a: a * 2, "a", name="twice")
        assert twice.tensor.sum() == 0
        for tx in range(2, 41):
            memory.update("a", float(tx))
            if tx % 10 == 0:
                memory.checkpoint()
        read, unread = memory.at(25), memory.at(25)
        assert read["a"][0] == 25
        assert read["twice"][0] == 50
        memory.collect(mmsb.Retention(keep_last=1, every=10))
        assert read["a"][0] == 25
        assert read["twice"][0] == 50
        for call in (
            lambda: unread["a"],
            lambda: unread["twice"],
            lambda: unread.epoch("a"),
        ):
            with pytest.raises(mmsb.CollectedError, match="was collected"):
                call()
        assert memory.at(20)["a"][0] == 20
        assert memory.at(20)["twice"][0] == 40


def test_nothing_goes_while_the_newest_checkpoint_is_damaged(path):
    with mmsb.open(path) as memory:
        for tx in range(1, 4):
            memory.page(f"page {tx}", torch.zeros(8))
            memory.checkpoint()
        shard = next((path / "checkpoints" / f"{3:020d}").glob("*.safetensors"))
        shard.write_bytes(shard.read_bytes()[:-1])
        with pytest.raises(mmsb.CorruptStoreError, match="no older one was removed"):
            memory.collect(mmsb.Retention(keep_last=1))
        assert checkpoints(path) == [1, 2, 3]
        assert memory.at(3)["page 3"].sum() == 0


def test_only_who_may(path):
    with mmsb.open() as memory, pytest.raises(mmsb.StoreError, match="RAM only"):
        memory.collect()
    states = {}
    with mmsb.open(path) as memory:
        run(memory, 12, states)
    with mmsb.open(path, mode="r") as memory:
        assert memory.collect(mmsb.Retention(keep_last=1), dry_run=True).checkpoints
        with pytest.raises(mmsb.ReadOnlyError):
            memory.collect(mmsb.Retention(keep_last=1))
    with pytest.raises(mmsb.ClosedError):
        memory.collect()


# readers


def test_a_reader_that_was_overtaken_is_told_and_opens_again(path):
    states = {}
    with mmsb.open(path) as writer:
        run(writer, 12, states)
        reader, other = mmsb.open(path, mode="r"), mmsb.open(path, mode="r")
        assert same(dict(other.at(3)), states[3])
        run(writer, 20, states)
        writer.collect(mmsb.Retention(keep_last=1))
        for tx in (7, 10, 11):
            with pytest.raises(mmsb.HistoryError):
                dict(reader.at(tx))
        for tx in (6, 7):  # it knew where to look
            with pytest.raises(mmsb.CollectedError, match="open it again"):
                dict(other.at(tx))
        assert same(values(reader), states[12])  # what it holds stays right
        reader.close()
        with mmsb.open(path, mode="r") as again:
            assert again.tx == 32
            assert same(dict(again.at(31)), states[31])


def test_a_reader_whose_checkpoint_went_goes_by_the_log(path):
    states = {}
    with mmsb.open(path) as writer:
        run(writer, 12, states)
        with mmsb.open(path, mode="r") as reader:
            writer.checkpoint(keep=1)  # the log stays
            for tx in (11, 12, 7, 3):
                assert same(dict(reader.at(tx)), states[tx])


def poll_for_ever(memory):
    while memory.tx:
        memory.propagate()


def test_a_follower_that_was_overtaken_is_told(path):
    states = {}
    with mmsb.open(path) as writer:
        run(writer, 3, states)
        stop = threading.Event()
        slow = mmsb.open(path, mode="follow")

        def dawdle(event):
            stop.wait(20)

        slow.subscribe(dawdle, [mmsb.EventType.DELTA_COMMITTED])
        writer.update("page 0", 1.0, rows=[1])  # it stops at this
        while slow.tx < 4:
            pass
        run(writer, 30, states)
        writer.collect(mmsb.Retention(keep_last=1))
        stop.set()
        with pytest.raises(mmsb.CollectedError, match="open it again"):
            poll_for_ever(slow)
        slow.close()
        with mmsb.open(path, mode="follow") as again:
            assert again.tx == writer.tx
            assert same(values(again), values(writer))


def test_opening_beside_a_busy_collector(path):
    """Whatever the collector removes meanwhile, a reader gets a whole state or is told."""
    stop, failures = threading.Event(), []

    def read():
        while not stop.is_set():
            try:
                with mmsb.open(path, mode="r") as reader:
                    total = float(reader["a"].read().sum())
                    assert total == 4 * reader.tx, (total, reader.tx)
            except Exception as error:
                failures.append(error)
                return

    with mmsb.open(path) as writer:
        writer.page("a", torch.ones(4))
        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        for tx in range(2, 120):
            writer.update("a", float(tx))
            if tx % 3 == 0:
                writer.checkpoint()
                writer.collect(mmsb.Retention(keep_last=1))
        stop.set()
        for thread in threads:
            thread.join()
    # a reader overtaken three times in a row says so; nothing else may happen
    assert all(isinstance(error, mmsb.MMSBError) for error in failures), failures
    assert not any(isinstance(error, mmsb.CorruptStoreError) for error in failures), failures


# the disk


@pytest.mark.parametrize("persistent", [False, True])
def test_the_disk_fails_at_any_call(tmp_path, persistent):
    model, states = tmp_path / "model.mmsb", {}
    memory = mmsb.open(model)
    run(memory, 22, states)
    abandon(memory)
    number = 0
    while True:
        root = tmp_path / f"{number}.mmsb"
        shutil.copytree(model, root)
        disk = FailingDisk()
        memory = open_on(disk, root)
        begun = len(disk.calls)
        disk._nth, disk._code, disk._persistent = begun + number, errno.EIO, persistent
        error = None
        try:
            memory.collect(mmsb.Retention(keep_last=1, tags=("release-6",)))
        except mmsb.MMSBError as failure:
            error = failure
        done = len(disk.calls) - begun <= number
        disk._nth = None
        abandon(memory)
        with mmsb.open(root) as memory:
            found = at_hand(memory)
            assert set(found) >= {20, 21, 22, 7}, (number, error)
            assert all(same(found[tx], states[tx]) for tx in found)
            assert not [item for item in memory.verify() if not item.torn], (number, error)
            memory.collect(mmsb.Retention(keep_last=1, tags=("release-6",)))
            assert set(at_hand(memory)) == {5, 6, 7, 8, 9, 10, 20, 21, 22}
        shutil.rmtree(root)
        if done:
            assert error is None
            return
        number += 1 if GATE else 11


def test_a_crash_at_any_moment(tmp_path):
    root, states = tmp_path / "run.mmsb", {0: {}}
    disk = RecordingDisk()
    memory = open_on(disk, root, durability="full")
    run(memory, 12, states)
    begun = len(disk.changes)
    memory.collect(mmsb.Retention(keep_last=1, tags=("release-6",)))
    run(memory, 6, states)
    memory.collect(mmsb.Retention(keep_last=1))
    last = memory.tx
    abandon(memory)
    seen = 0
    for crash in crash_states(disk, root, tmp_path / "states", random.Random(5), SHARE):
        if crash.after >= begun:
            with mmsb.open(crash.path) as memory:
                assert 12 <= memory.tx <= last
                found = at_hand(memory)
                assert {memory.tx, checkpoints(crash.path)[-1]} <= set(found)
                assert all(same(found[tx], states[tx]) for tx in found), crash
                assert not [item for item in memory.verify() if not item.torn], crash
                memory.collect(mmsb.Retention(keep_last=1))
                assert len(checkpoints(crash.path)) == 1
            seen += 1
        shutil.rmtree(crash.path)
    assert seen > 10


def test_the_record_is_on_the_disk_before_anything_goes(path):
    order = []

    class Watching(Files):
        def datasync(self, fd):
            order.append("sync")
            super().datasync(fd)

        def unlink(self, target):
            order.append("unlink")
            super().unlink(target)

    memory = open_on(Watching(), path)
    run(memory, 12, {})
    order.clear()
    memory.collect(mmsb.Retention(keep_last=1))
    assert order[0] == "sync"
    assert "unlink" in order
    memory.close()


# any order of things


class Collecting(RuleBasedStateMachine):
    """Commits, checkpoints, collecting by any rule, reopening and kills, against a list of states."""

    @initialize()
    def start(self):
        self.folder = Path(tempfile.mkdtemp(prefix="mmsb-collect-"))
        self.path = self.folder / "run.mmsb"
        self.memory = mmsb.open(self.path)
        self.states, self.labels = {}, {}
        self.there = set()  # moments that must be at hand
        self.memory.page("a", torch.zeros(6))
        self.note()

    def note(self, label=None):
        tx = self.memory.tx
        self.states[tx] = values(self.memory)
        self.there.add(tx)
        if label is not None:
            self.labels[label] = tx

    @rule(row=st.integers(0, 5), label=st.sampled_from([None, None, "v1", "v2", "x"]))
    def change(self, row, label):
        with self.memory.commit(label) as tx:
            tx.update("a", float(self.memory.tx + 1), rows=[row])
        self.note(label)

    @rule()
    def change_all(self):
        self.memory.update("a", float(self.memory.tx + 1))
        self.note()

    @rule()
    def make(self):
        self.memory.page(f"page {self.memory.tx}", torch.full((3,), float(self.memory.tx)))
        self.note()

    @rule(keep=st.none() | st.integers(1, 3))
    def checkpoint(self, keep):
        self.memory.checkpoint(keep=keep)
        if keep is not None:
            self.there &= set(at_hand(self.memory))

    @rule(
        keep=st.integers(1, 3),
        every=st.none() | st.integers(1, 6),
        tags=st.sampled_from([(), ("v*",), ("x", "v2")]),
        budget=st.none() | st.integers(2_000, 20_000),
    )
    def collect(self, keep, every, tags, budget):
        have = checkpoints(self.path)
        rule = mmsb.Retention(keep_last=keep, every=every, tags=tags, max_bytes=budget)
        plan = self.memory.collect(rule, dry_run=True)
        assert self.memory.collect(rule) == plan
        start = ([0] * keep + have)[-keep] if budget is None else (have or [0])[-1]
        tagged = {
            tx for label, tx in self.labels.items() if any(fnmatch.fnmatch(label, t) for t in tags)
        }
        spaced = {}
        for tx in have:
            if tx < start and every and budget is None:
                spaced.setdefault(tx // every, tx)
        wanted = {tx for tx in self.there if tx >= start} | (
            tagged | {*spaced.values()}
        ) & self.there
        found = set(at_hand(self.memory))
        assert wanted <= found
        self.there = found

    @rule()
    def reopen(self):
        self.memory.close()
        self.memory = mmsb.open(self.path)

    @rule()
    def kill(self):
        abandon(self.memory)
        self.memory = mmsb.open(self.path)

    @rule()
    def restore(self):
        target = min(self.there)
        self.memory.restore(target)
        self.note()
        assert all(same_bits(self.memory[n].read(), t) for n, t in self.states[target].items())

    @invariant()
    def what_is_at_hand_is_right(self):
        found = at_hand(self.memory)
        assert set(found) >= self.there
        assert all(same(found[tx], self.states[tx]) for tx in found if tx)
        for label, tx in self.labels.items():
            if tx in found:
                assert self.memory.at(label).tx == tx
            else:
                with contextlib.suppress(mmsb.HistoryError):
                    assert self.memory.at(label).tx in found

    def teardown(self):
        assert self.memory.verify() == []
        abandon(self.memory)
        shutil.rmtree(self.folder)


TestCollecting = Collecting.TestCase
TestCollecting.settings = settings(
    max_examples=max(settings().max_examples // 4, 10), stateful_step_count=25, deadline=None
)
