"""What a recipe's numbers depend on beside its code and its inputs: torch's settings and modes.

The only module that names torch's private calls for these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
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
_legacy = _getter("_get_float32_matmul_precision")
_by_back_end: Callable[[str, str], str] = getattr(
    torch._C,  # noqa: SLF001
    "_get_fp32_precision_getter",
    lambda back_end, operation: "none",  # noqa: ARG005 - a release without it has only the legacy one
)
_IMPLIED = {"highest": "ieee", "high": "tf32", "medium": "bf16"}
"""What the legacy setting makes of oneDNN's."""
_onednn = _getter("_get_mkldnn_enabled")
_flash = _getter("_get_flash_sdp_enabled")
_math = _getter("_get_math_sdp_enabled")
_efficient = _getter("_get_mem_efficient_sdp_enabled")
_onednn_deterministic = _getter("_get_mkldnn_deterministic")
_of_cuda = tuple(
    _getter(f"_get_{name}")
    for name in ("cudnn_enabled", "cudnn_benchmark", "cudnn_deterministic", "cudnn_allow_tf32")
    if torch.version.cuda is not None or torch.version.hip is not None
)

_DENORMAL = 5e-324


def _fast_path() -> object:
    return getattr(torch.backends.mha, "_is_fastpath_enabled", True)


def _precision() -> str:
    """The precision of float32 matrix products, and of what else may have another one.

    Reading the legacy setting is an error once the setting of a back end says otherwise.
    """
    try:
        legacy = str(_legacy())
    except RuntimeError:
        legacy = "by back end"
    products, others = _by_back_end("mkldnn", "matmul"), _by_back_end("mkldnn", "conv")
    recurrent = _by_back_end("mkldnn", "rnn")
    if products in ("none", _IMPLIED.get(legacy)) and others == recurrent == "none":
        return legacy
    return f"{legacy}; oneDNN {products}, convolutions {others}, recurrent {recurrent}"


NAMES = (
    "default dtype",
    "number of threads",
    "deterministic algorithms",
    "float32 matmul precision",
    "oneDNN",
    "flash attention",
    "math attention",
    "memory-efficient attention",
    "deterministic oneDNN",
    "the encoder's fast path",
    "denormal numbers",
    "cuDNN",
)


def settings() -> Settings:
    """Torch's settings now; takes a microsecond."""
    return (
        _dtype(),
        _threads(),
        _deterministic(),
        _precision(),
        _onednn(),
        _flash(),
        _math(),
        _efficient(),
        _onednn_deterministic(),
        _fast_path(),
        _DENORMAL * 1.0 != 0.0,  # nothing else tells what `set_flush_denormal` did
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
    return not torch.is_grad_enabled() and _only_grad()


def _only_grad() -> bool:
    return not (
        torch.is_inference_mode_enabled()
        or torch.is_autocast_enabled("cpu")
        or torch.is_autocast_enabled("cuda")
        or torch._C._len_torch_dispatch_stack()  # noqa: SLF001
        or torch._C._len_torch_function_stack()  # noqa: SLF001
    )


class GradKept:
    """Leaves autograd switched on or off as it was, also after an interrupt.

    Ctrl-C may come just before the `__exit__` of a context manager does anything; autograd would stay
    off, with nobody around it to notice. So this goes around whatever switches it off.
    """

    __slots__ = ("_before",)

    def __enter__(self) -> None:
        self._before = torch.is_grad_enabled()

    def __exit__(self, *_: object) -> None:
        if torch.is_grad_enabled() is not self._before:
            torch._C._set_grad_enabled(self._before)  # noqa: SLF001


class _NoGrad(GradKept):
    """`torch.no_grad`, without what it does to be a decorator, too."""

    __slots__ = ()

    def __enter__(self) -> None:
        super().__enter__()
        torch._C._set_grad_enabled(False)  # noqa: SLF001


def plain_torch(device: torch.device) -> AbstractContextManager[None]:
    """What recipes run under, whatever their reader is doing.

    No grad, inference mode, autocast, function modes or dispatch modes of the reader's; tensors are
    made on `device` unless told otherwise. Enter a `GradKept` first.
    """
    return _NoGrad() if device.type == "cpu" and _only_grad() else _plain_torch(device)


@contextmanager
def _plain_torch(device: torch.device) -> Iterator[None]:
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
        stack.enter_context(_NoGrad())
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
