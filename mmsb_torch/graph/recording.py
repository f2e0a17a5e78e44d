"""A recording: what torch executed in a block, to look at and to lift into pages."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from torch import Tensor

from mmsb_torch.errors import RecordingError
from mmsb_torch.graph.calls import Shares, call_graph, duration, origin, shares
from mmsb_torch.instrumentation.capture.frames import Codes, Locator, Unlocated, Walk
from mmsb_torch.instrumentation.capture.mode import Scope
from mmsb_torch.instrumentation.capture.tape import Call, Tape
from mmsb_torch.instrumentation.capture.trace import Trace
from mmsb_torch.instrumentation.capture.values import OUTSIDE, Value

if TYPE_CHECKING:
    from mmsb_torch.graph.calls import CallGraph


@dataclass(frozen=True, slots=True, kw_only=True)
class InstrumentationConfig:
    """What a recording keeps, and how it finds out where calls come from."""

    frames: str = "walk"
    """"walk": the Python stack is looked at when an operation runs. "trace": calls of Python
    functions are followed (`sys.settrace`; `sys.monitoring` from Python 3.12), so they are counted
    and timed too. "off": no functions, lines or modules."""
    max_calls: int = 100_000
    """Calls that are kept, about 1 KiB each; further ones run and are counted."""
    keep_bytes: int = 16 << 20
    """Tensors from outside that are kept alive for `lift`, in bytes; larger ones are so only by
    their owners."""

    def __post_init__(self) -> None:
        if self.frames not in _LOCATORS:
            raise RecordingError(
                f"frames={self.frames!r}: expected one of {', '.join(map(repr, _LOCATORS))}"
            )
        for name in ("max_calls", "keep_bytes"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise RecordingError(f"{name}={value!r}: expected an integer of 0 or more")


_LOCATORS: Mapping[str, Callable[[Codes], Locator]] = MappingProxyType(
    {"walk": Walk, "trace": Trace, "off": lambda _: Unlocated()}
)


class Host(Protocol):
    """Who a recording is made for."""

    def names(self, tape: Tape) -> Mapping[int, str]:
        """Names of values from outside that the host knows, by number."""
        ...

    def lift(
        self,
        recording: Recording,
        inputs: Mapping[str, Tensor],
        outputs: Mapping[str, Tensor],
        constants: Iterable[Tensor],
    ) -> Mapping[str, Any]:
        """See `Recording.lift`."""
        ...

    def decorate(self, function: Any, config: InstrumentationConfig) -> Callable[..., Any]:
        """A function each call of which is recorded."""
        ...


class Recording:
    """What torch executed in a block: a context manager, and afterwards the record.

    Only the thread that enters it is recorded, with autograd's threads at work for it; in a
    generator or an asyncio task, only what runs while that is not suspended. Nothing of torch's is
    replaced, and no tensor is changed. Use it once.

    Attributes:
        config: what is kept.
    """

    def __init__(self, config: InstrumentationConfig, host: Host) -> None:
        self.config = config
        self._codes = Codes()
        self._locator = _LOCATORS[config.frames](self._codes)
        self._tape = Tape(self._locator, max_calls=config.max_calls, keep_bytes=config.keep_bytes)
        self._host = host
        self._names: Mapping[int, str] | None = None
        self._scope: Scope | None = None
        self._thread = 0
        self._done = False
        self._owned: dict[int, str] = {}

    def __enter__(self) -> Self:
        self._begin(bound=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def __call__(self, function: Any) -> Callable[..., Any]:
        """Decorate a function: `@mem.record(max_calls=1000)`; see `Memory.record`."""
        return self._host.decorate(function, self.config)

    def start(self) -> Self:
        """Begin to record what this thread executes, in whatever generator or task, until `stop`.

        Raises:
            RecordingError: it was begun before, or "trace" is not possible here.
        """
        self._begin(bound=False)
        return self

    def stop(self) -> None:
        """End it, on the thread that began it.

        Raises:
            RecordingError: not begun, or begun on another thread; it has stopped all the same.
        """
        scope = self._scope
        if scope is None or self._done:
            raise RecordingError("this recording is not under way: enter it with `with`")
        try:
            scope.leave()
        finally:
            self._done = True
            if threading.get_ident() == self._thread:
                self._locator.stop()
            self._names = self._named()
            for number in self._host.names(self._tape):
                self._tape.kept.pop(number, None)  # a page that nobody holds is changed in place
            self._tape.close()

    def pause(self) -> None:
        """Record nothing more; from any thread. It is still to be stopped."""
        if self._scope is not None:
            self._scope.end()

    @property
    def recording(self) -> bool:
        """Whether it is under way."""
        return self._scope is not None and self._scope.active

    @property
    def mine(self) -> bool:
        """Whether this thread began it, and has not stopped it."""
        return self._scope is not None and not self._done and self._thread == threading.get_ident()

    @property
    def calls(self) -> tuple[Call, ...]:
        """Every call that was kept, in the order in which they ran."""
        return tuple(self._tape.calls)

    @property
    def graph(self) -> CallGraph:
        """Who depends on whom: print it, `.svg()`, `.dot()`, `.save(path)`."""
        return call_graph(self._tape.calls, self.inputs)

    @property
    def inputs(self) -> Mapping[int, str]:
        """Names of the values that came from outside, by their number in the recording."""
        return self._named() if self._names is None else self._names

    @property
    def dropped(self) -> Mapping[str, int]:
        """How often operations ran that exceeded the budget, by name."""
        return MappingProxyType(self._tape.dropped)

    @property
    def passed(self) -> int:
        """How many operations ran while the generator or task that holds it was suspended."""
        return self._scope.passed if self._scope is not None else 0

    def by_function(self) -> Shares:
        """Time and bytes by the user's function; backward calls count for their forward's."""
        calls = self._tape.calls
        return shares(calls, (str(origin(calls, call).site) or "(unknown)" for call in calls))

    def by_module(self) -> Shares:
        """Time and bytes by module; backward calls count for their forward call's."""
        calls = self._tape.calls
        return shares(calls, (_module(origin(calls, call)) for call in calls))

    def by_op(self) -> Shares:
        """Time and bytes by operation."""
        calls = self._tape.calls
        return shares(calls, (call.op for call in calls))

    def by_call(self) -> Mapping[str, tuple[int, float]]:
        """With frames="trace": how often each of the user's functions was called, and its seconds.

        Seconds include what it called. Empty with other `frames`.
        """
        return self._locator.functions if isinstance(self._locator, Trace) else {}

    def find(self, tensor: Tensor) -> Value | None:
        """The value of the recording that a tensor holds, if it came by."""
        return self._tape.find(tensor)

    def lift(
        self,
        inputs: Mapping[str, Tensor] | None = None,
        outputs: Mapping[str, Tensor] | None = None,
        *,
        constants: Iterable[Tensor] = (),
    ) -> Mapping[str, Any]:
        """Make derived pages of the block: an update of an input runs what depends on it again.

        Where the block writes nothing in place and reads no value into Python, every value between
        parts that depend on different inputs becomes a page too, so that exactly the calls
        downstream of a changed input run. Otherwise each output is one page that replays all of
        it, and a value that was read into Python must stay what it was.

        Args:
            inputs: pages by name and the tensors that they stand for; a page is made if there is
                none. Pages that the block read are inputs by themselves.
            outputs: names of pages to make, and the tensors of the block that they hold.
            constants: other tensors that the block used, held from now on. Parameters and buffers
                of the modules at work are constants by themselves.

        Returns:
            The pages of `outputs`, by name.

        Raises:
            RecordingError: the block cannot be replayed soundly (random numbers, writes to what
                was there before, tensors of unknown origin), or its replay gives other bits.
        """
        if self._scope is None or not self._done:
            raise RecordingError("lift: the recording is not over; leave its `with` block first")
        if not outputs:
            raise RecordingError("lift: expected outputs={'name': tensor, ...}, found none")
        return self._host.lift(self, dict(inputs or {}), dict(outputs), tuple(constants))

    def origin(self, value: Value) -> str | None:
        """What has a value from outside: a module's name for it, "a literal", or None (unknown)."""
        if value.number in self._owned:
            return self._owned[value.number]
        tensor = self._tape.kept.get(value.number)
        used = (call.op for call in self._tape.calls if value in call.read)
        if tensor is None or next(used, "") != "aten.lift_fresh.default":
            return None
        return "a literal" if tensor.untyped_storage().resizable() else None  # else numpy's memory

    def _begin(self, *, bound: bool) -> None:
        if self._scope is not None:
            raise RecordingError("a recording is entered once: make another with mem.record()")
        scope = Scope(self._tape.handle, bound=bound)
        self._locator.check()
        self._thread = threading.get_ident()
        self._locator.start(scope.enter())
        self._scope = scope

    def _named(self) -> Mapping[int, str]:
        """A name for each value that came from outside."""
        owned: dict[int, str] = {}
        for root in self._codes.roots():
            for name, tensor in (*root.named_parameters(), *root.named_buffers()):
                owned.setdefault(id(tensor), f"{type(root).__name__}.{name}")
        given = self._host.names(self._tape)
        names: dict[int, str] = {}
        used: dict[str, int] = {}
        outside = (v for v in self._tape.values if v.call == OUTSIDE)
        for place, value in enumerate(outside):
            leaf = value.kept()
            found = owned.get(id(leaf)) if leaf is not None else None
            if found is not None:
                self._owned[value.number] = found
            name = given.get(value.number) or found or f"input {place}"
            used[name] = used.get(name, 0) + 1
            names[value.number] = name if used[name] == 1 else f"{name} ({used[name]})"
        return names

    def _repr_html_(self) -> str:
        from mmsb_torch.graph.recorded import recording_html  # noqa: PLC0415 - drawing loads when asked

        return recording_html(self)

    def __str__(self) -> str:
        return f"{self!r}\n{self.by_module()}"

    def __repr__(self) -> str:
        calls = self._tape.calls
        parts = [f"{len(calls):,} calls", duration(sum(call.seconds for call in calls))]
        dropped = sum(self._tape.dropped.values())
        parts += [f"{dropped:,} more not kept (max_calls)"] if dropped else []
        parts += [f"{self.passed:,} passed while suspended"] if self.passed else []
        if any(call.site.compiled for call in calls):
            parts.append("compiled functions among them")
        if self._tape.unseen:
            parts.append(f"{self._tape.unseen:,} writes by what cannot be seen")
        state = "" if self._done else "under way, " if self.recording else "not begun, "
        return f"<Recording {state}{', '.join(parts)}>"


def _module(call: Call) -> str:
    if not call.site.root:
        return "(no module)"
    return f"{call.site.root}: {call.module}" if call.module else call.site.root
