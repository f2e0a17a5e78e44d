"""Which operations ran in a cell, which were reused, and what differs in those that ran.

An operation is compared with the one that stood in its place when the cell ran before: the same
function and module, the same operation, the same turn. What differs is followed to its root: a tensor
that an operation of this cell made is no cause, one from outside is.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from torch import Tensor, nn

from mmsb_torch.graph.scope import Seen
from mmsb_torch.graph.scope.admission import LEAST_SECONDS
from mmsb_torch.graph.scope.opkeys import OpKey, storage_key, tensors_in
from mmsb_torch.instrumentation.capture.frames import USER, Codes, Site, Walk
from mmsb_torch.instrumentation.capture.schema import op_class
from mmsb_torch.notebook.definitions import became

_MENTIONED_S = 1e-3
"""What runs again though nothing changed is mentioned from here on."""
_MOST_PLACES = 50_000
"""Operations of one cell whose arguments are remembered for the next time."""
Place = tuple[str, str, str, int]
"""Function, module, operation, and the how manieth of these."""


@dataclass(slots=True)
class Group:
    """The operations of one function, or of one line of the cell."""

    label: str
    ran: int = 0
    ran_s: float = 0.0
    reused: int = 0
    saved_s: float = 0.0
    again: int = 0
    again_s: float = 0.0
    """Executed although nothing changed: their results were not worth keeping, or had to go."""
    quick: int = 0
    """Too quick to keep: they run each time."""


@dataclass(slots=True)
class Trace:
    """What a cell did, to compare the next run with."""

    keys: dict[Place, OpKey] = field(default_factory=dict)
    calls: int = 0


class Witness:
    """Sees the operations of one run of a cell.

    Args:
        before: of the run before, if there was one.
        namespace: the notebook's, where names for tensors are looked up.
    """

    def __init__(self, before: Trace | None, namespace: Mapping[str, Any]) -> None:
        self.before = before
        self.trace = Trace()
        self.groups: dict[str, Group] = {}
        self.causes: dict[str, tuple[str, int]] = {}
        """Why something ran, and where: function and line."""
        self.failed: Exception | None = None
        self._namespace = namespace
        self._walk = _Walk(Codes())
        self._turns: Counter[tuple[str, str, str]] = Counter()
        self._made: dict[int, str] = {}
        """Memory of results of this cell: what else than its arguments decides them, or nothing."""

    def saw(self, seen: Seen) -> None:
        """See `graph.scope.Witness`."""
        if self.failed is None:
            try:
                self._saw(seen)
            except Exception as error:  # noqa: BLE001 - explaining never breaks a cell
                self.failed = error

    @property
    def total(self) -> Group:
        """All groups together."""
        whole = Group("")
        for group in self.groups.values():
            whole.ran += group.ran
            whole.ran_s += group.ran_s
            whole.reused += group.reused
            whole.saved_s += group.saved_s
            whole.again += group.again
            whole.again_s += group.again_s
            whole.quick += group.quick
        return whole

    def _saw(self, seen: Seen) -> None:
        self.trace.calls += 1
        if seen.key is None and op_class(seen.func).view:
            return  # it computes nothing, and its memory is known
        site = self._walk.site()
        label = _label(site)
        group = self.groups.get(label)
        if group is None:
            group = self.groups[label] = Group(label)
        if seen.outcome == "hit":
            group.reused += 1
            group.saved_s += max(seen.saved - seen.seconds, 0.0)
        elif seen.outcome == "again" and seen.seconds >= _MENTIONED_S:
            group.again += 1
            group.again_s += seen.seconds
        elif seen.outcome == "new" or _is_work(seen):
            group.ran += 1
            group.ran_s += seen.seconds
        else:
            group.quick += 1
        if seen.key is not None:
            self._compare(seen, seen.key, site)
        with contextlib.suppress(RuntimeError, NotImplementedError):  # some have no memory
            given = {*map(storage_key, tensors_in((seen.args, (*seen.kwargs.values(),))))}
            for tensor in tensors_in((seen.result,)):
                key, origin = storage_key(tensor), _origin(seen, site)
                if origin or key not in given:  # an address may be given away again
                    self._made[key] = origin

    def _compare(self, seen: Seen, key: OpKey, site: Site) -> None:
        kind = (site.function, f"{site.root}:{site.module}", str(seen.func))
        place = (*kind, self._turns[kind])
        self._turns[kind] += 1
        if len(self.trace.keys) < _MOST_PLACES:
            self.trace.keys[place] = key
        if seen.outcome != "new":
            return
        before = self.before.keys.get(place) if self.before is not None else None
        if before is None or len(self.causes) > 8:
            return
        cause = self._cause(before, key, seen, site)
        if cause:
            self.causes.setdefault(cause, (site.function, site.line))

    def _cause(self, before: OpKey, now: OpKey, seen: Seen, site: Site) -> str:
        """What differs between two calls in one place; nothing if it comes from within the cell."""
        if before[1] is not now[1]:
            return "torch's settings changed"
        tensors = iter(tensors_in((seen.args, (*seen.kwargs.values(),))))
        if len(before) != len(now):
            return ""
        for old, new in zip(before[2:], now[2:], strict=True):
            tensor = next(tensors, None) if type(new) is object else None
            if old is new or (type(old) is not object and old == new):
                continue
            if tensor is None:
                plain = type(old) in (int, float, str, bool) and type(new) is type(old)
                return (
                    f"{became(old, new)} ({_label(site)})" if plain and type(new) is not str else ""
                )
            made = self._made.get(storage_key(tensor))
            if made is not None:
                return made
            return f"{self._name(tensor)} changed"
        return ""

    def _name(self, tensor: Tensor) -> str:
        """What the notebook calls a tensor from outside of the cell."""
        key = storage_key(tensor)
        for name, other in _named_tensors(self._namespace):
            with contextlib.suppress(RuntimeError, NotImplementedError):
                if storage_key(other) == key:
                    return name
        return f"a tensor {list(tensor.shape)}"


class _Walk(Walk):
    """Walks up to the cell: what is above it is the notebook's."""

    def site(self) -> Site:
        """See `Locator`."""
        frame: FrameType | None = sys._getframe(4)  # noqa: SLF001 - as `Walk`
        frames = []
        while frame is not None:
            code = frame.f_code
            kind = self._codes.kinds.get(id(code))
            if kind is None:
                kind = self._codes.kind(code)
            if kind:
                frames.append((kind, frame))
                if code.co_name == "<module>" and kind == USER:
                    break
            frame = frame.f_back
        return self._codes.locate(frames)


