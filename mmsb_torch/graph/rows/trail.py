"""One run of a function as it is, operator by operator, as torch's dispatcher sees it.

Unlike `tracing`, nothing is replaced: tensors have values, branches are taken, kernels are those that a
plain run has. So a trail says what this run did, and which values Python read to decide what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mmsb_torch.errors import MMSBError, PlanError
from mmsb_torch.instrumentation.capture.fx_tape import Reads

from .calls import Ref, schema_of
from .tracing import check_effects

_NOTHING = object()
"""In place of what was read, for operators that give tensors."""


class Done(NamedTuple):
    """An operator that ran."""

    op: Any
    """What gives the same without writing in place."""
    args: dict[str, Any]
    """By the names of the schema; `Ref`s and plain values."""
    outs: tuple[int | None, ...]
    """Numbers of the tensors it gave."""
    several: bool
    """Whether it gives more than one."""
    read: Any = _NOTHING
    """What it gave, if that was no tensor: Python knows it from then on."""

    @property
    def reads(self) -> bool:
        """Whether it gave a plain value."""
        return self.read is not _NOTHING


class Spec(NamedTuple):
    """What is known of a value without its elements."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    device: torch.device


class Trail(TorchDispatchMode):
    """Records what runs while it is entered; never in the way of what runs. For one run, on one thread.

    Attributes:
        calls: what ran, in order.
        specs: of the values, by number: the inputs first, then as they appeared.
        inputs: how many there are.
        constants: tensors from outside, by number.
        why_not: why the run cannot be told by its calls; None if it can.
        refusal: what `Reads` found.
    """

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Done] = []
        self.specs: list[Spec] = []
        self.constants: dict[int, Tensor] = {}
        self.why_not: str | None = None
        self.refusal: MMSBError | None = None
        self._numbers: dict[Any, int] = {}
        self._held: list[Tensor] = []
        """Keeps memory from being given away and taken for what was there before."""
        self._looks: dict[int, set[Any]] = {}
        """The ways in which each storage was looked at."""
        self._outside: set[int] = set()
        for value in inputs:
            self._know(value)
            self._outside.add(_memory(value))
        self.inputs = len(self.specs)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, and note it."""
        del types
        result = func(*args, **(kwargs or {}))
        if self.why_not is None:
            try:
                self._note(func, args, kwargs or {}, result)
            except PlanError as error:
                self.why_not = error.message
        return result

    def number(self, value: Tensor) -> int | None:
        """The number of a tensor that the run gave or was given."""
        return self._numbers.get(_look(value))

    def is_outside(self, value: Tensor) -> bool:
        """Whether a tensor's memory was there before the run."""
        return _memory(value) in self._outside

    def let_go(self) -> None:
        """Hold no tensors but constants any more."""
        self._held.clear()
        self._numbers.clear()

    def _note(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        schema = schema_of(func)
        given = {a.name: v for a, v in zip(schema.arguments, args, strict=False)} | kwargs
        check_effects(func, given, str(func))
        if torch.Tag.dynamic_output_shape in func.tags and not _by_numbers(func, given):
            raise PlanError(f"{func} gives a tensor whose size depends on values")
        written = [a.name for a in schema.arguments if a.alias_info and a.alias_info.is_write]
        op = self._without_writing(func, given, written) if written else func
        noted = {name: self._argument(value) for name, value in given.items()}
        if isinstance(result, Tensor):
            self.calls.append(Done(op, noted, (self._know(result, fresh=True),), False))
        elif isinstance(result, tuple | list):
            outs = tuple(
                self._know(item, fresh=True) if isinstance(item, Tensor) else None
                for item in result
            )
            self.calls.append(Done(op, noted, outs, True))
        else:
            self.calls.append(Done(op, noted, (), False, result))

    def _without_writing(self, func: Any, given: dict[str, Any], written: list[str]) -> Any:
        """The operator that gives what this one writes in place, where nobody sees the difference."""
        schema = schema_of(func)
        target = given.get(written[0])
        name = schema.name.removeprefix("aten::")
        packet = getattr(torch.ops.aten, name.removesuffix("_"), None)
        other = getattr(packet, func._overloadname, None)  # noqa: SLF001 - public in all but name
        if (
            written != [schema.arguments[0].name]
            or not isinstance(target, Tensor)
            or not name.endswith("_")
            or other is None
            or schema_of(other).is_mutable
        ):
            raise PlanError(f"{func} writes in place")
        memory = _memory(target)
        if memory in self._outside or memory not in self._looks:
            raise PlanError(f"{func} writes into what was there before the run")
        if self._looks[memory] != {_look(target)}:
            raise PlanError(f"{func} writes into what something else looks at")
        return other

    def _argument(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            number = self._numbers.get(_look(value))
            if number is None:
                number = self._know(value)
                self.constants[number] = value
                self._outside.add(_memory(value))
            return Ref(number)
        if isinstance(value, list | tuple):
            return [self._argument(item) for item in value]
        return value

    def _know(self, value: Tensor, *, fresh: bool = False) -> int:
        """A number for a tensor; a new one for what an operator gave."""
        if value.layout is not torch.strided or type(value) not in _PLAIN:
            raise PlanError(f"it works with tensors of kind {type(value).__name__}, {value.layout}")
        look = _look(value)
        if fresh or look not in self._numbers:
            self._numbers[look] = len(self.specs)
            self.specs.append(
                Spec(
                    tuple(value.shape),
                    tuple(value.stride()),
                    int(value.storage_offset()),
                    value.dtype,
                    value.device,
                )
            )
            self._held.append(value)
            self._looks.setdefault(_memory(value), set()).add(look)
        return self._numbers[look]


def run(function: Any, inputs: Sequence[Tensor], *, watched: bool) -> tuple[Any, Trail]:
    """What `function()` gives, and its trail.

    Args:
        function: works on `inputs`.
        inputs: get the first numbers.
        watched: also see reads of values past the dispatcher, such as `numpy()`; they raise.

    Raises:
        CaptureError: of `Reads`.
    """
    trail = Trail(inputs)
    if not watched:
        with trail:
            return function(), trail
    with Reads(trail), trail:
        result = function()
    if trail.refusal is not None:  # the function may have caught it, and gone on
        raise trail.refusal
    return result, trail


_PLAIN = (Tensor, torch.nn.Parameter, torch.nn.Buffer)


def _memory(value: Tensor) -> int:
    return int(value.untyped_storage()._cdata)  # noqa: SLF001 - its identity while it lives


def _look(value: Tensor) -> tuple[Any, ...]:
    """Which memory a tensor looks at, and how."""
    return (
        _memory(value),
        value.dtype,
        value.shape,
        value.stride(),
        value.storage_offset(),
        value.is_neg(),
        value.is_conj(),
    )


def _by_numbers(func: Any, given: dict[str, Any]) -> bool:
    """Whether this is a look-up by places: its size is known without their values."""
    if func is not torch.ops.aten.index.Tensor:
        return False
    indices = [item for item in given["indices"] if isinstance(item, Tensor)]
    return all(item.dtype not in (torch.bool, torch.uint8) for item in indices)
