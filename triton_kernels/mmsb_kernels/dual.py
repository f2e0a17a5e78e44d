"""A kernel in two lives: compiled for a GPU, or interpreted on CPU tensors.

`@triton.jit` decides at decoration time, from the environment, which of the two a kernel will be
for the rest of the process. `@kernel` keeps the plain Python function instead and builds either
one on demand, so that one process can interpret a kernel, launch it, and compile it offline.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import cached_property
from typing import Any

import torch
import triton
from triton.runtime.interpreter import InterpretedFunction

_asked: ContextVar[bool] = ContextVar("mmsb_kernels_interpreted", default=False)

# The interpreter replaces functions of `triton.language` while it runs and puts them back after,
# so neither another interpreted launch nor a compilation may run beside it.
LANGUAGE_LOCK = threading.RLock()


@contextlib.contextmanager
def interpreted() -> Iterator[None]:
    """Let the launchers take CPU tensors, through Triton's interpreter, inside the `with` block.

    It is slow and meant for tests. It reaches the current thread or task only. Tensors on a GPU
    are still launched there. `TRITON_INTERPRET=1` has the same effect on CPU tensors for the
    whole process.

    Yields:
        Nothing.
    """
    token = _asked.set(True)
    try:
        yield
    finally:
        _asked.reset(token)


class Kernel:
    """One Triton kernel body and the two ways to run it.

    Args:
        body: the kernel as a plain function; every helper it calls must be a Triton builtin,
            because the interpreter cannot call a compiled helper.
        do_not_specialize: names of integer arguments whose value must not cause a compilation.
    """

    def __init__(self, body: Callable[..., None], do_not_specialize: tuple[str, ...]) -> None:
        self.body = body
        self.do_not_specialize = do_not_specialize

    def __repr__(self) -> str:
        return f"<Kernel {self.body.__name__}>"

    @cached_property
    def compiled(self) -> Any:
        """The kernel as `triton.jit` makes it: compiled, unless `TRITON_INTERPRET=1`."""
        return triton.jit(self.body, do_not_specialize=list(self.do_not_specialize))

    @cached_property
    def interpreted(self) -> Any:
        """The kernel for Triton's interpreter, whatever the environment says."""
        return InterpretedFunction(self.body)

    def launch(self, device: torch.device, programs: int, *args: Any, **options: Any) -> None:
        """Run the kernel on the current stream of `device`; nothing waits for it.

        Args:
            device: where the tensors among `args` are, as `check_device` lets pass.
            programs: size of the one-dimensional grid, at least 1.
            *args: the kernel's arguments before its constants.
            **options: the kernel's constants, and `num_warps`.
        """
        if device.type == "cpu":
            with LANGUAGE_LOCK:
                self.interpreted[(programs,)](*args, **options)
            return
        # Triton launches on the current device, which need not be the one of the tensors.
        with torch.cuda.device(device):
            self.compiled[(programs,)](*args, **options)


def kernel(*, do_not_specialize: tuple[str, ...] = ()) -> Callable[[Callable[..., None]], Kernel]:
    """Make a `Kernel` of the decorated function.

    Args:
        do_not_specialize: names of integer arguments whose value must not cause a compilation.

    Returns:
        The decorator.
    """

    def decorate(body: Callable[..., None]) -> Kernel:
        return Kernel(body, do_not_specialize)

    return decorate


def check_device(where: str, device: torch.device) -> None:
    """Refuse a device that the kernels cannot run on.

    Args:
        where: name of the function that was called, for the message.
        device: the device of the tensors.

    Raises:
        ValueError: it is no GPU, and the interpreter was not asked for.
    """
    if device.type == "cuda":  # torch's name for AMD GPUs too
        return
    if device.type == "cpu" and (_asked.get() or triton.knobs.runtime.interpret):
        return
    raise ValueError(
        f"{where}: expected tensors on a GPU, found them on {device}. Use "
        f"mmsb_kernels.reference.{where} there, or mmsb_kernels.interpreted() to test the kernels "
        "on CPU tensors."
    )
