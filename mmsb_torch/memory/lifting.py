"""Lifting a recorded block into a memory: which pages are its inputs, and the pages it becomes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from mmsb_torch.device import same_bits
from mmsb_torch.errors import RecordingError
from mmsb_torch.graph.lifting import Lift, Source
from mmsb_torch.graph.recording import Recording
from mmsb_torch.instrumentation.capture.mode import unseen
from mmsb_torch.instrumentation.capture.values import Value
from mmsb_torch.instrumentation.context import GradKept, plain_torch
from mmsb_torch.memory import deriving

if TYPE_CHECKING:
    from mmsb_torch.memory.memory import Memory
    from mmsb_torch.memory.page import Page


def lift(
    memory: Memory,
    recording: Recording,
    inputs: Mapping[str, Tensor],
    outputs: Mapping[str, Tensor],
    constants: Iterable[Tensor],
) -> dict[str, Page]:
    """See `Recording.lift`; all is checked before any page is made."""
    if recording.dropped:
        raise RecordingError(
            f"lift: {sum(recording.dropped.values()):,} calls were not kept; record with a larger "
            "max_calls"
        )
    with unseen():
        wanted = {name: _value(recording, name, tensor) for name, tensor in outputs.items()}
        held = {_value(recording, "constants", item).source: item for item in constants}
        given, tensors = {}, {}
        for name, tensor in inputs.items():
            if recording.find(tensor) is not None:  # else the block did not use it
                source = _value(recording, name, tensor).source
                given[source], tensors[source] = name, tensor
        plan = Lift(recording.calls, {}, {}, wanted)
        for value in plan.outside():
            if value.source in given or value.source in held:
                continue
            name = recording.inputs.get(value.number, "")
            if name in memory and recording.origin(value) is None:
                given[value.source] = name
                tensors[value.source] = _page_value(memory, recording, name, value)
            else:
                held[value.source] = _constant(recording, value)
        plan = Lift(recording.calls, given, held, wanted)
        _verify(memory, plan, given, tensors, outputs)
        for source, name in given.items():
            memory.page(name, tensors[source])
        return _declare(memory, plan, outputs)


def _declare(memory: Memory, plan: Lift, outputs: Mapping[str, Tensor]) -> dict[str, Page]:
    made = {}
    for page in plan.pages():
        pages = [memory[name] for name in page.inputs]
        if not pages:
            raise RecordingError(
                f"lift: output {page.name!r} depends on no input: keep it as a page, "
                f"mem.page({page.name!r}, tensor)"
            )
        made[page.name] = deriving.derive(memory, page.replay, *pages, name=page.name)
    return {name: made[name] for name in outputs}


def _value(recording: Recording, name: str, tensor: Tensor) -> Value:
    value = recording.find(tensor) if isinstance(tensor, Tensor) else None
    if value is None:
        raise RecordingError(
            f"lift: {name!r} is no tensor that the block used or made as it is now, found "
            f"{type(tensor).__name__}. Pass the very tensor, or a view that the block made."
        )
    if value.unseen:
        raise RecordingError(
            f"lift: {name!r} shares memory with a tensor of the block, but no call that was seen "
            "made it. Pass the very tensor."
        )
    return value


def _page_value(memory: Memory, recording: Recording, name: str, value: Value) -> Tensor:
    tensor = memory[name].tensor
    now = recording.find(tensor)
    if now is None or now.source != value.source:
        raise RecordingError(
            f"lift: page {name!r} was changed since the recording. Record the block again, and "
            "lift that."
        )
    return tensor


def _constant(recording: Recording, value: Value) -> Tensor:
    """A value from outside that the pages will hold."""
    use = next((call for call in recording.calls if value in call.read), None)
    where = f"used by {use.op} in {use.site}" if use is not None else "an output"
    if recording.origin(value) is None:
        raise RecordingError(
            f"lift: {value.spec}, {where}, came from outside of the block: name it in "
            "inputs={'page': tensor} if it may change, or in constants=[tensor] if it stays."
        )
    tensor = value.kept()
    if tensor is None:
        raise RecordingError(
            f"lift: {value.spec}, {where}, is gone: record with a larger keep_bytes"
        )
    return tensor


def _verify(
    memory: Memory,
    plan: Lift,
    given: Mapping[Source, str],
    tensors: Mapping[Source, Tensor],
    outputs: Mapping[str, Tensor],
) -> None:
    """Replay it once: what is not seen (numpy, C extensions) would show here."""
    by_name = {name: tensors[source].detach() for source, name in given.items()}
    device = memory._device  # noqa: SLF001 - one facade
    for name, tensor in outputs.items():
        whole = plan.whole(name)
        with GradKept(), plain_torch(device or tensor.device):
            again = whole.replay(*(by_name[page] for page in whole.inputs))
        if not same_bits(again, tensor.detach()):
            raise RecordingError(
                f"lift: output {name!r} replayed gives other bits than recorded: the block read or "
                "wrote something that cannot be seen (numpy, a C extension), a tensor was "
                "written since, or a result is not reproducible. Use mem.derive(function, ...)."
            )
