"""Making a store smaller: a checkpoint of the present, and less of the past."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mmsb_torch.cli.progress import reading, writing
from mmsb_torch.errors import UnsupportedError
from mmsb_torch.memory import Memory
from mmsb_torch.memory.collecting import plan
from mmsb_torch.memory.opening import open_on
from mmsb_torch.memory.sizes import parse_bytes
from mmsb_torch.runtime.store import FILES, Plan, Retention, Store, list_checkpoints


class Size(click.ParamType[int]):
    """A number of bytes: 500000, 10GB, 1.5GiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number."""
        try:
            return parse_bytes(value)
        except UnsupportedError as error:
            self.fail(str(error), param, ctx)


def preview(path: Path, rule: Retention) -> dict[str, Any]:
    """What `compact` would do, as plain data; the store is only read.

    Raises:
        as `mmsb.open` and `Memory.collect`.
    """
    with reading("reading") as files, open_on(files, path, mode="r") as memory:
        due, state = _is_due(path, memory), sum(memory.stats()["bytes"].values())
        found = plan(memory, rule, checkpoint_bytes=state if due else None)
        return _data(memory, found, due=due, done=False)


def compact(path: Path, rule: Retention) -> dict[str, Any]:
    """Write a checkpoint if the log goes on after the newest one, and collect; as plain data.

    Raises:
        as `mmsb.open`, `Memory.checkpoint` and `Memory.collect`.
    """
    Store.open(path).close()  # opening for writing would make one
    with open_on(FILES, path) as memory:
        due = _is_due(path, memory)
        if due:
            with writing("writing a checkpoint") as progress:
                memory.checkpoint(progress=progress)
        return _data(memory, memory.collect(rule), due=due, done=True)


def _is_due(path: Path, memory: Memory) -> bool:
    refs = list_checkpoints(path)
    return memory.tx > (refs[-1].tx if refs else 0)


def _data(memory: Memory, found: Plan, *, due: bool, done: bool) -> dict[str, Any]:
    return {
        "done": done,
        "checkpoint": memory.tx if due else None,
        "checkpoints": [ref.tx for ref in found.checkpoints],
        "transactions": [[span[0], span[-1]] for span in found.transactions],
        "files": [str(p) for p in (*found.logs, *found.payloads, *found.leftovers)],
        "bytes": found.nbytes,
        "left": found.left,
        "over_budget": found.over_budget,
    }
