"""The incremental scope: every operation of the block passes here; what is known is not executed."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from mmsb_torch.device import same_bits
from mmsb_torch.errors import RecordingError
from mmsb_torch.graph.audit import Audit, check_share
from mmsb_torch.graph.scope.kept import Kept, tensors_of
from mmsb_torch.graph.scope.opkeys import OpKey, Unkeyed, is_plain, is_pure, op_key, storage_key
from mmsb_torch.instrumentation.capture.mode import Scope
from mmsb_torch.instrumentation.capture.schema import OpClass, op_class
from mmsb_torch.instrumentation.identity import LEDGER, barrier

LEAST_SECONDS = 50e-6
"""Operations that are faster than this are not kept."""
_NUMBERS = 1 << 18
_SPREAD = 1 << 20
"""Results that one operation may have."""
_LOCAL = threading.local()
_counter = itertools.count(1)


class Operations:
    """The results of operations of one memory, within a budget. Used by one scope at a time.

    Args:
        budget: bytes of results.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._kept: dict[OpKey, Kept] = {}
        self._numbers: dict[OpKey, int] = {}
        self._anchors: list[Kept] = []
        """What was forgotten while something that shares its memory lived."""
        self.nbytes = 0

    def get(self, key: OpKey) -> Kept | None:
        """What an operation of this key gave."""
        return self._kept.get(key)

    def put(self, key: OpKey, kept: Kept) -> None:
        """Keep a result, if it is no larger than the budget; others may go for it."""
        if kept.nbytes > self._budget or key in self._kept:
            return
        self._kept[key] = kept
        self.nbytes += kept.nbytes
        if self.nbytes > self._budget:
            self._make_room()

    def remove(self, key: OpKey) -> None:
        """Forget a result."""
        kept = self._kept.pop(key, None)
        if kept is not None:
            self.nbytes -= kept.nbytes
            self._anchors.append(kept)

    def number(self, key: OpKey) -> int:
        """A number that stands for the results of this key, and for nothing else, ever."""
        found = self._numbers.get(key)
        if found is None:
            if len(self._numbers) >= _NUMBERS:
                self._numbers.clear()
            found = self._numbers[key] = next(_counter)
        return found

    def clear(self) -> None:
        """Forget all."""
        for key in list(self._kept):
            self.remove(key)
        self._anchors = [kept for kept in self._anchors if kept.held]

    def __len__(self) -> int:
        return len(self._kept)

    def _make_room(self) -> None:
        now = time.monotonic()
        for key, _ in sorted(self._kept.items(), key=lambda item: item[1].worth(now)):
            if self.nbytes <= self._budget * 0.9:
                break
            self.remove(key)
        self._anchors = [kept for kept in self._anchors if kept.held]


