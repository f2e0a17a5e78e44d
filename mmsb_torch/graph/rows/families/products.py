"""Products of matrices of some rows: filled up with zeros to as many rows as the bits ask for."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from mmsb_torch.graph.rows.building import Job, Run, plain


def build_linear(job: Job) -> Run:
    """[..., k] by [n, k]."""
    x, weight, bias = (job.register(name) for name in ("input", "weight", "bias"))
    linear = torch.nn.functional.linear
    rest = [weight] if bias is None else [weight, bias]

    def run(registers: list[Any], _: list[Any]) -> Tensor:
        return linear(registers[x], *[registers[at] for at in rest])

    return _filled(job, x, run)


def build_matmul(job: Job) -> Run:
    """A product of [..., rows, k] with a matrix, or of batches of matrices."""
    return _filled(job, job.registers[0], plain(job))


def build_convolution(job: Job) -> Run:
    """Two images at least: one alone goes another way through the library."""
    return _filled_along(job, 0, min(job.least, 2))


def build_recurrent(job: Job) -> Run | None:
    """Sequences side by side are rows of products."""
    batch = next((link for link in job.site.links[0] if isinstance(link, int)), None)
    return None if batch is None else _filled_along(job, batch, job.least)


def build_contiguous(job: Job) -> Run:
    """Cut out of something larger, a tensor may go another way through the library."""
    run, x = plain(job), job.registers[0]

    def contiguous(registers: list[Any], env: list[Any]) -> Any:
        value = registers[x]
        if value.is_contiguous() or value.is_contiguous(memory_format=torch.channels_last):
            return run(registers, env)
        return _instead(registers, {x: value.contiguous()}, run, env)

    return contiguous


def _instead(registers: list[Any], other: dict[int, Tensor], run: Any, env: list[Any]) -> Any:
    """Run with other values in some registers."""
    before = {at: registers[at] for at in other}
    for at, value in other.items():
        registers[at] = value
    try:
        return run(registers, env)
    finally:
        for at, value in before.items():
            registers[at] = value


def _filled_along(job: Job, dim: int, least: int) -> Run:
    """Run with at least so many indices along a dimension of the result, or with all there are."""
    run = plain(job)
    if not least or job.box[dim] is None:
        return run
    ends = [
        (register, links.index(dim))
        for register, links in zip(job.registers, job.site.links, strict=True)
        if dim in links
    ]
    count = job.lengths()[dim].at
    whole = job.edit.length(job.site, dim)

    def filled(registers: list[Any], env: list[Any]) -> Any:
        want = min(least, whole if isinstance(whole, int) else env[whole.at])
        more = want - env[count]
        if more <= 0:
            return run(registers, env)
        other = {at: _extended(registers[at], along, more) for at, along in ends}
        return _instead(registers, other, run, env).narrow(dim, 0, env[count])

    return filled


def _extended(value: Tensor, dim: int, more: int) -> Tensor:
    shape = [*value.shape]
    shape[dim] = more
    return torch.cat([value, value.new_zeros(shape)], dim)


def _filled(job: Job, x: int, run: Run) -> Run:
    """Run with at least `job.least` rows, or with as many as the whole has."""
    least = job.least
    rank = len(job.box)
    if not least or all(part is None for part in job.box) or rank < 2:
        return run
    whole = [job.edit.length(job.site, dim) for dim in range(rank - 1)]
    lengths = job.lengths()[:-1]
    batched = len(job.needs[1]) > 2
    if batched:
        whole, lengths = whole[-1:], lengths[-1:]

    def number(sizes: list[Any], env: list[Any]) -> int:
        return math.prod([size if isinstance(size, int) else env[size.at] for size in sizes])

    def filled(registers: list[Any], env: list[Any]) -> Any:
        have, want = number(lengths, env), min(least, number(whole, env))
        value = registers[x]
        if have >= want:
            if value.is_contiguous():
                return run(registers, env)
            return _instead(registers, {x: value.contiguous()}, run, env)  # else another way, too
        shape = value.shape
        flat = value if batched else value.reshape(-1, shape[-1])
        other = {x: _extended(flat, flat.dim() - 2, want - have)}
        result = _instead(registers, other, run, env).narrow(-2, 0, have)
        return result if batched else result.reshape(*shape[:-1], result.shape[-1])

    return filled
