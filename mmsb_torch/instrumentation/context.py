"""What a recipe's numbers depend on beside its code and its inputs: torch's settings and modes.

The only module that names torch's private calls for these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.overrides import _pop_mode, _push_mode
from torch.utils._python_dispatch import _disable_current_modes

Settings = tuple[object, ...]
"""Torch's global settings that change results, in the order of `NAMES`."""


def _getter(name: str) -> Callable[[], object]:
    """One of torch's private getters; where a release lacks it, the setting counts as constant."""
    found = getattr(torch._C, name, None)  # noqa: SLF001
    return found if callable(found) else lambda: None


_dtype, _threads = torch.get_default_dtype, torch.get_num_threads
_deterministic = _getter("_get_deterministic_algorithms")
_precision = _getter("_get_float32_matmul_precision")
_onednn = _getter("_get_mkldnn_enabled")
_flash = _getter("_get_flash_sdp_enabled")
_math = _getter("_get_math_sdp_enabled")
_efficient = _getter("_get_mem_efficient_sdp_enabled")
_of_cuda = tuple(
    _getter(f"_get_{name}")
    for name in ("cudnn_enabled", "cudnn_benchmark", "cudnn_deterministic", "cudnn_allow_tf32")
    if torch.version.cuda is not None or torch.version.hip is not None
)

NAMES = (
    "default dtype",
    "number of threads",
    "deterministic algorithms",
    "float32 matmul precision",
    "oneDNN",
    "flash attention",
    "math attention",
    "memory-efficient attention",
    "cuDNN",
)


def settings() -> Settings:
    """Torch's settings now; takes half a microsecond."""
    return (
        _dtype(),
        _threads(),
        _deterministic(),
        _precision(),
        _onednn(),
        _flash(),
        _math(),
        _efficient(),
        tuple([get() for get in _of_cuda]) if _of_cuda else None,
    )


def settings_change(before: Settings, now: Settings) -> str | None:
    """What differs between two settings, for people; None if nothing does."""
    if before == now:
        return None
    if len(before) != len(now):
        return "torch's settings at the time are not known"
    name, old, new = next(
        item for item in zip(NAMES, before, now, strict=True) if item[1] != item[2]
    )
    return f"torch's setting of {name} changed: {old} -> {new}"


def as_plain(values: Settings) -> dict[str, Any]:
    """Settings as plain data (what JSON holds)."""
    return (
        {
            name: str(value)
            if isinstance(value, torch.dtype)
            else (list(value) if isinstance(value, tuple) else value)
            for name, value in zip(NAMES, values, strict=True)
        }
        if values
        else {}
    )


def from_plain(stored: Mapping[str, Any]) -> Settings:
    """Settings from what `as_plain` gave; those of another set of names equal no others."""
    if tuple(stored) != NAMES:
        return ()
    dtype, *others = stored.values()
    found = getattr(torch, str(dtype).removeprefix("torch."), None)
    return (found, *(tuple(item) if isinstance(item, list) else item for item in others))


def is_plain() -> bool:
    """Whether `plain_torch` for the CPU would change nothing."""
    return not (
        torch.is_grad_enabled()
        or torch.is_inference_mode_enabled()
        or torch.is_autocast_enabled("cpu")
        or torch.is_autocast_enabled("cuda")
        or torch._C._len_torch_dispatch_stack()  # noqa: SLF001
        or torch._C._len_torch_function_stack()  # noqa: SLF001
    )


@contextmanager
def plain_torch(device: torch.device) -> Iterator[None]:
    """What recipes run under, whatever their reader is doing.

    No grad, inference mode, autocast, function modes or dispatch modes of the reader's; tensors are
    made on `device` unless told otherwise.
    """
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(without_autocast())
        if torch._C._len_torch_dispatch_stack():  # noqa: SLF001
            stack.enter_context(_disable_current_modes())
        if torch._C._len_torch_function_stack():  # noqa: SLF001
            stack.enter_context(_no_function_modes())
        if device.type != "cpu":
            stack.enter_context(device)
        stack.enter_context(torch.no_grad())
        yield


@contextmanager
def _no_function_modes() -> Iterator[None]:
    modes = [_pop_mode() for _ in range(torch._C._len_torch_function_stack())]  # noqa: SLF001
    try:
        yield
    finally:
        for mode in reversed(modes):
            _push_mode(mode)


@contextmanager
def without_autocast() -> Iterator[None]:
    """Autocast off on every kind of device where it is on."""
    with ExitStack() as stack:
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield
