"""What processes that are over counted of memoised functions: a file of lines, one a process.

`objects/tallies.jsonl`: each line is JSON, function -> name of a count -> number. A process adds its
line when it closes the memory; when there are many lines, they are added up to one. They are figures
for people: nothing is fsynced, a line that cannot be read counts as not there, and who is killed
leaves none.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from mmsb_torch.errors import MMSBError
from mmsb_torch.runtime.store.files import Files, explained

_NAME = "tallies.jsonl"
_LONGEST = 64 << 10  # bytes; then the lines become one

Tallies = dict[str, dict[str, float]]
"""Function -> name of a count -> number."""


def read_tallies(folder: Path) -> Tallies:
    """What all processes counted that are over."""
    try:
        lines = (folder / _NAME).read_bytes().splitlines()
    except OSError:
        return {}
    found: Tallies = {}
    for line in lines:
        for label, counts in _parsed(line).items():
            add_up(found.setdefault(label, {}), counts)
    return found


def add_tallies(folder: Path, counted: Mapping[str, Mapping[str, float]], files: Files) -> None:
    """Add what this process counted; if the disk fails, it is not there."""
    with contextlib.suppress(MMSBError, OSError), _locked(folder, files) as fd:
        line = json.dumps(counted).encode() + b"\n"
        if files.stat(fd).st_size + len(line) > _LONGEST:
            total = read_tallies(folder)
            for label, counts in counted.items():
                add_up(total.setdefault(label, {}), counts)
            files.truncate(fd, 0)
            line = json.dumps(total).encode() + b"\n"
        rest = memoryview(line)
        while rest:
            rest = rest[files.write(fd, rest) :]


def add_up(into: dict[str, float], counts: Mapping[str, float]) -> None:
    """Add counts to others of the same names."""
    for name, number in counts.items():
        into[name] = into.get(name, 0) + number


@contextlib.contextmanager
def _locked(folder: Path, files: Files) -> Iterator[int]:
    path = folder / _NAME
    with contextlib.suppress(FileExistsError):
        files.mkdir(folder)
    with explained("open", path):
        fd = files.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        os.close(fd)


def _parsed(line: bytes) -> dict[str, dict[str, float]]:
    """A line; {} if it is none."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        label: {n: v for n, v in counts.items() if type(v) in (int, float) and abs(v) < 1e300}
        for label, counts in found.items()
        if isinstance(counts, dict)
    }
