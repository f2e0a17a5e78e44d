"""Values of the past, rebuilt from the log."""

from __future__ import annotations

from torch import Tensor

from mmsb_torch.device import copy_of
from mmsb_torch.errors import PageNotFoundError
from mmsb_torch.runtime.store.log import Log
from mmsb_torch.types import Delta, Form, apply


def deltas_until(log: Log, page_id: int, tx: int) -> list[tuple[int, Delta]]:
    """(transaction, delta) of one page up to `tx`, from its last whole value on, oldest first."""
    found: list[tuple[int, Delta]] = []
    for number in log.of_page(page_id, tx):
        delta = log[number].delta_of(page_id)
        assert delta is not None
        found.append((number, delta))
        if delta.region.form is Form.ALL:
            break
    found.reverse()
    return found


def value_at(log: Log, page_id: int, tx: int) -> Tensor:
    """The value of one page as of transaction `tx`: a new tensor, bit for bit.

    Raises:
        PageNotFoundError: the page did not exist then.
    """
    steps = deltas_until(log, page_id, tx)
    if not steps or steps[0][1].region.form is not Form.ALL:
        raise PageNotFoundError(
            f"page {page_id} did not exist at transaction {tx}", page_id=page_id
        )
    value = copy_of(steps[0][1].values)
    for _, delta in steps[1:]:
        apply(value, delta)
    return value


def epoch_at(log: Log, page_id: int, tx: int) -> int:
    """The epoch of one page as of transaction `tx`; -1 if it did not exist."""
    for number in log.of_page(page_id, tx):
        delta = log[number].delta_of(page_id)
        assert delta is not None
        return delta.base_epoch + 1
    return -1
