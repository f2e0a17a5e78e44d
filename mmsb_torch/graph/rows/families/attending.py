"""Attention of some queries: with is_causal, query i looks at keys 0 to i."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmsb_torch.graph.rows.parts import listed
from mmsb_torch.graph.rows.tape import NOTHING


def _causal(site: Any) -> bool:
    return bool(site.at.arg("is_causal", False))


def spread(context: Any, index: int, box: Any) -> Any:
    """Stale keys and values bear on the queries from theirs on, if it is causal, else on all."""
    edit, site = context
    rank = len(site.call.shape)
    out: list[Any] = [None] * rank
    for part, link in zip(box, site.links[index], strict=True):
        if part is not None and link is not None:
            out[link] = part
    if site.call.places[index][0] in {"key", "value"} and _causal(site) and box[-2] is not None:
        rows = edit.tape.part(_from_first, box[-2], edit.length(site, rank - 2))
        if rows is NOTHING:
            return None
        out[-2] = rows
    return tuple(out)


def need(context: Any, box: Any) -> Any:
    """All keys and values, or those up to the last query."""
    edit, site = context
    found = []
    for (name, _), links, value in zip(
        site.call.places, site.links, site.call.tensors, strict=True
    ):
        parts = [None if link is None else box[link] for link in links]
        if name in {"key", "value"}:
            parts[-1] = None
            if _causal(site) and box[-2] is not None:
                size = edit.tape.size(site.graph.shape(value)[-2], edit.rows)
                parts[-2] = edit.tape.part(_to_last, box[-2], size)
        found.append(tuple(parts))
    return found


def _from_first(part: Any, size: int) -> Any:
    first = int(part[0])
    return None if first == 0 else range(min(first, size), size)


def _to_last(part: Any, size: int) -> Any:
    last = int(part[-1]) + 1
    return None if last >= size else range(last)


def build(job: Any) -> Any:
    """Causal attention of some queries, with the mask that they have in the whole."""
    if not _causal(job.site) or job.box[-2] is None:
        return None
    at, tape = job.site.at, job.edit.tape
    keys = tape.size(job.site.graph.shape(job.site.call.tensors[1])[-2], job.edit.rows)
    mask = tape.value(_mask, job.box[-2], keys, job.site.call.device).at
    query, key, value = (job.register(name) for name in ("query", "key", "value"))
    named = {"scale": at.arg("scale"), "enable_gqa": at.arg("enable_gqa", False)}
    attention = torch.nn.functional.scaled_dot_product_attention

    def run(registers: list[Any], env: list[Any]) -> Tensor:
        return attention(
            registers[query], registers[key], registers[value], attn_mask=env[mask], **named
        )

    return run


def _mask(part: Any, keys: int, device: torch.device) -> Tensor | None:
    """Which keys, up to the last query's, each query looks at; None for all of them."""
    if len(part) == 1:
        return None
    rows = torch.from_numpy(np.ascontiguousarray(listed(part))).to(device)
    return torch.arange(min(int(part[-1]) + 1, keys), device=device) <= rows[:, None]
