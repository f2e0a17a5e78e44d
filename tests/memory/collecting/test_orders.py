"""Collecting in any order with all else, against a list of states."""

import contextlib
import fnmatch
import shutil
import tempfile
from pathlib import Path

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import mmsb_torch as mmsb
from mmsb_torch.device import same_bits
from mmsb_torch.runtime.store import list_checkpoints
from mmsb_torch.testing import abandon, same_values, values


def at_hand(memory):
    """Moment -> its values, of every moment that there is."""
    found = {}
    for tx in range(memory.tx + 1):
        with contextlib.suppress(mmsb.HistoryError):
            found[tx] = dict(memory.at(tx))
    return found


def checkpoints(path):
    return [ref.tx for ref in list_checkpoints(path)]


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
        assert all(same_values(found[tx], self.states[tx]) for tx in found if tx)
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
