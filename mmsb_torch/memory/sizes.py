"""Numbers of bytes as people write them."""

from __future__ import annotations

import re

from mmsb_torch.errors import UnsupportedError

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kKMGT]?)(i?)B?")


def parse_bytes(size: object) -> int:
    """A number of bytes: 500000, "10GB", "1.5 GiB".

    Raises:
        UnsupportedError: it is none.
    """
    if isinstance(size, int) and not isinstance(size, bool) and size >= 0:
        return size
    match = _SIZE.fullmatch(size.strip()) if isinstance(size, str) else None
    if match is None:
        raise UnsupportedError(
            f"{size!r}: expected a number of bytes, like 500000, '10GB' or '1.5 GiB'"
        )
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** " KMGT".index((match[2] or " ").upper()))
