"""A scope in which every operation of torch passes through one handler.

A `Scope` pushes a `TorchDispatchMode` when it is entered and takes it off when it is left. Modes
belong to a thread: other threads' operations never arrive, except those of autograd's own threads
working for this one. What torch leaves open is settled here: a scope held by a suspended generator
or asyncio task sees nothing meanwhile; scopes that are left out of order stop at once and leave
the stack when they can; a forked process leaves all of them.
"""

from __future__ import annotations

import contextlib
import dis
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmsb_torch.errors import RecordingError

Handler = Callable[[Any, Any, tuple[Any, ...], dict[str, Any]], Any]
"""handle(func, types, args, kwargs) -> result. It runs under no mode of ours, and calls `func`."""


def _dynamo_skip() -> Callable[[CodeType], None] | None:
    """Tells dynamo to leave a function alone, and what it calls; None where torch cannot."""
    try:
        from torch._C._dynamo.eval_frame import (  # noqa: PLC0415 - private: it may not be there
            _FrameAction,
            _FrameExecStrategy,
            set_code_exec_strategy,
        )

        strategy = _FrameExecStrategy(_FrameAction.SKIP, _FrameAction.SKIP)
    except (ImportError, TypeError, AttributeError):
        return None
    return lambda code: set_code_exec_strategy(code, strategy)


_skip = _dynamo_skip()
_SUSPENDABLE = 0x20 | 0x80 | 0x100 | 0x200
"""Code flags of generators, coroutines and asynchronous generators (`inspect.CO_*`)."""
_WITH = {dis.opmap[name] for name in ("BEFORE_WITH", "LOAD_SPECIAL") if name in dis.opmap}


class Scope:
    """Hands each operation of the thread that enters it to a handler, until it is left.

    Args:
        handle: gets every operation; see `Handler`. Calls from autograd's threads may overlap.
        bound: whether the scope belongs to the generator or task that entered it (a `with` block),
            or to the thread as a whole (start and stop).

    Attributes:
        passed: operations that ran while the generator or task was suspended: not handled.
    """

    def __init__(self, handle: Handler, *, bound: bool = True) -> None:
        self.handle = handle
        self.bound = bound
        self.passed = 0
        self._mode: _Mode | None = None

    @property
    def active(self) -> bool:
        """Whether it was entered, and neither left nor ended."""
        return self._mode is not None and not self._mode.over

    def enter(self) -> FrameType | None:
        """Begin. Returns the frame of the `with` statement, if there is one.

        Raises:
            RecordingError: it was entered already.
        """
        if self._mode is not None:
            raise RecordingError("this scope was entered already: make another one to nest them")
        frame = _caller()
        self._mode = _Mode(self, _holder(frame) if self.bound else None)
        self._mode.begin()
        return frame if self.bound and _is_with(frame) else None

    def leave(self) -> None:
        """End, on the thread that entered it.

        Raises:
            RecordingError: it was entered on another thread. It has ended all the same.
        """
        mode, self._mode = self._mode, None
        if mode is None:
            raise RecordingError("this scope was not entered, or was left already")
        mode.end()

    def end(self) -> None:
        """Let everything pass from now on; from any thread. It is still to be left."""
        if self._mode is not None:
            self._mode.over = self._mode.passing = True


