"""Tensors as Arrow columns and back, bit for bit.

A column has a row for each row of dimension 0 (one, of a 0-dim tensor). A row of a 0-dim or 1-dim
real tensor is a number, any other a fixed-size list of the row's elements in C order, complex ones
as real and imaginary part after each other. A tensor without elements is a column without rows.
What Arrow cannot name is carried by unsigned integers of the same width.
"""

from __future__ import annotations

import ctypes
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from mmsb_torch.device import copy_of, flat_words, from_words, pack_mask, unpack_mask, words
from mmsb_torch.errors import SerializationError, UnsupportedError

if TYPE_CHECKING:
    import pyarrow as pa

_NAMED = {
    torch.bool: "bool",
    torch.uint8: "uint8",
    torch.int8: "int8",
    torch.uint16: "uint16",
    torch.int16: "int16",
    torch.uint32: "uint32",
    torch.int32: "int32",
    torch.uint64: "uint64",
    torch.int64: "int64",
    torch.float16: "halffloat",
    torch.float32: "float",
    torch.float64: "double",
}
_PAIRED = {torch.complex32: "halffloat", torch.complex64: "float", torch.complex128: "double"}
_CARRIERS = {1: "uint8", 2: "uint16"}
_LONGEST = 2**31 - 1
_DTYPES = {name: dtype for dtype, name in _NAMED.items()}


def arrow() -> Any:
    """The module pyarrow.

    Raises:
        UnsupportedError: it is not installed.
    """
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            "Arrow tables need pyarrow, which is not installed. "
            "Install the extra: pip install 'mmsb-torch[arrow]'"
        ) from error
    return pa


class Layout(NamedTuple):
    """The column of a tensor: its rows, and the leaves of each."""

    leaf: str
    """Arrow's name of the type."""
    rows: int
    width: int | None
    """Leaves of a list; None where each row is a leaf itself."""

    @classmethod
    def of(cls, dtype: torch.dtype, shape: tuple[int, ...]) -> Layout:
        """The layout of a tensor.

        Raises:
            UnsupportedError: a row has more leaves than an Arrow list.
        """
        leaves = 2 if dtype in _PAIRED else 1
        leaf = _PAIRED.get(dtype) or _NAMED.get(dtype) or _CARRIERS[dtype.itemsize]
        width = math.prod(shape[1:]) * leaves
        rows = shape[0] if shape else 1
        if rows == 0 or width == 0:
            rows, width = 0, max(width, 1)
        if width > _LONGEST:
            raise UnsupportedError(
                f"a row of {width} elements: an Arrow list holds {_LONGEST}. Give the page a shape "
                "with more, smaller rows."
            )
        return cls(leaf, rows, None if len(shape) <= 1 and leaves == 1 else width)

    @property
    def type(self) -> pa.DataType:
        """The column's Arrow type."""
        pa = arrow()
        leaf = pa.type_for_alias(self.leaf)
        return leaf if self.width is None else pa.list_(pa.field("item", leaf, False), self.width)


def column_of(value: Tensor) -> pa.Array:
    """A tensor as a column: a view of its memory on the CPU; bools are packed into bits, a copy.

    The view is read-only to Python and keeps the memory alive. A tensor of another device, or
    that is not contiguous, is copied.

    Raises:
        UnsupportedError: a row is too long; no pyarrow.
    """
    pa = arrow()
    layout = Layout.of(value.dtype, tuple(value.shape))
    value = value.detach().cpu()
    if not value.is_contiguous() or value.is_conj() or value.is_neg():
        value = copy_of(value)
    bits = pack_mask(value) if value.dtype is torch.bool else words(value)
    array = bits.numpy()
    array.setflags(write=False)
    count = layout.rows * (layout.width or 1)
    leaves = pa.Array.from_buffers(
        pa.type_for_alias(layout.leaf), count, [None, pa.py_buffer(array)], null_count=0
    )
    if layout.width is None:
        return leaves
    return pa.FixedSizeListArray.from_arrays(leaves, type=layout.type)


