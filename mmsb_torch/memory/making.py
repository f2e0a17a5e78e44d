"""New pages: what a user asks for, checked and turned into a value and an identity."""

from __future__ import annotations

import json
import time
import unicodedata
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from mmsb_torch.device import PageLocation, copy_of, require_dense, resolve_device, zeros
from mmsb_torch.errors import InvalidPageError, PageExistsError
from mmsb_torch.runtime.state import Entry
from mmsb_torch.types import PageInfo, Spec

Device = torch.device | str | PageLocation | None
_LONGEST_NAME = 1024


def check_name(name: object) -> str:
    """Return a page name that can be kept in a safetensors file.

    Raises:
        InvalidPageError: no string, empty, too long, control characters, or reserved.
    """
    problem = None
    if not isinstance(name, str):
        problem = f"a {type(name).__name__}"
    elif not name or len(name) > _LONGEST_NAME:
        problem = f"{len(name)} characters"
    elif name == "__metadata__":
        problem = "'__metadata__', which safetensors files keep for themselves"
    elif any(unicodedata.category(c) in {"Cc", "Cs"} for c in name):
        problem = f"control characters in {name!r}"
    if problem is not None:
        raise InvalidPageError(
            f"a page's name is a string of 1 to {_LONGEST_NAME} printable characters, "
            f"found {problem}"
        )
    return str(name)


def check_metadata(name: str, metadata: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return a read-only deep copy of a page's metadata.

    Raises:
        InvalidPageError: not a mapping of strings to plain data (what JSON can hold).
    """
    if metadata is None:
        return MappingProxyType({})
    try:
        if not isinstance(metadata, Mapping):
            raise TypeError(f"found a {type(metadata).__name__}")
        text = json.dumps(dict(metadata), allow_nan=False)
        _check_keys(metadata)
        plain = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidPageError(
            f"page {name!r}: metadata is a dict of plain data (str, int, finite float, bool, None, "
            f"list, dict): {error}"
        ) from None
    return MappingProxyType(plain)


def _check_keys(value: Any) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"its keys should be strings, found {key!r}")
            _check_keys(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_keys(item)


def first_value(
    name: str,
    value: Tensor | None,
    shape: Sequence[int] | None,
    dtype: torch.dtype | None,
    device: Device,
    default_device: torch.device | None,
) -> Tensor:
    """The first value of a new page, in memory of its own: a copy of `value`, or zeros.

    Raises:
        InvalidPageError: neither or both given, no dense tensor, a negative size, no dtype.
        UnsupportedLocationError: the device is not here.
    """
    if (value is None) == (shape is None):
        found = "neither" if value is None else "both"
        raise InvalidPageError(
            f"page {name!r}: expected a tensor or shape= for a zero page, found {found}"
        )
    where = default_device if device is None else resolve_device(device)
    if value is not None:
        return _copied(name, value, dtype, where)
    sizes = check_shape(name, shape)
    kind = torch.get_default_dtype() if dtype is None else dtype
    if not isinstance(kind, torch.dtype) or str(kind).startswith(("torch.q", "torch.quint")):
        raise InvalidPageError(
            f"page {name!r}: dtype= should be a torch.dtype that is not quantised, found {kind!r}"
        )
    try:
        with torch.inference_mode(mode=False):
            return zeros(sizes, kind, where or torch.device("cpu"))
    except (RuntimeError, MemoryError, TypeError, ValueError, KeyError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidPageError(
            f"page {name!r}: no zero page of {kind} {list(sizes)} can be made: {first}"
        ) from error


def check_alone(name: str, *others: object) -> None:
    """Raise if anything was given that a page of a kind, which its recipe makes, cannot take."""
    if any(other is not None for other in others):
        raise InvalidPageError(
            f"page {name!r}: with kind= its recipe makes the value; expected metadata= at most, "
            "found a value, shape, dtype, device or page_id as well"
        )


def check_shape(name: str, shape: Any) -> tuple[int, ...]:
    """Return `shape` as a tuple of sizes.

    Raises:
        InvalidPageError: not a sequence of integers, or a negative size.
    """
    try:
        sizes = tuple(shape)
        whole = all(isinstance(size, int) and not isinstance(size, bool) for size in sizes)
    except TypeError:
        sizes, whole = (), False
    if not whole or any(size < 0 for size in sizes):
        raise InvalidPageError(
            f"page {name!r}: shape= should be a sequence of sizes of 0 or more, found {shape!r}"
        )
    return sizes


def _copied(name: str, value: Any, dtype: torch.dtype | None, where: torch.device | None) -> Tensor:
    problem = require_dense(value)
    if problem is None and dtype is not None and value.dtype != dtype:
        problem = f"dtype {value.dtype}, and dtype={dtype}"
    if problem is not None:
        raise InvalidPageError(
            f"page {name!r}: expected a dense torch.Tensor on 'cpu' or 'cuda', found {problem}. "
            "Convert it first; nothing is cast silently."
        )
    if where is None or value.device == where:
        return copy_of(value)
    return copy_of(value.detach().to(where))


def check_same(
    entry: Entry,
    value: Tensor | None,
    shape: Sequence[int] | None,
    dtype: torch.dtype | None,
    page_id: int | None,
) -> None:
    """Raise PageExistsError if an existing page is not what `mem.page(...)` now asks for."""
    info = entry.info
    asked: list[str] = []
    spec = entry.spec
    if page_id is not None and page_id != info.id:
        asked.append(f"page_id {page_id} (it has {info.id})")
    if value is not None and require_dense(value) is None:
        shape, dtype = tuple(value.shape), value.dtype
    made = (
        () if spec is None else (info.rows_made, *spec.shape[1:])
    )  # what it began with is fine, too
    if (
        spec is not None
        and shape is not None
        and check_shape(info.name, shape) not in {spec.shape, made}
    ):
        asked.append(f"shape {list(shape)} (it has {list(spec.shape)})")
    if spec is not None and dtype is not None and dtype != spec.dtype:
        asked.append(f"{dtype} (it has {spec.dtype})")
    if asked:
        raise PageExistsError(
            f"page {info.name!r} exists and is not what was asked for: {', '.join(asked)}. "
            "Use another name, or update the page that is there.",
            page_id=info.id,
        )


def new_info(
    page_id: int, name: str, value: Tensor | None, metadata: Mapping[str, Any]
) -> PageInfo:
    """The identity of a new page: a root with its first value, or (None) a derived page."""
    spec = Spec.of(value) if value is not None else None
    return PageInfo(page_id, name, spec, value is None, metadata, time.time_ns())
