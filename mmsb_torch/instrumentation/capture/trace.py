"""The site of an operation from Python's call events, instead of a look at the stack.

It costs something at every call of a Python function, and counts and times those of the user's in
return. On Python 3.11 it is `sys.settrace`, which one tool can have at a time: a plain Python
tracer is called first and gets it back afterwards; a debugger's or coverage's is left alone, and
the recording refuses. From Python 3.12 it is `sys.monitoring`, which tools share.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import CodeType, FrameType, FunctionType, MethodType
from typing import Any

from mmsb_torch.errors import RecordingError
from mmsb_torch.instrumentation.capture.frames import LIBRARY, NOWHERE, USER, Codes, Site

Tracer = Callable[[FrameType, str, Any], Any]

_DEBUGGERS = ("bdb", "pdb", "pydevd", "_pydevd", "debugpy", "coverage", "trace", "hunter")


class Trace:
    """Follows the calls of the user's functions, and of modules, on the thread that starts it."""

    def __init__(self, codes: Codes) -> None:
        self._codes = codes
        self._thread = 0
        self._stack: list[tuple[int, FrameType, int]] = []
        """What is at work, the innermost last: (kind, frame, since); nothing of libraries."""
        self._spent: dict[CodeType, list[int]] = {}
        self._events: _Settrace | _Monitoring | None = None

    @property
    def functions(self) -> Mapping[str, tuple[int, float]]:
        """Calls that have returned, and seconds spent in them, by function."""
        found: dict[str, tuple[int, float]] = {}
        for code, (count, spent) in self._spent.items():
            name = str(Site(code, -2))
            before = found.get(name, (0, 0.0))
            found[name] = before[0] + count, before[1] + spent * 1e-9
        return found

    def check(self) -> None:
        """See `Locator`."""
        (_Monitoring if hasattr(sys, "monitoring") else _Settrace).check()

    def start(self, frame: FrameType | None) -> None:
        """See `Locator`."""
        self._thread = threading.get_ident()
        if frame is not None:
            self._stack.append((self._kind(frame.f_code), frame, time.perf_counter_ns()))
        self._events = _Monitoring(self) if hasattr(sys, "monitoring") else _Settrace(self)

    def stop(self) -> None:
        """See `Locator`."""
        if self._events is not None:
            self._events.stop()
        self._events = None
        self._stack.clear()

    def site(self) -> Site:
        """See `Locator`."""
        if threading.get_ident() != self._thread:
            return NOWHERE
        return self._codes.locate([(kind, frame) for kind, frame, _ in reversed(self._stack)])

    def entered(self, frame: FrameType) -> bool:
        """A function began or went on; whether its end is of interest."""
        kind = self._kind(frame.f_code)
        if kind == LIBRARY:
            return False
        self._stack.append((kind, frame, time.perf_counter_ns()))
        return True

    def left(self, frame: FrameType) -> None:
        """A function ended or was suspended."""
        while self._stack:
            kind, found, since = self._stack[-1]
            if found is not frame and not any(frame is item[1] for item in self._stack):
                return  # it was at work before the recording began
            self._stack.pop()
            if kind == USER:
                spent = self._spent.setdefault(found.f_code, [0, 0])
                spent[0] += 1
                spent[1] += time.perf_counter_ns() - since
            if found is frame:
                return

    def _kind(self, code: CodeType) -> int:
        kind = self._codes.kinds.get(id(code))
        return self._codes.kind(code) if kind is None else kind


class _Settrace:
    """Call and return events of this thread, without lines."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._before: Any = sys.gettrace()
        self._hook = self._called
        sys.settrace(self._hook)

    @staticmethod
    def check() -> None:
        """Refuse where the tracer in force cannot be called by another one."""
        before = sys.gettrace()
        if before is None:
            return
        module = str(getattr(before, "__module__", None) or type(before).__module__)
        if isinstance(before, (FunctionType, MethodType)) and not module.startswith(_DEBUGGERS):
            return
        raise RecordingError(
            f"frames='trace' needs sys.settrace, which {module} holds (a debugger or coverage): "
            "use frames='walk', which sees the same places without it, or end that tool first."
        )

    def stop(self) -> None:
        """Give the tracer before its place back, unless somebody took it meanwhile."""
        if sys.gettrace() == self._hook:
            sys.settrace(self._before)

    def _called(self, frame: FrameType, event: str, arg: Any) -> Tracer | None:
        inner = self._before(frame, event, arg) if self._before is not None else None
        if not self._trace.entered(frame):
            return inner
        if inner is None:
            frame.f_trace_lines = False

        def local(frame: FrameType, event: str, arg: Any) -> Tracer:
            nonlocal inner
            if inner is not None:
                inner = inner(frame, event, arg)
            if event == "return":
                self._trace.left(frame)
            return local

        return local


class _Monitoring:
    """The same events from `sys.monitoring`; library code is switched off where it is met."""

    _of_thread: dict[int, list[Trace]] = {}  # noqa: RUF012 - one for the process, as the tool is
    _lock = threading.Lock()
    _tool: int | None = None

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        with self._lock:
            if _Monitoring._tool is None:
                _Monitoring._tool = self._register()
            self._of_thread.setdefault(threading.get_ident(), []).append(trace)

    @staticmethod
    def check() -> None:
        """Refuse if every tool's place is taken."""
        if _Monitoring._tool is None and _free_tool() is None:
            raise RecordingError(
                "frames='trace' needs a place in sys.monitoring, and all are taken: use "
                "frames='walk', which sees the same places without it."
            )

    def stop(self) -> None:
        """Follow this trace no more; the last one gives the tool's place back."""
        with self._lock:
            for thread, traces in list(self._of_thread.items()):
                if self._trace in traces:
                    traces.remove(self._trace)
                if not traces:
                    del self._of_thread[thread]
            if not self._of_thread and _Monitoring._tool is not None:
                monitoring: Any = sys.monitoring  # type: ignore[attr-defined,unused-ignore]
                monitoring.set_events(_Monitoring._tool, 0)
                monitoring.free_tool_id(_Monitoring._tool)
                _Monitoring._tool = None

    def _register(self) -> int:
        monitoring: Any = sys.monitoring  # type: ignore[attr-defined,unused-ignore]
        tool = _free_tool()
        assert tool is not None  # `check` looked
        events, begins, ends = monitoring.events, ("PY_START", "PY_RESUME"), (
            "PY_RETURN", "PY_YIELD", "PY_UNWIND",
        )  # fmt: skip
        monitoring.use_tool_id(tool, "mmsb_torch")
        mask = 0
        for name in (*begins, *ends):
            event = getattr(events, name)
            mask |= event
            monitoring.register_callback(
                tool, event, self._entered if name in begins else self._left
            )
        monitoring.restart_events()
        monitoring.set_events(tool, mask)
        return tool

    @classmethod
    def _entered(cls, *_: Any) -> Any:
        traces = cls._of_thread.get(threading.get_ident())
        if not traces:
            return None
        followed = [trace.entered(sys._getframe(1)) for trace in traces]  # noqa: SLF001
        return None if any(followed) else sys.monitoring.DISABLE  # type: ignore[attr-defined,unused-ignore]

    @classmethod
    def _left(cls, *_: Any) -> None:
        for trace in cls._of_thread.get(threading.get_ident(), ()):
            trace.left(sys._getframe(1))  # noqa: SLF001


def _free_tool() -> int | None:
    monitoring: Any = sys.monitoring  # type: ignore[attr-defined,unused-ignore]
    return next((tool for tool in (3, 4) if monitoring.get_tool(tool) is None), None)
