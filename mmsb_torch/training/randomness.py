"""The random generators of a process: torch's on every device, Python's and NumPy's."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmsb_torch.training.part import Find, Look
from mmsb_torch.training.tree import Keep, decode, encode


class Randomness:
    """The global generators, as a part of a run's state.

    They are read after all else, and set after all else: reading or setting other parts may draw.
    """

    name = "rng"

    def __init__(self) -> None:
        self._python = Remembered("rng/python")
        self._numpy = Remembered("rng/numpy")

    def look(self, keep: Keep) -> Any:
        """The generators' states: tensors to `keep`, the rest returned as JSON."""
        keep("rng/torch", torch.get_rng_state(), ours=True)
        devices = 0
        if torch.cuda.is_initialized():
            devices = torch.cuda.device_count()
            for device in range(devices):
                keep(f"rng/cuda.{device}", torch.cuda.get_rng_state(device), ours=True)
        words = random.getstate()
        state: Any = np.random.get_state()  # noqa: NPY002 - the global one
        kind, key, *rest = state
        return {
            "cuda": devices,
            "python": self._python.look(words, lambda: generator_state(random), keep),
            "numpy": self._numpy.look((kind, key.tobytes(), *rest), _numpy_state, keep),
        }

    def compare(self, saved: Any, spec: Look) -> list[str]:
        """As `Part` says; devices that are not here are no reason to refuse."""
        del saved, spec
        return []

    def load(self, saved: Any, find: Find) -> None:
        """As `Part` says."""
        torch.set_rng_state(find("rng/torch"))
        if torch.cuda.is_available():
            for device in range(min(saved["cuda"], torch.cuda.device_count())):
                torch.cuda.set_rng_state(find(f"rng/cuda.{device}"), device)
        set_generator_state(random, decode(saved["python"], find))
        np.random.set_state(decode(saved["numpy"], find))  # noqa: NPY002

    def again(self) -> Callable[[], None]:
        """What sets the generators to what they are now."""
        tensors: dict[str, Tensor] = {}

        def keep(key: str, tensor: Tensor, *, fixed: bool = False, ours: bool = False) -> None:
            del fixed, ours
            tensors[key] = tensor

        saved = self.look(keep)
        return lambda: self.load(saved, tensors.__getitem__)


class Remembered:
    """A state's encoded form, as long as the state is what it was."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._state: Any = None
        self._encoded: Any = None
        self._tensors: dict[str, Tensor] = {}

    def look(self, state: Any, spelled_out: Callable[[], Any], keep: Keep) -> Any:
        """`encode` of what `spelled_out` gives, which follows from `state`: compared, never changed."""
        if state != self._state:
            tensors: dict[str, Tensor] = {}

            def note(key: str, tensor: Tensor, *, fixed: bool = False, ours: bool = False) -> None:
                del fixed, ours
                tensors[key] = tensor

            self._encoded = encode(spelled_out(), self._key, note)
            self._state, self._tensors = state, tensors
        for key, tensor in self._tensors.items():
            keep(key, tensor)
        return self._encoded


def _numpy_state() -> Any:
    return np.random.get_state(legacy=False)  # noqa: NPY002


def generator_state(generator: Any) -> Any:
    """The state of a torch.Generator, a numpy.random.Generator, a random.Random or `random` itself."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    version, words, gauss = generator.getstate()
    return {"version": version, "words": np.array(words, np.uint32), "gauss": gauss}


def set_generator_state(generator: Any, state: Any) -> None:
    """Give a generator the state that `generator_state` gave."""
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    else:
        words = tuple(state["words"].tolist())
        generator.setstate((state["version"], words, state["gauss"]))


def is_generator(value: object) -> bool:
    """Whether it is one that `generator_state` knows."""
    return isinstance(value, torch.Generator | np.random.Generator | random.Random)
