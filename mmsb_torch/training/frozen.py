"""Frozen backbones: each row is computed once, whatever batch it comes in."""

from __future__ import annotations

import copy
from typing import Any, Self

import torch
from torch import nn

from mmsb_torch.errors import InvalidMemoError
from mmsb_torch.graph.audit import check_share
from mmsb_torch.graph.frozen.answers import Answers
from mmsb_torch.graph.frozen.known import Known
from mmsb_torch.memory import Memory
from mmsb_torch.memory.sizes import parse_bytes

_BUDGET = "1 GiB"


def cache_frozen(
    memory: Memory,
    module: nn.Module,
    *,
    budget: int | str = _BUDGET,
    keep_eval: bool = False,
    verify: float = 0.0,
) -> Frozen:
    """Compute what a frozen module gives for a row once; read it in later epochs and processes.

        model.backbone = mmsb.cache_frozen(mem, model.backbone)

    The loop stays as it is, shuffled or not. A row is known by its bits in all tensor arguments; with
    it count the module's code, weights, buffers and flags, torch's settings and modes, and the
    processor. What comes back has the bits that the module would give for the batch: rows of a batch
    that are not all known are computed by the module, with the whole batch. So is everything that
    cannot be shown to be the same bit for bit; `why()` of what comes back says why.

    Args:
        memory: where rows are kept; on disk, within its budget, if it has a path.
        module: frozen (no parameter requires gradients), in eval mode unless training mode changes
            nothing; on the CPU.
        budget: bytes of rows in memory.
        keep_eval: leave the module in eval mode when the model around it is set to training.
        verify: share (0 to 1) of the batches read that are computed, too, and compared.

    Returns:
        a module with the parameters, buffers, submodules and attributes of the one that was given.

    Raises:
        InvalidMemoError: `module` is no nn.Module, or already cached.
        UnsupportedError: `budget` or `verify` says nothing.
        ClosedError: the memory was closed.
    """
    memory._router.check_open()  # noqa: SLF001 - a door of the facade
    if not isinstance(module, nn.Module) or isinstance(module, Frozen):
        raise InvalidMemoError(
            f"cache_frozen(memory, {module!r:.60}): expected an nn.Module that is not cached yet"
        )
    if keep_eval:
        module.eval()
    return Frozen(memory, module, parse_bytes(budget), check_share("verify", verify), keep_eval)


class Frozen(nn.Module):
    """A module whose rows are computed once; see `cache_frozen`.

    It shares parameters, buffers and submodules with the module that it stands for, under the same
    names: state dicts fit both. A deep copy is cached, too; what is pickled is the module itself.
    """

    def __init__(
        self, memory: Memory, module: nn.Module, budget: int, verify: float, keep_eval: bool
    ) -> None:
        super().__init__()
        known = Known(memory._objects, budget)  # noqa: SLF001 - a door of the facade
        audit = memory._engine.audit  # noqa: SLF001
        self.__dict__["_of"] = module  # no submodule: its own are this one's
        self.__dict__["_about"] = (memory, budget, verify, keep_eval)
        self.__dict__["_answers"] = Answers(module, known, audit, verify)
        for table in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            self.__dict__[table] = module.__dict__[table]
        self.training = module.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module gives; new tensors."""
        if torch.compiler.is_compiling():
            return self._of(*args, **kwargs)
        self._about[0]._router.check_open()  # noqa: SLF001
        return self._answers(args, kwargs)

    def why(self) -> str:
        """How the last call was answered, and why."""
        return str(self._answers.last)

    def stats(self) -> dict[str, int | float]:
        """Numbers about all calls, as plain data."""
        answers = self._answers
        names = ("calls", "hits", "executed", "refused", "changes", "rows read", "rows computed")
        return {
            **{name.replace(" ", "_"): answers.counts[name] for name in names},
            "rows": len(answers.known),
            "bytes": answers.known.nbytes,
            "executed_seconds": answers.costs.executed,
            "looked_seconds": answers.costs.looked,
            "saved_seconds": answers.costs.saved,
        }

    def train(self, mode: bool = True) -> Self:
        """As of every module; with `keep_eval` the module itself stays in eval mode."""
        self._of.train(mode and not self._about[3])
        self.training = self._of.training
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The module's."""
        return self._of.state_dict(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._of._load_from_state_dict(*args, **kwargs)  # noqa: SLF001 - as nn.Module does

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        self._of._apply(*args, **kwargs)  # noqa: SLF001 - as nn.Module does
        return self

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__") or "_of" not in self.__dict__:
                raise
            return getattr(self.__dict__["_of"], name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Frozen:
        memory, budget, verify, keep_eval = self._about
        made = Frozen(memory, copy.deepcopy(self._of, memo), budget, verify, keep_eval)
        memo[id(self)] = made
        return made

    def __reduce__(self) -> Any:
        return _itself, (self._of,)

    def extra_repr(self) -> str:
        """What was read and computed, in `repr`."""
        counts = self._answers.counts
        return f"{type(self._of).__name__}: {counts['rows read']} rows read, {counts['rows computed']} computed"


def _itself(module: nn.Module) -> nn.Module:
    return module
