"""That tensors are as they were: one by one, or of many at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter, is_
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from . import barrier

if TYPE_CHECKING:
    from .ledger import Record, View

_storage: Callable[[Tensor], Any] = Tensor.untyped_storage
_strides: Callable[[Tensor], Any] = Tensor.stride
_offset: Callable[[Tensor], Any] = Tensor.storage_offset
_is_negated: Callable[[Tensor], bool] = Tensor.is_neg
_address = attrgetter("_cdata")
_look = attrgetter("dtype", "shape", "requires_grad")


class Evidence(NamedTuple):
    """That a tensor is as it was when this was taken; see `Ledger.doubtful`."""

    tensor: Tensor
    record: Record
    view: View
    requires_grad: bool


class Panel:
    """The evidence of many tensors by columns: each is compared in C, at half the time.

    Immutable. `places` are those that it speaks of, `others` the rest.
    """

    __slots__ = (
        "_addresses",
        "_complex",
        "_looks",
        "_negated",
        "_offsets",
        "_records",
        "_strides",
        "_tensors",
        "others",
    )

    def __init__(self, evidence: Sequence[Evidence | None]) -> None:
        known = [item for item in evidence if item is not None]
        tensors = self._tensors = [item.tensor for item in known]
        self._records = [item.record for item in known]
        self._addresses = list(map(_address, map(_storage, tensors)))
        self._looks = [(item.view[0], item.view[1], item.requires_grad) for item in known]
        self._strides, self._offsets, self._negated = (
            [item.view[part] for item in known] for part in (2, 3, 4)
        )
        self._complex = [(item.tensor, item.view[5]) for item in known if item.view[0].is_complex]
        self.others = [place for place, item in enumerate(evidence) if item is None]

    def holds(self, records: dict[int, Record]) -> bool:
        """Whether every tensor is as it was; `records` are the ledger's of now."""
        tensors, addresses = self._tensors, self._addresses
        return (
            list(map(_address, map(_storage, tensors))) == addresses
            and all(map(is_, map(records.get, addresses), self._records))
            and all(map(barrier.is_armed, tensors))
            and list(map(_look, tensors)) == self._looks
            and list(map(_strides, tensors)) == self._strides
            and list(map(_offset, tensors)) == self._offsets
            and list(map(_is_negated, tensors)) == self._negated
            and all(tensor.is_conj() is conj for tensor, conj in self._complex)
        )
