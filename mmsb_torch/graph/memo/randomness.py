"""What a call drew from the global random generators."""

from __future__ import annotations

import random
import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmsb_torch.instrumentation.identity.ledger import read_digest


class State(NamedTuple):
    """The generators' states at one moment."""

    cpu: bytes
    cuda: tuple[bytes, ...]
    python: int
    numpy: int


def state() -> State:
    """The states now; takes about 30 microseconds."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    numpy: Any = sys.modules.get("numpy.random")
    drawn = numpy.get_state() if numpy is not None else None
    return State(
        read_digest(torch.get_rng_state()),
        tuple(read_digest(item) for item in cuda),
        hash(random.getstate()),
        0 if drawn is None else hash((drawn[0], drawn[1].tobytes(), *drawn[2:])),
    )


def torch_part() -> bytes:
    """The states of torch's generators, as a part of a key."""
    now = state()
    return b"".join((now.cpu, *now.cuda))


def save() -> dict[str, Tensor]:
    """The states of torch's generators, to be put back after a hit."""
    found = {"rng cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        found |= {f"rng cuda {n}": s for n, s in enumerate(torch.cuda.get_rng_state_all())}
    return found


def put_back(saved: dict[str, Tensor]) -> None:
    """Set torch's generators as they were after the call."""
    torch.set_rng_state(saved["rng cpu"])
    cuda = [saved[name] for name in sorted(saved) if name.startswith("rng cuda")]
    if cuda:
        torch.cuda.set_rng_state_all(cuda)
