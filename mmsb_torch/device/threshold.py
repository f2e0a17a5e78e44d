"""From how many rows on a product's rows have the same bits, whatever their number: probed, not assumed.

Libraries pick other kernels for a few rows than for many, and those add in another order.
"""

from __future__ import annotations

import functools
from itertools import pairwise

import torch

_SHAPES = ((256, 512), (384, 384), (1000, 10), (33, 65))
"""Inputs and outputs of the linear layers that are tried."""
_ROWS = 64
_TRIED = (48, 33, 32, 24, 19, 17, 16)
LEAST = 16
"""What sufficed in every case that was ever tried; the probe may say more."""


def rows_threshold(device: torch.device) -> int:
    """Rows to compute at least, so that each has the bits it would have among many more.

    It holds for linear layers in float32; a function's own rows are compared, too, before anybody
    relies on this (`graph/slicing.py`). Probed once per device and number of threads, in some milliseconds.
    """
    return _probe(str(device), torch.get_num_threads())


@functools.cache
def _probe(device: str, threads: int) -> int:
    del threads
    generator = torch.Generator().manual_seed(0)
    least = LEAST
    for inputs, outputs in _SHAPES:
        made = [torch.randn(size, inputs, generator=generator) for size in (_ROWS, outputs)]
        x, weight = (value.to(device) for value in made)
        whole = torch.nn.functional.linear(x, weight)
        for before, rows in pairwise((_ROWS, *_TRIED)):
            if not torch.equal(torch.nn.functional.linear(x[:rows], weight), whole[:rows]):
                least = max(least, before)
                break
    return least
