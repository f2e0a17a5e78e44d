"""MMSB's original way in and out: `mmsb_start` and `mmsb_stop`."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mmsb_torch.errors import DeviceFallbackWarning, InvalidPageError
from mmsb_torch.memory.memory import Memory

if TYPE_CHECKING:
    from mmsb_torch.graph.recording import InstrumentationConfig


def mmsb_start(
    *, enable_gpu: bool = True, enable_instrumentation: bool | InstrumentationConfig = False
) -> Memory:
    """Start a memory in RAM, on the GPU if `enable_gpu` and there is one.

    Without CUDA, `enable_gpu=True` falls back to the CPU and warns with DeviceFallbackWarning. With
    `enable_instrumentation` what this thread executes until `mmsb_stop` is recorded in
    `state.recording`.

    Raises:
        RecordingError: recording as configured is not possible here.
    """
    device = None
    if enable_gpu:
        if torch.cuda.is_available():
            device = torch.device("cuda", torch.cuda.current_device())
        else:
            warnings.warn(
                "enable_gpu=True, but torch finds no CUDA device: pages live on the CPU",
                DeviceFallbackWarning,
                stacklevel=2,
            )
    memory = Memory(device=device)
    if enable_instrumentation is not False:
        from mmsb_torch.memory import recording  # noqa: PLC0415 - loads when it is used

        memory.recording = recording.begin(memory, enable_instrumentation)
    return memory


def mmsb_stop(state: Memory, checkpoint_path: str | os.PathLike[str] | None = None) -> Path | None:
    """Close a memory; with `checkpoint_path` first write one safetensors file of all its pages.

    The keys of the file are the page names; stale derived pages are computed first. The file is
    published atomically: it is whole or not there. Returns its path.

    Raises:
        InvalidPageError: the path does not end in `.safetensors`.
        RecipeError, RecipeNotLoadedError: a derived page cannot be computed; nothing was written
            and the memory is still open.
    """
    from mmsb_torch.memory import registry  # noqa: PLC0415 - files load when one is written
    from mmsb_torch.runtime.store import write_tensors  # noqa: PLC0415

    if state.recording is not None:
        state.recording.pause()
    written = None
    if checkpoint_path is not None:
        written = Path(checkpoint_path)
        if written.suffix != ".safetensors":
            raise InvalidPageError(
                f"checkpoint_path {str(written)!r}: expected a name ending in .safetensors"
            )
        state.propagate()
        snapshot, _ = registry.capture(state._engine, None)  # noqa: SLF001 - one facade
        about = json.dumps(snapshot.registry, allow_nan=False)
        temporary = written.with_name(f".{written.name}.{os.getpid()}.tmp")
        try:
            write_tensors(temporary, snapshot.tensors, {"format": "pt", "mmsb.registry": about})
            temporary.replace(written)
        finally:
            temporary.unlink(missing_ok=True)
    state.close()
    return written
