"""Device ops: they take tensors and know nothing of pages, deltas or transactions.

`merge` changes a tensor under a mask, `words` shows any dtype as integers, `packing` packs masks,
`compare` tells bits apart, `allocation` takes memory for large tensors, `room` lets them grow in place,
`storage` tells whether somebody else holds a tensor's memory, `threshold` how many rows make a
product's rows independent of their number, `location` resolves where pages live, `ops` registers the
merges with torch's dispatcher.
"""

from mmsb_torch.device.allocation import empty
from mmsb_torch.device.compare import changed_elements, changed_rows, same_bits, touched_rows
from mmsb_torch.device.location import PageLocation, resolve_device
from mmsb_torch.device.merge import (
    delta_merge,
    delta_merge_bits,
    delta_merge_elements,
    delta_merge_row,
    delta_merge_rows,
)
from mmsb_torch.device.ops import LIBRARY
from mmsb_torch.device.packing import pack_mask, unpack_mask
from mmsb_torch.device.room import fill_behind, longer, room_of, with_room
from mmsb_torch.device.storage import held_elsewhere, is_own_memory
from mmsb_torch.device.threshold import rows_threshold
from mmsb_torch.device.words import (
    copy_of,
    fill,
    flat_words,
    from_words,
    require_dense,
    take_rows,
    words,
    zeros,
)

__all__ = [
    "LIBRARY",
    "PageLocation",
    "changed_elements",
    "changed_rows",
    "copy_of",
    "delta_merge",
    "delta_merge_bits",
    "delta_merge_elements",
    "delta_merge_row",
    "delta_merge_rows",
    "empty",
    "fill",
    "fill_behind",
    "flat_words",
    "from_words",
    "held_elsewhere",
    "is_own_memory",
    "longer",
    "pack_mask",
    "require_dense",
    "resolve_device",
    "room_of",
    "rows_threshold",
    "same_bits",
    "take_rows",
    "touched_rows",
    "unpack_mask",
    "with_room",
    "words",
    "zeros",
]
