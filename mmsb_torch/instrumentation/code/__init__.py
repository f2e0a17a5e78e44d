"""Definitions: which code a result depends on, and whether it has changed.

- `definition`: `Definition`, the digest of a callable and the question whether it still holds
- `survey`: one whole walk; which visitor sees which kind of object
- `walk`: numbered, labelled entries: the canonical form of a graph of objects
- `functions`, `classes`, `modules`, `values`, `buffers`: the visitors
- `bytecode`: what a code object does and refers to; `encoding`: canonical bytes of plain values
- `libraries`: what goes by name and version; `identity`: what only this process can tell apart
- `guards`: the fast checks; `calling`: what a call gives
- `world`: the history of changes, which explains
"""

from .definition import Definition
from .world import History, World, Worlds

__all__ = ["Definition", "History", "World", "Worlds"]
