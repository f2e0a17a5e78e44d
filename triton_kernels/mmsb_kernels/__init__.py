"""GPU kernels that move bits and never numbers: NaN payloads and -0.0 survive, in every dtype.

The package in a few lines:

- Each module named by a noun (`merge`, `bits`, `batch`, `page`, `difference`, `digest`, `sameness`,
  `mask`, `gather`) holds Triton kernels and the functions that launch them, which are re-exported here
  and load Triton when they are first touched: `import mmsb_kernels` alone costs nothing.
- `reference` has a module of the same name for each, which says in plain torch what they mean.
- `tiles` says how much one program of a kernel works on; `checks` what is refused.
- `dual` gives each kernel two lives, compiled for a GPU or interpreted on CPU tensors, and
  `interpreted()` chooses the second, so that the launchers can be tested where there is no GPU.
- `offline` compiles every variant for a named target on a machine without that target.

The package imports torch and triton and knows nothing of pages.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmsb_kernels.batch import delta_merge_many
    from mmsb_kernels.bits import delta_merge_bits
    from mmsb_kernels.difference import page_diff
    from mmsb_kernels.digest import block_digest
    from mmsb_kernels.dual import interpreted
    from mmsb_kernels.gather import gather_rows
    from mmsb_kernels.mask import and_masks, count_mask, or_masks, pack_mask, unpack_mask
    from mmsb_kernels.merge import delta_merge, delta_merge_elements, delta_merge_rows
    from mmsb_kernels.offline import compile_all
    from mmsb_kernels.page import page_copy, page_fill, page_zero
    from mmsb_kernels.sameness import same_bits

__all__ = [
    "and_masks",
    "block_digest",
    "compile_all",
    "count_mask",
    "delta_merge",
    "delta_merge_bits",
    "delta_merge_elements",
    "delta_merge_many",
    "delta_merge_rows",
    "gather_rows",
    "interpreted",
    "or_masks",
    "pack_mask",
    "page_copy",
    "page_diff",
    "page_fill",
    "page_zero",
    "same_bits",
    "unpack_mask",
]

_HOMES = {
    "and_masks": "mask",
    "block_digest": "digest",
    "compile_all": "offline",
    "count_mask": "mask",
    "delta_merge": "merge",
    "delta_merge_bits": "bits",
    "delta_merge_elements": "merge",
    "delta_merge_many": "batch",
    "delta_merge_rows": "merge",
    "gather_rows": "gather",
    "interpreted": "dual",
    "or_masks": "mask",
    "pack_mask": "mask",
    "page_copy": "page",
    "page_diff": "difference",
    "page_fill": "page",
    "page_zero": "page",
    "same_bits": "sameness",
    "unpack_mask": "mask",
}


def __getattr__(name: str) -> Any:
    """Import the public name from its home the first time it is asked for."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
