"""The variables after each tracked cell: a memory of their own, with a delta for what each changed.

Apart from the user's memory, whose pages and transactions stay the user's. A cell is one transaction
of the history: whole tensors are handed over, and the memory keeps what differs.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmsb_torch.instrumentation.capture.mode import unseen
from mmsb_torch.instrumentation.context import plain_torch
from mmsb_torch.instrumentation.identity import LEDGER
from mmsb_torch.memory import Memory
from mmsb_torch.memory import open as open_memory
from mmsb_torch.notebook.variables import Freezing, Objects, Thawing, Tree, Unkept

MOST_BYTES = 1 << 30
"""A larger tensor is not kept."""
IN_MEMORY_BYTES = 2 << 30
"""What a history without a path may take; then it begins anew."""
_COUNTER, _KEY = "cells", "notebook"
_FIELDS = ("title", "said", "memory", "memory_tx", "failed")


@dataclass(frozen=True, slots=True)
class Entry:
    """One tracked cell."""

    number: int
    tx: int
    """Its transaction in the history."""
    time_ns: int
    title: str
    """The first line of it."""
    said: str
    """What ran and what was reused."""
    memory: str
    """Which memory it worked with: its path, or a mark of this session's."""
    memory_tx: int
    """The last transaction of that memory when the cell was over."""
    failed: str
    """The error that it raised; empty if none."""
    trees: Mapping[str, Tree] = field(repr=False)
    """The variables that changed."""
    unkept: Mapping[str, str] = field(repr=False)
    """Those that changed and cannot be kept, and why."""
    gone: tuple[str, ...]
    """Those that were deleted."""
    there: tuple[str, ...]
    """Those that it was the first to assign, and that were there before: nobody knows how."""


@dataclass(frozen=True, slots=True)
class Given:
    """What a checkout gives back."""

    values: Mapping[str, Any]
    gone: tuple[str, ...]
    """Variables that there were not yet: to be deleted. They are in a later cell."""
    left: Mapping[str, str]
    """Variables that are left as they are, and why."""
    loads: tuple[tuple[Tensor, Tensor], ...]
    """What is to be written into the parameters and buffers of modules."""
    detached: tuple[str, ...]
    """Variables that come back without how they were computed (for backward)."""


