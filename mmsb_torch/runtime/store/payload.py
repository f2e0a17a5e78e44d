"""A transaction as bytes: one complete safetensors file, whose metadata says what it does.

The tensors are the values and positions of its deltas; `__metadata__["mmsb.ops"]`, a JSON object, is
what counts. Values are absolute: replaying a delta twice is replaying it once. What is read is checked
before anybody may apply it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from mmsb_torch.device import unpack_mask, zeros
from mmsb_torch.errors import UnsupportedError
from mmsb_torch.runtime.store.sealed import Fields, strict_loads
from mmsb_torch.runtime.store.tensorfile import (
    decode_header,
    decode_tensors,
)
from mmsb_torch.types import Delta, Form, PageInfo, Region, Spec, Transaction
from mmsb_torch.types.spec import dtype_named

OPS_KEY = "mmsb.ops"
VERSION = 2
"""Of transactions in which a page gets more or fewer rows; all others are written as version 1."""
_BLOCK = 1 << 20  # bytes of packed bits that are counted at a time


def decode(raw: memoryview, where: str) -> Transaction:
    """The transaction that `payload_writer.encode` wrote; see `transaction_of`."""
    return transaction_of(*decode_tensors(raw, where), where)


def transaction_of(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], where: str
) -> Transaction:
    """The transaction of a payload's tensors (adopted) and metadata.

    Raises:
        CorruptStoreError: it is none, or contradicts itself.
        UnsupportedError: a dtype or version that this package or this torch does not know.
    """
    ops = outline_of_text(metadata.get(OPS_KEY, "null"), where)
    return _transaction(ops, where, lambda fields: _delta(fields, tensors))


def hollow_of(ops: Fields, where: str) -> Transaction:
    """The transaction that an outline tells of, without its values: its deltas change nothing.

    Raises:
        as `transaction_of`.
    """
    return _transaction(ops, where, _hollow_delta)


def _transaction(ops: Fields, where: str, delta_of: Callable[[Fields], Delta]) -> Transaction:
    deltas = tuple([delta_of(fields) for fields in _each(ops, "deltas", where)])
    if len({delta.page_id for delta in deltas}) != len(deltas):
        raise ops.damage("a page has two deltas")
    created = tuple([_page(fields) for fields in _each(ops, "created", where)])
    label, step = ops.optional("label", str), ops.optional("step", int)
    about = MappingProxyType(ops.get("metadata", dict))
    return Transaction(ops.count("tx"), ops.count("time_ns"), created, deltas, label, step, about)


def ops_text(header: bytes | memoryview) -> str:
    """The text of "mmsb.ops" in the first part of an encoded transaction."""
    found: str = json.loads(bytes(header[8:]))["__metadata__"][OPS_KEY]
    return found


def outline(raw: memoryview, where: str) -> Fields:
    """What "mmsb.ops" of an encoded transaction says; its tensors are not read.

    Raises:
        CorruptStoreError: it is none.
    """
    header, _ = decode_header(raw, where)
    return outline_of_text(header.metadata.get(OPS_KEY, "null"), where)


def outline_of_text(text: str, where: str) -> Fields:
    """As `outline`, of the text of "mmsb.ops"."""
    where = f"{where}: {OPS_KEY}"
    ops = Fields(strict_loads(text.encode("utf-8", "surrogatepass"), where), where)
    if (version := ops.count("version")) > VERSION:
        raise UnsupportedError(
            f"{where} has version {version}, this mmsb_torch knows {VERSION}. "
            "Open it with a newer mmsb_torch."
        )
    if version < 1:
        raise ops.damage("expected a version from 1 on")
    return ops


def touched_by(ops: Fields) -> list[tuple[int, int]]:
    """The pages that a transaction touched, and their epochs before."""
    found = _each(ops, "deltas", "the log")
    return [(fields.count("page"), fields.get("base", int)) for fields in found]


def written_whole(ops: Fields) -> frozenset[int]:
    """The pages whose whole value a transaction gives."""
    found = _each(ops, "deltas", "the log")
    whole = (item.count("page") for item in found if item.get("form", str) == Form.ALL.value)
    return frozenset(whole)


def _each(ops: Fields, name: str, where: str) -> Iterator[Fields]:
    for number, item in enumerate(ops.get(name, list)):
        yield Fields(item, f"{where}: {OPS_KEY}: {name}[{number}]")


def _page(fields: Fields) -> PageInfo:
    spec = Spec(_dtype(fields), _shape(fields), torch.device("cpu"))
    about = MappingProxyType(fields.get("metadata", dict))
    return PageInfo(
        fields.count("id"), fields.get("name", str), spec, False, about, fields.count("created_ns")
    )


def _hollow_delta(fields: Fields) -> Delta:
    values = zeros((0,), _dtype(fields), torch.device("cpu"))
    shape = _shape(fields)
    return _delta_with(fields, Region.none(shape), values, _rows_before(fields, shape))


def _dtype(fields: Fields) -> torch.dtype:
    dtype = dtype_named(fields.get("dtype", str))
    if dtype is None:
        raise fields.damage(f"this torch has no dtype {fields.get('dtype', str)!r:.40}")
    return dtype


def _delta(fields: Fields, tensors: Mapping[str, Tensor]) -> Delta:
    region, dtype = _region(fields, _shape(fields), tensors), _dtype(fields)
    if region.form is Form.NONE:
        values = zeros((0,), dtype, torch.device("cpu"))
    else:
        values = _tensor(fields, "values", tensors)
    expected: tuple[int, ...] = (region.count,)
    if region.form is Form.ALL:
        expected = region.shape
    elif region.form is Form.ROWS and region.index is not None:
        expected = (region.index.numel(), *region.shape[1:])
    elif region.form is Form.NONE:
        expected = (0,)
    if tuple(values.shape) != expected or values.dtype is not dtype:
        raise fields.damage(
            f"expected values {fields.get('dtype', str)}{list(expected)}, found "
            f"{values.dtype}{list(values.shape)}"
        )
    rows_before = _rows_before(fields, region.shape)
    if rows_before is not None and not region.covers_from(rows_before):
        raise fields.damage(f"not every row from {rows_before} on, where it had ended, is written")
    return _delta_with(fields, region, values, rows_before)


def _rows_before(fields: Fields, shape: tuple[int, ...]) -> int | None:
    found = fields.optional("rows_before", int)
    if found is not None and (not shape or not 0 <= found < 1 << 63 or found == shape[0]):
        raise fields.damage(f"'rows_before': found {found} for the shape {list(shape[:16])}")
    return found


def _delta_with(fields: Fields, region: Region, values: Tensor, rows_before: int | None) -> Delta:
    base = fields.get("base", int)
    return Delta(
        fields.count("delta"),
        fields.count("page"),
        base,
        region,
        values,
        fields.count("time_ns"),
        fields.get("source", str),
        rows_before,
    )


def _region(fields: Fields, shape: tuple[int, ...], tensors: Mapping[str, Tensor]) -> Region:
    form = fields.get("form", str)
    if form == Form.ALL.value:
        return Region.all(shape)
    if form == Form.NONE.value:
        return Region.none(shape)
    if form not in {Form.ROWS.value, Form.ELEMENTS.value, Form.BITS.value}:
        raise fields.damage(f"'form': {form!r:.40} is unknown")
    index, total = _tensor(fields, "index", tensors), math.prod(shape)
    if form == Form.BITS.value:
        if index.dtype is not torch.uint8 or tuple(index.shape) != (-(-total // 8),):
            raise fields.damage(f"expected bits uint8[{-(-total // 8)}], found {Spec.of(index)}")
        if total % 8 and int(index[-1]) >> total % 8:
            raise fields.damage("bits beyond the page are set")
        return Region(Form.BITS, shape, index, _ones(index))
    rows = form == Form.ROWS.value
    if rows and not shape:
        raise fields.damage("rows of a 0-dim page")
    _check_index(fields, index, shape[0] if rows else total)
    count = index.numel() * (math.prod(shape[1:]) if rows else 1)
    return Region(Form.ROWS if rows else Form.ELEMENTS, shape, index, count)


def _check_index(fields: Fields, index: Tensor, size: int) -> None:
    """Positions are applied without looking: they must be sorted, unique and in range."""
    if index.dtype is not torch.int64 or index.dim() != 1 or not 0 < index.numel() <= size:
        raise fields.damage(f"expected 1 to {size} int64 positions, found {Spec.of(index)}")
    if int(index[0]) < 0 or int(index[-1]) >= size or not bool((index[1:] > index[:-1]).all()):
        raise fields.damage(f"positions should rise from 0 to at most {size - 1}")


def _ones(bits: Tensor) -> int:
    """How many bits are set; in little memory, whatever somebody sent."""
    masks = (unpack_mask(part, (8 * part.numel(),)) for part in bits.cpu().split(_BLOCK))
    return sum(int(np.count_nonzero(mask.numpy())) for mask in masks)


def _shape(fields: Fields) -> tuple[int, ...]:
    shape = fields.get("shape", list)
    product = 1
    for size in shape:
        if type(size) is not int or not 0 <= size < 1 << 63 or product >> 126:
            raise fields.damage(f"'shape': found {shape[:16]!r:.80}")
        product *= size or 1  # of a million sizes it would take hours; strides bound real ones
    return tuple(shape)


def _tensor(fields: Fields, key: str, tensors: Mapping[str, Tensor]) -> Tensor:
    name = fields.get(key, str)
    if name not in tensors:
        raise fields.damage(f"{key!r} names {name!r:.80}, which is no tensor here")
    return tensors[name]
