"""The parts of a run's state that are no models and no optimizers: schedulers, samplers, values."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mmsb_torch.errors import TrackError
from mmsb_torch.training.part import Find, Look, Part, copy_into, differences
from mmsb_torch.training.randomness import generator_state, is_generator, set_generator_state
from mmsb_torch.training.tree import Keep, decode, encode


class Stateful:
    """What has `state_dict()` and `load_state_dict()`: schedulers, scalers, samplers, loaders."""

    def __init__(self, name: str, target: Any) -> None:
        self.name, self.target = name, target

    def look(self, keep: Keep) -> Any:
        """As `Part` says."""
        state = encode(self.target.state_dict(), self.name, keep)
        return {"kind": type(self.target).__qualname__, "state": state}

    def compare(self, saved: Any, spec: Look) -> list[str]:
        """As `Part` says: only the kind can be compared."""
        del spec
        return _kinds(self.name, type(self.target).__qualname__, saved)

    def load(self, saved: Any, find: Find) -> None:
        """As `Part` says.

        Its state is asked for again: a loader that makes its iterator for that, drawing a random
        number, makes it now, before the generators are set.
        """
        self.target.load_state_dict(decode(saved["state"], find))
        self.target.state_dict()


class Generator:
    """A random generator of the user's."""

    def __init__(self, name: str, target: Any) -> None:
        self.name, self.target = name, target

    def look(self, keep: Keep) -> Any:
        """As `Part` says."""
        state = encode(generator_state(self.target), self.name, keep)
        return {"kind": type(self.target).__qualname__, "state": state}

    def compare(self, saved: Any, spec: Look) -> list[str]:
        """As `Part` says."""
        del spec
        return _kinds(self.name, type(self.target).__qualname__, saved)

    def load(self, saved: Any, find: Find) -> None:
        """As `Part` says."""
        set_generator_state(self.target, decode(saved["state"], find))


class Value:
    """A tensor, list or dict of the user's, which is changed in place."""

    def __init__(self, name: str, target: Any) -> None:
        self.name, self.target = name, target

    def look(self, keep: Keep) -> Any:
        """As `Part` says."""
        kind = type(self.target).__qualname__
        return {"kind": kind, "state": encode(self.target, self.name, keep)}

    def compare(self, saved: Any, spec: Look) -> list[str]:
        """As `Part` says."""
        found = _kinds(self.name, type(self.target).__qualname__, saved)
        if not found and isinstance(self.target, Tensor):
            found = differences(self.name, self.target, spec(self.name))
        return found

    def load(self, saved: Any, find: Find) -> None:
        """As `Part` says."""
        state = decode(saved["state"], find)
        if isinstance(self.target, Tensor):
            copy_into(self.target, state)
        elif isinstance(self.target, dict):
            self.target.clear()
            self.target.update(state)
        else:
            self.target[:] = state


def part_of(name: str, target: Any) -> Part:
    """The part that keeps an object of the user's (no module, no optimizer).

    Raises:
        TrackError: it has no state that could be kept.
    """
    if is_generator(target):
        return Generator(name, target)
    if hasattr(target, "state_dict") and hasattr(target, "load_state_dict"):
        return Stateful(name, target)
    if isinstance(target, Tensor | dict | list):
        return Value(name, target)
    raise TrackError(
        f"{name!r} cannot be kept: expected what has state_dict() and load_state_dict(), a random "
        f"generator, a tensor, a dict or a list, found {type(target).__name__}"
    )


def _kinds(name: str, kind: str, saved: Any) -> list[str]:
    if saved["kind"] == kind:
        return []
    return [f"{name}: the run kept a {saved['kind']}, found a {kind}"]
