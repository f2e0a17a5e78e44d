"""A Hypothesis state machine: a memory and the obvious model, side by side."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from torch import Tensor

from mmsb_torch.device import changed_elements, same_bits, words
from mmsb_torch.memory import Memory
from mmsb_torch.memory import open as open_memory
from mmsb_torch.testing.disks import abandon
from mmsb_torch.testing.model import ModelMemory
from mmsb_torch.testing.strategies import (
    DTYPES,
    Append,
    Update,
    appends,
    apply_append,
    random_bits,
    shapes,
    updates,
)
from mmsb_torch.types import Spec


def flipped(value: Tensor) -> Tensor:
    """The value's words, the other way round along the first dimension."""
    return words(value).flip(0) if value.dim() else words(value).clone()


def first_row(value: Tensor) -> Tensor:
    """Only the first row: most edits do not change it, so dependants are cut off."""
    return value[:1] if value.dim() else value


def doubled(a: Tensor, b: Tensor) -> Tensor:
    """The words of two pages of one spec, one after the other; or the first."""
    if a.shape == b.shape and a.dtype == b.dtype:
        return torch.stack([words(a), words(b)])
    return a


def _differs(old: Tensor, new: Tensor, rows: int | None) -> Tensor:
    """Where two values differ in the rows that both have."""
    return changed_elements(old, new) if rows is None else changed_elements(old[:rows], new[:rows])


_ONE: tuple[Callable[..., Tensor], ...] = (flipped, first_row)


