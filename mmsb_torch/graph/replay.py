"""Recorded calls as a function that can be called again: plain data, and the tensors it holds."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from mmsb_torch.errors import RecordingError
from mmsb_torch.instrumentation.capture.values import tensors


class Slot(NamedTuple):
    """In place of a tensor among arguments: where to find it."""

    place: int


class Step(NamedTuple):
    """One call: plain data only, so that equal steps have equal digests."""

    op: Any
    """The operation itself; custom ones as well as torch's."""
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    made: tuple[int, ...]
    """Places for the tensors that it returns."""
    wrote: tuple[tuple[int | str, int, int], ...]
    """What it writes: (argument, element of it or -1, place for the tensor afterwards)."""
    told: Any
    """What it told Python, and must tell again; None if nothing."""
    shapes: tuple[tuple[int, ...], ...]
    """Shapes of what it returns, where they depend on elements; () elsewhere."""
    site: str


class Block(NamedTuple):
    """What is replayed."""

    steps: tuple[Step, ...]
    """In the order of the recording."""
    inputs: tuple[int, ...]
    """Places for the arguments."""
    places: tuple[int, ...]
    """Places for the constants."""
    constants: tuple[Tensor, ...]
    """Tensors that are held; written in place, they count as changed."""
    result: int
    """The place of the result."""


def replay(block: Block, *values: Tensor) -> Tensor:
    """Execute a block on the values of its inputs, which are not written.

    Bound to its block by `functools.partial`, it is a recipe whose digest is that of the block.

    Raises:
        RecordingError: a value that Python code went on from is another one now.
    """
    found: dict[int, Tensor] = dict(zip(block.inputs, values, strict=True))
    found.update(zip(block.places, block.constants, strict=True))
    for step in block.steps:
        _execute(step, found)
    return found[block.result]


def _execute(step: Step, found: dict[int, Tensor]) -> None:
    args = [_filled(item, found) for item in step.args]
    kwargs = {name: _filled(item, found) for name, item in step.kwargs.items()}
    result = step.op(*args, **kwargs)
    if step.told is not None and not _same(result, step.told):
        raise RecordingError(
            f"{step.op} in {step.site} told {step.told!r} when it was recorded, and tells "
            f"{result!r} now: Python code went on from it and may go elsewhere. Record the block "
            "again with the new values, and lift that."
        )
    made = tensors(result)
    found.update(zip(step.made, made, strict=False))
    for argument, element, place in step.wrote:
        value = kwargs[argument] if isinstance(argument, str) else args[argument]
        found[place] = value if element < 0 else value[element]
    if step.shapes and tuple(tuple(tensor.shape) for tensor in made) != step.shapes:
        shapes = [list(tensor.shape) for tensor in made]
        raise RecordingError(
            f"{step.op} in {step.site} gave shapes {[list(s) for s in step.shapes]} when it was "
            f"recorded, and gives {shapes} now: record the block again, and lift that."
        )


def _same(now: object, then: object) -> bool:
    return type(now) is type(then) and (now == then or (now != now and then != then))  # noqa: PLR0124


def _filled(item: Any, found: dict[int, Tensor]) -> Any:
    if type(item) is Slot:
        return found[item.place]
    if type(item) is tuple:
        return [_filled(part, found) for part in item]
    return item
