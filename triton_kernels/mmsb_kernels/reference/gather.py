"""Read rows by number."""

from __future__ import annotations

from torch import Tensor

from mmsb_kernels.checks import check_gather, check_range
from mmsb_kernels.reference.words import words


def gather_rows(source: Tensor, rows: Tensor) -> Tensor:
    """Return the rows of `source` that `rows` names, in its order.

    Args:
        source: at least one dimension, any dtype.
        rows: int64 `[n]`, each in `[0, source.shape[0])`; the same row may be named again.

    Returns:
        A new `[n, *source.shape[1:]]`.

    Raises:
        ValueError: `source` has no rows, or `rows` does not fit it.
        TypeError: `rows` is not int64.
        IndexError: a row is out of range.
    """
    check_gather("gather_rows", source, rows)
    check_range("gather_rows", "rows", rows, source.shape[0])
    gathered = source.new_empty((rows.numel(), *source.shape[1:]))
    words(gathered).copy_(words(source)[rows])
    return gathered
