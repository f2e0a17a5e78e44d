"""Batches that take one way through torch, and what is shown of their rows.

That row i of the result depends on row i of the arguments only follows from the operators that ran
(`graph/rows/path`). It is not enough: libraries compute with other loops for few rows than for many,
and at the end of a tensor with others than before it, which round in another way. Which loop an
element gets follows from sizes and not from values. So for each number of rows, once: rows in three
other orders have the same bits, bit for bit, and so have the rows among as many as there were first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import xxhash
from torch import Tensor

from mmsb_torch.device import same_bits
from mmsb_torch.errors import MMSBError
from mmsb_torch.graph.frozen.batch import Batch
from mmsb_torch.graph.frozen.costs import Reads
from mmsb_torch.graph.frozen.form import Form
from mmsb_torch.graph.frozen.known import Row
from mmsb_torch.graph.memo.keys import Refused
from mmsb_torch.graph.rows.calls import evaluate
from mmsb_torch.graph.rows.path import Path
from mmsb_torch.graph.rows.trail import run
from mmsb_torch.instrumentation.capture.export import same_random_numbers
from mmsb_torch.instrumentation.code.encoding import digest, framed, text

_FORM = "mmsb frozen 1"
_TRIES = 8
_BRIDGES = 4
Function = Callable[..., Any]


class Kind:
    """Batches that differ in their rows and their number only, and take one way.

    Attributes:
        path: the way.
        form: what holds the tensors of a result.
        first: the number of rows that it was found with; others are compared with as many.
        prefix: 16 bytes that rows are named with.
        sizes: numbers of rows that were tried; None if their rows have the same bits.
        served: rows that were read instead of computed.
        reads: what that took.
    """

    def __init__(self, path: Path, form: Form, sign: bytes, batch: Batch) -> None:
        self.path, self.form, self.first = path, form, batch.rows
        form.let_go()
        first = batch.rows
        self._sample: Batch | None = batch.taken(torch.arange(first, device="cpu"))
        """The rows that it was found with, until they were tried."""
        parts = [sign, path.key, text(form.text), text(str(first))]
        self.prefix = digest(framed(_FORM, parts))
        self.looks = [(out.dtype, evaluate(out.shape, first)[1:]) for out in path.outs]
        self.sizes: dict[int, str | None] = {}
        self.served = 0
        self.reads = Reads()
        self._tries = 0

    def shown(self, rows: int) -> bool:
        """Whether rows of batches of so many have the bits that they have in any other."""
        return self.sizes.get(rows, "") is None

    def refused(self, rows: int) -> str | None:
        """Why rows of batches of so many are not taken from others, if that is known."""
        return self.sizes.get(self.first) or self.sizes.get(rows)

    def refuse(self, rows: int, why: str) -> bool:
        """Never again take rows for batches of so many from others."""
        self.sizes[rows] = why
        return False

    def rows_of(self, result: Any) -> list[Row]:
        """The rows of a result, as new tensors."""
        tensors = Form(result).tensors
        split = zip(*(tensor.detach().unbind(0) for tensor in tensors), strict=True)
        whole = torch.contiguous_format
        return [tuple(part.clone(memory_format=whole) for part in row) for row in split]

    def result_of(self, rows: Sequence[Row]) -> Any:
        """A result of rows: new memory, laid out as a run would have given it."""
        return self.form.build([self._laid_out(n, rows) for n in range(len(self.path.outs))])

    def _laid_out(self, number: int, rows: Sequence[Row]) -> Tensor:
        out, stacked = self.path.outs[number], torch.stack([row[number] for row in rows])
        stride = evaluate(out.stride, len(rows))
        offset = evaluate(out.offset, len(rows))
        if stacked.stride() == stride and not offset:
            return stacked
        span = 1 + sum((n - 1) * step for n, step in zip(stacked.shape, stride, strict=True))
        room = torch.empty(offset + max(span, 1), dtype=stacked.dtype, device="cpu")
        return room.as_strided(stacked.shape, stride, offset).copy_(stacked)

    def show(self, function: Function, batch: Batch) -> bool:
        """Try batches of so many rows, if they were not tried before.

        Args:
            function: what is called; it runs some times.
            batch: rows to try with, of any kind that takes this way.

        Returns:
            whether it is shown. If the rows are too alike to tell, it is tried again, some times.
        """
        rows = batch.rows
        if rows in self.sizes:
            return self.shown(rows)
        if rows != self.first and self._sample and not self.show(function, self._sample):
            return False
        with same_random_numbers():
            try:
                return self._tried(function, batch)
            except Refused as reason:
                return self.refuse(rows, str(reason))
            except Exception as error:  # noqa: BLE001 - the user's function, on rows of ours
                return self.refuse(
                    rows, f"with {rows} rows in another order it raised {error!r:.200}"
                )

    def _tried(self, function: Function, batch: Batch) -> bool:
        rows = batch.rows
        lively = batch.lively()
        if lively is None or not self.path.takes(lively.tensors, rows):
            lively = batch
        if rows != self.first:
            _, trail = run(lambda: lively.call(function), lively.tensors, watched=False)
            if not self.path.told_by(trail, rows):
                return self.refuse(rows, f"with {rows} rows it takes another way")
        made = self._results(function, lively)
        if made is None:
            return self.refuse(rows, "its results are laid out in another way")
        if not _are_various(made):
            self._tries += 1
            return self._tries >= _TRIES and self.refuse(rows, "its rows are too alike to tell")
        others = _orders(rows)
        if rows != self.first:
            others += _bridges(self.first, rows)
        for order in others:
            there = self._results(function, lively.taken(order))
            if there is None or not _agree(made, order, there):
                return self.refuse(rows, "its rows have other bits at other places of a batch")
        self.sizes[rows] = None
        if rows == self.first:
            self._sample = None
        return True

    def _results(self, function: Function, batch: Batch) -> list[Tensor] | None:
        """The tensors of a result; None if they are not laid out as known."""
        if not self.path.takes(batch.tensors, batch.rows):
            return None
        form = Form(batch.call(function))
        if form.text != self.form.text:
            return None
        for out, tensor in zip(self.path.outs, form.tensors, strict=True):
            shape, stride, offset = evaluate((out.shape, out.stride, out.offset), batch.rows)
            found = (tuple(tensor.shape), tensor.stride(), tensor.storage_offset(), tensor.dtype)
            if found != (shape, stride, offset, out.dtype):
                return None
        return form.tensors


def learn(function: Function, batch: Batch, result: Any, sign: bytes) -> Kind:
    """Find out which way a batch takes, by running it twice more.

    Args:
        function: what was called.
        batch: what it was called with.
        result: what it gave.
        sign: what else the result depends on.

    Raises:
        Refused: rows of this cannot be known again in other batches.
    """
    rows = batch.rows
    more = batch.taken(_around(rows + 1, rows))
    form = Form(result)
    with same_random_numbers():
        try:
            again, a = run(lambda: batch.call(function), batch.tensors, watched=False)
            outs = _numbers(again, a)
            other, b = run(lambda: more.call(function), more.tensors, watched=True)
            if _numbers(other, b) != outs or Form(other).text != form.text:
                raise Refused("what it gives depends on the number of rows")
            repeated = Form(again)
            if repeated.text != form.text or not all(map(_alike, form.tensors, repeated.tensors)):
                raise Refused("it does not compute the same twice, or not while it is watched")
            del again, other, repeated
            a.let_go()
            b.let_go()
            path = Path(a, b, (rows, rows + 1), outs)
        except MMSBError as error:
            raise Refused(str(error)) from None
        except Refused:
            raise
        except Exception as error:  # the user's function, with a number of rows of ours
            raise Refused(f"with {rows + 1} rows it raised {error!r:.200}") from error
    why = path.why_not([tensor.dtype for tensor in batch.tensors])
    if why is not None:
        raise Refused(why)
    return Kind(path, form, sign, batch)


def _numbers(result: Any, trail: Any) -> list[int]:
    """Which values of a run its results are."""
    if trail.why_not is not None:
        raise Refused(trail.why_not)
    found = []
    for tensor in Form(result).tensors:
        number = trail.number(tensor)
        if number is None or trail.is_outside(tensor):
            raise Refused("it gives what it was given, holds or did not compute")
        found.append(number)
    return found


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.stride() == b.stride() and same_bits(a, b)


def _around(count: int, rows: int) -> Tensor:
    """So many of `rows` rows, the first ones again after the last."""
    return torch.arange(count, device="cpu") % rows


def _orders(rows: int) -> list[Tensor]:
    """Orders in which every row stands elsewhere, or many do; none for one row."""
    if rows == 1:
        return []
    ordered = torch.arange(rows, device="cpu")
    chance = torch.Generator().manual_seed(rows)
    shuffled = torch.randperm(rows, generator=chance, device="cpu")
    return [ordered.roll(1), ordered.flip(0), shuffled]


def _bridges(first: int, rows: int) -> list[Tensor]:
    """`first` of the rows at a time."""
    starts = range(0, rows, first)[:_BRIDGES]
    return [(_around(first, rows) + start) % rows for start in starts]


def _agree(made: Sequence[Tensor], order: Tensor, there: Sequence[Tensor]) -> bool:
    """Whether rows of one run, in that order, are those of another."""
    return all(
        same_bits(a.detach().index_select(0, order), b) for a, b in zip(made, there, strict=True)
    )


def _are_various(made: Sequence[Tensor]) -> bool:
    """Whether at least half of the rows differ from each other, so that mixing them would show."""
    rows = len(made[0])
    state = [xxhash.xxh3_64() for _ in range(rows)]
    for tensor in made:
        whole = tensor.detach().clone(memory_format=torch.contiguous_format)
        if whole.numel():
            lines = whole.reshape(rows, -1).view(torch.uint8).numpy()
            for row, line in zip(state, lines, strict=True):
                row.update(line.data)
    return rows == 1 or 2 * len({row.digest() for row in state}) >= max(rows, 4)
