"""The command line `mmsb`: looks into a store, and never changes it (extra `cli`).

`commands` has one function a command; `program` turns errors into one line and an exit code;
`inspection`, `history` and `export` do the work and give plain data, which `tables` shows to people
and `--json` to programs; `moments` says which moment is meant, `figures` counts numbers, `progress`
tells how far the reading is.
"""

from __future__ import annotations

import sys


def main() -> int:
    """Run `mmsb` with this process's arguments; returns its exit code, unless it exits itself."""
    try:
        from mmsb_torch.cli.commands import mmsb  # noqa: PLC0415 - it needs what may be missing
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in {"click", "rich"}:
            raise
        sys.stderr.write(
            f"mmsb: the package {missing!r} is not installed, and the command line needs it. "
            "Install it with: pip install 'mmsb-torch[cli]'\n"
        )
        return 2
    mmsb(prog_name="mmsb")
    return 0
