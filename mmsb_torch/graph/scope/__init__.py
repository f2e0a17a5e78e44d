"""Incremental scopes: a block that runs again executes only what changed.

- `opkeys`: the key of one operation: what it is, and its arguments by value or by what made them
- `kept`: results of operations, shared with nobody
- `admission`: which results are worth keeping
- `operations`: what is known of a memory's operations, within a budget
- `incremental`: the scope
"""

from .incremental import Incremental, Seen, Witness
from .operations import Operations

__all__ = ["Incremental", "Operations", "Seen", "Witness"]
