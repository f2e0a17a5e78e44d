"""Attention of some queries: with is_causal, query i looks at keys 0 to i."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmsb_torch.graph.rows.calls import Ref, Size
from mmsb_torch.graph.rows.parts import listed
from mmsb_torch.graph.rows.tape import NOTHING


def _causal(edit: Any, site: Any) -> bool:
    """Whether no query looks at a later key: by the flag, or by a mask that was looked at."""
    mask = site.call.args.get("attn_mask")
    return bool(site.at.arg("is_causal", False)) or (
        isinstance(mask, Ref) and mask.value in edit.causal
    )


def spread(context: Any, index: int, box: Any) -> Any:
    """Stale keys and values bear on the queries from theirs on, if it is causal, else on all."""
    edit, site = context
    rank, name = len(site.call.shape), site.call.places[index][0]
    out: list[Any] = [None] * rank
    if name == "attn_mask" and site.call.tensors[index] in edit.causal and edit.before is not None:
        out[-2] = edit.tape.part(_new, site.call.shape[-2], edit.before, edit.rows)
        return tuple(out)
    for part, link in zip(box, site.links[index], strict=True):
        if part is not None and link is not None:
            out[link] = part
    if name in {"key", "value"} and _causal(edit, site) and box[-2] is not None:
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
        keys = -1 if name == "attn_mask" else -2
        if name in {"key", "value"}:
            parts[-1] = None
        if name != "query" and _causal(edit, site) and box[-2] is not None:
            size = edit.tape.size(site.graph.shape(value)[keys], edit.rows)
            parts[keys] = edit.tape.part(_to_last, box[-2], size)
        found.append(tuple(parts))
    return found


def _from_first(part: Any, size: int) -> Any:
    first = int(part[0])
    return None if first == 0 else range(min(first, size), size)


def _new(size: Any, before: int, now: int) -> range:
    return range(size.at(before), size.at(now)) if isinstance(size, Size) else range(0)


def _to_last(part: Any, size: int) -> Any:
    last = int(part[-1]) + 1
    return None if last >= size else range(last)


def build(job: Any) -> Any:
    """Causal attention of some queries, with the mask that they have in the whole."""
    if not job.site.at.arg("is_causal", False) or job.box[-2] is None:
        return None  # the operator itself does it, with what there is of the mask
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