class _Mode(TorchDispatchMode):
    """What is on torch's stack."""

    supports_higher_order_operators = True

    def __init__(self, scope: Scope, holder: FrameType | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.over = False
        self.passing = False
        self._scope = scope
        self._holder = holder
        """The generator or coroutine that holds the scope: no back frame means suspended."""
        self.thread = threading.get_ident()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return _skip is None  # its wrapper costs 1.5 us an operation

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Compiled functions run compiled inside of a scope.

        Otherwise torch runs them eagerly there, and never compiled again afterwards.
        """
        return True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if self.passing:
            return func(*args, **(kwargs or {}))
        holder = self._holder
        if holder is not None and holder.f_back is None:
            self._scope.passed += 1
            return func(*args, **(kwargs or {}))
        return self._scope.handle(func, types, args, kwargs or {})

    def begin(self) -> None:
        _sweep()
        with _lock:
            _entered[self] = None
            self.__enter__()  # type: ignore[no-untyped-call]

    def end(self) -> None:
        self.over = self.passing = True
        self._holder = None
        if threading.get_ident() != self.thread:
            raise RecordingError(
                "a scope ends on the thread that entered it: expected thread "
                f"{self.thread}, found {threading.get_ident()}. It has stopped; leave it there."
            )
        _sweep()

    def pop(self) -> None:
        """Take it off the top of the stack, and torch's flags back to what they were before it.

        The flags are one for all threads. If another thread's scope was entered later and is still
        there, it takes over what to put back.
        """
        with _lock:
            later = None
            for mode in reversed(_entered):
                if mode is self:
                    break
                later = mode
            if later is not None:
                for name, saved in vars(self).items():
                    other = vars(later).get(name)
                    if isinstance(saved, deque) and saved and other:
                        saved[-1], other[-1] = other[-1], saved[-1]
            _entered.pop(self, None)
            self.__exit__(None, None, None)  # type: ignore[no-untyped-call]


if _skip is not None:
    _skip(_Mode.__torch_dispatch__.__code__)

_lock = threading.Lock()
_entered: dict[_Mode, None] = {}
"""Modes on the stacks of all threads, in the order of entering."""


@contextlib.contextmanager
def unseen() -> Iterator[None]:
    """Let this thread's operations pass for a while: they are our own."""
    here = threading.get_ident()
    modes = [mode for mode in list(_entered) if mode.thread == here and not mode.passing]
    for mode in modes:
        mode.passing = True
    try:
        yield
    finally:
        for mode in modes:
            mode.passing = mode.over


def any_scope() -> bool:
    """Whether some thread is in a scope; takes 30 ns."""
    return bool(_entered)


def _sweep() -> None:
    """Take modes that are over off the top of this thread's stack."""
    while torch._C._len_torch_dispatch_stack():  # noqa: SLF001
        top = torch._C._get_dispatch_stack_at(torch._C._len_torch_dispatch_stack() - 1)  # noqa: SLF001
        if not (isinstance(top, _Mode) and top.over):
            return
        top.pop()


def _forked() -> None:
    """A child process records for nobody."""
    global _lock  # noqa: PLW0603 - the parent's may be held by a thread that is not here
    _lock = threading.Lock()
    for mode in list(_entered):
        mode.over = mode.passing = True
    _sweep()
    _entered.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def _caller() -> FrameType:
    """The frame that begins the scope: the nearest that is not this package's."""
    frame = sys._getframe(1)  # noqa: SLF001
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_OURS):
        frame = frame.f_back
    return frame


_OURS = ("mmsb_torch.instrumentation", "mmsb_torch.memory", "mmsb_torch.graph")


def _is_with(frame: FrameType) -> bool:
    """Whether a frame is at a `with` statement: then it lives until the statement ends."""
    return frame.f_code.co_code[frame.f_lasti] in _WITH


_CONTEXTLIB: tuple[CodeType, ...] = (
    contextlib._GeneratorContextManager.__enter__.__code__,  # noqa: SLF001
    contextlib._AsyncGeneratorContextManager.__aenter__.__code__,  # noqa: SLF001
)


def _holder(frame: FrameType | None) -> FrameType | None:
    """The generator or coroutine at work: the scope is its own, and sleeps when it does.

    One that contextlib drives is suspended while its block runs, so it is not the one.
    """
    while frame is not None:
        back = frame.f_back
        if frame.f_code.co_flags & _SUSPENDABLE and (
            back is None or back.f_code not in _CONTEXTLIB
        ):
            return frame
        frame = back
    return None
