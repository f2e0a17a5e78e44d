"""Making a page, or finding the one that is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmsb_torch.memory import deriving, making
from mmsb_torch.runtime.state import Entry

if TYPE_CHECKING:
    from mmsb_torch.memory.memory import Memory


def page_entry(
    memory: Memory,
    name: str,
    value: Tensor | None,
    shape: Sequence[int] | None,
    dtype: torch.dtype | None,
    device: making.Device,
    metadata: Mapping[str, Any] | None,
    page_id: int | None,
    kind: str | None,
) -> Entry:
    """What `Memory.page` does."""
    router = memory._router  # noqa: SLF001 - one facade
    router.check_open()
    table = router.table
    existing = table.get(name) if isinstance(name, str) else None
    if kind is not None:
        making.check_alone(name, value, shape, dtype, device, page_id)
        return deriving.of_kind(memory, name, kind, metadata)
    if existing is None and value is None and shape is None:
        making.check_name(name)
        table.find(name)
    if existing is None:
        making.check_name(name)
        plain = making.check_metadata(name, metadata)
        router.check_writable()
        first = making.first_value(name, value, shape, dtype, device, memory._device)  # noqa: SLF001
        existing = _create(memory, name, first, plain, page_id)
    making.check_same(existing, value, shape, dtype, page_id)
    return existing


def _create(
    memory: Memory, name: str, first: Tensor, metadata: Mapping[str, Any], page_id: int | None
) -> Entry:
    router = memory._router  # noqa: SLF001
    with router.creating:
        existing = router.table.get(name)  # another thread may have made it meanwhile
        if existing is not None:
            return existing
        number = router.table.free_id(page_id, name)
        entry = router.create(making.new_info(number, name, first, metadata), first)
    router.events.deliver()
    return entry
