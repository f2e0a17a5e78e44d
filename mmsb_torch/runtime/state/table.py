"""The table of pages: each page's present value, and the lock under which it is swapped."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator

from torch import Tensor

from mmsb_torch.device import (
    copy_of,
    fill_behind,
    held_elsewhere,
    longer,
    room_of,
    with_room,
    words,
)
from mmsb_torch.errors import InvalidPageError, PageExistsError, PageNotFoundError
from mmsb_torch.runtime.state.journal import Journal
from mmsb_torch.types import Delta, Form, PageInfo, Spec, apply, is_append

RECYCLED_BYTES = 1 << 20
"""Values from this size on leave their memory to the next one."""
_OF_READERS = 1 << 62


class Entry:
    """One page in the table. Fields are read freely and written under the table lock.

    `tensor` is the page's own memory; nobody outside the state gets it, readers get detached
    aliases. `shared` says that the log's delta holds the same memory, so it is copied before
    anybody can write to it.
    """

    __slots__ = (
        "content",
        "epoch",
        "info",
        "journal",
        "retired",
        "room",
        "shared",
        "spare",
        "spec",
        "tensor",
        "tx",
        "version",
        "watched",
        "whole",
    )

    def __init__(self, info: PageInfo) -> None:
        self.info = info
        self.spec: Spec | None = info.spec
        self.tensor: Tensor | None = None
        self.epoch = 0
        self.content = 0
        """The epoch of the last delta that changed a bit, as far as anybody watched."""
        self.watched = False
        """Somebody depends on this page: deltas that change no bit are told apart."""
        self.tx = 0
        """The last transaction that changed this page (0: a derived page, or none yet)."""
        self.version = 0
        """`tensor._version` after our own last write; another value means a foreign write."""
        self.shared = False
        self.room = 0
        """Rows that the page's memory holds, those behind its end included: nobody has seen these."""
        self.spare: Tensor | None = None
        self.whole = False
        """The last change replaced the whole value."""
        self.retired: deque[Tensor] = deque(maxlen=2)
        """Memory of values of before, of a page that is replaced time and again; see `recycled`."""
        self.journal = Journal()

    def is_unwritten(self) -> bool:
        """Whether nobody wrote through an alias of the page (or it has no value yet)."""
        return self.tensor is None or self.tensor._version == self.version  # noqa: SLF001

    @property
    def value(self) -> Tensor:
        """The page's own memory, of a page that has a value."""
        assert self.tensor is not None
        return self.tensor

    def put(self, tensor: Tensor, *, shared: bool) -> None:
        """Make `tensor` the page's memory. Table lock held."""
        if tensor is not self.tensor:
            self.room = 0
        version = tensor._version  # noqa: SLF001 - the public counter's only spelling
        self.tensor, self.shared, self.version = tensor, shared, version  # no interrupt in between

    def writable(self) -> Tensor:
        """The page's memory for an in-place merge, or a copy of it when somebody else holds it.

        The copy goes into a recycled buffer where one is free. Table lock held; the caller
        calls `put` afterwards.
        """
        tensor = self.tensor
        assert tensor is not None
        if not self.shared and not held_elsewhere(tensor):
            return tensor
        spare, self.spare = self.spare, None if self.shared else tensor
        if spare is not None and spare.shape == tensor.shape and not held_elsewhere(spare):
            words(spare).copy_(words(tensor))
            return spare
        return copy_of(tensor)

    def target(self, delta: Delta) -> Tensor | None:
        """As `writable`, for a delta; None if it brings its memory, or changes nothing."""
        region = delta.region
        if region.form is Form.ALL:
            return None
        if delta.rows_before is None:
            return None if region.form is Form.NONE else self.writable()
        value, rows = self.value, region.shape[0]
        fits = len(value) <= rows <= self.room and not self.shared
        if fits and (is_append(delta) or not held_elsewhere(value)):
            return longer(value, rows)
        return with_room(value, min(rows, len(value)), rows)

    def merge(self, delta: Delta, target: Tensor | None, *, shared: bool) -> None:
        """Give the page the value that the delta makes, in what `target` gave. Table lock held.

        `shared`: somebody else has the memory of the delta's values, which a whole value brings.
        """
        if delta.region.form is Form.ALL:
            self.put(delta.values.detach(), shared=shared)
        elif target is not None:
            if delta.rows_before is not None and is_append(delta):
                fill_behind(target, delta.rows_before, delta.values)
            else:
                apply(target, delta)
            self.put(target, shared=False)
        if delta.rows_before is not None:
            if target is not None:
                self.room = room_of(target)
            self.resize(delta.region.shape)

    def resize(self, shape: tuple[int, ...]) -> None:
        """Take another number of rows. Table lock held."""
        if self.info.spec is not None:
            self.info = self.info.resized(shape)
        assert self.spec is not None
        self.spec, self.spare = self.spec._replace(shape=shape), None

    def retire(self, form: Form) -> None:
        """A delta of that form is about to be applied: keep, or let go of, memory. Table lock held."""
        if form is not Form.ALL:
            self.retired.clear()
        elif self.whole and self.value.nbytes >= RECYCLED_BYTES:
            self.retired.append(self.value)
        self.whole = form is Form.ALL

    def recycled(self, shape: tuple[int, ...]) -> Tensor | None:
        """Memory of that shape and the page's dtype for its next value, if nobody holds it any more.

        Fresh memory costs several times as much to fill. Any thread may call; takes no lock.
        """
        for _ in range(len(self.retired)):
            with contextlib.suppress(IndexError):  # another thread was faster
                tensor = self.retired.popleft()
                if tensor.shape != shape:  # of before it got more or fewer rows
                    continue
                if not held_elsewhere(tensor):
                    return tensor
                self.retired.append(tensor)  # readers, or the log, are not done with it
        return None

    def alias(self) -> Tensor:
        """A detached alias of the present value, for reading. Table lock held."""
        if self.shared:
            self.put(copy_of(self.value), shared=False)
        return self.value.detach()


