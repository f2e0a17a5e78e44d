"""Lightning: `Trainer(callbacks=[MMSBCallback("run.mmsb")])` keeps the whole state at each epoch's start.

A fit that was killed is called again as it was, and goes on from the last commit, bit for bit.
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from mmsb_torch.errors import TrackError
from mmsb_torch.integrations.kept import kept
from mmsb_torch.memory import Memory, open  # noqa: A004 - as mmsb.open
from mmsb_torch.training import Run, track
from mmsb_torch.training.randomness import Randomness


class MMSBCallback(pl.Callback):
    """Commits the state of a fit to a memory, and goes on from the last commit by itself.

    Kept are the module, its optimizers and schedulers, the loops' progress and the random generators,
    as of the beginning of an epoch: loaders that shuffle by torch's generator then draw the same
    batches. What is drawn in a loader's worker processes is Lightning's to seed.

    Args:
        memory: a memory, or the path of one, which is opened for each fit and closed after it.
        every: epochs between commits.
        name: of the run, if the memory is to hold several.

    Attributes:
        run: the tracked run, from the beginning of training on.
    """

    def __init__(
        self, memory: Memory | str | os.PathLike[str], *, every: int = 1, name: str | None = None
    ) -> None:
        super().__init__()
        if type(every) is not int or every < 1:
            raise TrackError(f"every={every!r}: expected epochs between commits, an integer from 1")
        self.run: Run | None = None
        self._given, self._every, self._name = memory, every, name
        self._loops: _Loops | None = None
        self._fresh = False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell the loops where they were; nothing else is set up by now."""
        del pl_module
        memory = self._given if isinstance(self._given, Memory) else open(self._given)
        self._loops = _Loops(trainer)
        self._memory, self._before = memory, _Generators()
        state = kept(memory, self._name, "loops")
        if state is not None:
            self._loops.load_state_dict(state)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set everything as it was, and draw the first batches anew from the generators of then."""
        if trainer.world_size != 1:
            raise TrackError(
                f"MMSBCallback keeps the state of one process, and this fit has {trainer.world_size}"
            )
        assert self._loops is not None
        self.run = track(
            self._memory,
            model=pl_module,
            optimizer={str(at): one for at, one in enumerate(trainer.optimizers)},
            scheduler={
                str(at): config.scheduler for at, config in enumerate(trainer.lr_scheduler_configs)
            },
            extra={"loops": self._loops},
            name=self._name,
        )
        self._fresh = self.run.resume(default=-1) >= 0
        fetcher = trainer.fit_loop._data_fetcher  # noqa: SLF001 - it has drawn already
        if self._fresh and fetcher is not None:
            iter(fetcher)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Commit, but for the state that was just resumed."""
        del pl_module
        fresh, self._fresh = self._fresh, False
        if fresh or trainer.current_epoch % self._every:
            return
        if trainer.fit_loop.epoch_progress.total.completed:
            self._commit(trainer)
        else:  # the first batches are drawn already: the generators are wanted as of before
            with self._before.again():
                self._commit(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Commit what came out."""
        del pl_module
        self._commit(trainer)
        self._memory.sync()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Close a memory that this opened."""
        del trainer, pl_module, stage
        if self.run is not None and not isinstance(self._given, Memory):
            self._memory.close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """As `teardown`, which Lightning leaves out then."""
        del exception
        self.teardown(trainer, pl_module, "fit")

    def _commit(self, trainer: pl.Trainer) -> None:
        assert self.run is not None
        numbers = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if name not in ("step", "time")
        }
        self.run.commit(step=trainer.global_step, **numbers)


class _Generators:
    """The random generators as they are when this is made."""

    def __init__(self) -> None:
        self._tensors: dict[str, Tensor] = {}
        self._said = Randomness().look(self._keep)

    def _keep(self, key: str, tensor: Tensor, **_: bool) -> None:
        self._tensors[key] = tensor.clone()

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """As they were, for a while."""
        now = _Generators()
        Randomness().load(self._said, self._tensors.__getitem__)
        try:
            yield
        finally:
            Randomness().load(now._said, now._tensors.__getitem__)


class _Loops:
    """The progress of a trainer's loops, as what has a state."""

    def __init__(self, trainer: pl.Trainer) -> None:
        self._trainer = trainer
        self._loaded = False

    def state_dict(self) -> dict[str, Any]:
        """Plain data: as of the end of the epoch before, where an epoch has just begun."""
        state: dict[str, Any] = copy.deepcopy(self._trainer.fit_loop.state_dict())
        for progress in (state["epoch_progress"]["total"], state["epoch_progress"]["current"]):
            progress["ready"] = min(progress["ready"], progress["completed"])
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Once: later the loops run. Those that completed no epoch begin as new ones do."""
        if not self._loaded and state["epoch_progress"]["total"]["completed"]:
            self._trainer.fit_loop.load_state_dict(state)
        self._loaded = True
