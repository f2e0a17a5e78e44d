"""Modules of a run as plain safetensors files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import Tensor

from mmsb_torch.errors import StoreError, TrackError
from mmsb_torch.runtime.store import write_tensors
from mmsb_torch.training.saved import Saved


def export(saved: Saved, folder: Path) -> list[Path]:
    """What `Run.export` does, of what was kept."""
    modules = {
        name: told
        for name in saved.parts
        if isinstance(told := saved.part(name), dict) and "persistent" in told
    }
    if not modules:
        raise TrackError("no module is tracked: expected mmsb.track(..., model=...)")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"the folder {str(folder)!r} cannot be made: {error}") from error
    return [_write(saved, told, folder / f"{name}.safetensors") for name, told in modules.items()]


def _write(saved: Saved, told: dict[str, Any], path: Path) -> Path:
    tensors: dict[str, Tensor] = {}
    about, first = {"format": "pt"}, dict[str, str]()
    for name in told["persistent"]:
        key = told["names"][name]
        if key in first:
            about[name] = first[key]  # as safetensors.torch.save_model says it
        else:
            first[key], tensors[name] = name, saved.find(key)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write_tensors(temporary, tensors, about)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