class Table:
    """Pages by id and by name.

    `lock` guards every swap of a value and every alias taken; it is held for one apply at most,
    never while user code runs.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._by_id: dict[int, Entry] = {}
        self._by_name: dict[str, Entry] = {}
        self._next_id = 1

    def find(self, key: str | int) -> Entry:
        """The entry of a name or id.

        Raises:
            PageNotFoundError: with the closest names.
        """
        if isinstance(key, str):
            found = self._by_name.get(key)
        else:
            found = self._by_id.get(key) if type(key) is int else None
        if found is None:
            raise PageNotFoundError(self._not_found(key))
        return found

    def get(self, name: str) -> Entry | None:
        """The entry of a name, or None."""
        return self._by_name.get(name)

    def leave_ids_to_the_writer(self) -> None:
        """Give pages that are made here ids that no writer gives: its pages may come later."""
        with self.lock:
            self._next_id = max(self._next_id, _OF_READERS)

    def free_id(self, wanted: int | None, name: str) -> int:
        """An id for a page that is about to be added: `wanted`, or the next free one.

        The caller holds the router's `creating` until the page is added.

        Raises:
            InvalidPageError: no id.
            PageExistsError: the id is in use.
        """
        if wanted is None:
            return self._next_id
        if type(wanted) is not int or not 0 < wanted < 2**63:
            raise InvalidPageError(
                f"page {name!r}: page_id={wanted!r}, expected an integer from 1, or leave it out"
            )
        if wanted in self._by_id:
            raise PageExistsError(
                f"page id {wanted} belongs to page {self._by_id[wanted].info.name!r}; expected an "
                f"unused id. Leave page_id out, or use {self._next_id} or above.",
                page_id=wanted,
            )
        return wanted

    def add(self, entry: Entry) -> None:
        """Enter a new page. Table lock held.

        Raises:
            PageExistsError: the name or id is in use.
        """
        self.check_free(entry.info)
        self._enter(entry)

    def check_free(self, info: PageInfo) -> None:
        """Raise if a page of that name or id is there.

        Raises:
            PageExistsError: it is.
        """
        for key, index in ((info.name, self._by_name), (info.id, self._by_id)):
            if key in index:
                raise PageExistsError(f"a page {key!r} exists already", page_id=info.id)

    def add_again(self, info: PageInfo) -> None:
        """Finish an `add` that was interrupted, or had yet to come. Table lock held."""
        self._enter(self._by_id.get(info.id) or Entry(info))

    def _enter(self, entry: Entry) -> None:
        self._by_id[entry.info.id] = entry
        self._by_name[entry.info.name] = entry
        self._next_id = max(self._next_id, entry.info.id + 1)

    def __iter__(self) -> Iterator[Entry]:
        return iter([entry for _, entry in sorted(self._by_id.copy().items())])

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def _not_found(self, key: object) -> str:
        import difflib  # noqa: PLC0415 - only on the way to an error

        close = difflib.get_close_matches(str(key), self._by_name, n=3)
        hint = f" Did you mean {', '.join(map(repr, close))}?" if close else ""
        return f"no page {key!r} among {len(self)}.{hint} mem.page(name, tensor) makes one."
