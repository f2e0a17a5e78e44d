"""A tracked run: commits of everything that a training loop goes on from, and the ways back."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmsb_torch.errors import HistoryError, TrackError
from mmsb_torch.instrumentation.context import plain_torch
from mmsb_torch.memory import Memory
from mmsb_torch.memory.changes import check_label
from mmsb_torch.memory.moment import restore
from mmsb_torch.runtime.state import stage_append
from mmsb_torch.training.exporting import export
from mmsb_torch.training.pages import Draft, Given, Pages, text_of
from mmsb_torch.training.part import Part, raise_differences
from mmsb_torch.training.randomness import Randomness
from mmsb_torch.training.sampler import ResumableSampler
from mmsb_torch.training.saved import RUN, VERSION, Saved, was_kept

_CPU = torch.device("cpu")
_METRICS = "track/metrics"


class Step(NamedTuple):
    """One commit of a run, as `Run.history` lists them."""

    step: int
    time: float
    """Unix time in seconds."""
    metrics: dict[str, float]
    tx: int | None
    """The transaction to go back to; None if the history at hand does not have it any more."""


class Commit:
    """A commit on its way to the disk. Readers of the memory see it already."""

    __slots__ = ("_memory", "nbytes", "step", "tx")

    def __init__(self, memory: Memory, step: int, tx: int, nbytes: int) -> None:
        self._memory, self.step, self.tx = memory, step, tx
        self.nbytes = nbytes
        """Bytes of what changed."""

    def wait(self) -> None:
        """Wait until it is written, as durably as the memory promises.

        Raises:
            StoreError: it could not be; it is in memory only.
        """
        self._memory._router.log.wait(self.tx)  # noqa: SLF001 - one facade

    def __repr__(self) -> str:
        return f"<Commit of step {self.step}: transaction {self.tx}, {self.nbytes} bytes>"


def _numbers(metrics: dict[str, Any]) -> dict[str, float]:
    """Metrics as numbers.

    Raises:
        TrackError: one is no number, or named as the commit's time is.
    """
    numbers = {}
    for name, value in metrics.items():
        try:
            numbers[name] = float(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TrackError(f"metric {name!r}: expected a number, found {value!r:.80}") from error
    if "time" in numbers:
        raise TrackError("a metric cannot be named 'time': commits have a time of their own")
    return numbers


class Run:
    """A training loop whose state is kept in a memory's pages. `mmsb.track` makes one.

    For one thread. Live tensors are never written but by `resume` and `restore`, in place.
    """

    def __init__(
        self, memory: Memory, name: str | None, parts: Sequence[Part], *, watch: bool
    ) -> None:
        self.memory = memory
        self.name = name or "run"
        self._prefix = f"{name}: " if name else ""
        self._parts = list(parts)
        self._random = Randomness()
        self._samplers = [
            target
            for part in parts
            if isinstance(target := getattr(part, "target", None), ResumableSampler)
        ]
        self._pages = Pages(memory, self.name, self._prefix, watch=watch)
        self._metrics: list[str] = []
        self._count = 0
        self._begun = False
        """Whether this loop goes on from what the memory holds."""
        self._torn = False
        """Whether setting the live state was interrupted."""
        self._texts: dict[str, tuple[Any, Tensor]] = {}
        self.step: int | None = None
        """The last step that was committed, resumed or restored."""

    # forward

    def commit(self, *, step: int, **metrics: float) -> Commit:
        """Keep the state as it is now, as of `step`; returns before the disk has it.

        What changed since the last commit is copied before this returns, so the loop may go on at
        once. At most two commits are on their way, a third waits. `commit(...).wait()`, `mem.sync()`
        and `mem.close()` tell when it is written; an error also comes with the next commit.

        Args:
            step: steps done so far, which is what `resume` returns.
            metrics: numbers (or tensors of one element) to be kept with it: loss=..., accuracy=...

        Raises:
            TrackError: there is a run in the memory that was not resumed, or `restore` was cut off.
            MismatchError: a parameter has another shape or dtype than before.
            UnsupportedError: something is no plain data and no dense tensor; it is named.
            ClosedError, ReadOnlyError, StoreError. Nothing was changed.
        """
        check_label(None, step)
        memory, router = self.memory, self.memory._router  # noqa: SLF001 - one facade
        router.check_writable()
        self._check_begun()
        with plain_torch(_CPU):
            given, told = self._look()
            numbers = _numbers(metrics)
            with router.creating:
                draft = self._pages.draft(given)
                names = self._note_metrics(draft, step, numbers)
                self._note_run(draft, step, list(told), names)
                self._metrics, self._begun = names, True  # an interrupt may come right after
                record = router.commit(
                    draft.deltas,
                    created=draft.created,
                    bases=draft.bases,
                    step=step,
                    metadata={"run": self.name},
                    wait=False,
                    tell=False,
                )
        self._pages.committed(draft, record.tx)
        self._pages.keep_only(given)
        self.step = step
        if router.events.wanted:
            router.events.deliver()
        memory._after(record)  # noqa: SLF001
        return Commit(memory, step, record.tx, draft.nbytes)

    def _look(self) -> tuple[dict[str, Given], dict[str, Any]]:
        """Every tensor of the state by key, and what else there is of each part."""
        given: dict[str, Given] = {}

        def keep(key: str, tensor: Tensor, *, fixed: bool = False, ours: bool = False) -> None:
            given[key] = Given(tensor, fixed, ours)

        told = {part.name: part.look(keep) for part in [*self._parts, self._random]}
        for name, value in told.items():
            before = self._texts.get(name)
            if before is None or before[0] != value:
                before = self._texts[name] = value, text_of(value)
            given[f"track/{name}"] = Given(before[1], fixed=False, ours=False)
        return given, told

    def _note_metrics(self, draft: Draft, step: int, numbers: dict[str, float]) -> list[str]:
        """Draft the rows (step, which, value) of a commit; returns what is which."""
        names = self._metrics or ["time"]
        names = names + [name for name in numbers if name not in names]
        values = {"time": time.time(), **numbers}
        rows = [[float(step), float(names.index(name)), value] for name, value in values.items()]
        new = torch.tensor(rows, dtype=torch.float64)
        entry = self.memory._router.table.get(self._prefix + _METRICS)  # noqa: SLF001
        if entry is None:
            self._pages.add(draft, _METRICS, Given(new, fixed=False, ours=True))
        else:
            draft.deltas.append(stage_append(entry, new))
        return names

    def _note_run(self, draft: Draft, step: int, parts: list[str], names: list[str]) -> None:
        self._count += 1  # so that each commit touches the page, of the same step, too
        about = {
            "version": VERSION,
            "step": step,
            "commits": self._count,
            "parts": parts,
            "metrics": names,
            "pages": draft.names,
        }
        self._pages.add(draft, RUN, Given(text_of(about), fixed=False, ours=True))

    def _check_begun(self) -> None:
        if self._torn:
            raise TrackError(
                "the live state is part of one moment and part of another, because restoring it was "
                "interrupted: call run.resume() or run.restore(step=...) again"
            )
        if not self._begun and self.memory._router.table.get(self._prefix + RUN) is not None:  # noqa: SLF001
            found = Saved(self.memory, self._prefix)
            raise TrackError(
                f"the memory holds run {self.name!r} at step {found.step}, and this loop did not go on "
                "from there: call run.resume() before the first commit, or begin another run with "
                "mmsb.track(..., name=...)"
            )

    # back

    def resume(self, default: int = 0) -> int:
        """Set everything to the last commit, in place, bit for bit; returns its step.

        If there is none, `default` is returned and nothing is changed. Call it after the model, the
        optimizer and the rest were made, before the first batch is drawn.

        Raises:
            MismatchError: what is there is not what the run kept; each difference is named, and
                nothing was changed.
        """
        router = self.memory._router  # noqa: SLF001
        router.check_open()
        if router.table.get(self._prefix + RUN) is None:
            self._begun = True
            return default
        saved = Saved(self.memory, self._prefix)
        self._compare(saved)
        self._load(saved)
        return saved.step

    def restore(self, *, step: int) -> int:
        """Set everything to the commit of a step; returns the step.

        The pages go back, too, as a new transaction, so the next `resume` goes on from there, and
        what came after can still be restored. Other pages of the memory are left alone.

        Raises:
            HistoryError: no commit of that step is at hand.
            MismatchError: as `resume`; nothing was changed.
        """
        self.memory._router.check_writable()  # noqa: SLF001
        tx = self._transaction(step)
        self._compare(Saved(self.memory, self._prefix, tx))

        def commit(deltas: Any, **options: Any) -> int:
            return self.memory._commit(deltas, step=step, **options)  # noqa: SLF001

        restore(self.memory._engine, tx, commit, self._pages.ids())  # noqa: SLF001
        self._load(Saved(self.memory, self._prefix))
        return step

    def _compare(self, saved: Saved) -> None:
        found, parts = [], {part.name: part for part in [*self._parts, self._random]}
        for name in saved.parts:
            if name in parts:
                found += parts[name].compare(saved.part(name), saved.spec)
            else:
                found.append(f"{name}: kept by the run, and not given to mmsb.track")
        found += [
            f"{name}: given to mmsb.track, and not kept by the run"
            for name in parts
            if name not in saved.parts
        ]
        raise_differences(self.name, found)

    def _load(self, saved: Saved) -> None:
        self._torn = True
        with plain_torch(_CPU):
            for part in [*self._parts, self._random]:
                part.load(saved.part(part.name), saved.find)
        for sampler in self._samplers:
            sampler.go_on(self._random.again())
        self._metrics, self._count, self.step = saved.metrics, saved.commits, saved.step
        self._begun, self._torn = True, False

    def _transaction(self, step: int) -> int:
        """The newest transaction with which this run was at a step."""
        check_label(None, step)
        for item in self._commits():
            if item.step == step:
                return int(item.tx)
        tx = self.memory.at(step=step).tx  # in a checkpoint, perhaps
        if (
            was_kept(self.memory, self._prefix, tx)
            and Saved(self.memory, self._prefix, tx).step == step
        ):
            return tx
        raise HistoryError(f"run {self.name!r} has no commit of step {step} in the history at hand")

    def _commits(self) -> list[Any]:
        """What the log says of this run's commits, newest first."""
        log = self.memory._router.log  # noqa: SLF001
        entry = self.memory._router.table.get(self._prefix + RUN)  # noqa: SLF001
        if entry is None:
            return []
        log.reach_back()
        return [log.about(tx) for tx in log.of_page(entry.info.id, log.last)]

    def history(self) -> list[Step]:
        """The commits that led to the present state, oldest first, with their metrics."""
        router = self.memory._router  # noqa: SLF001
        router.check_open()
        if router.table.get(self._prefix + RUN) is None:
            return []
        saved = Saved(self.memory, self._prefix)
        numbers: dict[int, dict[str, float]] = {}
        for step, which, value in saved.find(_METRICS).tolist():
            name = saved.metrics[int(which)]
            if name == "time":
                numbers.pop(int(step), None)  # a step that was committed twice is as it was last
            numbers.setdefault(int(step), {})[name] = value
        places: dict[int | None, int] = {}
        for item in self._commits():
            places.setdefault(item.step, item.tx)
        return [
            Step(step, metrics.pop("time"), metrics, places.get(step))
            for step, metrics in numbers.items()
        ]

    def export(self, folder: str | os.PathLike[str], *, step: int | None = None) -> list[Path]:
        """Write each tracked module as a plain safetensors file; returns the files.

        `model.safetensors` (or the module's name), as `safetensors.torch.load_model` and
        `load_file` read it: what `module.state_dict()` has, of several names of one tensor the first.

        Args:
            folder: made if missing; files of the same name are replaced, each atomically.
            step: as of that commit; the last one if left out.

        Raises:
            TrackError: nothing was committed yet, or no module is tracked.
            HistoryError: no commit of that step is at hand.
        """
        self.memory._router.check_open()  # noqa: SLF001
        if self.memory._router.table.get(self._prefix + RUN) is None:  # noqa: SLF001
            raise TrackError(f"run {self.name!r} has no commit yet: expected run.commit(step=...)")
        tx = None if step is None else self._transaction(step)
        return export(Saved(self.memory, self._prefix, tx), Path(folder))

    def __repr__(self) -> str:
        parts = ", ".join(part.name for part in self._parts)
        return f"<Run {self.name!r}: step {self.step}, keeps {parts} and the random generators>"