def _named_tensors(namespace: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    modules = []
    for name, value in list(namespace.items()):
        if name.startswith("_"):
            continue
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, nn.Module):
            modules.append((name, value))
        elif type(value) is dict and len(value) <= 1000:
            yield from ((f"{name}[{k!r}]", v) for k, v in value.items() if isinstance(v, Tensor))
        elif type(value) in (list, tuple) and len(value) <= 1000:
            yield from ((f"{name}[{at}]", v) for at, v in enumerate(value) if isinstance(v, Tensor))
    for name, module in modules:
        for part, tensor in (*module.named_parameters(), *module.named_buffers()):
            yield f"{name}.{part}", tensor


def _is_work(seen: Seen) -> bool:
    """Whether something that cannot be told was worth mentioning: not a view, not what is quick."""
    long = seen.outcome == "passed" and seen.seconds >= LEAST_SECONDS
    return long and not op_class(seen.func).view


def _label(site: Site) -> str:
    """What a person calls the place: a function of theirs, or a line of the cell."""
    if not site.function:
        return "backward" if site.phase == "backward" else "elsewhere"
    names = site.function.split(".<locals>.")
    while names and names[-1].startswith("<"):  # a comprehension, a lambda, the cell itself
        names.pop()
    if names:
        return f"{'.'.join(names)}()"
    return f"line {site.line}" + (f" ({site.root})" if site.root else "")


def _origin(seen: Seen, site: Site) -> str:
    """What a result depends on beside known arguments: random numbers, data of Python."""
    if seen.key is not None:
        return ""
    kind = op_class(seen.func)
    if kind.random and kind.draws(seen.args, seen.kwargs):
        return f"random numbers ({_label(site)})"
    return ""
