"""A run's pages: a page for each tensor, and deltas for those that are not what their pages hold.

What nobody can have written to since it was last found equal to its page (the ledger says so) is not
read. The rest is compared where it is, and what differs is copied: by rows or elements where that is
less, whole where most of it changed, as after a step of a dense optimizer.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from mmsb_torch.device import copy_of, require_dense, same_bits
from mmsb_torch.device.allocation import LARGE
from mmsb_torch.errors import MismatchError, PageExistsError, PageMutatedError, UnsupportedError
from mmsb_torch.instrumentation.identity import LEDGER, Evidence
from mmsb_torch.memory import Memory, making
from mmsb_torch.runtime.state import Entry, next_delta_id
from mmsb_torch.runtime.state.batch import Base
from mmsb_torch.types import NARROW_BYTES, Delta, PageInfo, Region, Spec, make_delta, narrow

_WHOLE = 8
"""How often a tensor that changed as a whole is taken to do so again, before that is looked at."""
_CPU = torch.device("cpu")


class Leaf:
    """One tensor of a run, and what is known of it."""

    __slots__ = ("entry", "evidence", "name", "tx", "whole")

    def __init__(self, name: str) -> None:
        self.name = name
        self.entry: Entry | None = None
        self.evidence: Evidence | None = None
        self.tx = -1
        """The transaction after which the page and the tensor were equal: evidence is from then."""
        self.whole = 0


class Given(NamedTuple):
    """A tensor to be kept."""

    tensor: Tensor
    fixed: bool
    """Whether it may never have another shape or dtype."""
    ours: bool
    """Whether nobody else has its memory: it need not be copied."""


class Draft:
    """What a commit will do: pages that begin, changes of others."""

    def __init__(self, next_id: int) -> None:
        self.created: list[PageInfo] = []
        self.deltas: list[Delta] = []
        self.bases: dict[int, Base] = {}
        self.changed: list[Leaf] = []
        self.names: dict[str, str] = {}
        """Key -> page, of those tensors whose page has another name."""
        self.next_id = next_id

    @property
    def nbytes(self) -> int:
        """Bytes of values and masks."""
        return sum(delta.nbytes for delta in self.deltas)


class Pages:
    """The pages of one run, by the keys of its tensors. For one thread.

    Args:
        memory: where they are.
        run: the run's name; its pages say so.
        prefix: of the pages' names.
        watch: whether to ask the ledger; else everything is compared each time.
    """

    def __init__(self, memory: Memory, run: str, prefix: str, *, watch: bool) -> None:
        self._memory, self._run, self._prefix, self._watch = memory, run, prefix, watch
        self._table = memory._router.table  # noqa: SLF001 - a run is a part of the facade
        self._leaves: dict[str, Leaf] = {}

    def name(self, key: str) -> str:
        """The page that a tensor is in unless the run says otherwise."""
        return self._prefix + key

    def ids(self) -> set[int]:
        """The ids of all pages of this run."""
        return {entry.info.id for entry in self._table if self._is_ours(entry)}

    def _is_ours(self, entry: Entry) -> bool:
        return entry.info.metadata.get("run") == self._run

    def draft(self, given: Mapping[str, Given]) -> Draft:
        """Compare what is given with the pages, and copy what differs.

        The caller holds the router's `creating` until it has committed the draft.

        Raises:
            UnsupportedError: a tensor that no page can hold.
            PageExistsError: a page of that name is there and not of this run.
        """
        draft = Draft(self._table.free_id(None, ""))
        known = [(key, leaf) for key in given if (leaf := self._known(key)) is not None]
        doubtful = LEDGER.doubtful([leaf.evidence for _, leaf in known]) if known else []
        unchanged = {key for key, _ in known}.difference(known[place][0] for place in doubtful)
        for key, tensor in given.items():
            if key in unchanged and self._leaves[key].evidence.tensor is tensor.tensor:  # type: ignore[union-attr]
                self._note(draft, key, self._leaves[key])
            else:
                self._stage(draft, key, tensor)
        return draft

    def add(self, draft: Draft, key: str, given: Given) -> None:
        """Draft one tensor more; raises as `draft`."""
        self._stage(draft, key, given)

    def committed(self, draft: Draft, tx: int) -> None:
        """The draft was committed as transaction `tx`."""
        for leaf in draft.changed:
            leaf.tx = tx
            leaf.entry = leaf.entry or self._table.get(leaf.name)

    def keep_only(self, keys: Mapping[str, object]) -> None:
        """Let go of other tensors; their pages stay."""
        for key in self._leaves.keys() - keys.keys():
            self._leaves[key].evidence = None

    def _known(self, key: str) -> Leaf | None:
        """What is known of a tensor whose page nobody else changed, if there is evidence."""
        leaf = self._leaves.get(key)
        if leaf is None or leaf.evidence is None or leaf.entry is None:
            return None
        return leaf if leaf.entry.tx == leaf.tx else None

    def _note(self, draft: Draft, key: str, leaf: Leaf) -> None:
        if leaf.name != self._prefix + key:
            draft.names[key] = leaf.name

    def _stage(self, draft: Draft, key: str, given: Given) -> None:
        tensor, fixed, ours = given
        found = self._leaves.get(key)
        if found is not None and found.whole and _is_alike(tensor, found.entry):
            self._note(draft, key, found)
            self._copy(draft, found, tensor)
            return
        problem = require_dense(tensor)
        if problem is not None:
            raise UnsupportedError(f"{key!r} cannot be kept in a page: found {problem}")
        source = tensor.detach()
        if not source.is_cpu:
            source, ours = source.cpu(), True
        if not source.is_contiguous() or source.is_conj() or source.is_neg():
            source, ours = copy_of(source), True
        leaf = self._leaf(key, source, fixed=fixed)
        self._note(draft, key, leaf)
        if leaf.entry is None:
            self._create(draft, leaf, source if ours else copy_of(source))
        elif self._is_equal(draft, leaf, leaf.entry, source, ours=ours) and self._watch:
            del source  # who holds the memory cannot be watched
            leaf.evidence = None if given.ours else LEDGER.attest(tensor)

    def _leaf(self, key: str, source: Tensor, *, fixed: bool) -> Leaf:
        """The tensor's leaf, and a page that can take it if there is one."""
        leaf = self._leaves.get(key)
        if leaf is None:
            leaf = self._leaves[key] = Leaf(self._prefix + key)
        number = 1
        while True:
            if leaf.entry is None:
                leaf.entry = self._table.get(leaf.name)
            if leaf.entry is None:
                return leaf
            if not self._is_ours(leaf.entry):
                raise PageExistsError(
                    f"page {leaf.name!r} exists, and is not one of run {self._run!r}: expected a "
                    "memory without it. Give the run another name: mmsb.track(..., name=...)"
                )
            if _takes(leaf.entry.info.spec, source, fixed=fixed):
                return leaf
            if fixed:
                raise MismatchError(
                    f"run {self._run!r}: {key!r} was {leaf.entry.info.spec} at the commit before, and is "
                    f"{Spec.of(source)} now. Begin another run: mmsb.track(..., name=...)"
                )
            number += 1  # a tensor of another kind than before: it goes on in another page
            leaf = self._leaves[key] = Leaf(f"{self._prefix}{key}~{number}")

    def _create(self, draft: Draft, leaf: Leaf, values: Tensor) -> None:
        making.check_name(leaf.name)
        metadata = making.check_metadata(leaf.name, {"run": self._run})
        info = making.new_info(draft.next_id, leaf.name, values, metadata)
        draft.next_id += 1
        region = Region.all(tuple(values.shape))
        fields = (next_delta_id(), info.id, -1, region, values, info.created_ns, "create", None)
        draft.created.append(info)
        draft.deltas.append(make_delta(fields))
        draft.changed.append(leaf)

    def _copy(self, draft: Draft, leaf: Leaf, tensor: Tensor) -> None:
        """Draft a whole value, as of a tensor that changed as a whole the last time."""
        assert leaf.entry is not None
        info, epoch = leaf.entry.info, leaf.entry.epoch
        shape = tuple(tensor.shape)
        if tensor.nbytes < LARGE:
            values = tensor.clone()  # without gradients: a plain tensor
        else:
            values = copy_of(tensor, leaf.entry.recycled(shape))
        region, now = Region.all(shape), time.time_ns()
        fields = (next_delta_id(), info.id, epoch, region, values, now, "track", None)
        draft.deltas.append(make_delta(fields))
        draft.changed.append(leaf)
        leaf.whole -= 1

    def _is_equal(
        self, draft: Draft, leaf: Leaf, entry: Entry, source: Tensor, *, ours: bool
    ) -> bool:
        """Whether a page holds the tensor's bits; if not, what changes it is drafted."""
        leaf.evidence = None
        page, shape = entry.info.id, tuple(source.shape)
        with self._table.lock:
            value, version, tx, epoch = entry.value, entry.version, entry.tx, entry.epoch
            base = Base(value.detach(), version, tx)
        if not base.is_unwritten():
            raise PageMutatedError(
                f"somebody wrote through the tensor of page {leaf.name!r}, which is for reading. "
                "Read the page, which puts its value right, and commit again.",
                page_id=page,
            )
        same_shape = value.shape == source.shape
        del value  # nobody else may hold it when the commit merges
        if same_shape and same_bits(base.value, source):
            leaf.tx, leaf.whole = tx, 0
            return True
        before = None if same_shape else base.value.shape[0]
        now = time.time_ns()
        fields = (next_delta_id(), page, epoch, Region.all(shape), source, now, "track", before)
        whole = make_delta(fields)
        if same_shape and source.nbytes >= NARROW_BYTES:
            delta = narrow(whole, base.value)
            if delta is not whole:
                draft.bases[page] = base
                draft.deltas.append(delta)
                draft.changed.append(leaf)
                return False
        if same_shape and not ours:
            leaf.whole = _WHOLE
        values = source if ours else copy_of(source, entry.recycled(shape))
        draft.deltas.append(whole._replace(values=values))
        draft.changed.append(leaf)
        return False


