"""`import mmsb_torch` beyond `import torch`, in fresh processes."""

import os
import statistics
import subprocess
import sys

from rich.table import Table

CODE = """
import time, torch, numpy
began = time.perf_counter()
import mmsb_torch
print((time.perf_counter() - began) * 1e3)
"""


def table() -> Table:
    # as installed: with the bytecode that the first import writes
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    times = []
    for _ in range(10):
        done = subprocess.run(
            [sys.executable, "-c", CODE],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        )
        times.append(float(done.stdout))
    times = times[1:]
    shown = Table(title="import mmsb_torch after import torch, milliseconds")
    shown.add_column("median", justify="right")
    shown.add_column("min", justify="right")
    shown.add_column("max", justify="right")
    shown.add_row(*(f"{f(times):.1f}" for f in (statistics.median, min, max)))
    return shown