class History:
    """Variables by cell. For the thread of the notebook.

    Args:
        path: where it is kept, or None: in memory.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.session = uuid.uuid4().hex[:8]
        self._objects = Objects()
        self._memory: Memory | None = None
        self._tokens: dict[str, object] = {}
        self.entries: dict[int, Entry] = {}
        self._first = 1
        if path is not None and path.exists():
            self._load(self._opened())

    @property
    def names(self) -> set[str]:
        """Every variable that a tracked cell assigned."""
        return {name for entry in self.entries.values() for name in _touched(entry)}

    @property
    def nbytes(self) -> int:
        """Bytes of deltas that are kept, without what describes them."""
        return 0 if self._memory is None else int(self._memory.stats()["history_bytes"])

    @property
    def next_number(self) -> int:
        """Of the next cell."""
        return max(self.entries, default=self._first - 1) + 1

    def now(self) -> dict[str, Tree | str]:
        """The last tree of each variable, or why there is none; deleted ones are left out."""
        return self._at(self.next_number)

    def record(
        self, variables: Mapping[str, Any], about: Mapping[str, Any], *, only_changes: bool = False
    ) -> Entry | None:
        """Keep the variables as they are now.

        Args:
            variables: all that cells assigned and that are there, by name.
            about: the fields of `Entry` that say what the cell was.
            only_changes: make no entry if nothing changed.

        Raises:
            StoreError: it cannot be written.
        """
        with unseen(), plain_torch(torch.device("cpu")):
            if self.path is None and self.nbytes > IN_MEMORY_BYTES:
                self._begin_anew()
            return self._record(variables, about, only_changes=only_changes)

    def checkout(self, number: int) -> Given:
        """The variables as they were after a cell, made anew; nothing is changed yet.

        Raises:
            KeyError: no such cell.
        """
        entry = self.entries[number]
        with unseen(), plain_torch(torch.device("cpu")):
            moment = self._opened().at(entry.tx)
            thawing = Thawing(moment.__getitem__, self._objects, self.session)
            then = self._at(number + 1)
            values, left, detached = {}, {}, []
            loads: list[tuple[Tensor, Tensor]] = []
            for name, tree in then.items():
                if isinstance(tree, str):
                    left[name] = tree
                    continue
                thawing.loads, thawing.detached = [], False
                try:
                    values[name] = thawing.thaw(tree)
                    loads += thawing.loads
                    detached += [name] * thawing.detached
                except Unkept as reason:
                    left[name] = str(reason)
            later = {name: tree for name, tree in self.now().items() if name not in then}
            there = {name for item in self.entries.values() for name in item.there}
            gone = []
            for name, tree in later.items():
                if name in there:
                    left[name] = "no tracked cell had assigned it then"
                elif isinstance(tree, str):
                    left[name] = "it was made later, and could not be had back"
                else:
                    gone.append(name)
            return Given(values, tuple(gone), left, tuple(loads), tuple(detached))

    def close(self) -> None:
        """Let go of the store."""
        if self._memory is not None and not self._memory.closed:
            self._memory.close()

    def _opened(self) -> Memory:
        if self._memory is None or self._memory.closed:
            self._memory = open_memory(self.path) if self.path is not None else open_memory()
        return self._memory

    def _begin_anew(self) -> None:
        self._first = self.next_number
        self.close()
        self._memory, self.entries, self._tokens = None, {}, {}

    def _record(
        self, variables: Mapping[str, Any], about: Mapping[str, Any], *, only_changes: bool
    ) -> Entry | None:
        memory, number = self._opened(), self.next_number
        freezing = Freezing(self._objects, self.session, MOST_BYTES)
        trees, unkept = freezing.freeze(variables)
        pages, written = self._pages(freezing.tensors)
        before = self.now()
        changed = {}
        for name, tree in trees.items():
            named = _with_pages(tree, pages)
            if before.get(name) != named or any(path in written for path in _tensors(tree)):
                changed[name] = named
        unkept = {name: why for name, why in unkept.items() if before.get(name) != why}
        gone = tuple(name for name in before if name not in variables)
        if only_changes and not (changed or unkept or gone):
            return None
        plain = {key: about.get(key, "") for key in _FIELDS}
        there = tuple(about.get("there", ()))
        plain |= {"number": number, "trees": changed, "unkept": unkept}
        plain |= {"gone": list(gone), "there": list(there)}
        memory.page(_COUNTER, torch.zeros((), dtype=torch.int64))
        known = [path for path in written if pages[path] in memory]
        for path in written.keys() - known:
            memory.page(pages[path], freezing.tensors[path])
        with memory.commit(f"cell {number}", metadata={_KEY: plain}) as tx:
            tx.update(_COUNTER, torch.tensor(number))
            for path in known:
                # a copy, for comparing clears the flag that says that nobody wrote to the user's
                tx.update(pages[path], freezing.tensors[path].clone())
        self._tokens.update({pages[path]: token for path, token in written.items()})
        about = {**plain, "gone": gone, "there": there}
        entry = Entry(tx=memory.tx, time_ns=time.time_ns(), **about)
        self.entries[number] = entry
        return entry

    def _pages(self, tensors: Mapping[str, Tensor]) -> tuple[dict[str, str], dict[str, Any]]:
        """The page of each tensor, and which tensors are not what was last written there."""
        pages, written = {}, {}
        for path, tensor in tensors.items():
            look = f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)} {tensor.device}"
            name = pages[path] = f"{path} {look}"
            token: object = object()
            if tensor.is_cpu and not tensor.is_quantized:
                with LEDGER.watching():
                    token = LEDGER.token(tensor)
            if self._tokens.get(name) is not token:
                written[path] = token
        return pages, written

    def _at(self, number: int) -> dict[str, Tree | str]:
        """The trees of all variables before a cell."""
        found: dict[str, Tree | str] = {}
        for entry in sorted(self.entries.values(), key=lambda entry: entry.number):
            if entry.number < number:
                found |= entry.trees
                found |= entry.unkept
                for name in entry.gone:
                    found.pop(name, None)
        return found

    def _load(self, memory: Memory) -> None:
        if _COUNTER not in memory:
            return
        log = memory._router.log  # noqa: SLF001 - the facade has no way to metadata of commits
        log.reach_back()
        for tx in log.of_page(memory[_COUNTER].id, log.last):
            record = log[tx]
            about = record.metadata.get(_KEY)
            if about is None:
                continue
            fields = {key: about[key] for key in (*_FIELDS, "number", "trees", "unkept")}
            fields |= {key: tuple(about[key]) for key in ("gone", "there")}
            entry = Entry(tx=tx, time_ns=record.time_ns, **fields)
            self.entries[entry.number] = entry
        self.entries = dict(sorted(self.entries.items()))


def _touched(entry: Entry) -> set[str]:
    return {*entry.trees, *entry.unkept, *entry.gone}


def _tensors(tree: Any) -> set[str]:
    """The names of tensors in a tree."""
    if isinstance(tree, list):
        return {name for item in tree for name in _tensors(item)}
    if not isinstance(tree, dict):
        return set()
    own = {tree["tensor"]} if isinstance(tree.get("tensor"), str) else set()
    return own.union(*(_tensors(item) for item in tree.values()))


def _with_pages(tree: Any, pages: Mapping[str, str]) -> Any:
    """A tree whose tensors are named as their pages are."""
    if isinstance(tree, list):
        return [_with_pages(item, pages) for item in tree]
    if not isinstance(tree, dict):
        return tree
    named = {key: _with_pages(item, pages) for key, item in tree.items()}
    if isinstance(tree.get("tensor"), str):
        named["tensor"] = pages[tree["tensor"]]
    return named
