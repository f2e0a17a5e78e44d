"""What a page is, apart from its value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from mmsb_torch.types.spec import Spec


class PageInfo(NamedTuple):
    """Identity of a page: fixed when the page is made, but for the rows that it has."""

    id: int
    name: str
    spec: Spec | None
    """None for a derived page: its spec is that of what its recipe returns."""
    derived: bool
    metadata: Mapping[str, Any]
    """Plain data (JSON) that its maker gave; read-only."""
    created_ns: int
    rows_made: int | None = None
    """Rows that it was made with, if it got another number of them since."""

    def resized(self, shape: tuple[int, ...]) -> PageInfo:
        """The same page with another number of rows."""
        number, name, spec, derived, metadata, created_ns, made = self
        assert spec is not None
        spec, made = Spec(spec.dtype, shape, spec.device), spec.shape[0] if made is None else made
        return PageInfo(number, name, spec, derived, metadata, created_ns, made)
