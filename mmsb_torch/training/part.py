"""What a run's state is made of: parts that are looked at, compared and loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from mmsb_torch.errors import MismatchError
from mmsb_torch.training.tree import Keep
from mmsb_torch.types import Spec

Find = Callable[[str], Tensor]
"""A tensor of the state that is loaded, by key: on the CPU, for reading."""
Look = Callable[[str], Spec | None]
"""What a tensor of the state that is loaded looks like."""


class Part(Protocol):
    """A part of a run's state: it is looked at, compared, loaded."""

    name: str

    def look(self, keep: Keep) -> Any:
        """Hand the part's tensors, by key, to `keep`; the rest is returned as JSON."""

    def compare(self, saved: Any, spec: Look) -> list[str]:
        """What differs between this part and what was kept, so that it cannot be loaded."""

    def load(self, saved: Any, find: Find) -> None:
        """Give the part the state that was kept; nothing was found to differ."""


def differences(key: str, tensor: Tensor, spec: Spec | None) -> list[str]:
    """What differs between a tensor and what was kept of it (None: nothing was)."""
    if spec is None:
        return [f"{key}: not kept by the run"]
    found = Spec(tensor.dtype, tuple(tensor.shape), spec.device)
    return [] if found == spec else [f"{key}: the run kept {spec}, found {found}"]


def copy_into(target: Tensor, value: Tensor) -> None:
    """Give a tensor other bits, in place; its version moves, as autograd must know."""
    target.detach().copy_(value)


def raise_differences(name: str, found: list[str]) -> None:
    """Raise if there are any.

    Raises:
        MismatchError: naming each.
    """
    if found:
        listed = "\n  ".join(
            found[:40] + ([f"and {len(found) - 40} more"] if len(found) > 40 else [])
        )
        raise MismatchError(
            f"run {name!r} cannot go on with what it was given; nothing was changed. "
            f"{len(found)} differ{'s' if len(found) == 1 else ''}:\n  {listed}\n"
            "Build what the run was built with, or begin another: mmsb.track(..., name=...)"
        )
