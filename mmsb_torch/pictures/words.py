"""Text of others as one safe line, and numbers for people."""

from __future__ import annotations

import unicodedata
from html import escape

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def shown(text: str) -> str:
    """Text as one line of printable characters: what controls or is no character is spelled out."""
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    # Cn has the noncharacters that XML forbids; the bidirectional controls reorder what follows.
    if unicodedata.category(character) in ("Cc", "Cs", "Cn", "Zl", "Zp"):
        return character.encode("unicode_escape").decode()
    return (
        f"\\u{ord(character):04x}"
        if character in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
        else character
    )


def safe(text: object, most: int = 80) -> str:
    """Text of anybody's, to stand in HTML: one line, escaped, cut in the middle where it is long."""
    line = shown(str(text))
    if len(line) > most:
        line = f"{line[: most - most // 3 - 1]}…{line[-(most // 3) :]}"
    return escape(line)


def percentage(share: float) -> str:
    """A share that is not zero, in whole percent; a small one does not look like none."""
    return f"{share:.0%}" if share >= 0.01 else "<1%"


def size(nbytes: float) -> str:
    """A number of bytes: "512 B", "1.5 MiB"."""
    unit = 0
    while nbytes >= 1024 and unit < len(_UNITS) - 1:
        nbytes, unit = nbytes / 1024, unit + 1
    return (
        f"{nbytes:.0f} {_UNITS[unit]}"
        if unit == 0 or nbytes >= 100
        else f"{nbytes:.1f} {_UNITS[unit]}"
    )


def span(seconds: float) -> str:
    """A time: "0.3 ms", "12 ms", "1.24 s", "2 min 5 s"."""
    if seconds < 0.01:
        return f"{seconds * 1e3:.1f} ms"
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"


def count(number: int, one: str, many: str = "") -> str:
    """A number of things: "1 call", "3,000 calls"."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"
