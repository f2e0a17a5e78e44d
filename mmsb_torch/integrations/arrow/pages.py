"""A page as an Arrow table of one column, and back."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from mmsb_torch.device import copy_of
from mmsb_torch.errors import InvalidDeltaError, SerializationError, UnsupportedError
from mmsb_torch.integrations.arrow.mapping import arrow, column_of, found_in, tensor_of
from mmsb_torch.memory.exchange import PageRecord, record_of
from mmsb_torch.memory.page import Page
from mmsb_torch.runtime.store.sealed import strict_loads
from mmsb_torch.types import Spec
from mmsb_torch.types.spec import dtype_named

if TYPE_CHECKING:
    import pyarrow as pa

    from mmsb_torch.memory import Memory

KEY = b"mmsb.page"
"""The key of the schema's metadata that says what the table is, as JSON."""
COLUMN = "value"
_VERSION = 1
_FIELDS = {"version", "page", "name", "epoch", "dtype", "shape", "metadata"}


def page_to_arrow(page: Page | PageRecord, *, copy: bool = False) -> pa.Table:
    """A page as an Arrow table with the column `value`; shape, dtype, epoch and metadata in its schema.

    Without a copy where memory allows: the table then looks at the page's own memory, on the CPU,
    and is as good as a `page.tensor` that somebody holds: later updates never change it (the next
    one copies the page once). Arrow's memory is read-only by Arrow's rules, and so are the arrays it
    gives; what passes over that (DLPack, addresses) writes into the page unseen. Take `copy=True` for
    those. Bools are always copied, into bits, and pages of another device to the CPU.

    Any thread may call this. A stale derived page is computed first.

    Args:
        page: of a memory, or a `PageRecord`.
        copy: give the table memory of its own.

    Raises:
        UnsupportedError: pyarrow is not installed; a row of 2^31 elements or more; inside of a recipe.
        SerializationError: something else than a page.
        RecipeError, RecipeNotLoadedError, PageMutatedError, ClosedError: as for `page.tensor`.
    """
    pa = arrow()
    if not isinstance(page, Page | PageRecord):
        raise SerializationError(f"found a {type(page).__name__}: expected a Page or PageRecord.")
    record = record_of(page) if isinstance(page, Page) else page
    value = record.value
    column = column_of(copy_of(value) if copy and value.dtype is not torch.bool else value)
    about = {
        "version": _VERSION,
        "page": record.info.id,
        "name": record.info.name,
        "epoch": record.epoch,
        "dtype": Spec.of(value).dtype_name,
        "shape": list(value.shape),
        "metadata": dict(record.info.metadata),
    }
    field = pa.field(COLUMN, column.type, nullable=False)
    schema = pa.schema([field], metadata={KEY: json.dumps(about, allow_nan=False)})
    return pa.Table.from_arrays([column], schema=schema)


def arrow_to_page(
    memory: Memory, table: Any, name: str | None = None, *, column: str | None = None
) -> Page:
    """Give a page the value that an Arrow table holds: a new page, or one delta of a page that exists.

    The value is copied. A table of `page_to_arrow` has dtype, shape, name and metadata with it,
    wherever it went as Parquet, IPC or through the C data interface. Any other column gives a page
    of its own type: numbers [rows], fixed-size lists [rows, size, ...].

    Args:
        memory: where the page is or is to be.
        table: a pyarrow table, record batch or reader, or what has `__arrow_c_stream__` (a data
            frame of pandas or polars, a relation of duckdb).
        name: of the page; the one in the table's metadata, if left out.
        column: of the table; the only one, if left out.

    Raises:
        SerializationError: not such a table, another column, nulls, or rows that are not those its
            metadata speaks of.
        InvalidDeltaError: the page exists with another dtype or shape.
        InvalidPageError, DerivedPageError, ReadOnlyError, ClosedError: as `mem.page`, `mem.update`.
        UnsupportedError: pyarrow is not installed. In every case nothing was changed.
    """
    found = _table(table)
    about = _about(found)
    key, values = _column(found, column, about)
    where = f"column {key!r}"
    if about is None or key != COLUMN:
        dtype, shape = found_in(values, where)
    else:
        dtype, shape = about.dtype, about.shape
    name = name if name is not None else about.name if about is not None else None
    if name is None:
        raise SerializationError("the table does not say what page it is: give name=.")
    value = tensor_of(values, dtype, shape, where)
    if name not in memory:
        return memory.page(name, value, metadata=about.metadata if about is not None else None)
    page = memory[name]
    if not page.derived and (page.dtype, tuple(page.shape)) != (dtype, shape):
        raise InvalidDeltaError(
            f"update of page {name!r} from an Arrow table: expected {page.dtype}{list(page.shape)}, "
            f"found {dtype}{list(shape)}. Give another name, to make a new page.",
            page_id=page.id,
        )
    memory.update(page, value if page.derived else value.to(page.device))
    return page


class _About(NamedTuple):
    """What a table of `page_to_arrow` says of itself."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    metadata: dict[str, Any]


def _table(given: Any) -> pa.Table:
    pa = arrow()
    if isinstance(given, pa.Table):
        return given
    if isinstance(given, pa.RecordBatchReader):
        return given.read_all()
    try:
        return pa.table(given)
    except (TypeError, ValueError, pa.ArrowException) as error:
        raise SerializationError(
            f"found a {type(given).__name__}, which is no Arrow table: expected a pyarrow table, "
            f"batch or reader, or a data frame with __arrow_c_stream__ ({error})."
        ) from error


def _column(table: pa.Table, asked: str | None, about: _About | None) -> tuple[str, Any]:
    names = table.column_names
    if asked is None:
        asked = COLUMN if about is not None else names[0] if len(names) == 1 else None
    if asked is None or names.count(asked) != 1:
        raise SerializationError(
            f"the table has the columns {names}: expected one called {asked!r}. Give column=."
        )
    return asked, table.column(asked)


def _about(table: pa.Table) -> _About | None:
    """What the schema says of the page, or None if it says nothing.

    Raises:
        SerializationError: it says what cannot be.
        UnsupportedError: it is of a newer version.
    """
    raw = (table.schema.metadata or {}).get(KEY)
    if raw is None:
        return None
    where = f"the metadata {KEY.decode()!r} of the table"
    fields = strict_loads(raw, where)
    if not isinstance(fields, dict) or not set(fields) >= _FIELDS:
        raise SerializationError(f"{where} is not what page_to_arrow writes: {fields!r:.100}.")
    if fields["version"] != _VERSION:
        raise UnsupportedError(f"{where} has version {fields['version']!r}, expected {_VERSION}.")
    shape, metadata = fields["shape"], fields["metadata"]
    dtype = dtype_named(fields["dtype"]) if isinstance(fields["dtype"], str) else None
    sizes = isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
    if (
        dtype is None
        or not sizes
        or math.prod(size or 1 for size in shape) * dtype.itemsize >= 2**63
        or not isinstance(fields["name"], str)
        or not isinstance(metadata, dict)
    ):
        raise SerializationError(f"{where} is not what page_to_arrow writes: {fields!r:.100}.")
    return _About(fields["name"], dtype, tuple(shape), metadata)
