"""Recording for a memory: its pages are known by name, and a recorded block can become pages."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mmsb_torch.errors import RecordingError
from mmsb_torch.graph.recording import InstrumentationConfig, Recording
from mmsb_torch.instrumentation.capture.tape import Tape
from mmsb_torch.instrumentation.capture.values import OUTSIDE
from mmsb_torch.instrumentation.code.calling import runs_in_pieces

if TYPE_CHECKING:
    from mmsb_torch.memory.keeper import Keeper
    from mmsb_torch.memory.memory import Memory
    from mmsb_torch.memory.page import Page


def record(memory: Memory, function: Any, options: Mapping[str, Any]) -> Any:
    """What `Memory.record` does: a recording, or a function that is recorded when it is called."""
    memory._router.check_open()  # noqa: SLF001 - one facade
    config = as_config(options)
    if function is None:
        return new_recording(memory, config)
    return _recorded(memory, function, config)


def new_recording(memory: Memory, config: InstrumentationConfig) -> Recording:
    """A recording that has not begun; it ends with the memory."""
    recording = Recording(config, _Host(memory))
    memory._recordings.add(recording)  # noqa: SLF001
    return recording


def begin(memory: Memory, asked: bool | InstrumentationConfig) -> Recording:
    """Record what this thread executes from now on."""
    config = InstrumentationConfig() if asked is True else asked
    if not isinstance(config, InstrumentationConfig):
        raise RecordingError(
            f"enable_instrumentation={asked!r}: expected a bool or an mmsb.InstrumentationConfig"
        )
    return new_recording(memory, config).start()


def as_config(options: Mapping[str, Any]) -> InstrumentationConfig:
    """The configuration that keywords ask for."""
    try:
        return InstrumentationConfig(**options)
    except TypeError as error:
        known = ", ".join(InstrumentationConfig.__dataclass_fields__)
        raise RecordingError(f"mem.record: {error}. Known options: {known}.") from None


def end_all(memory: Keeper) -> None:
    """A memory is closed: nothing is recorded for it any more."""
    for recording in list(memory._recordings):  # noqa: SLF001
        recording.pause()
    session, memory.recording = memory.recording, None
    if session is not None and session.mine:
        session.stop()


def _recorded(memory: Memory, function: Any, config: InstrumentationConfig) -> Callable[..., Any]:
    if not callable(function):
        raise RecordingError(
            f"mem.record({function!r:.60}): expected a function to decorate, or nothing"
        )
    if runs_in_pieces(function):
        name = getattr(function, "__qualname__", type(function).__qualname__)
        raise RecordingError(
            f"@mem.record on {name}, a generator or coroutine: it runs in pieces. "
            "Put `with mem.record() as rec:` into its body."
        )

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        memory._router.check_open()  # noqa: SLF001
        with new_recording(memory, config) as recording:
            wrapper.recording = recording  # type: ignore[attr-defined]
            return function(*args, **kwargs)

    wrapper.recording = None  # type: ignore[attr-defined]
    return wrapper


class _Host:
    """A memory as recordings see it."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._tx = memory._router.tx  # noqa: SLF001

    def names(self, tape: Tape) -> dict[int, str]:
        """The values from outside that are pages, and were not changed since the beginning."""
        names = {}
        for entry in self._memory._router.table:  # noqa: SLF001
            tensor = entry.tensor if entry.tx <= self._tx or entry.info.derived else None
            value = tape.find(tensor) if tensor is not None else None
            if value is not None and value.call == OUTSIDE:
                names[value.number] = entry.info.name
        return names

    def lift(
        self,
        recording: Recording,
        inputs: Mapping[str, Tensor],
        outputs: Mapping[str, Tensor],
        constants: Iterable[Tensor],
    ) -> Mapping[str, Page]:
        """See `Recording.lift`."""
        from mmsb_torch.memory.lifting import lift  # noqa: PLC0415 - loads when it is used

        self._memory._router.check_writable()  # noqa: SLF001
        return lift(self._memory, recording, inputs, outputs, constants)

    def decorate(self, function: Any, config: InstrumentationConfig) -> Callable[..., Any]:
        """See `Memory.record`."""
        return _recorded(self._memory, function, config)