def _is_alike(tensor: Tensor, entry: Entry | None) -> bool:
    """Whether a tensor can be copied as it is: plain, and of its page's dtype and shape."""
    spec = None if entry is None else entry.info.spec
    return (
        spec is not None
        and (type(tensor) is Tensor or type(tensor) is Parameter)
        and tensor.dtype is spec.dtype
        and tensor.shape == spec.shape
        and tensor.is_cpu
        and tensor.layout is torch.strided
        and tensor.is_contiguous()
        and not (tensor.is_neg() or tensor.is_conj())
    )


def _takes(spec: Spec | None, source: Tensor, *, fixed: bool) -> bool:
    """Whether a page can take a value: of its dtype, and with other rows at most."""
    if spec is None or spec.dtype != source.dtype or spec.device != _CPU:
        return False
    shape = tuple(source.shape)
    if fixed or spec.shape == shape:
        return spec.shape == shape
    return bool(shape) and bool(spec.shape) and spec.shape[1:] == shape[1:]


def text_of(value: Any) -> Tensor:
    """JSON as a page's value: uint8 [n], filled up with spaces so that n seldom changes."""
    data = json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    size = -(-len(data) // 256) * 256
    return torch.frombuffer(bytearray(data.ljust(size)), dtype=torch.uint8)
