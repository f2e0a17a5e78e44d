"""Where pages live: CPU, CUDA, or (to come) unified memory."""

from __future__ import annotations

import enum

import torch

from mmsb_torch.errors import UnsupportedLocationError


class PageLocation(enum.Enum):
    """The kind of memory that holds a page."""

    CPU = "cpu"
    CUDA = "cuda"
    UNIFIED = "unified"

    @classmethod
    def of(cls, device: torch.device) -> PageLocation:
        """The location of a tensor on `device`."""
        return cls.CUDA if device.type == "cuda" else cls.CPU


def resolve_device(device: torch.device | str | PageLocation | None) -> torch.device:
    """Return the device that `device` names, with its index; None means the CPU.

    Raises:
        UnsupportedLocationError: unknown, not on this machine, or unified memory.
    """
    if device is PageLocation.UNIFIED or device == "unified":
        raise UnsupportedLocationError(
            "unified memory pages are not built yet; expected device 'cpu' or 'cuda'. "
            "Use device='cpu' for pages that the CPU reads most, 'cuda' otherwise."
        )
    name = device.value if isinstance(device, PageLocation) else device
    try:
        if name is not None and not isinstance(name, torch.device | str):
            raise TypeError(f"a {type(name).__name__}")
        found = torch.device("cpu" if name is None else name)
    except (RuntimeError, TypeError) as error:
        raise UnsupportedLocationError(
            f"unknown device {device!r}: expected 'cpu', 'cuda' or 'cuda:N'"
        ) from error
    if found.type == "cpu":
        return torch.device("cpu")
    if found.type != "cuda":
        raise UnsupportedLocationError(
            f"pages cannot live on {found.type!r}: expected 'cpu' or 'cuda'"
        )
    if not torch.cuda.is_available():
        raise UnsupportedLocationError(
            f"device {str(found)!r} was asked for, but torch finds no CUDA device on this machine. "
            "Open the memory with device='cpu'."
        )
    index = torch.cuda.current_device() if found.index is None else found.index
    if index >= torch.cuda.device_count():
        raise UnsupportedLocationError(
            f"device 'cuda:{index}' was asked for, but there are {torch.cuda.device_count()}"
        )
    return torch.device("cuda", index)
