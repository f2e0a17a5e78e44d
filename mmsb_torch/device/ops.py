"""The merges as ops of torch's dispatcher: `torch.ops.mmsb.delta_merge*`, defined once.

CPU is `merge`, CUDA the Triton launchers of `mmsb_kernels` (loaded at the first call), Meta a
no-op, so the ops trace, export and pass `torch.library.opcheck`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mmsb_torch.device import merge

_SCHEMAS: dict[str, tuple[str, Callable[[Tensor, Tensor, Tensor], None]]] = {
    "delta_merge": ("mask", merge.merge_mask_cpu),
    "delta_merge_rows": ("rows", merge.merge_rows_cpu),
    "delta_merge_elements": ("indices", merge.merge_elements_cpu),
    "delta_merge_bits": ("bits", merge.merge_bits_cpu),
}


def _triton(name: str) -> Callable[[Tensor, Tensor, Tensor], None]:
    def launch(base: Tensor, values: Tensor, where: Tensor) -> None:
        import mmsb_kernels  # noqa: PLC0415 - Triton loads when a CUDA page is first written

        getattr(mmsb_kernels, name)(base, values, where)

    return launch


def _fake(base: Tensor, values: Tensor, where: Tensor) -> None:
    del base, values, where


def _define() -> torch.library.Library:
    library = torch.library.Library("mmsb", "FRAGMENT")
    for name, (where, cpu) in _SCHEMAS.items():
        if hasattr(torch.ops.mmsb, name):  # the module was loaded again, as notebooks do
            continue
        library.define(f"{name}(Tensor(a!) base, Tensor values, Tensor {where}) -> ()")
        library.impl(name, cpu, "CPU")
        library.impl(name, _triton(name), "CUDA")
        library.impl(name, _fake, "Meta")
    return library


LIBRARY = _define()
"""Keeps the registrations alive for as long as the package is loaded."""
