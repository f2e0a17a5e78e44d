"""Incremental scopes: a block that runs again executes only what changed.

- `opkeys`: the key of one operation: what it is, and its arguments by value or by what made them
- `kept`: results of operations, shared with nobody
- `incremental`: the scope
"""

from .incremental import Incremental, Operations

__all__ = ["Incremental", "Operations"]
