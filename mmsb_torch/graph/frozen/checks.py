"""Which modules' rows can be kept at all."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mmsb_torch.graph.memo.keys import Refused

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_transforms: Any = getattr(torch._C._functorch, "peek_interpreter_stack", lambda: None)  # noqa: SLF001


def check_module(module: nn.Module) -> None:
    """Raise Refused for a module whose call does more than compute values of fixed weights."""
    if torch.is_grad_enabled():
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                raise Refused(
                    f"it is not frozen: {name!r} requires gradients. Call "
                    "module.requires_grad_(False)"
                )
    if _transforms() is not None:
        raise Refused("a transform of torch.func is active")
    if nn.modules.module._has_any_global_hook():  # noqa: SLF001 - nobody else tells
        raise Refused("hooks for all modules are registered, which a hit would not run")
    for name, part in module.named_modules():
        kept = vars(part)
        where = f"module {name!r}" if name else "it"
        if any(kept[hooks] for hooks in _HOOKS):
            raise Refused(f"{where} has forward hooks, which a hit would not run")
        if kept.get("_compiled_call_impl") is not None or _is_compiled(part):
            raise Refused(
                f"{where} is compiled: cache the module that was compiled, and compile nothing"
            )


def _is_compiled(part: nn.Module) -> bool:
    cls = type(part)
    return cls.__name__ == "OptimizedModule" or isinstance(part, torch.jit.ScriptModule)
