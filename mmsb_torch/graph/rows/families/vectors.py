"""Where the bits of a function of single elements depend on their place in memory.

Such functions are computed a vector at a time, and what is left over one by one, by other code, which
may round otherwise. So a part has the bits of the whole if it is made of whole vectors.
"""

from __future__ import annotations

import math
from typing import Any

VECTOR = 64
"""A multiple of what any processor's loop takes at a time."""


def in_vectors(site: Any, box: Any) -> bool:
    """Whether what is restricted leaves runs of whole vectors."""
    last = max((dim for dim, part in enumerate(box) if part is not None), default=-1)
    run = math.prod(site.at.shape[last + 1 :])
    return last < 0 or run % VECTOR == 0


def outside(site: Any, box: Any) -> bool:
    """Whether only dimensions before the first one that is mixed are restricted."""
    links = site.links[0]
    mixed = links.index(None) if None in links else len(links)
    outer = [link for link in links[:mixed] if link is not None]
    return all(part is None or dim in outer for dim, part in enumerate(box))
