"""What differs between two tensors: a packed mask, how many elements, and their new values."""

from __future__ import annotations

from torch import Tensor

from mmsb_kernels.checks import check_alike
from mmsb_kernels.reference.mask import pack_mask
from mmsb_kernels.reference.words import words


def page_diff(old: Tensor, new: Tensor, room: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return what makes `new` of `old`: `delta_merge_bits(old, values, bits)` does.

    Args:
        old: any shape and dtype.
        new: shape, dtype and device of `old`.
        room: elements that `values` shall have, whatever their number. Those past the count are
            anything (here: zeros); of more than `room` changes the last are left out.

    Returns:
        bits: uint8 `[ceil(old.numel() / 8)]`, a bit for each element whose bits differ.
        values: `[count]` or `[room]`, dtype of `old`: those elements of `new`, in C order.
        count: 0-dim int64 on the device.

    Raises:
        ValueError: a shape or a device differs.
        TypeError: a dtype differs.
    """
    check_alike("page_diff", old, new=new)
    before, after = words(old), words(new)
    differs = before != after
    if differs.dim() > old.dim():  # elements of 16 bytes
        differs = differs.any(-1)
    flat = after.reshape(old.numel(), *after.shape[old.dim() :])
    found = flat[differs.reshape(-1).nonzero().reshape(-1)]
    values = new.new_empty(len(found) if room is None else room)
    target = words(values)
    target.zero_()
    target[: len(found)] = found[: len(target)]
    return pack_mask(differs), values, differs.sum()
