"""What the bits of a result depend on beside code, inputs and torch's settings: where it is computed."""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path

import torch

from mmsb_torch.instrumentation.code.encoding import digest

_VARIABLES = ("MKL", "OMP", "KMP", "DNNL", "ONEDNN", "ATEN", "OPENBLAS", "GOMP")
_SAID = ("model name", "flags", "Features", "CPU part")
"""Lines of /proc/cpuinfo that libraries choose their kernels by."""


@functools.cache
def machine() -> bytes:
    """A digest of torch's build, of the processor and of what tells its libraries how to compute."""
    said = [
        torch.__version__,
        torch.__config__.show(),
        torch.backends.cpu.get_cpu_capability(),
        platform.machine(),
        str(os.cpu_count()),
        *_processor(),
        *sorted(f"{k}={v}" for k, v in os.environ.items() if k.startswith(_VARIABLES)),
    ]
    return digest("\n".join(said).encode())


def _processor() -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # no such file on this system
        return [platform.processor()]
    return list(dict.fromkeys(line for line in lines if line.startswith(_SAID)))