def found_in(column: pa.ChunkedArray, where: str) -> tuple[torch.dtype, tuple[int, ...]]:
    """The dtype and shape of the tensor that a column is by its type alone.

    Raises:
        SerializationError: of no type that a tensor has.
    """
    pa, shape, kind = arrow(), [len(column)], column.type
    while pa.types.is_fixed_size_list(kind):
        shape.append(kind.list_size)
        kind = kind.value_type
    dtype = _DTYPES.get(str(kind))
    if dtype is None:
        raise SerializationError(
            f"{where} has type {column.type}: expected bools, integers or floats of fixed width, or "
            "fixed-size lists of them. Cast it: column.cast(pa.list_(pa.float32(), 8))."
        )
    return dtype, tuple(shape)


def tensor_of(
    column: pa.ChunkedArray, dtype: torch.dtype, shape: tuple[int, ...], where: str
) -> Tensor:
    """The tensor of that dtype and shape in a column: on the CPU, for reading, mostly a view of it.

    It is a view of the column's memory, which it keeps alive, if that is one chunk and no bools: do
    not write to it.

    Raises:
        SerializationError: the column is not of that dtype and shape, or has nulls.
    """
    layout = Layout.of(dtype, shape)
    named, leaves, width = _leaves(column, where)
    found = (named, len(column), math.prod(width) if width else None)
    if found != tuple(layout):
        raise SerializationError(
            f"{where} has {found[1]} rows of {_row(found[0], found[2])}: expected {layout.rows} of "
            f"{_row(layout.leaf, layout.width)} for {dtype}{list(shape)}. If the table was cut on "
            "purpose, take it as it is: table.replace_schema_metadata(None)."
        )
    if dtype is torch.bool:
        return _bools(leaves).view(shape)
    raw = _bytes(leaves, dtype)
    if dtype is torch.complex128:
        return from_words(raw.view(torch.int64).view(-1, 2), dtype, shape)
    return raw.view(flat_words(torch.empty(0, dtype=dtype)).dtype).view(dtype).view(shape)


def _leaves(column: pa.ChunkedArray, where: str) -> tuple[str, pa.Array, list[int]]:
    """The leaves of a column in one array, their type's name, and the sizes of the lists around."""
    pa = arrow()
    chunks = column.chunks or [pa.array([], column.type)]
    array = chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks)
    width: list[int] = []
    while True:
        if array.null_count:
            raise SerializationError(
                f"{where} has {array.null_count} nulls, which a tensor cannot hold. Fill them: "
                "column.fill_null(0)."
            )
        if not pa.types.is_fixed_size_list(array.type):
            return str(array.type), array, width
        width.append(array.type.list_size)
        array = array.flatten()


def _bools(leaves: pa.Array) -> Tensor:
    first, ahead = divmod(leaves.offset, 8)
    count = ahead + len(leaves)
    return unpack_mask(_view(leaves, first, (count + 7) // 8), (count,))[ahead:]


def _bytes(leaves: pa.Array, dtype: torch.dtype) -> Tensor:
    """The bytes of leaves: uint8, mostly a view."""
    size = dtype.itemsize // (2 if dtype in _PAIRED else 1)
    raw = _view(leaves, leaves.offset * size, len(leaves) * size)
    return raw if raw.data_ptr() % dtype.itemsize == 0 else raw.clone()


def _view(leaves: pa.Array, begin: int, nbytes: int) -> Tensor:
    """Bytes of the memory of leaves: uint8, a view that keeps it alive."""
    if not nbytes:
        return torch.empty(0, dtype=torch.uint8)
    buffer = leaves.buffers()[1]
    # torch takes no read-only memory without a warning: it is only read from
    memory = (ctypes.c_uint8 * nbytes).from_address(buffer.address + begin)
    memory.owner = buffer  # type: ignore[attr-defined]
    return torch.frombuffer(memory, dtype=torch.uint8)


def _row(leaf: str, width: int | None) -> str:
    return leaf if width is None else f"{leaf}[{width}]"
