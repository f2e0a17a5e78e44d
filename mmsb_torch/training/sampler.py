"""A sampler whose place can be kept, and gone on from."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sized
from typing import Any

import torch
from torch.utils.data import Sampler

from mmsb_torch.errors import TrackError, UnsupportedError


class ResumableSampler(Sampler[int]):
    """Indices in an order that a seed and the epoch's number fix; it knows how far it has come.

    Iterating goes on where it is: after `resume`, and after a `break`, too. When all indices were
    handed out the next epoch begins. For a `DataLoader` without workers (workers are given indices
    ahead of what was used: `torchdata.stateful_dataloader.StatefulDataLoader` keeps their place).

    Args:
        data_source: what is sampled, or its length.
        shuffle: a new order each epoch; else 0, 1, 2, ...
        seed: of the orders. No other generator is used, and none is touched.
    """

    def __init__(self, data_source: Sized | int, *, shuffle: bool = True, seed: int = 0) -> None:
        self._length = data_source if isinstance(data_source, int) else len(data_source)
        self.shuffle, self.seed = shuffle, seed
        self.epoch = 0
        """Whole epochs handed out."""
        self.position = 0
        """Indices of this epoch handed out."""
        self._order: tuple[int, list[int]] | None = None
        self._resumed: Callable[[], object] | None = None

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[int]:
        resumed, self._resumed = self._resumed, None
        if _has_workers():
            raise UnsupportedError(
                "a ResumableSampler was given to a DataLoader with workers, which run ahead of what was "
                "used: expected num_workers=0. Use torchdata's StatefulDataLoader with workers, and "
                "pass it to mmsb.track as loader="
            )
        if resumed is not None:
            resumed()
        epoch, order = self.epoch, self._indices()
        while self.epoch == epoch and self.position < self._length:
            self.position += 1
            yield order[self.position - 1]
        if self.epoch == epoch:
            self.epoch, self.position = epoch + 1, 0

    def go_on(self, resumed: Callable[[], object]) -> None:
        """Call `resumed` when the next index is asked for, if that is in the middle of an epoch.

        A `DataLoader` draws a random number when it begins to iterate; one that had gone on would not have.
        """
        self._resumed = resumed if self.position else None

    def state_dict(self) -> dict[str, Any]:
        """Where it is, as plain data."""
        return {
            "length": self._length,
            "shuffle": self.shuffle,
            "seed": self.seed,
            "epoch": self.epoch,
            "position": self.position,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where another of the same length was; its seed and shuffling are taken over.

        Raises:
            TrackError: it had another length.
        """
        if state["length"] != self._length:
            raise TrackError(
                f"the sampler that was kept had {state['length']} indices, this one has {self._length}: "
                "expected the same data set"
            )
        self.shuffle, self.seed = state["shuffle"], state["seed"]
        self.epoch, self.position = state["epoch"], state["position"]
        if self.position >= self._length > 0:
            self.epoch, self.position = self.epoch + 1, 0
        self._order = None

    def _indices(self) -> list[int]:
        if not self.shuffle:
            return list(range(self._length))
        if self._order is None or self._order[0] != self.epoch:
            generator = torch.Generator()
            generator.manual_seed((self.seed * 1_000_003 + self.epoch) % (1 << 63))
            self._order = self.epoch, torch.randperm(self._length, generator=generator).tolist()
        return self._order[1]


def _has_workers() -> bool:
    """Whether the loader that asks hands its indices to workers."""
    frame = sys._getframe(1)  # noqa: SLF001 - who iterates cannot be seen otherwise
    for _ in range(8):
        if frame.f_back is None:
            return False
        frame = frame.f_back
        asking = frame.f_locals.get("self")
        if type(asking).__name__.endswith("MultiProcessingDataLoaderIter"):
            return True
    return False
