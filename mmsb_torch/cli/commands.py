"""The commands of `mmsb`: what they take. What they do is in the modules beside."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import click

from mmsb_torch.cli import compaction, export, history, inspection, tables
from mmsb_torch.cli.program import DAMAGED, EXIT_CODES, Program, emit, leave
from mmsb_torch.cli.progress import reading
from mmsb_torch.memory import Memory
from mmsb_torch.memory.opening import open_on
from mmsb_torch.runtime.store import FILES, Retention, Store
from mmsb_torch.runtime.store.follow import Follower
from mmsb_torch.runtime.store.frame import Kind

F = TypeVar("F", bound=Callable[..., Any])

_MOMENT = "MOMENT is a transaction's number, a label, label:NAME, or step:N."


@click.group(
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"{_MOMENT}\n\n{EXIT_CODES}",
)
@click.version_option(package_name="mmsb-torch")
def mmsb() -> None:
    """Look into a store of mmsb_torch: what is in it, what it was, and whether it is whole.

    Nothing here but `compact` and `repair` changes a store or takes its lock: a writer may be at it,
    and the disk may be read-only.
    """


def _store(function: F) -> F:
    """The store's path, and --json."""
    path = click.argument("path", type=click.Path(path_type=Path))
    return path(click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function))


@contextmanager
def _memory(path: Path, title: str) -> Iterator[Memory]:
    """The memory in a store, opened for reading."""
    with reading(title) as files, open_on(files, path, mode="r") as memory:
        yield memory


@mmsb.command()
@_store
def info(path: Path, *, as_json: bool) -> None:
    """Show who a store is, its size, checkpoints, log and last transaction."""
    with reading("reading") as files, Store.open(path, files=files) as store:
        data = inspection.info(store, files)
    emit(data, tables.info, as_json=as_json)


@mmsb.command()
@_store
@click.option("-n", "count", type=click.IntRange(min=1), help="Only the newest N.", metavar="N")
def log(path: Path, *, count: int | None, as_json: bool) -> None:
    """List the transactions in the log, newest last."""
    with reading("reading the log") as files, Store.open(path, files=files) as store:
        rows = history.transactions(store, count, files)
    emit(rows, tables.log, as_json=as_json)


@mmsb.command(epilog=_MOMENT)
@_store
@click.argument("moment")
@click.argument("page", required=False)
def show(path: Path, moment: str, page: str | None, *, as_json: bool) -> None:
    """Show the pages at a MOMENT, or one PAGE, with figures of their elements.

    The figures are of the finite elements; complex ones count by their absolute value.
    """
    with _memory(path, "reading") as memory:
        data = inspection.moment(memory, moment, page)
    emit(data, tables.moment, as_json=as_json)


@mmsb.command(epilog=_MOMENT)
@_store
@click.argument("a")
@click.argument("b")
def diff(path: Path, a: str, b: str, *, as_json: bool) -> None:
    """Show what differs between the moments A and B, page by page, bit for bit."""
    with _memory(path, "comparing") as memory:
        data = inspection.difference(memory, a, b)
    emit(data, tables.difference, as_json=as_json)


@mmsb.command(epilog=_MOMENT)
@_store
@click.argument("moment")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="The file to write."
)
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
def restore(path: Path, moment: str, output: Path, *, force: bool, as_json: bool) -> None:
    """Write the pages at a MOMENT into one plain safetensors file; the store stays as it is."""
    export.check_target(output, path, force=force)
    with _memory(path, "reading") as memory:
        data = export.write_moment(memory, moment, output, path, force=force)
    emit(data, tables.restored, as_json=as_json)


@mmsb.command()
@_store
def verify(path: Path, *, as_json: bool) -> None:
    """Read every byte of a store and list what is damaged; exit code 1 if something is.

    A torn tail, of a write that was cut short, is listed too, and is no damage.
    """
    total = inspection.size_of(path)
    with reading("verifying", total) as files, Store.open(path, files=files) as store:
        found = store.verify()
    clean = all(item.torn for item in found)
    data = {"path": str(path), "bytes": total, "clean": clean, "found": inspection.damages(found)}
    emit(data, tables.damage, as_json=as_json)
    if not clean:
        leave(DAMAGED)


@mmsb.command()
@_store
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
def repair(path: Path, *, dry_run: bool, as_json: bool) -> None:
    """Set aside what is damaged, so that a store goes on from the newest state that is whole.

    Nothing is thrown away: it is moved into the folder `damaged` of the store.
    """
    with reading("reading") as files, Store.open(path, writable=not dry_run, files=files) as store:
        found = store.repair(dry_run=dry_run)
    emit(inspection.repaired(path, found, done=not dry_run), tables.repaired, as_json=as_json)


@mmsb.command()
@_store
@click.option("--keep-last", type=click.IntRange(min=1), metavar="N",
              help="Keep the newest N checkpoints, and all history since.")  # fmt: skip
@click.option("--every", type=click.IntRange(min=1), metavar="K",
              help="Of what is older, keep a checkpoint in each K transactions.")  # fmt: skip
@click.option("--tag", "tags", multiple=True, metavar="PATTERN",
              help="Keep moments whose label matches, like 'release-*'. May be repeated.")  # fmt: skip
@click.option("--max-bytes", type=compaction.Size(), metavar="SIZE",
              help="Then remove the oldest until the store has at most SIZE, like 10GB.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
def compact(
    path: Path,
    *,
    keep_last: int | None,
    every: int | None,
    tags: tuple[str, ...],
    max_bytes: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Checkpoint the present, and remove what need not stay of the past.

    The one command that changes a store: it is refused while a writer is at it. Without options the
    whole past stays, and only what killed writers left is removed.
    """
    rule = Retention(keep_last=keep_last, every=every, tags=tags, max_bytes=max_bytes)
    data = (compaction.preview if dry_run else compaction.compact)(path, rule)
    emit(data, tables.compacted, as_json=as_json)


@mmsb.command()
@_store
@click.option(
    "--since", type=click.IntRange(min=0), metavar="TX", help="Begin after transaction TX."
)
@click.option("--once", is_flag=True, help="Print what the log holds, and do not wait for more.")
@click.option(
    "-n", "count", type=click.IntRange(min=1), metavar="N", help="End after N transactions."
)
@click.option("--interval", type=click.FloatRange(min=0.001), default=0.05, show_default=True,
              metavar="SECONDS", help="How often to look.")  # fmt: skip
def tail(
    path: Path,
    *,
    since: int | None,
    once: bool,
    count: int | None,
    interval: float,
    as_json: bool,
) -> None:
    """Print each transaction as a live writer commits it, until Ctrl-C.

    Begins with what is committed from now on; with --once, with the oldest in the log. With --json
    each transaction is one line.
    """
    with Store.open(path) as store, suppress(KeyboardInterrupt):
        rows, left = history.Rows(store, FILES), count
        last = rows.catch_up()
        after = since if since is not None else 0 if once else last
        follower = Follower(store.path, store.identity.uuid, after)
        while True:
            for found in follower.poll():
                back = found.record.header.kind == Kind.ROLLBACK
                row = {"tx": found.record.header.tx} if back else rows.of(found)
                row["taken_back"] = back
                click.echo(json.dumps(row) if as_json else tables.line(row))
                left = None if left is None else left - (not back)
                if left == 0:
                    return
            if once:
                return
            time.sleep(interval)