class MemoryMachine(RuleBasedStateMachine):
    """pages, updates, transactions, derived pages, checkpoints, reopening, kills, restores.

    Run it with `TestX = MemoryMachine.TestCase`. Every rule acts on a memory with a path and on
    `ModelMemory`; the invariants compare every page, its epoch and its mask.
    """

    names = Bundle("names")
    derived = Bundle("derived")

    @initialize()
    def start(self) -> None:
        """Open both."""
        self.folder = Path(tempfile.mkdtemp(prefix="mmsb-machine-"))
        self.memory: Memory = open_memory(self.folder / "run.mmsb")
        self.model = ModelMemory()
        self.count = 0
        self.aliases: list[tuple[Tensor, Tensor]] = []
        """Tensors that somebody holds, and what they have to be."""

    @rule(
        target=names,
        shape=shapes(),
        dtype=st.sampled_from(DTYPES),
        seed=st.integers(0, 2**31),
    )
    def make_page(self, shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> str:
        """A new page of random bits."""
        name = f"page {self.count}"
        self.count += 1
        value = random_bits(shape, dtype, seed)
        self.memory.page(name, value)
        self.model.page(name, value)
        return name

    @rule(name=names, data=st.data(), then_read=st.booleans())
    def update(self, name: str, data: st.DataObject, then_read: bool) -> None:
        """One update, in any form; derived pages may be read between updates, or left stale."""
        value = self.model.state[name]
        change = data.draw(updates(tuple(value.shape), value.dtype))
        self.memory.update(name, change.values, **change.options)
        self.model.commit([(name, change)])
        if then_read:
            self.read_all()

    @rule()
    def read_all(self) -> None:
        """Every derived page equals full recomputation."""
        for name in self.model.derived:
            self.read(name)

    @rule(name=names)
    def write_the_same(self, name: str) -> None:
        """An update that changes no bit is a delta all the same."""
        value = self.model.state[name]
        self.memory.update(name, value)
        self.model.commit([(name, Update(value))])

    @rule(name=names, data=st.data(), held=st.booleans())
    def append(self, name: str, data: st.DataObject, held: bool) -> None:
        """Rows are added; an alias taken before keeps its rows and their values."""
        value = self.model.state[name]
        if not value.dim():
            return
        change = data.draw(appends(tuple(value.shape), value.dtype))
        alias = self.memory[name].tensor if held else None
        self.memory.append(name, change.values)
        self.model.commit([(name, change)])
        assert alias is None or same_bits(alias, value)
        self.aliases = [(alias, value)] if alias is not None else []

    @rule(chosen=st.lists(names, min_size=1, max_size=4), data=st.data(), fail=st.booleans())
    def commit(self, chosen: list[str], data: st.DataObject, fail: bool) -> None:
        """Several updates and appends, some of one page, together; or an exception and none of them."""
        changes: list[tuple[str, Update | Append]] = []
        state = dict(self.model.state)
        for name in chosen:
            value = state[name]
            if value.dim() and data.draw(st.booleans()):
                rows = data.draw(appends(tuple(value.shape), value.dtype))
                state[name] = apply_append(value, rows)
                changes.append((name, rows))
            else:
                changes.append((name, data.draw(updates(tuple(value.shape), value.dtype))))
        label = f"label {self.count}"
        self.count += 1
        try:
            with self.memory.commit(label) as tx:
                for name, change in changes:
                    if isinstance(change, Append):
                        tx.append(name, change.values)
                    else:
                        tx.update(name, change.values, **change.options)
                if fail:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            return
        self.model.commit(changes, label)

    @rule(target=derived, name=st.one_of(names, derived), function=st.sampled_from(_ONE))
    def derive_one(self, name: str, function: Callable[..., Tensor]) -> str:
        """A page derived from one page, root or derived."""
        return self._derive(function, [name])

    @rule(target=derived, a=st.one_of(names, derived), b=st.one_of(names, derived))
    def derive_two(self, a: str, b: str) -> str:
        """A page derived from two: diamonds arise."""
        return self._derive(doubled, [a, b])

    def _derive(self, function: Callable[..., Tensor], inputs: list[str]) -> str:
        name = f"derived {self.count}"
        self.count += 1
        self.memory.derive(function, *inputs, name=name)
        self.model.derived[name] = (function, inputs)
        return name

    @rule(name=derived)
    def read(self, name: str) -> None:
        """One derived page equals full recomputation."""
        assert same_bits(self.memory[name].tensor, self.model.value(name).contiguous())

    @rule()
    def propagate(self) -> None:
        """Everything is computed, and nothing twice."""
        self.memory.propagate()
        before = self.memory.stats()["recomputed"]
        self.memory.propagate()
        assert self.memory.stats()["recomputed"] == before

    @rule(data=st.data())
    def look_back(self, data: st.DataObject) -> None:
        """Any moment at hand is rebuilt bit for bit, derived pages included."""
        if not self.model.tx:
            return
        tx = data.draw(st.integers(1, self.model.tx))
        moment = self.memory.at(tx)
        for name, value in self.model.states[tx].items():
            assert same_bits(moment[name], value), name
        for name in self.model.derived:
            if name in moment:
                assert same_bits(moment[name], self.model.value(name, tx).contiguous()), name

    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        """Restoring is a transaction of its own."""
        if not self.model.tx:
            return
        tx = data.draw(st.integers(1, self.model.tx))
        self.memory.restore(tx)
        self.model.restore(tx)

    @rule(data=st.data())
    def compare(self, data: st.DataObject) -> None:
        """Two moments differ where their values do; rows that one does not have differ."""
        if not self.model.tx:
            return
        a, b = (data.draw(st.integers(1, self.model.tx)) for _ in "ab")
        then, now = self.model.states[a], self.model.states[b]
        found = self.memory.diff(a, b)
        both = {name for name in then if name in now}
        assert {name for name in both if name in found} == {
            name for name in both if not same_bits(then[name], now[name])
        }
        for name in both & set(found):
            mask, old, new = found[name].region.mask(), then[name], now[name]
            rows = min(len(old), len(new)) if old.dim() else None
            assert tuple(mask.shape) == max(old.shape, new.shape)
            assert torch.equal(mask[:rows] if rows is not None else mask, _differs(old, new, rows))
            assert rows is None or bool(mask[rows:].all())

    @rule(name=names, data=st.data())
    def look_at_the_journal(self, name: str, data: st.DataObject) -> None:
        """What changed since an epoch is never less than what did, whatever came in between."""
        epoch = data.draw(st.integers(0, self.model.epochs[name]))
        old, new = self.model.values[name][epoch], self.model.state[name]
        entry = self.memory[name]._entry  # noqa: SLF001 - nobody else asks for it yet
        told = entry.journal.since(epoch, tuple(new.shape)).mask()
        rows = min(len(old), len(new)) if old.dim() else None
        changed = _differs(old, new, rows)
        assert not bool((changed & ~(told if rows is None else told[:rows])).any())
        assert rows is None or bool(told[rows:].all())

    @rule(keep=st.integers(1, 3))
    def checkpoint(self, keep: int) -> None:
        """A checkpoint clears the masks."""
        self.memory.checkpoint(keep=keep)
        for name, mask in self.model.touched.items():
            self.model.touched[name] = torch.zeros_like(mask)

    @rule(again=st.booleans())
    def reopen(self, again: bool) -> None:
        """Close and open: the state is the same, and so is its history."""
        self.memory.close()
        for name, mask in self.model.touched.items():
            self.model.touched[name] = torch.zeros_like(mask)
        self._open(again)

    @rule(again=st.booleans())
    def kill(self, again: bool) -> None:
        """What was committed is there after a kill, and masks still say since which checkpoint."""
        abandon(self.memory)
        self._open(again)

    def _open(self, again: bool) -> None:
        self.memory = open_memory(self.folder / "run.mmsb")
        assert self.memory.tx == self.model.tx
        assert self.memory.tail is None
        for name, (function, inputs) in self.model.derived.items():
            if again:
                self.memory.derive(function, *inputs, name=name)
            else:
                self.memory.derive(lambda *values, f=function: f(*values), *inputs, name=name)

    @invariant()
    def same_state(self) -> None:
        """Every root page has the model's bits, epoch and mask."""
        if not hasattr(self, "memory"):
            return
        for name, value in self.model.state.items():
            page = self.memory[name]
            assert same_bits(page.tensor, value), name
            assert Spec.of(page.tensor) == Spec.of(value)
            assert page.epoch == self.model.epochs[name], name
            assert torch.equal(page.mask, self.model.touched[name]), name
        assert self.memory.tx == self.model.tx
        assert all(same_bits(alias, value) for alias, value in self.aliases)

    def teardown(self) -> None:
        """Close, and remove the store."""
        if hasattr(self, "memory"):
            self.memory.close()
            shutil.rmtree(self.folder, ignore_errors=True)
