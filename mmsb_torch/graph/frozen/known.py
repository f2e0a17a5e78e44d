"""The rows that are kept: in memory, and on disk where there is a store."""

from __future__ import annotations

import time
from collections.abc import Sequence

from torch import Tensor

from mmsb_torch.device import same_bits
from mmsb_torch.errors import StoreError, UnsupportedError
from mmsb_torch.graph.memo.results import Result
from mmsb_torch.graph.memo.shelf import Item, Shelf
from mmsb_torch.runtime.store.objects import Objects

Row = tuple[Tensor, ...]
"""One row of each result. Nobody writes to it."""


class Known:
    """Rows by name. Thread-safe; any number of processes may share what is on disk.

    Args:
        objects: where rows outlive the process, within its own budget; None: nowhere.
        budget: bytes of rows in memory.
    """

    def __init__(self, objects: Objects | None, budget: int) -> None:
        self._objects = objects
        self._shelf = Shelf(budget)
        self.unstored = 0
        """Rows that the disk did not take."""

    def get(self, name: str, looks: Sequence[tuple[object, tuple[int, ...]]]) -> Row | None:
        """A row, if it is there and has these dtypes and shapes."""
        item = self._shelf.get(name)
        if item is None and self._objects is not None:
            item = self._read(name)
        if item is None or item.result is None:
            return None
        row = []
        for n, look in enumerate(looks):
            tensor = item.result.tensors.get(str(n))
            if tensor is None or (tensor.dtype, tuple(tensor.shape)) != look:
                return None
            row.append(tensor)
        return tuple(row)

    def put(self, name: str, row: Row, seconds: float) -> None:
        """Keep a row, which becomes this object's own.

        Args:
            name: of 32 hexadecimal digits.
            row: new tensors.
            seconds: what computing it took.
        """
        result = Result({str(n): tensor for n, tensor in enumerate(row)}, {})
        self._shelf.put(name, Item(result, seconds, time.time_ns()))
        if self._objects is None or not self._objects.writable:
            return
        try:
            self._objects.put(name, result.tensors, {"mmsb.of": "row"}, int(seconds * 1e6))
        except StoreError:  # a full disk must not fail the call; the row is in memory
            self.unstored += 1

    @property
    def nbytes(self) -> int:
        """Bytes of the rows in memory."""
        return self._shelf.nbytes

    def __len__(self) -> int:
        return len(self._shelf)

    def _read(self, name: str) -> Item | None:
        assert self._objects is not None
        try:
            found = self._objects.get(name)
        except (StoreError, UnsupportedError):  # what cannot be read is computed
            return None
        if found is None:
            return None
        item = Item(Result(*found), 0.0, time.time_ns())
        self._shelf.put(name, item)
        return item


def same_rows(a: Row, b: Row) -> bool:
    """Whether two rows have the same bits."""
    return all(same_bits(x, y) for x, y in zip(a, b, strict=True))
