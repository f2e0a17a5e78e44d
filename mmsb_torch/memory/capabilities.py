"""What works with this Python, torch and machine, found by trying."""

from __future__ import annotations

import importlib.util
import platform
import sys
from typing import Any

import torch

from mmsb_torch.instrumentation.identity import capability


def capabilities() -> dict[str, Any]:
    """Which mechanisms are in force here, as plain data.

    `write barrier` says how a change of a tensor is noticed without reading it: "copy-on-write flag", or
    "content hash (why)" where every byte is read each time. (In threads other than the main one, and
    beside other threads that may touch tensors, bytes are read in any case.)
    """
    missing = capability()
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "cuda": torch.cuda.is_available(),
        "triton": importlib.util.find_spec("triton") is not None,
        "write barrier": "copy-on-write flag" if missing is None else f"content hash ({missing})",
        "platform": sys.platform,
    }
