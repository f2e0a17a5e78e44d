"""The bodies of records: COMMIT (a transaction, or where its payload is) and DROP (what is gone)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from mmsb_torch.errors import CorruptLogError, CorruptStoreError
from mmsb_torch.runtime.store import payload
from mmsb_torch.runtime.store.files import FILES, Files
from mmsb_torch.runtime.store.frame import SEGMENT
from mmsb_torch.runtime.store.logfile import DELTAS, Record, segment_name
from mmsb_torch.runtime.store.sealed import Fields, strict_loads
from mmsb_torch.runtime.store.spans import merged
from mmsb_torch.runtime.store.streams import FileRecord
from mmsb_torch.runtime.store.tensorfile import read_tensors
from mmsb_torch.types import Transaction


class Place(NamedTuple):
    """Where a transaction is."""

    path: Path
    record: Record
    label: str | None
    step: int | None
    time_ns: int
    segment: FileRecord | None


def segment_body(segment: FileRecord, parts: list[bytes | memoryview]) -> bytes:
    """The body of a record whose payload is in a file: the file, and what it holds."""
    head = payload.ops_text(parts[0])
    about = {"name": segment.name, "nbytes": segment.nbytes, "xxh3_128": segment.digest}
    return json.dumps({"segment": about, "ops": head}, separators=(",", ":")).encode()


def segment_of(body: bytes, tx: int, where: str) -> tuple[FileRecord, str]:
    """The file that a record's body names, and the text of what it holds."""
    fields = Fields(strict_loads(body, where), where)
    about = Fields(fields.get("segment", dict), f"{where}: 'segment'")
    name = about.get("name", str)
    if name[:20] != f"{tx:020d}" or name != segment_name(tx, _attempt(name)):
        raise CorruptLogError(f"{where}: {name!r:.80} is no payload file of transaction {tx}.")
    record = FileRecord(name, about.count("nbytes"), about.get("xxh3_128", str))
    return record, fields.get("ops", str)


def _attempt(name: str) -> int:
    digits = name[22:27]
    return int(digits) if digits.isdigit() and digits.isascii() else 0


def read_transaction(
    root: Path, body: bytes, record: Record, where: str, files: Files = FILES
) -> Transaction:
    """The transaction of a COMMIT record with this body.

    Raises:
        CorruptLogError: it is damaged, or not the one that the record says.
    """
    tx = record.header.tx
    where = f"{where}, transaction {tx}"
    try:
        if record.header.flags & SEGMENT:
            segment, _ = segment_of(body, tx, where)
            tensors, metadata = read_tensors(root / DELTAS / segment.name, segment, files)
            found = payload.transaction_of(tensors, metadata, where)
        else:
            found = payload.decode(memoryview(body), where)
    except CorruptLogError:
        raise
    except CorruptStoreError as error:
        raise CorruptLogError(f"{where}: {error}") from error
    if found.tx != tx or len(found.deltas) != record.header.items:
        raise CorruptLogError(f"{where}: its payload says it is transaction {found.tx}.")
    return found


def outline_of(body: bytes, record: Record, where: str) -> tuple[Fields, FileRecord | None]:
    """What a COMMIT record does, without reading its tensors.

    Raises:
        CorruptLogError: it does not say.
    """
    where = f"{where}, transaction {record.header.tx}"
    segment = None
    try:
        if not record.header.flags & SEGMENT:
            ops = payload.outline(memoryview(body), where)
        else:
            segment, text = segment_of(body, record.header.tx, where)
            ops = payload.outline_of_text(text, where)
        if (ops.count("tx"), len(ops.get("deltas", list))) != (
            record.header.tx,
            record.header.items,
        ):
            raise ops.damage(f"its payload says it is transaction {ops.count('tx')}")
    except CorruptStoreError as error:
        raise CorruptLogError(str(error)) from error
    return ops, segment


def place_of(path: Path, record: Record, ops: Fields, segment: FileRecord | None) -> Place:
    """Where a transaction is, by what its record says."""
    label, step = ops.optional("label", str), ops.optional("step", int)
    return Place(path, record, label, step, ops.count("time_ns"), segment)


def drop_body(transactions: Iterable[range]) -> bytes:
    """The body of a DROP record: all transactions that are gone, those of earlier records too."""
    spans = [{"first": span[0], "last": span[-1]} for span in merged(transactions)]
    return json.dumps({"transactions": spans}, separators=(",", ":")).encode()


def dropped_of(body: bytes, where: str) -> list[range]:
    """The transactions that a DROP record with this body says were collected.

    Raises:
        CorruptLogError: it does not say.
    """
    try:
        fields = Fields(strict_loads(body, where), where)
        pairs = [Fields(item, where) for item in fields.get("transactions", list)]
        return merged(range(pair.count("first"), pair.count("last") + 1) for pair in pairs)
    except CorruptStoreError as error:
        raise CorruptLogError(f"{where}: a DROP record: {error}") from error
