"""Audits of a memory: whether what it believes is so."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from mmsb_torch.graph.audit import Audit, Finding, Report, check_share
from mmsb_torch.graph.rerun import check_derived, check_root
from mmsb_torch.instrumentation.identity import LEDGER
from mmsb_torch.types import EventType

if TYPE_CHECKING:
    from mmsb_torch.memory.memory import Memory


def begin(memory: Memory, share: float) -> None:
    """Check a share of the answers of a memory from now on.

    Raises:
        UnsupportedError: it is no share.
    """
    events = memory._router.events  # noqa: SLF001 - one facade
    memory._engine.audit = Audit(share, lambda fields: events.emit(EventType.ERROR, fields))  # noqa: SLF001


def audit(memory: Memory, share: float = 1.0) -> Report:
    """Check now what this memory believes, and report; nothing is raised. Print the report.

    Compared bit for bit: tensors of which memoised functions and scopes (of any memory of this
    process) believe that nobody wrote to them, with what they hold; pages with what the log says of
    them; fresh derived pages with what their recipes give. What is wrong is read, put back or
    computed again at its next use. `mmsb.open(audit=0.01)` checks a share of the answers as they are
    given, memoised ones too.

    Args:
        memory: this one.
        share: of everything, drawn at random.

    Raises:
        ClosedError; UnsupportedError: `share` is none.
    """
    memory._router.check_open()  # noqa: SLF001 - one facade
    share = check_share("share", share)
    engine = memory._engine  # noqa: SLF001
    own, begun = engine.audit, time.perf_counter()
    checked: Counter[str] = Counter()
    wrong: list[Finding] = []

    def say(kind: str, name: str, what: str | None) -> None:
        if what is None:
            return
        checked[kind] += 1
        if what:
            wrong.append(own.found(kind, name, what))
        else:
            own.compared(kind)

    count, false = LEDGER.audit(lambda: own.due(share))
    for name in false:
        say("tensor", name, "it was written where nobody sees it; it is read again when it is used")
    for _ in range(count - len(false)):
        say("tensor", "", "")
    for entry in [entry for entry in memory._router.table if not entry.info.derived]:  # noqa: SLF001
        if own.due(share):
            say("page", repr(entry.info.name), check_root(engine, entry))
    for node in engine.topology.order(list(engine.topology.nodes.copy().values())):
        if own.due(share):
            say("derived page", repr(node.name), check_derived(engine, node))
    return Report(dict(checked), tuple(wrong), time.perf_counter() - begun)
