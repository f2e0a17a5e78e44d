"""What the kernels mean, in plain torch: they are compared with this, bit for bit.

Every function takes any dtype, any strides and any device, and moves bits through integer views,
so NaN payloads and -0.0 survive and no two values are ever compared as numbers. Speed is no aim.
A module here has the name of the one whose kernels it explains. None of them loads Triton.
"""

from mmsb_kernels.reference.batch import delta_merge_many
from mmsb_kernels.reference.difference import page_diff
from mmsb_kernels.reference.digest import block_digest
from mmsb_kernels.reference.gather import gather_rows
from mmsb_kernels.reference.mask import and_masks, count_mask, or_masks, pack_mask, unpack_mask
from mmsb_kernels.reference.merge import (
    delta_merge,
    delta_merge_bits,
    delta_merge_elements,
    delta_merge_rows,
)
from mmsb_kernels.reference.page import page_copy, page_fill, page_zero
from mmsb_kernels.reference.sameness import same_bits

__all__ = [
    "and_masks",
    "block_digest",
    "count_mask",
    "delta_merge",
    "delta_merge_bits",
    "delta_merge_elements",
    "delta_merge_many",
    "delta_merge_rows",
    "gather_rows",
    "or_masks",
    "pack_mask",
    "page_copy",
    "page_diff",
    "page_fill",
    "page_zero",
    "same_bits",
    "unpack_mask",
]
