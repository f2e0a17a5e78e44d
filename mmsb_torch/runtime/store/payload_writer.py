"""Writing a transaction as bytes: the form that `payload` describes and reads."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from mmsb_torch.device import pack_mask, zeros
from mmsb_torch.runtime.store.header import framed
from mmsb_torch.runtime.store.payload import OPS_KEY, VERSION
from mmsb_torch.runtime.store.tensorfile import encode_tensors, memory_of
from mmsb_torch.types import Delta, Form, PageInfo, Region, Transaction

_JSON = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
_NAMES = {form: form.value for form in Form}
_Named: TypeAlias = dict[str, Tensor | int]
"""What is written, by name; see `encode_tensors`."""
_MARKS = tuple(range(7_294_013_300_000_001, 7_294_013_300_000_006))


def encode(transaction: Transaction, names: Mapping[int, str]) -> list[bytes | memoryview]:
    """The bytes of a transaction, part by part; they refer to its tensors' memory.

    Args:
        transaction: what to write.
        names: page id -> name, for the tensors' names in the file.

    Raises:
        SerializationError: a text that is no valid unicode.
        UnsupportedError: too much for one file.
    """
    if len(transaction.deltas) == 1 and transaction.deltas[0].region.row is not None:
        found = _encode_row(transaction, names)
        if found is not None:
            return found
    return _encode_any(transaction, names)


def _encode_any(transaction: Transaction, names: Mapping[int, str]) -> list[bytes | memoryview]:
    tensors, text = _described(transaction, names)
    return list(encode_tensors(tensors, {OPS_KEY: text}))


def _encode_row(
    transaction: Transaction, names: Mapping[int, str]
) -> list[bytes | memoryview] | None:
    """As `_encode_any`, if this is one row and nothing else: a third of a small commit's time."""
    tx, tx_ns, created, [delta], label, step, metadata = transaction
    number, page, base, (_, shape, row, count), values, time_ns, source, rows_before = delta
    plain = label is None and step is None and rows_before is None
    if created or not plain or metadata or not count:
        return None
    found = _row_template(page, names.get(page, f"page {page}"), shape, values.dtype, source)
    if found is None:
        return None
    text, values_first = found
    header = framed((text % (tx, tx_ns, number, base, time_ns)).encode())
    parts = memory_of(values), row.to_bytes(8, "little")  # type: ignore[union-attr] # `region.row`
    return [header, *(parts if values_first else parts[::-1])]


@functools.lru_cache(maxsize=256)
def _row_template(
    page: int, name: str, shape: tuple[int, ...], dtype: torch.dtype, source: str
) -> tuple[str, bool] | None:
    """The header of one row of a page with its five numbers left open, and whether values are first.

    It is cut out of what `_encode_any` writes; None where the numbers cannot be told apart there.
    """
    tx, tx_ns, number, base, time_ns = _MARKS
    values = zeros((1, *shape[1:]), dtype, torch.device("cpu"))
    delta = Delta(number, page, base, Region.one_row(shape, 1), values, time_ns, source)
    record = Transaction(tx, tx_ns, (), (delta,), None, None, {})
    header, first, _ = _encode_any(record, {page: name})
    text = bytes(header[8:]).decode().rstrip(" ").replace("%", "%%")
    for mark in map(str, _MARKS):
        if text.count(mark) != 1:
            return None
    places = [text.index(str(mark)) for mark in _MARKS]
    if places != sorted(places):
        return None
    for mark in map(str, _MARKS):
        text = text.replace(mark, "%d")
    return text, not any(first)


def describe(transaction: Transaction, names: Mapping[int, str]) -> tuple[dict[str, Tensor], str]:
    """What `encode` writes of a transaction: the tensors, and the text of "mmsb.ops"."""
    found, text = _described(transaction, names)
    return {
        name: torch.tensor([it]) if isinstance(it, int) else it for name, it in found.items()
    }, text


def _described(transaction: Transaction, names: Mapping[int, str]) -> tuple[_Named, str]:
    tensors: _Named = {}
    tx, time_ns, created, deltas, label, step, metadata = transaction
    _check_whole(tx, time_ns)
    ops = ",".join([_encode_delta(delta, names, tensors) for delta in deltas])
    pages = _encode([_encode_page(info) for info in created]) if created else "[]"
    version = 1 if all(delta.rows_before is None for delta in deltas) else VERSION
    text = (
        f'{{"version":{version},"tx":{tx},"time_ns":{time_ns},"label":{_encode(label)},'
        f'"step":{_encode(step)},"metadata":{_encode(dict(metadata)) if metadata else "{}"},'
        f'"created":{pages},"deltas":[{ops}]}}'
    )
    return tensors, text


def _encode(value: Any) -> str:
    return "null" if value is None else _JSON.encode(value)


def _check_whole(*numbers: int) -> None:
    """Raise TypeError unless all are integers: they are written as they print."""
    if {*map(type, numbers)} != {int}:
        raise TypeError(f"not serializable: expected integers, found {numbers}")


def _encode_page(info: PageInfo) -> dict[str, Any]:
    assert info.spec is not None
    return {
        "id": info.id,
        "name": info.name,
        "dtype": info.spec.dtype_name,
        "shape": list(info.spec.shape),
        "device": str(info.spec.device),
        "metadata": dict(info.metadata),
        "created_ns": info.created_ns,
    }


def _encode_delta(delta: Delta, names: Mapping[int, str], tensors: _Named) -> str:
    number, page, base, region, values, time_ns, source, rows_before = delta
    form, shape, index, count = region  # of one row the index may be its number
    _check_whole(number, page, base, time_ns)
    if form is Form.MASK and count and isinstance(index, Tensor):  # bits and compact values: less
        form, index, values = Form.BITS, pack_mask(index), region.pick(values)
    elif not count and form is not Form.ALL:
        form, index = Form.NONE, None
    name = names.get(page, f"page {page}")
    stored = place = None
    if form is Form.ALL:
        stored = _add(tensors, name, values)
    elif index is not None:
        stored = _add(tensors, f"{name}.values", values)
        place = _add(tensors, f"{name}.{_NAMES[form]}", index)
    rest = _encode_form(source, form, shape, values.dtype, stored, place)
    if rows_before is not None:
        _check_whole(rows_before)
        rest = f'"rows_before":{rows_before},{rest}'
    return f'{{"delta":{number},"page":{page},"base":{base},"time_ns":{time_ns},{rest}'


@functools.lru_cache(maxsize=1024)
def _encode_form(
    source: str,
    form: Form,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    values: str | None,
    index: str | None,
) -> str:
    """The text of a delta that is the same for many: how it is written, not what."""
    _check_whole(0, *shape)
    fields = {
        "source": source,
        "form": _NAMES[form],
        "shape": list(shape),
        "dtype": str(dtype).removeprefix("torch."),
        "values": values,
        "index": index,
    }
    return _JSON.encode({key: value for key, value in fields.items() if value is not None})[1:]


def _add(tensors: _Named, name: str, tensor: Tensor | int) -> str:
    if name == "__metadata__":
        name = "page __metadata__"
    while name in tensors:  # page names may look like anything: the ops say which is which
        name += "'"
    tensors[name] = tensor
    return name
