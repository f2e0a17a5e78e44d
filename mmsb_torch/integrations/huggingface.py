"""Hugging Face: `Trainer(callbacks=[callback])` keeps the whole state at the beginning of steps.

    callback = MMSBCallback("run.mmsb", every=100)
    trainer = transformers.Trainer(..., callbacks=[callback])
    trainer.train(resume_from_checkpoint=callback.checkpoint())  # None at the first time

A training that was killed is begun again as it was, and goes on from the last commit, bit for bit.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import transformers

from mmsb_torch.errors import TrackError
from mmsb_torch.integrations.kept import kept
from mmsb_torch.memory import Memory, open  # noqa: A004 - as mmsb.open
from mmsb_torch.training import Run, track


class MMSBCallback(transformers.TrainerCallback):
    """Commits the state of a training to a memory; `checkpoint` lets the trainer go on from there.

    Kept are the model, optimizer, scheduler and random generators as of the beginning of a step, when its
    batch is drawn, and the trainer's own state. The trainer finds its place in the data by itself.

    Args:
        memory: a memory, or the path of one, which is opened when it is needed, and closed after training.
        every: steps between commits.
        name: of the run, if the memory is to hold several.

    Attributes:
        run: the tracked run, from the first step on.
    """

    def __init__(
        self, memory: Memory | str | os.PathLike[str], *, every: int = 100, name: str | None = None
    ) -> None:
        if type(every) is not int or every < 1:
            raise TrackError(f"every={every!r}: expected steps between commits, an integer from 1")
        self.run: Run | None = None
        self._given, self._every, self._name = memory, every, name
        self._opened: Memory | None = memory if isinstance(memory, Memory) else None
        self._state: dict[str, Any] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def checkpoint(self) -> str | None:
        """A folder for `trainer.train(resume_from_checkpoint=...)`; None if there is no commit yet.

        It holds the trainer's state and the weights, no optimizer: that is set from the memory, with all
        else, when the first step begins. It goes away with the training.
        """
        state = kept(self._memory(), self._name, "trainer")
        if state is None:
            return None
        self._folder = tempfile.TemporaryDirectory(prefix="mmsb-")
        folder = Path(self._folder.name)
        (folder / "trainer_state.json").write_text(state["json"])
        self._exported().export(folder)
        return str(folder)

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Track what the trainer made."""
        del control
        if args.world_size != 1:
            raise TrackError(
                f"MMSBCallback keeps the state of one process, and this training has {args.world_size}"
            )
        optimizer, scheduler = given["optimizer"], given["lr_scheduler"]
        self._state = {"json": ""}
        self.run = track(
            self._memory(),
            model=given["model"],
            optimizer=getattr(optimizer, "optimizer", optimizer),  # accelerate's wraps torch's
            scheduler=scheduler,
            extra={"trainer": self._state},
            name=self._name,
        )
        self._goes_on = state.global_step > 0
        if kept(self._memory(), self._name, "trainer") is not None and not self._goes_on:
            raise TrackError(
                "the memory holds a training already, and this one begins anew: expected "
                "trainer.train(resume_from_checkpoint=callback.checkpoint()), or another name="
            )

    def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Set everything as it was when the step began, or commit it."""
        del args, control, given
        assert self.run is not None
        if self._goes_on:
            self._goes_on = False
            step = self.run.resume()
            if step != state.global_step:
                raise TrackError(
                    f"the memory is at step {step}, and the trainer at step {state.global_step}: expected "
                    "trainer.train(resume_from_checkpoint=callback.checkpoint())"
                )
        elif state.global_step % self._every == 0:
            self._commit(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Commit what came out; close a memory that this opened."""
        del args, control, given
        if not self._goes_on:  # else there was no step to go on with
            self._commit(state)
        if self._folder is not None:
            self._folder.cleanup()
        self._memory().sync()
        if not isinstance(self._given, Memory):
            self._memory().close()
            self._opened = None

    def _commit(self, state: Any) -> None:
        assert self.run is not None
        said = {key: value for key, value in vars(state).items() if _is_plain(value)}
        self._state["json"] = json.dumps(said, sort_keys=True)
        self.run.commit(step=state.global_step, **_metrics(state))

    def _memory(self) -> Memory:
        if self._opened is None:
            assert not isinstance(self._given, Memory)
            self._opened = open(self._given)
        return self._opened

    def _exported(self) -> Run:
        """A run that only exports."""
        return track(self._memory(), extra={"trainer": {}}, name=self._name)


def _metrics(state: Any) -> dict[str, float]:
    """What was logged last, as far as it is numbers."""
    last = state.log_history[-1] if state.log_history else {}
    names = ("step", "time")
    return {k: float(v) for k, v in last.items() if k not in names and isinstance(v, int | float)}


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
