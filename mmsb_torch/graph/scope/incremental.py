"""The incremental scope: every operation of the block passes here; what is known is not executed."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from torch import Tensor

from mmsb_torch.device import same_bits
from mmsb_torch.errors import RecordingError
from mmsb_torch.graph.audit import Audit, check_share
from mmsb_torch.graph.scope.kept import Kept, tensors_of
from mmsb_torch.graph.scope.operations import Known, Operations
from mmsb_torch.graph.scope.opkeys import (
    OpKey,
    Unkeyed,
    is_plain,
    is_worthwhile,
    op_key,
    storage_key,
    tensors_in,
    watch,
)
from mmsb_torch.instrumentation.capture.mode import Scope
from mmsb_torch.instrumentation.capture.schema import op_class
from mmsb_torch.instrumentation.identity import LEDGER, barrier

_LOCAL = threading.local()


class Witness(Protocol):
    """Is told of every operation of a scope; it must not raise, nor run operations of torch."""

    def saw(self, seen: Seen) -> None:
        """One operation is done. The frames of the user's code are those above the caller's."""
        ...


class Seen(NamedTuple):
    """One operation of a scope. Arguments and result are the user's own: not to be held."""

    func: Any
    outcome: str
    """"hit", "again" (executed, known, but too quick to keep or gone), "new" (executed: nothing of
    these arguments was known) or "passed" (executed, for it cannot be told)."""
    key: OpKey | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any
    seconds: float
    """What it took here."""
    saved: float
    """What it took when it ran, if it was a hit."""


class Incremental:
    """A block of plain code that, run again, executes only the operations whose inputs changed.

    `with mem.incremental() as scope:` Python runs as always; operations of torch whose arguments are
    those of before, bit for bit, give what they gave. What cannot be told is executed: writes, views,
    random numbers, `.item()`, operations of others than torch, compiled code. For one thread.

    Args:
        operations: what is known, and what is learnt.
        check: raises if the memory is closed.
        verify: share of hits (0 to 1) that are run again and compared.
        audit: of the memory.
        bound: as of `Scope`.
        witness: is told of every operation.

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
        *,
        bound: bool = True,
        witness: Witness | None = None,
    ) -> None:
        self._operations = operations
        self._check = check
        self._audit = Audit() if audit is None else audit
        self._verify = max(check_share("verify", verify), self._audit.share)
        self._scope = Scope(self._handle if witness is None else self._seen, bound=bound)
        self._witness = witness
        self._last: tuple[str, OpKey | None] = ("passed", None)
        self.counts: Counter[str] = Counter()
        self.saved_s = 0.0

    @property
    def active(self) -> bool:
        """Whether it was entered, and neither left nor ended by a fork of its process."""
        return self._scope.active

    def __enter__(self) -> Self:
        self._check()
        active: Incremental | None = getattr(_LOCAL, "active", None)
        if active is not None and active.active:  # a fork of its process has ended it
            raise RecordingError(
                "an incremental scope is active in this thread: expected none. Leave it first; one "
                "scope serves the whole block."
            )
        _LOCAL.active = self
        try:
            self._scope.enter()
        except BaseException:
            _LOCAL.active = active
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

    def _seen(self, func: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        assert self._witness is not None
        self._last, saved = ("passed", None), self.saved_s
        begun = time.perf_counter()
        result = self._handle(func, types, args, kwargs)
        seconds = time.perf_counter() - begun
        outcome, key = self._last
        saved = self.saved_s - saved
        self._witness.saw(Seen(func, outcome, key, args, kwargs, result, seconds, saved))
        return result

    def _handle(self, func: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        del types
        kind = op_class(func)
        if not kind.pure:
            if kind.careless:
                for tensor in tensors_in(args):
                    LEDGER.leave_open(tensor)
            elif kind.view:
                watch(args)
            self.counts["passed"] += 1
            return func(*args, **kwargs)
        key, alone = None, barrier.is_alone()
        try:
            if is_worthwhile(args, kwargs) and not (kind.random and kind.draws(args, kwargs)):
                key = op_key(kind, args, kwargs, self._operations.context(), alone=alone)
        except (Unkeyed, RuntimeError, TypeError, ValueError, NotImplementedError):
            pass  # whatever is strange about it, the operation has to run
        if key is None:
            self.counts["passed"] += 1
            return func(*args, **kwargs)
        known = self._operations.get(key)
        self._last = ("new" if known is None else "again", key)
        if known is not None and known.kept is not None:
            self._last = ("hit", key)
            return self._hit(known, known.kept, func, args, kwargs, alone=alone)
        return self._run(key, known, func, args, kwargs, alone=alone)

    def _run(
        self,
        key: OpKey,
        known: Known | None,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        alone: bool,
    ) -> Any:
        begun = time.perf_counter()
        result = func(*args, **kwargs)
        seconds = time.perf_counter() - begun
        tensors = _fresh_tensors(result, args, kwargs)
        if tensors is None:
            self._last = ("passed", None)
            self.counts["passed"] += 1
            return result
        alone = alone and barrier.is_alone()  # a thread may have begun while it ran
        if known is None:
            known = self._operations.enter(key, len(tensors))
        kept = self._operations.put(known, result, tensors, seconds, alone=alone)
        self.counts["kept" if kept else "executed"] += 1
        if alone:
            for tensor, views in zip(tensors, known.views, strict=True):
                LEDGER.name(tensor, views)
        return result

    def _hit(
        self,
        known: Known,
        kept: Kept,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        alone: bool,
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
                self._operations.remove(known)
                raise self._audit.wrong(
                    "operation",
                    str(func),
                    "a hit, run again, gave something else. Something wrote to one of its arguments "
                    "unseen, or it does not compute the same twice.",
                )
            self._audit.compared("operation")
            return result
        return kept.hand_out(known.views, alone=alone)

    def __repr__(self) -> str:
        c = self.counts
        return (
            f"<Incremental: {c['hit']} hits saved {self.saved_s * 1e3:.1f} ms, {c['kept']} kept, "
            f"{c['executed'] + c['passed']} executed>"
        )


def _fresh_tensors(
    result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Sequence[Tensor] | None:
    """The tensors of a result, if it is plain ones, each in memory of its own; else None."""
    if isinstance(result, Tensor):
        tensors: Sequence[Tensor] = (result,)
    elif isinstance(result, (list, tuple)) and result:
        tensors = result
    else:
        return None
    places = set()
    for tensor in tensors:
        if not (isinstance(tensor, Tensor) and is_plain(tensor)):
            return None
        places.add(storage_key(tensor))
    given = {storage_key(tensor) for tensor in tensors_in((args, (*kwargs.values(),)))}
    return tensors if len(places) == len(tensors) and places.isdisjoint(given) else None


def _alike(a: Tensor, b: Tensor) -> bool:
    return (
        a.shape == b.shape and a.stride() == b.stride() and a.dtype == b.dtype and same_bits(a, b)
    )
