"""GPU kernels that move bits: merge a delta into a tensor in place, by mask, rows or elements.

The package in a few lines:

- `reference` says what each merge means, in plain torch, on any device. It loads no Triton.
- `launch` holds the functions of the same names that run on a GPU; they are re-exported here and
  load Triton when they are first touched, so `import mmsb_kernels` alone costs nothing.
- `kernels` holds the Triton bodies: integer words only, so NaN payloads and -0.0 survive.
- `dual` gives each body two lives, compiled for a GPU or interpreted on CPU tensors, and
  `interpreted()` chooses the second, so that the launchers can be tested where there is no GPU.
- `offline` compiles every variant for a named target on a machine without that target.
- `checks` holds the refusals that the reference and the launchers share.

The package imports torch and triton and knows nothing of pages.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmsb_kernels.dual import interpreted
    from mmsb_kernels.launch import (
        delta_merge,
        delta_merge_bits,
        delta_merge_elements,
        delta_merge_rows,
    )
    from mmsb_kernels.offline import compile_all

__all__ = [
    "compile_all",
    "delta_merge",
    "delta_merge_bits",
    "delta_merge_elements",
    "delta_merge_rows",
    "interpreted",
]

_HOMES = {
    "compile_all": "offline",
    "delta_merge": "launch",
    "delta_merge_bits": "launch",
    "delta_merge_elements": "launch",
    "delta_merge_rows": "launch",
    "interpreted": "dual",
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
