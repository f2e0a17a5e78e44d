"""`mmsb.track`: what there is of a training loop, as parts of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from mmsb_torch.errors import TrackError, UnsupportedError
from mmsb_torch.memory import Memory
from mmsb_torch.training.adopting import adopt
from mmsb_torch.training.modules import ModulePart
from mmsb_torch.training.optimizers import GradientPart, OptimizerPart
from mmsb_torch.training.part import Part
from mmsb_torch.training.parts import part_of
from mmsb_torch.training.run import Run
from mmsb_torch.training.sampler import ResumableSampler

Barrier = Literal["auto", "hash"]
_TAKEN = ("rng", "run", "metrics", "track")


def track(
    memory: Memory,
    *,
    model: nn.Module | Mapping[str, nn.Module] | None = None,
    optimizer: Optimizer | Mapping[str, Optimizer] | None = None,
    scheduler: Any = None,
    sampler: Any = None,
    scaler: Any = None,
    loader: Any = None,
    extra: Mapping[str, Any] | None = None,
    barrier: Barrier = "auto",
    name: str | None = None,
) -> Run:
    """Keep a training loop's state in a memory: `run.resume()`, then `run.commit(step=...)` as it goes.

    Each parameter, buffer and optimizer slot has a page; the random generators of every device are kept
    always. Several models, optimizers, schedulers or scalers are given as dicts with names of yours.

    Args:
        memory: opened for writing, with a path if the run is to outlive the process.
        model: what is trained; compiled and data-parallel modules count as what is inside.
        optimizer: any `torch.optim.Optimizer`; made before, with the parameters of `model`.
        scheduler: what has state_dict() and load_state_dict(), as sampler, scaler and loader.
        sampler: a `ResumableSampler`, or another one with a state.
        scaler: a `torch.amp.GradScaler`.
        loader: torchdata's `StatefulDataLoader`, or a `DataLoader` over a `ResumableSampler`.
        extra: by name: modules (an EMA copy), what has a state, generators, tensors, dicts, lists.
        barrier: "auto" asks the copy-on-write flag what may have been written since the last commit;
            "hash" reads everything at each commit. In threads beside the main one "auto" does, too.
        name: of the run, if the memory is to hold several.

    Raises:
        TrackError: something is not what it should be, or has no state to keep.
        UnsupportedError: the loader's place cannot be kept; the message says what to use.
    """
    if not isinstance(memory, Memory):
        raise TrackError(f"mmsb.track takes a memory first, mmsb.open(...), found {memory!r:.80}")
    if barrier not in ("auto", "hash"):
        raise TrackError(f"barrier={barrier!r}: expected 'auto' or 'hash'")
    memory._router.check_open()  # noqa: SLF001 - a run is a part of the facade
    modules = list(_modules(model, extra))
    parts: list[Part] = [*modules, *_optimizers(optimizer, modules)]
    for what, given in (("scheduler", scheduler), ("scaler", scaler)):
        parts += [part_of(key, target) for key, target in _named(what, given)]
    parts += [
        part_of(key, target)
        for key, target in (extra or {}).items()
        if not isinstance(target, nn.Module)
    ]
    parts += _data(sampler, loader)
    names = [part.name for part in parts]
    for key in names:
        if (
            not isinstance(key, str)
            or not key
            or "/" in key
            or key in _TAKEN
            or names.count(key) > 1
        ):
            raise TrackError(
                f"{key!r} cannot name a part of a run: expected a string without '/', used once, and "
                f"none of {', '.join(_TAKEN)}"
            )
    if not parts:
        raise TrackError("nothing to track: expected at least mmsb.track(mem, model=...)")
    if barrier == "auto":
        adopt(tensor for part in modules for tensor in part.tensors.values())
    return Run(memory, name, parts, watch=barrier == "auto")


def _named(what: str, given: Any) -> Iterator[tuple[str, Any]]:
    """Objects with the names of their parts: one, or several in a dict or list."""
    if isinstance(given, Mapping):
        yield from ((f"{what}.{key}", target) for key, target in given.items())
    elif isinstance(given, list | tuple):
        yield from ((f"{what}.{at}", target) for at, target in enumerate(given))
    elif given is not None:
        yield what, given


def _modules(model: Any, extra: Mapping[str, Any] | None) -> Iterator[ModulePart]:
    for key, module in _named("model", model):
        if not isinstance(module, nn.Module):
            raise TrackError(
                f"model= takes a torch.nn.Module, or a dict of them, found {module!r:.80}"
            )
        yield ModulePart(key, module)
    for key, target in (extra or {}).items():
        if isinstance(target, nn.Module):
            yield ModulePart(key, target)


def _optimizers(given: Any, modules: list[ModulePart]) -> Iterator[Part]:
    known: dict[int, str] = {}
    for part in modules:
        for key, tensor in part.tensors.items():
            known.setdefault(id(tensor), key.removeprefix("model/"))
    for key, optimizer in _named("optimizer", given):
        if not isinstance(optimizer, Optimizer):
            raise TrackError(
                f"optimizer= takes a torch.optim.Optimizer, or a dict of them, found {optimizer!r:.80}"
            )
        yield GradientPart(key.replace("optimizer", "gradients", 1), optimizer, known)
        yield OptimizerPart(key, optimizer, known)


def _data(sampler: Any, loader: Any) -> Iterator[Part]:
    """The places of a sampler and a loader."""
    if sampler is not None:
        yield part_of("sampler", sampler)
    if loader is None:
        return
    if hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict"):
        yield part_of("loader", loader)
        return
    found = getattr(loader, "sampler", None)
    if not isinstance(found, ResumableSampler):
        found = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
    if not isinstance(loader, DataLoader) or not isinstance(found, ResumableSampler):
        raise UnsupportedError(
            f"the place of a {type(loader).__name__} over a {type(found).__name__} cannot be kept: "
            "expected DataLoader(..., sampler=mmsb.ResumableSampler(data)), or torchdata's "
            "StatefulDataLoader"
        )
    if loader.num_workers:
        raise UnsupportedError(
            f"the place of a DataLoader with {loader.num_workers} workers, which run ahead, cannot be "
            "kept: expected num_workers=0, or torchdata's StatefulDataLoader"
        )
    if found is not sampler:
        yield part_of("sampler", found)
