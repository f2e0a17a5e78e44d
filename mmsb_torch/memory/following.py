"""Following a live writer: each transaction that it commits, in order, a moment later."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

from mmsb_torch.errors import MMSBError, StoreError
from mmsb_torch.graph import tell_stale
from mmsb_torch.runtime.state import replay
from mmsb_torch.runtime.store.bodies import outline_of, place_of, read_transaction
from mmsb_torch.runtime.store.follow import Follower
from mmsb_torch.runtime.store.frame import Kind
from mmsb_torch.runtime.store.logwriter import End
from mmsb_torch.runtime.store.pastlog import collected
from mmsb_torch.runtime.store.recovery import Found
from mmsb_torch.types import EventType

if TYPE_CHECKING:
    from mmsb_torch.memory.memory import Memory

POLL_SECONDS = 0.02


def follow(memory: Memory, end: End) -> threading.Event:
    """Keep a memory that was read up to `end` of the log up with its writer; set the event to end it.

    What cannot be followed (damage, what the collector has removed, a transaction taken back) ends
    it: every call on the memory then raises the error; open it again to go on from the newest state.
    """
    store = memory._store  # noqa: SLF001 - one facade
    assert store is not None
    tx = memory._router.tx  # noqa: SLF001
    follower = Follower(store.path, store.identity.uuid, tx, end)
    stop = threading.Event()
    thread = threading.Thread(
        target=_run, args=(weakref.ref(memory), follower, stop), name="mmsb follow", daemon=True
    )
    thread.start()
    return stop


def _run(reference: weakref.ref[Memory], follower: Follower, stop: threading.Event) -> None:
    while not stop.wait(POLL_SECONDS):
        memory = reference()
        if memory is None or memory.closed:
            return
        try:
            for found in follower.poll():
                _apply(memory, found)
        except Exception as raised:  # noqa: BLE001 - whatever ends this is told at every call
            error = raised if isinstance(raised, MMSBError) else StoreError(repr(raised))
            memory._router.fail(error)  # noqa: SLF001
            memory._router.events.emit(EventType.ERROR, {"error": error.message})  # noqa: SLF001
            return
        del memory


def _apply(memory: Memory, found: Found) -> None:
    store, router = memory._store, memory._router  # noqa: SLF001
    assert store is not None
    header, where = found.record.header, repr(str(found.path))
    if header.kind == Kind.ROLLBACK:
        if header.tx <= router.tx:
            raise StoreError(
                f"the writer took transaction {header.tx} back, which was shown here already. "
                "Open the memory again."
            )
        return
    try:
        transaction = read_transaction(store.path, found.body, found.record, where)
    except MMSBError as error:
        if found.path.exists():
            raise
        raise collected(f"transaction {header.tx}", store.path) from error
    ops, segment = outline_of(found.body, found.record, where)
    replay(router, transaction, place_of(found.path, found.record, ops, segment))
    if router.events.wanted:
        router.tell(transaction)
        tell_stale(memory._engine, [delta.page_id for delta in transaction.deltas])  # noqa: SLF001
