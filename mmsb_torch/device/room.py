"""Tensors with room for more rows behind their last: they grow in place, and aliases stay as they are.

Rows behind the end were seen by nobody, so they may be written while somebody holds the memory: an
alias taken before ends before them. They are written through a tensor of their own, whose version
counter is its own: who watches the counter of an alias is told of no write, for there was none to it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmsb_torch.device.allocation import empty
from mmsb_torch.device.words import UNCOPYABLE, words

_GROWTH = (
    1.5  # copies while a page grows row by row: twice its bytes in all, at 1.5; room: half a page
)
_LEAST_BYTES = 4096


def with_room(tensor: Tensor, kept: int, rows: int) -> Tensor:
    """A new tensor of `rows` rows that begins with the first `kept` of `tensor`, with room for more.

    The other rows are anything; the caller fills them.
    """
    if torch.is_inference_mode_enabled():  # what is kept must have a version counter
        with torch.inference_mode(mode=False):
            return with_room(tensor, kept, rows)
    each = _row_bytes(tensor)
    most = max(int(rows * _GROWTH), -(-_LEAST_BYTES // each)) if each else rows
    room = empty((most, *tensor.shape[1:]), tensor.dtype, tensor.device)
    words(room)[:kept].copy_(words(tensor)[:kept])
    return longer(room, rows)


def longer(tensor: Tensor, rows: int) -> Tensor:
    """The first `rows` rows of the memory of `tensor`, a contiguous one: same version counter."""
    return tensor.as_strided((rows, *tensor.shape[1:]), tensor.stride()).detach()


def room_of(tensor: Tensor) -> int:
    """How many rows the memory of a contiguous tensor that begins it holds (0 if they have no bytes)."""
    each = _row_bytes(tensor)
    return tensor.untyped_storage().nbytes() // each if each else 0


def fill_behind(tensor: Tensor, first: int, values: Tensor) -> None:
    """Write rows `first` and those after it, which nobody has seen: no version counter moves.

    `values` is contiguous: [len(tensor) - first, *tensor.shape[1:]], of the same dtype and device.
    """
    if tensor.dtype in UNCOPYABLE:
        tensor, values = words(tensor), words(values)
    tensor.data[first:].copy_(values)  # `data`: an alias with a version counter of its own


def _row_bytes(tensor: Tensor) -> int:
    rows = tensor.shape[0]
    return tensor.nbytes // rows if rows else tensor.new_empty((1, *tensor.shape[1:])).nbytes
