"""The handles that a memory gives out: one object a page, made when it is first asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmsb_torch.errors import PageNotFoundError
from mmsb_torch.memory.page import Page
from mmsb_torch.runtime.state import Entry, Router

if TYPE_CHECKING:
    from mmsb_torch.memory.memory import Memory


class Handles:
    """From names, ids and handles to pages. Thread safety: any thread, no lock."""

    def __init__(self, memory: Memory, router: Router) -> None:
        self._memory = memory
        self._router = router
        self._made: dict[int, Page] = {}

    def look_up(self, key: str | int) -> Page:
        """The page of a name or id; PageNotFoundError if there is none."""
        if self._router.alert:
            self._router.attend()
        try:
            return self.of(self._router.table.find(key))
        except PageNotFoundError:
            self._router.check_open()  # a recipe that goes on depends on the page's absence
            raise

    def entry(self, page: Page | str) -> Entry:
        """The table's entry of a page of this memory, or of a name."""
        if self._router.alert:
            self._router.attend()
        if type(page) is Page:
            if page._memory is not self._memory:  # noqa: SLF001
                raise PageNotFoundError(
                    f"page {page.name!r} belongs to another memory: expected one of "
                    f"{self._memory!r}"
                )
            return page._entry  # noqa: SLF001
        if not isinstance(page, str):
            raise PageNotFoundError(f"expected a Page or a page's name, found {page!r:.80}")
        return self._router.table.find(page)

    def of(self, entry: Entry) -> Page:
        """The handle of an entry."""
        made = self._made.get(entry.info.id)
        return made or self._made.setdefault(entry.info.id, Page(self._memory, entry))

    def unlisted(self, entry: Entry) -> Page:
        """The handle of a page that is being made: listed only if the page comes to be."""
        return self._made.get(entry.info.id) or Page(self._memory, entry)
