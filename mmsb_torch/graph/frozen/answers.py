"""A frozen module's answers: rows that were computed before are read, all else is computed as ever."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from mmsb_torch.graph.audit import Audit
from mmsb_torch.graph.frozen.batch import Batch
from mmsb_torch.graph.frozen.checks import check_module
from mmsb_torch.graph.frozen.costs import Costs
from mmsb_torch.graph.frozen.kind import Kind, learn
from mmsb_torch.graph.frozen.known import Known, Row, same_rows
from mmsb_torch.graph.frozen.machine import machine
from mmsb_torch.graph.memo import randomness
from mmsb_torch.graph.memo.keys import Refused, context
from mmsb_torch.graph.memo.recall import modes
from mmsb_torch.instrumentation.code import Definition
from mmsb_torch.instrumentation.code.encoding import framed
from mmsb_torch.instrumentation.identity import LEDGER

_WAYS = 8
"""Ways that batches of one look may take; more are not learned."""


class Answers:
    """What a module gives, row by row.

    What a call returns has the bits that the module itself would give for this batch. A call whose
    rows are not all known runs the module on the whole batch, and its rows are known from then on.

    Thread safety: any thread may call; two that meet the same new rows compute them both.

    Args:
        module: what is called.
        known: where rows are kept.
        audit: of the memory.
        share: of the answers (0 to 1) that are computed again and compared.
    """

    def __init__(self, module: nn.Module, known: Known, audit: Audit, share: float) -> None:
        self.module, self.known = module, known
        self._audit, self._share = audit, max(share, audit.share)
        self._definition: Definition | None = None
        self._kinds: dict[bytes, list[Kind] | str] = {}
        self.counts: Counter[str] = Counter()
        self.last = "it was not called yet"
        """How the last call was answered, and why."""
        self.costs = Costs()
        self._change = ""
        """What made rows of before useless, until it was said."""

    def __call__(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """What the module gives for these arguments."""
        self.counts["calls"] += 1
        try:
            check_module(self.module)
            batch = Batch.of(args, kwargs)
            sign = self._sign(batch)
        except Refused as reason:
            self._say("refused", f"executed: {reason}")
            return self.module(*args, **kwargs)
        kinds = self._kinds.get(sign, ())
        if isinstance(kinds, str):
            self._say("refused", f"executed: {kinds}")
            return batch.call(self.module)
        takes = (kind for kind in kinds if kind.path.takes(batch.tensors, batch.rows))
        kind = next(takes, None)
        if kind is None:
            return self._learned(sign, batch)
        why = kind.refused(batch.rows)
        if why is None and not kind.reads.pay():
            why = "running it takes no longer than reading its rows"
        if why is not None:
            self._say("refused", f"executed: {why}")
            return batch.call(self.module)
        if batch.rows != kind.first and not kind.shown(batch.rows):
            return self._sized(kind, batch)
        return self._looked_up(kind, batch)

    def _sign(self, batch: Batch) -> bytes:
        """All that a row's result depends on but the row and the way."""
        parts = [data for _, data in context(modes())]
        with LEDGER.watching():
            code = self._code()
        return framed("signature", [*parts, code, machine(), batch.look])

    def _code(self) -> bytes:
        definition = self._definition
        if definition is None:
            definition = self._definition = Definition.of(self.module)
        else:
            changed = definition.changed()
            if changed is not None:
                definition = self._definition = definition.refresh()
                self._kinds.clear()  # they hold tensors of the module's, as it was
                self.counts["changes"] += 1
                self._change = f", for {changed}"
        if definition.opaque:
            raise Refused(f"it depends on {definition.opaque[0]}, which nobody can watch")
        return bytes.fromhex(definition.digest)

    def _learned(self, sign: bytes, batch: Batch) -> Any:
        """Run a batch of a new kind, and find out what can be known of its rows."""
        before = randomness.state()
        value = self._run(batch)
        kinds = self._kinds.setdefault(sign, [])
        assert not isinstance(kinds, str)
        try:
            self._check_effects(before)
            if len(kinds) >= _WAYS:
                raise Refused("it takes too many ways, by the values that it reads")
            if not self.costs.may_look():
                self._say(
                    "executed", "executed: there are many kinds of batches: not looked at yet"
                )
                return value
            with self.costs.looking():
                kind = learn(self.module, batch, value, sign)
        except Refused as reason:
            self._kinds[sign] = str(reason)
            self._say("refused", f"executed: {reason}")
            return value
        kinds.append(kind)
        names = batch.digests(kind.prefix)
        found = [self.known.get(name, kind.looks) for name in names]
        self._settle(kind, batch, names, found, value)
        return value

    def _check_effects(self, before: randomness.State) -> None:
        """Raise Refused if the run that ended had effects that a hit would not have."""
        if randomness.state() != before:
            raise Refused("it draws random numbers")
        assert self._definition is not None
        changed = self._definition.changed()
        if changed is not None:
            raise Refused(f"{changed} while it ran")

    def _sized(self, kind: Kind, batch: Batch) -> Any:
        """Run a batch of another number of rows, and find out whether its rows are the same."""
        value = self._run(batch)
        if not self.costs.may_look():
            self._say("executed", f"executed: batches of {batch.rows} rows were not looked at yet")
            return value
        with self.costs.looking():
            shown = kind.show(self.module, batch)
        if shown:
            names = batch.digests(kind.prefix)
            found = [self.known.get(name, kind.looks) for name in names]
            self._settle(kind, batch, names, found, value)
        else:
            why = (
                kind.refused(batch.rows) or f"it is not clear what {batch.rows} rows tell of others"
            )
            self._say("executed", f"executed: {why}")
        return value

    def _looked_up(self, kind: Kind, batch: Batch) -> Any:
        """A batch of a kind that is known: of known rows, or run."""
        began = time.perf_counter()
        names = batch.digests(kind.prefix)
        found = [self.known.get(name, kind.looks) for name in names]
        read = len(found) - found.count(None)
        if kind.shown(batch.rows) and 2 * read >= len(found) > read:
            found = self._completed(kind, batch, names, found)
        rows = [row for row in found if row is not None]
        if len(rows) == len(found) and kind.shown(batch.rows):
            value = kind.result_of(rows)
            kind.served += len(rows)
            took = time.perf_counter() - began
            kind.reads.took(took)
            self.costs.saved += self.costs.run - took
            self.counts["rows read"] += read
            how = "all" if read == len(rows) else f"{read} of"
            self._say("hits", f"read: {how} {len(rows)} rows were computed before")
            if self._share and self._audit.due(self._share):
                return self._audited(kind, batch, rows)
            return value
        value = self._run(batch)
        self._settle(kind, batch, names, found, value)
        return value

    def _completed(
        self, kind: Kind, batch: Batch, names: list[str], found: list[Row | None]
    ) -> list[Row | None]:
        """Compute the rows that are new in a smaller batch, if such have the same bits."""
        new = torch.tensor([n for n, row in enumerate(found) if row is None], device="cpu")
        size = 1 << (len(new) - 1).bit_length()
        while size not in kind.sizes or not kind.shown(size):
            if 2 * size > batch.rows or not self.costs.may_look():
                return found
            with self.costs.looking():
                kind.show(self.module, batch.taken(torch.arange(size, device="cpu")))
            size *= 1 if kind.shown(size) else 2
        some = batch.taken(new[torch.arange(size, device="cpu") % len(new)])
        if 2 * size > batch.rows or not kind.path.takes(some.tensors, size):
            return found
        whole = self.costs.run
        rows = kind.rows_of(some.call(self.module))[: len(new)]
        for place, row in zip(new.tolist(), rows, strict=True):
            found[place] = row
            self.known.put(names[place], row, whole / batch.rows)
        self.counts["rows computed"] += len(rows)
        return found

    def _settle(
        self, kind: Kind, batch: Batch, names: list[str], found: Sequence[Row | None], value: Any
    ) -> None:
        """Compare the rows of a run with those that were known, and keep the others."""
        kind.reads.run = min(kind.reads.run, self.costs.run)
        rows, seconds = kind.rows_of(value), self.costs.run / batch.rows
        fresh: dict[str, Row] = {}
        for name, known, row in zip(names, found, rows, strict=True):
            before = known or fresh.get(name)
            if before is None:
                fresh[name] = row
            elif not same_rows(before, row):
                self._withdraw(kind)
                return
        for name, row in fresh.items():
            self.known.put(name, row, seconds)
        self.counts["rows computed"] += len(fresh)
        if fresh:
            new = sum(row is None for row in found)
            self._say("executed", f"executed: {new} of {batch.rows} rows are new{self._change}")
            self._change = ""
            return
        self._say("executed", "executed: all rows are known; it was tried whether that is enough")
        if kind.refused(batch.rows) is None and self.costs.may_look():
            with self.costs.looking():
                kind.show(self.module, batch)

    def _withdraw(self, kind: Kind) -> None:
        """Rows came out otherwise among other rows: never take any from now on.

        Raises:
            WrongHitError: some were taken before.
        """
        kind.refuse(kind.first, "a row came out with other bits among other rows")
        self._say("executed", "executed: a row came out with other bits among other rows")
        if kind.served:
            raise self._audit.wrong(
                "memo",
                type(self.module).__name__,
                f"a row came out with other bits than before; {kind.served} rows were read until "
                "then. It depends on something that is not in the arguments; do not cache it.",
            )

    def _audited(self, kind: Kind, batch: Batch, rows: Sequence[Row]) -> Any:
        value = self._run(batch)
        if all(map(same_rows, rows, kind.rows_of(value))):
            self._audit.compared("memo")
        else:
            self._withdraw(kind)
        return value

    def _run(self, batch: Batch) -> Any:
        began = time.perf_counter()
        value = batch.call(self.module)
        self.costs.ran(time.perf_counter() - began)
        return value

    def _say(self, what: str, why: str) -> None:
        self.counts[what] += 1
        self.last = why
