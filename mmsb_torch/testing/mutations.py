"""Hostile bytes and JSON, made from seeded numbers: for tests of what reads them."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Sequence
from typing import Any

HUGE: tuple[int, ...] = (
    -1,
    0,
    1,
    255,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**63,
    2**64 - 1,
    2**64,
    10**400,
)
SCALARS: tuple[Any, ...] = (
    *HUGE, None, True, False, 1.5, -0.0, 1e308, float("nan"), float("inf"), "", "a" * 3000, "\0",
    "../../etc/passwd", "/etc/passwd", "MMSB.json", "__metadata__", "\ud800", "\u202e", "all",
    "rows", "elements", "bits", "none", "float32", "complex128", "uint3", "qint8", "F64", "BOOL",
    [], {}, [[]], [0], [2**62, 4], [0, 2**63], [1] * 3000, {"a": {}},
)  # fmt: skip


def any_bytes(raw: bytes, numbers: random.Random, others: Sequence[bytes]) -> bytes:
    """`raw` with a few random changes; `others` give pieces of what may stand there."""
    return _changed(bytearray(raw), numbers, others)


def _changed(raw: bytearray, numbers: random.Random, others: Sequence[bytes]) -> bytes:
    for _ in range(numbers.choice((1, 1, 1, 2, 4, 16))):
        at = numbers.randrange(len(raw) + 1)
        length = numbers.choice((1, 1, 2, 4, 8, 64, 512))
        act = numbers.randrange(8)
        if act == 0 and at < len(raw):
            raw[at] ^= 1 << numbers.randrange(8)
        elif act == 1:
            raw[at : at + length] = numbers.randbytes(length)
        elif act == 2:
            raw[at:at] = numbers.randbytes(length)
        elif act == 3:
            del raw[at : at + length]
        elif act == 4:
            raw[at:at] = raw[max(at - length, 0) : at]
        elif act == 5:
            del raw[at:]
        elif act == 6:
            other = numbers.choice(others)
            start = numbers.randrange(len(other) + 1)
            raw[at : at + length] = other[start : start + length]
        else:
            number = numbers.choice(HUGE) % 2**64
            raw[at : at + 8] = number.to_bytes(8, "little")
    return bytes(raw)


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON tree."""
    found: list[tuple[Any, Any]] = []
    left = [tree]
    while left:
        node = left.pop()
        items = list(node.items()) if isinstance(node, dict) else list(enumerate(node))
        for key, value in items:
            found.append((node, key))
            if isinstance(value, dict | list):
                left.append(value)
    return found


def any_json(tree: Any, numbers: random.Random) -> bytes:
    """The text of a JSON object with a few hostile values, a key twice, or much depth.

    `tree` is used up.
    """
    for _ in range(numbers.choice((1, 1, 2, 4))):
        all_places = _places(tree)
        if not all_places:
            break
        node, key = numbers.choice(all_places)
        act = numbers.randrange(6)
        if act < 3:
            node[key] = copy.deepcopy(numbers.choice(SCALARS))
        elif act == 3:
            del node[key]
        elif act == 4:
            other, name = numbers.choice(all_places)
            node[key] = copy.deepcopy(other[name])
        elif isinstance(node, list):
            node.append(copy.deepcopy(node[key]))
        else:
            node[numbers.choice(("x", "../x", "", "digest", "__metadata__", "\ud800"))] = (
                copy.deepcopy(node[key])
            )
    text = json.dumps(tree, ensure_ascii=numbers.random() < 0.8, separators=(",", ":"))
    act = numbers.randrange(12)
    if act == 0:  # a key twice
        text = re.sub(r'\{("[^"]*":[^,{}\[\]]+)', r"{\1,\1", text, count=numbers.choice((1, 0)))
    elif act == 1:  # deep
        depth = numbers.choice((90, 200, 5000, 100_000))
        text = re.sub(r":(\d+|null|\"[^\"]*\")", ":" + "[" * depth + "]" * depth, text, count=1)
    elif act == 2:
        text = text.replace(":", " : \n", 5)
    return text.encode(errors="surrogatepass")
