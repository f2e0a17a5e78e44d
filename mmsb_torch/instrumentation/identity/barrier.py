"""The write barrier: torch's copy-on-write flag tells whether memory may have been written.

A lazy clone that is dropped at once leaves the flag on the storage, and nothing was copied. Any
access that could write (in-place operations, `.data`, numpy, DLPack, a raw pointer) clears it; reading
does not. So a flag that still stands says that nobody wrote since it was set: more than
`Tensor._version` can, which numpy, `.data` and raw pointers pass by.

What it does not see: pointers and arrays that were taken before the flag was set, so the caller makes
sure that there are none; and C++ that casts const away.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable

import torch
from torch import Tensor

from mmsb_torch.instrumentation.context import GradKept, plain_torch

from .newcomers import Newcomers

_lazy_clone: Callable[[Tensor], Tensor] | None = getattr(torch, "_lazy_clone", None)
_flag: Callable[[Tensor], bool] | None = getattr(torch._C, "_is_cow_tensor", None)  # noqa: SLF001
is_armed: Callable[[Tensor], bool] = _flag if _flag is not None else lambda _: False
"""Whether the flag stands; takes 0.2 us."""

_get_ident, _main_thread = threading.get_ident, threading.main_thread
_active_count = threading.active_count

# Threads that never touch a user's tensors: ours, and those of Jupyter, pytest and the like.
_HARMLESS = (
    *("mmsb ", "IOPub", "Heartbeat", "Control", "Shell channel"),
    *("IPythonHistorySavingThread", "ParentPoller"),
)
_HARMLESS_WORK = "(_watch_pipe_fd)"  # ipykernel's: what child processes print
_HARMLESS_CLASSES = ("HistorySavingThread", "Heartbeat", "TMonitor", "ParentPollerUnix")


def arm(tensor: Tensor) -> bool:
    """Set the flag on a tensor's memory; False if it cannot be (memory of numpy, files, ...).

    The caller is alone with the tensor: setting the flag while another thread writes can crash.
    """
    assert _lazy_clone is not None
    NEWCOMERS.watch()
    try:
        _lazy_clone(tensor)
    except RuntimeError:
        return False
    return is_armed(tensor)


def disarm(tensor: Tensor) -> None:
    """Clear the flag; copies nothing while no clone lives."""
    if is_armed(tensor):
        tensor.data_ptr()


@functools.cache
def capability() -> str | None:
    """None if the barrier works with this torch; else what it does not do, found by trying."""
    if _lazy_clone is None or _flag is None:
        return "this torch has no lazy clones"
    with GradKept(), plain_torch(torch.device("cpu")):
        return _first_failure()


def _first_failure() -> str | None:
    writes: dict[str, Callable[[Tensor], object]] = {
        "an in-place operation": lambda t: t.add_(1),
        "an assignment": lambda t: t.__setitem__(0, 1.0),
        "a write through .data": lambda t: t.data.add_(1),
        "out=": lambda t: torch.add(t, 1, out=t),
        "numpy": lambda t: t.numpy(),
        "DLPack": lambda t: t.__dlpack__(),
        "a raw pointer": lambda t: t.data_ptr(),
        "a write through a view": lambda t: t.view(2, 32)[1].zero_(),
    }
    reads: dict[str, Callable[[Tensor], object]] = {
        "an operation": lambda t: t + t,
        "a view": lambda t: t.view(8, 8).mT,
        "a clone": lambda t: t.clone(),
        "a product": lambda t: t.view(8, 8) @ t.view(8, 8),
        "an element": lambda t: t[3].item(),
    }
    for expected, actions in ((False, writes), (True, reads)):
        for name, action in actions.items():
            tensor = torch.arange(64.0, device="cpu")
            if not arm(tensor):
                return "memory cannot be armed"
            action(tensor)
            if is_armed(tensor) is not expected:
                return f"{name} {'clears' if expected else 'does not clear'} the flag"
    tensor = torch.arange(64.0, device="cpu")
    address = tensor.data_ptr()
    arm(tensor)
    tensor.add_(1)
    if tensor.data_ptr() != address or float(tensor.sum()) != 64 * 65 / 2:
        return "the first write after arming moves the memory"
    return None


def is_alone() -> bool:
    """Whether this is the main thread, and no other is known that may touch a user's tensors."""
    if _get_ident() != _main_thread().ident:
        return False
    return _active_count() == 1 or all(map(_is_harmless, threading.enumerate()))


def _is_harmless(thread: threading.Thread) -> bool:
    return (
        thread is threading.main_thread()
        or thread.name.startswith(_HARMLESS)
        or thread.name.endswith(_HARMLESS_WORK)
        or type(thread).__name__ in _HARMLESS_CLASSES
    )


NEWCOMERS = Newcomers(_is_harmless)
"""Who sets flags enters here as an owner."""
