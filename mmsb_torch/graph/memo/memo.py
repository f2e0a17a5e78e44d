"""The memoised functions of a memory: `mem.memo`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mmsb_torch.errors import InvalidMemoError
from mmsb_torch.graph.audit import Audit
from mmsb_torch.graph.memo.ahead import Ahead, Reading
from mmsb_torch.graph.memo.checks import said
from mmsb_torch.graph.memo.explain import Calls, Explanation
from mmsb_torch.graph.memo.flights import Flights
from mmsb_torch.graph.memo.function import MemoFunction
from mmsb_torch.graph.memo.kept import Kept
from mmsb_torch.graph.memo.report import Report, report
from mmsb_torch.instrumentation.code import Definition, Worlds
from mmsb_torch.runtime.state import EventBus
from mmsb_torch.runtime.store.objects import Objects


class Memo(Kept):
    """The memoised results of one memory; `mem.memo`. Thread-safe.

    Args:
        objects: where results outlive the process; None keeps them in memory only.
        budget: bytes of results in memory.
        check: raises if the memory was closed.
        worlds: of the memory.
        audit: of the memory.
        events: of the memory.
    """

    def __init__(
        self,
        objects: Objects | None = None,
        budget: int = 1 << 30,
        check: Callable[[], None] = lambda: None,
        worlds: Worlds | None = None,
        audit: Audit | None = None,
        events: EventBus | None = None,
    ) -> None:
        super().__init__(objects, budget, events)
        self.worlds = Worlds() if worlds is None else worlds
        self.audit = Audit() if audit is None else audit
        self._calls: dict[str, Calls] = {}
        self._ahead = Ahead(self)
        self.flights = Flights()
        self.check = check

    def __call__(
        self,
        function: Callable[..., Any] | None = None,
        *,
        version: str | None = None,
        ignore: Sequence[str] = (),
        verify: float = 0.0,
        world: str | Sequence[str] = (),
    ) -> Any:
        """Memoise a function or nn.Module: `@mem.memo`, `@mem.memo(verify=0.01)` or `mem.memo(f)`.

        A call is answered from before if everything it depends on is the same, bit for bit: the
        arguments (tensors, modules, arrays, plain data, containers, files by content), the code with
        its helpers, globals and closures, torch's settings and modes, and, if it draws random
        numbers, the generators' states. What comes back is new memory, as a run would give.

        A call is executed, and nothing is kept, where that cannot be told or would not be right:
        arguments or code that nobody can watch, gradients, writes to an argument or a global,
        results of other kinds than tensors, arrays and plain data. `explain` says which.

        Args:
            function: what to memoise.
            version: stands for the code: edits then do not matter until it changes.
            ignore: names of parameters that do not change the result.
            verify: share of hits (0 to 1) that are run again and compared, bit for bit.
            world: what was registered with `register_world` that the result depends on, too.

        Raises:
            InvalidMemoError: it is no callable, has no signature, or is a coroutine or generator.
            WorldError: such a world is not registered.
        """
        self.check()
        if function is not None:
            return MemoFunction(self, function, version, ignore, verify, world)
        options: dict[str, Any] = {"version": version, "ignore": ignore, "verify": verify}
        return functools.partial(self, **options, world=world)

    def explain(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Explanation:
        """Whether calling a memoised function like that would be a hit, and the reason.

        Raises:
            InvalidMemoError: `function` was not memoised here, or the arguments do not fit it.
        """
        self.check()
        return self._own(function).explain(args, kwargs)

    def _own(self, function: Callable[..., Any]) -> MemoFunction:
        if not isinstance(function, MemoFunction) or function.memo is not self:
            raise InvalidMemoError(
                f"{said(function)} was not memoised by this memory: expected what mem.memo returned."
            )
        return function

    def report(self) -> Report:
        """What memoising did, a row a function: hits, misses and why, seconds, bytes, evictions.

        Print it, or use `as_dict()`; a table in a notebook. With a path it also has what processes
        counted that closed this memory before, and what is on disk now: each result's file is
        looked at, some tens of microseconds each the first time.
        """
        self.check()
        return report(self)

    def prefetch(
        self, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]] | None = None
    ) -> Reading:
        """Read results from disk ahead, in the background, into what is free of the memory's budget.

        Nothing is computed, and whether it is called makes no difference to any value: calls made
        meanwhile look for their results themselves. Returns what can be waited for.

        Args:
            function: a memoised function.
            calls: tuples of arguments that it will be called with; without them all its results,
                those used last first. What a call draws at random is only read without them.

        Raises:
            InvalidMemoError: it was not memoised here, or arguments do not fit it.
        """
        self.check()
        own = self._own(function)
        if calls is None:
            return self._ahead.read_all(own.label)
        return self._ahead.read(own.label, own.digests(calls))

    def clear(self) -> None:
        """Forget every result, on disk too."""
        self.check()
        self.forget_all()

    def close(self) -> None:
        """End reading ahead, and add what was counted to what earlier processes counted."""
        self._ahead.close()
        self.save_tallies()

    def calls_of(self, definition: Definition) -> Calls:
        """The last calls of a function, and of those that stood in its place before."""
        place = definition.place
        return Calls() if place is None else self._calls.setdefault(place, Calls())

    def stats(self) -> dict[str, Any]:
        """Hits, misses, refusals, seconds and bytes, as plain data."""
        self.check()
        counts = {name: self.counts[name] for name in ("hits", "misses", "refused", "verified")}
        return {**counts, "results": len(self.shelf), "bytes": self.shelf.nbytes, **self.sums()}

    def __repr__(self) -> str:
        c = self.counts
        return f"<Memo: {c['hits']} hits, {c['misses']} misses, {c['refused']} executed unkept>"
