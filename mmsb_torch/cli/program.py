"""What every command shares: errors as one line, exit codes, and the two ways of printing."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import click
from rich.console import RenderableType

from mmsb_torch.cli.tables import plain, rendered
from mmsb_torch.errors import MMSBError

DAMAGED = 1
UNREADABLE = 2
INTERRUPTED = 130
CUT_OFF = 141

EXIT_CODES = (
    "Exit codes: 0 done; 1 `verify` found damage; 2 wrong arguments, or something cannot be read or "
    "written (one line on stderr says what); 130 interrupted."
)


class Failure(click.ClickException):
    """An error that is the caller's or the disk's: one line on stderr, no traceback."""

    exit_code = UNREADABLE

    def show(self, file: Any = None) -> None:
        """Print the line."""
        click.echo(f"mmsb: {plain(self.message)}", file=file, err=file is None)


class Program(click.Group):
    """A group of commands that fail with one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that the arguments name."""
        try:
            return super().invoke(ctx)
        except MMSBError as error:
            raise Failure(str(error)) from error
        except BrokenPipeError:  # whoever read this has gone; say nothing more, at exit either
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(CUT_OFF)
        except OSError as error:
            raise Failure(str(error)) from error
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)


def emit(data: Any, show: Callable[[Any], RenderableType], *, as_json: bool) -> None:
    """Print `data` as one JSON document, or as what `show` makes of it."""
    click.echo(json.dumps(data, allow_nan=False) if as_json else rendered(show(data)), nl=as_json)


def leave(code: int) -> NoReturn:
    """End the command with an exit code."""
    click.get_current_context().exit(code)
