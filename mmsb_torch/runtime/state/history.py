"""Values of the past, rebuilt from the log."""

from __future__ import annotations

from torch import Tensor

from mmsb_torch.device import copy_of
from mmsb_torch.errors import CollectedError, MMSBError, PageNotFoundError
from mmsb_torch.runtime.store.log import Log
from mmsb_torch.types import Delta, Form, after


def value_at(log: Log, page_id: int, tx: int) -> Tensor:
    """The value of one page as of transaction `tx`: a new tensor, bit for bit.

    Raises:
        PageNotFoundError: the page did not exist then.
        CollectedError: the writer has removed what it takes.
        CorruptLogError, CorruptStoreError: what is on disk is damaged.
    """
    base, steps, value = log.base(page_id, tx), list[Delta](), None
    for number in log.of_page(page_id, tx):
        if base is not None and number <= base.tx:
            break
        delta = log.delta(number, page_id)
        if delta.region.form is Form.ALL:
            value = copy_of(delta.values)
            break
        steps.append(delta)
    if value is None:
        if base is None:
            log.check(tx)
            raise PageNotFoundError(
                f"page {page_id} did not exist at transaction {tx}", page_id=page_id
            )
        try:
            value = base.value()
        except CollectedError:  # by another process: older ones and the log may lead there
            log.lose_base(base.tx)
            return value_at(log, page_id, tx)
        except MMSBError:
            now = log.base(page_id, tx)
            if now is not None and now.tx == base.tx:
                raise
            return value_at(log, page_id, tx)  # the checkpoint was removed meanwhile
    value = after(value, steps[::-1])
    log.check(tx)  # at the end: what was there then was there all the time
    return value


def epoch_at(log: Log, page_id: int, tx: int) -> int:
    """The epoch of one page as of transaction `tx`; -1 if it did not exist."""
    epoch = log.epoch(page_id, tx)
    return -1 if epoch is None else epoch