class Incremental:
    """A block of plain code that, run again, executes only the operations whose inputs changed.

    `with mem.incremental() as scope:` Python runs as always; operations of torch whose arguments are
    those of before, bit for bit, give what they gave. What cannot be told is executed: writes, views,
    random numbers, `.item()`, operations of others than torch, compiled code. For one thread.

    Attributes:
        counts: how many operations were "hit", "kept" (executed, and their results are known now),
            "executed" (known by what they were made of, and too quick to keep) and "passed".
        saved_s: seconds that the hits took when they ran.
    """

    def __init__(
        self,
        operations: Operations,
        check: Callable[[], None],
        verify: float = 0.0,
        audit: Audit | None = None,
    ) -> None:
        self._operations = operations
        self._check = check
        self._audit = Audit() if audit is None else audit
        self._verify = max(check_share("verify", verify), self._audit.share)
        self._scope = Scope(self._handle)
        self.counts: Counter[str] = Counter()
        self.saved_s = 0.0

    def __enter__(self) -> Self:
        self._check()
        held: Incremental | None = getattr(_LOCAL, "active", None)
        if held is not None and held._scope.active:  # noqa: SLF001 - else another thread ended it
            raise RecordingError(
                "an incremental scope is active in this thread: expected none. Leave it first; one "
                "scope serves the whole block."
            )
        _LOCAL.active = self
        try:
            self._scope.enter()
        except BaseException:
            _LOCAL.active = held
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if getattr(_LOCAL, "active", None) is self:  # one that was refused leaves the other alone
            _LOCAL.active = None
        self._scope.leave()

    def _handle(self, func: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        del types
        kind = op_class(func)
        if not _pure(kind, func) or kind.draws(args, kwargs):
            if kind.view:
                _watch(args)
            self.counts["passed"] += 1
            return func(*args, **kwargs)
        taken: list[Tensor] = []
        try:
            key = op_key(kind, args, kwargs, taken)
        except (Unkeyed, RuntimeError, TypeError, ValueError, NotImplementedError):
            self.counts["passed"] += 1  # whatever is strange about it, the operation has to run
            return func(*args, **kwargs)
        kept = self._operations.get(key)
        if kept is not None:
            return self._hit(key, kept, func, args, kwargs)
        begun = time.perf_counter()
        result = func(*args, **kwargs)
        seconds = time.perf_counter() - begun
        if not _is_fresh(result, taken):
            self.counts["passed"] += 1
            return result
        self.counts["kept" if seconds >= LEAST_SECONDS else "executed"] += 1
        if seconds >= LEAST_SECONDS:
            self._operations.put(key, Kept(result, seconds))
        self._name(result, key)
        return result

    def _hit(
        self, key: OpKey, kept: Kept, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        self.counts["hit"] += 1
        self.saved_s += kept.cost_s
        if self._verify and self._audit.due(self._verify):
            if not all(map(LEDGER.check, tensors_of([*args, *kwargs.values()]))):
                raise self._audit.wrong(
                    "operation", str(func), "a hit, although an argument was written unseen."
                )
            result = func(*args, **kwargs)
            again, before = tensors_of(result), tensors_of(kept.result)
            if len(again) != len(before) or not all(map(_alike, again, before)):
                self._operations.remove(key)
                raise self._audit.wrong(
                    "operation",
                    str(func),
                    "a hit, run again, gave something else. Something wrote to one of its arguments "
                    "unseen, or it does not compute the same twice.",
                )
            self._audit.compared("operation")
            return result
        result = kept.hand_out()
        self._name(result, key)
        return result

    def _name(self, result: Any, key: OpKey) -> None:
        if not barrier.is_alone():
            return
        first = self._operations.number(key) * _SPREAD
        for place, tensor in enumerate(tensors_of(result)):
            LEDGER.name(tensor, first + place)

    def __repr__(self) -> str:
        c = self.counts
        return (
            f"<Incremental: {c['hit']} hits saved {self.saved_s * 1e3:.1f} ms, {c['kept']} kept, "
            f"{c['executed'] + c['passed']} executed>"
        )


_pure_ops: dict[Any, bool] = {}


def _pure(kind: OpClass, func: Any) -> bool:
    found = _pure_ops.get(func)
    if found is None:
        found = _pure_ops[func] = is_pure(kind, func)
    return found


def _watch(args: tuple[Any, ...]) -> None:
    """Watch the memory that a view is about to be taken of, while only one tensor has it."""
    for value in args:
        if isinstance(value, Tensor) and is_plain(value):
            LEDGER.watch(value)


def _is_fresh(result: Any, taken: list[Tensor]) -> bool:
    """Whether a result is plain tensors, each in memory of its own."""
    if not isinstance(result, (Tensor, list, tuple)):
        return False
    found = tensors_of(result)
    places = {storage_key(tensor) for tensor in found if is_plain(tensor)}
    return (
        bool(found)
        and len(places) == len(found)
        and places.isdisjoint(storage_key(tensor) for tensor in taken)
        and (isinstance(result, Tensor) or all(isinstance(item, Tensor) for item in result))
    )


def _alike(a: Tensor, b: Tensor) -> bool:
    return (
        a.shape == b.shape and a.stride() == b.stride() and a.dtype == b.dtype and same_bits(a, b)
    )
