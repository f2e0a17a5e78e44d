"""Collecting the past: what the rule keeps can be read bit for bit, what goes is gone."""

import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.device import same_bits
from mmsb_torch.testing import same_values


def test_the_newest_checkpoints_and_everything_since(path, kit):
    states = {}
    with mmsb.open(path) as memory:
        kit.run(memory, 32, states)
        before = kit.size(path)
        planned = memory.collect(mmsb.Retention(keep_last=2), dry_run=True)
        assert kit.size(path) == before
        assert set(kit.at_hand(memory)) == set(range(1, 33))
        done = memory.collect(mmsb.Retention(keep_last=2))
        assert done == planned
        record = kit.size(path) - done.left  # what says what went
        assert 0 < record <= 256
        assert before + record - kit.size(path) == done.nbytes
        assert kit.checkpoints(path) == [25, 30]
        assert [(span[0], span[-1]) for span in done.transactions] == [(1, 25)]
        assert str(done).startswith("checkpoints: 5, 10, 15, 20\ntransactions: 1 to 25\n")
        found = kit.at_hand(memory)
        assert set(found) == set(range(25, 33))
        assert all(same_values(found[tx], states[tx]) for tx in found)
        with pytest.raises(mmsb.HistoryError, match="holds 25 to 32"):
            memory.at(7)
        with pytest.raises(mmsb.HistoryError, match="no transaction has label 'release-6'"):
            memory.at("release-6")
        assert memory.at(26).tx == 26
        assert next(change.tx for change in memory["page 0"].history()) > 25
        assert memory.verify() == []
        assert memory.collect(mmsb.Retention(keep_last=2)).empty
        kit.run(memory, 3, states, every=0)
    for mode in "rw":
        with mmsb.open(path, mode=mode) as memory:
            found = kit.at_hand(memory)
            assert set(found) == set(range(25, 36))
            assert all(same_values(found[tx], states[tx]) for tx in found)
            assert memory.verify() == []


def test_one_in_so_many_and_what_is_tagged(path, kit):
    states = {}
    with mmsb.open(path) as memory:
        kit.run(memory, 60, states)
        rule = mmsb.Retention(keep_last=1, every=20, tags=("release-1*",))
        memory.collect(rule)
        wanted = {5, 20, 40, 60, *range(15, 17)}  # release-15 is transaction 16
        found = kit.at_hand(memory)
        assert wanted <= set(found)
        assert memory.at("release-15").tx == 16
        assert all(same_values(found[tx], states[tx]) for tx in found)
        assert set(kit.checkpoints(path)) == {5, 15, 20, 40, 60}
        with pytest.raises(mmsb.HistoryError):
            memory.at("release-24")
        assert memory.verify() == []
        changed = memory.diff(5, 40)
        assert same_values(
            {n: d.after for n, d in changed.items()}, {n: states[40][n] for n in changed}
        )
        memory.restore("release-15")
        assert same_bits(memory["big"].read(), states[16]["big"])
        assert same_bits(memory["page 0"].read(), states[16]["page 0"])
    with mmsb.open(path) as memory:
        assert set(kit.at_hand(memory)) >= wanted | {61}
        assert memory.verify() == []


def test_a_budget_of_bytes(path, kit):
    states = {}
    with mmsb.open(path) as memory:
        kit.run(memory, 60, states)
        whole = kit.size(path)
        for budget in (whole // 2, whole // 4, 1):
            done = memory.collect(mmsb.Retention(max_bytes=budget))
            assert 0 <= kit.size(path) - done.left <= 256  # what says what went
            assert done.left <= budget or done.over_budget
            found = kit.at_hand(memory)
            assert memory.tx in found
            assert all(same_values(found[tx], states[tx]) for tx in found)
        assert done.over_budget
        assert "too small" in str(done)
        assert kit.checkpoints(path) == [60]
        assert memory.verify() == []


def test_every_checkpoint_collects_if_the_memory_was_opened_so(path, kit):
    states = {}
    with mmsb.open(path, retention=mmsb.Retention(keep_last=2)) as memory:
        heard = []
        memory.subscribe(heard.append, [mmsb.EventType.COLLECTED])
        kit.run(memory, 33, states)
        assert kit.checkpoints(path) == [25, 30]
        assert set(kit.at_hand(memory)) == set(range(25, 34))
        assert len(heard) >= 4
        assert heard[0].fields["bytes"] > 0


def test_what_killed_writers_left_goes(path, kit):
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
        assert set(kit.at_hand(memory)) == {1, 2}


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


def test_nothing_goes_while_the_newest_checkpoint_is_damaged(path, kit):
    with mmsb.open(path) as memory:
        for tx in range(1, 4):
            memory.page(f"page {tx}", torch.zeros(8))
            memory.checkpoint()
        shard = next((path / "checkpoints" / f"{3:020d}").glob("*.safetensors"))
        shard.write_bytes(shard.read_bytes()[:-1])
        with pytest.raises(mmsb.CorruptStoreError, match="no older one was removed"):
            memory.collect(mmsb.Retention(keep_last=1))
        assert kit.checkpoints(path) == [1, 2, 3]
        assert memory.at(3)["page 3"].sum() == 0


def test_only_who_may(path, kit):
    with mmsb.open() as memory, pytest.raises(mmsb.StoreError, match="RAM only"):
        memory.collect()
    states = {}
    with mmsb.open(path) as memory:
        kit.run(memory, 12, states)
    with mmsb.open(path, mode="r") as memory:
        assert memory.collect(mmsb.Retention(keep_last=1), dry_run=True).checkpoints
        with pytest.raises(mmsb.ReadOnlyError):
            memory.collect(mmsb.Retention(keep_last=1))
    with pytest.raises(mmsb.ClosedError):
        memory.collect()
