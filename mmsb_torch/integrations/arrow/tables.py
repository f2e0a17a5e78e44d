"""A memory's registry of pages and its history as Arrow tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from mmsb_torch.integrations.arrow.mapping import arrow
from mmsb_torch.integrations.records import delta_rows, page_rows

if TYPE_CHECKING:
    import pyarrow as pa

    from mmsb_torch.memory import Memory

_REGISTRY = {
    "page": "int64",
    "name": "string",
    "derived": "bool",
    "dtype": "string",
    "shape": "sizes",
    "device": "string",
    "nbytes": "int64",
    "epoch": "int64",
    "tx": "int64",
    "created": "time",
    "metadata": "string",
    "recipe": "string",
    "inputs": "sizes",
    "seen": "sizes",
    "as_of": "int64",
    "world": "int64",
}
_HISTORY = {
    "tx": "int64",
    "time": "time",
    "label": "string",
    "step": "int64",
    "metadata": "string",
    "page": "int64",
    "name": "string",
    "epoch": "int64",
    "form": "string",
    "changed": "int64",
    "nbytes": "int64",
    "source": "string",
    "rows_before": "int64",
}


def registry_to_arrow(memory: Memory) -> pa.Table:
    """A table with a row for each page, at one moment; nothing is computed. docs/arrow.md names the columns.

    Raises:
        UnsupportedError: pyarrow is not installed.
        ClosedError: the memory is closed.
    """
    return _table(_REGISTRY, page_rows(memory))


def history_to_arrow(memory: Memory) -> pa.Table:
    """A table with a row for each delta in the history at hand, oldest first.

    A transaction that touched no page has one row, without a page. docs/arrow.md names the columns.

    Raises:
        UnsupportedError: pyarrow is not installed.
        ClosedError, CollectedError, CorruptLogError: as `page.history()`.
    """
    arrow()
    rows = list(delta_rows(memory))
    names = {row.page: row.name for row in page_rows(memory)}
    named = [(*row[:6], names.get(row.page) if row.page else None, *row[6:]) for row in rows]
    return _table(_HISTORY, named)


def _table(columns: dict[str, str], rows: Iterable[tuple[Any, ...]]) -> pa.Table:
    pa = arrow()
    own = {"sizes": pa.list_(pa.int64()), "time": pa.timestamp("ns", tz="UTC")}
    types = [own[kind] if kind in own else pa.type_for_alias(kind) for kind in columns.values()]
    schema = pa.schema(list(zip(columns, types, strict=True)))
    values = list(zip(*rows, strict=True)) or [()] * len(columns)
    arrays = [pa.array(list(v), type=kind) for v, kind in zip(values, types, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)
