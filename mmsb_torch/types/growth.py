"""Pages that grow: deltas that were made for another number of rows than their page has by now.

What is appended touches no row that was there, so it commutes with every change of those: a change
that was staged before an append commits after it, rows as they were, appended ones at the end.
"""

from __future__ import annotations

import math

import torch

from mmsb_torch.types.delta import ANY_ROWS, Delta, fitted
from mmsb_torch.types.region import Form, Region


def is_append(delta: Delta) -> bool:
    """Whether all that a delta does is to add rows at the end."""
    region = delta.region
    return (
        delta.rows_before is not None
        and region.form is Form.ROWS
        and region.index is not None
        and region.index.numel() == region.shape[0] - delta.rows_before
    )


def rebased(delta: Delta, rows: int) -> Delta | None:
    """The change that `delta` stands for, of a page that has `rows` rows by now.

    Rows that it adds come after those. None if it writes rows that are gone.
    """
    shape, made_for = delta.region.shape, delta.rows_before
    if made_for == ANY_ROWS:
        return delta._replace(rows_before=None if rows == shape[0] else rows)
    if made_for is None:
        found = fitted(delta, (rows, *shape[1:]))
        return found if found.region.count == delta.region.count else None
    if made_for == rows:
        return delta
    if made_for > shape[0]:
        return None
    return _moved(delta, made_for, rows)


def _moved(delta: Delta, made_for: int, rows: int) -> Delta | None:
    """A delta that adds rows to `made_for` as one that adds them to `rows`."""
    region, values = delta.region, delta.values
    shape = (rows + region.shape[0] - made_for, *region.shape[1:])
    if region.form is Form.NONE:  # rows without elements
        return delta._replace(region=Region.none(shape), rows_before=rows)
    if region.form is Form.ALL:
        index = torch.arange(region.shape[0], device=values.device)
    else:
        index = region.index if region.form is Form.ROWS else region.flat()  # type: ignore[assignment]
    if region.form is Form.MASK:
        values = region.pick(values)
    by_row = region.form in {Form.ROWS, Form.ALL}
    width = 1 if by_row else math.prod(shape[1:])
    added = index >= made_for * width
    if bool((~added & (index >= rows * width)).any()):
        return None
    index = index + added * ((rows - made_for) * width)
    region = (Region.rows if by_row else Region.elements)(shape, index)
    if region.form is Form.ALL:
        values = values.view(shape)
    return delta._replace(region=region, values=values, rows_before=rows)
