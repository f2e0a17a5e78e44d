"""What a run kept, as of a moment."""

from __future__ import annotations

import json
from typing import Any

from torch import Tensor

from mmsb_torch.errors import UnsupportedError
from mmsb_torch.memory import Memory
from mmsb_torch.runtime.state import epoch_at, value_at
from mmsb_torch.types import Spec

VERSION = 1
RUN = "track/run"
"""The key of the page that says what the run is: JSON."""


class Saved:
    """The state that a run kept, read from its pages.

    Args:
        memory: where they are.
        prefix: of their names.
        tx: the moment; the present if None.
    """

    def __init__(self, memory: Memory, prefix: str, tx: int | None = None) -> None:
        self._router = memory._router  # noqa: SLF001 - a run is a part of the facade
        self._prefix, self._tx = prefix, tx
        self._pages: dict[str, str] = {}
        about = self.text(RUN)
        if about["version"] > VERSION:
            raise UnsupportedError(
                f"this run was kept in version {about['version']} of its form, which this version of "
                f"mmsb_torch does not know (it knows {VERSION}). Use a newer one."
            )
        self._pages = about["pages"]
        self.step: int = about["step"]
        self.commits: int = about["commits"]
        """How many led to this moment."""
        self.parts: list[str] = about["parts"]
        self.metrics: list[str] = about["metrics"]

    def find(self, key: str) -> Tensor:
        """A tensor by key, for reading."""
        entry = self._router.table.find(self._page(key))
        if self._tx is None:
            return self._router.read(entry)
        return value_at(self._router.log, entry.info.id, self._tx)

    def spec(self, key: str) -> Spec | None:
        """What a tensor looks like, of those that always look alike; None if it was not kept."""
        entry = self._router.table.get(self._page(key))
        return None if entry is None else entry.info.spec

    def text(self, key: str) -> Any:
        """What a page of JSON says."""
        return json.loads(bytes(self.find(key).tolist()))

    def part(self, name: str) -> Any:
        """What was kept of a part beside its tensors."""
        return self.text(f"track/{name}")

    def _page(self, key: str) -> str:
        return self._pages.get(key, self._prefix + key)


def was_kept(memory: Memory, prefix: str, tx: int) -> bool:
    """Whether the run had begun at a moment."""
    router = memory._router  # noqa: SLF001
    entry = router.table.get(prefix + RUN)
    return entry is not None and epoch_at(router.log, entry.info.id, tx) >= 0
