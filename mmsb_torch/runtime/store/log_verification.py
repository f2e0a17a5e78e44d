"""Finding all the damage of a log: of its files, its payload files, and of the history in them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from mmsb_torch.errors import CorruptLogError, CorruptStoreError, StoreError
from mmsb_torch.runtime.store.bodies import dropped_of, outline_of, read_transaction
from mmsb_torch.runtime.store.files import FILES, Files, StrPath
from mmsb_torch.runtime.store.frame import HEADER_BYTES, Kind, RecordHeader
from mmsb_torch.runtime.store.logfile import DELTAS, LOG, LogFile, file_name, list_logs
from mmsb_torch.runtime.store.logwalk import Flaw, Whole, walk
from mmsb_torch.runtime.store.spans import covers
from mmsb_torch.runtime.store.verification import Damage, damage_of


def verify_log(
    root: StrPath, uuid: str, checkpoints: Iterable[int] = (), files: Files = FILES
) -> list[Damage]:
    """Read the whole log of the store at `root` and return what is damaged, in the log's order.

    That is: headers and bodies that are not what they were, records and files that do not follow
    those before them, missing transactions, payload files that are missing or not what their record
    says, and payloads that cannot be read. A torn tail is among them, marked `torn`: readers ignore
    it, and the next writer cuts it off. Payloads of transactions that were taken back are left out.

    Reads only, holds one record or payload at a time, and is re-entrant. What a live writer appends
    meanwhile may be looked at or not.

    Args:
        root: the store.
        uuid: the store's.
        checkpoints: transactions of the store's checkpoints, listed before this is called.
        files: the disk.

    Raises:
        UnsupportedError: a newer format.
        StoreError: the log's folder cannot be listed.
    """
    newest = max(checkpoints, default=0)
    history = _History(Path(root), uuid, files)
    logs = list_logs(history.root, files)
    if logs and logs[0][0] > newest + 1:
        history.miss_file(logs[0][1].with_name(file_name(1)), range(1, logs[0][0]))
    for number, (first, path) in enumerate(logs, 1):
        history.add(path, first, newest=number == len(logs))
    if logs:
        history.end(newest)
    gone = history.dropped
    return [item for item in history.found if not _was_collected(item, gone)]


def _was_collected(item: Damage, dropped: list[range]) -> bool:
    return bool(item.transactions) and covers(dropped, item.transactions)


class _History:
    """The history as far as it was read, and `found`, what is wrong with it."""

    def __init__(self, root: Path, uuid: str, files: Files) -> None:
        self.root = root
        self.found: list[Damage] = []
        self.dropped: list[range] = []
        """Transactions that were collected, by the last record that says so."""
        self._uuid = uuid
        self._files = files
        self._end = (root / LOG, 0)
        """The last file, and its size."""
        self._kind: int | None = None
        """Of the file's last record; a file that was left for another one ends in a CHECKPOINT."""
        self._chain: int | None = None
        """After the last record; None takes the next one's word."""
        self._last: int | None = None
        """The last transaction that is known to have been there."""
        self._doubts: list[int] = []
        """Places in `found` of damage that may hide transactions: what comes next tells which."""
        self._before: int | None = None
        """If the last record is a COMMIT: the length of `found` before its payload was read."""

    def miss_file(self, path: Path, missing: range) -> None:
        """Note that a file with transactions `missing` is not there."""
        why = f"a log file is not there: {_missing(missing)}"
        self.found.append(Damage(path, 0, 0, why, transactions=missing))

    def add(self, path: Path, first: int, *, newest: bool) -> None:
        """Read a file; its name says that it begins with transaction `first`."""
        if self._last is None:
            self._last = max(first - 1, 0)
        try:
            file = LogFile(path, self._uuid, self._files)
        except (CorruptLogError, StoreError) as error:
            self._lose(damage_of(path, None, error, self._files))
            return
        at = 0
        try:
            at = self._begin(file, first, newest=newest)
            for item in walk(file, at, self._chain, newest=newest):
                self._chain, at = item.chain, item.stop
                if isinstance(item, Flaw):
                    self._flaw(path, item)
                else:
                    self._record(path, item)
        except (CorruptLogError, StoreError) as error:  # the disk fails, or a writer cut a tail
            torn = newest and isinstance(error, CorruptLogError)
            self._lose(Damage(path, at, file.nbytes, str(error), torn))
        finally:
            self._end = (path, file.nbytes)
            file.close()

    def end(self, checkpoint: int) -> None:
        """Compare the log's end with the newest checkpoint, which was made after it."""
        path, nbytes = self._end
        why = f"the log ends before transaction {checkpoint}, of which there is a checkpoint"
        self._reach(checkpoint, Damage(path, nbytes, nbytes, why))

    def _begin(self, file: LogFile, first: int, *, newest: bool) -> int:
        """Check how a file begins, and that it goes on where the last one ended; where to go on."""
        if file.header is None:
            good, chain = file.next_good(HEADER_BYTES), self._chain
            stop = file.nbytes if good is None else good
            torn = newest and good is None
            self._lose(Damage(file.path, 0, stop, "the file's header is damaged", torn))
            self._chain = chain if good == HEADER_BYTES else None  # else records are gone too
            return stop
        start = Damage(file.path, 0, HEADER_BYTES, "the file does not follow the one before it")
        if file.header.first != first:
            why = f"the file is named {first} and begins with transaction {file.header.first}"
            self.found.append(replace(start, problem=why))
        if self._chain not in (None, file.header.chain):
            self._break(start, first)
        self._chain, self._kind = file.header.chain, None
        self._reach(first - 1, start)
        return HEADER_BYTES

    def _break(self, start: Damage, first: int) -> None:
        """Note that the chain breaks between the last file and one that begins with `first`."""
        assert self._last is not None
        missing, (path, nbytes) = range(self._last + 1, first), self._end
        if self._kind != Kind.CHECKPOINT:
            why = "the file's end is missing: the next file does not follow it"
            self.found.append(Damage(path, nbytes, nbytes, why, transactions=missing))
        elif missing:
            self.miss_file(path.with_name(file_name(missing.start)), missing)
        else:
            self.found.append(start)
        self._last = max(self._last, first - 1)

    def _record(self, path: Path, item: Whole) -> None:
        """Note what is wrong with a good record: its place in the history, its payload."""
        header, at = item.record.header, item.record.offset
        self._count(header, Damage(path, at, at + HEADER_BYTES, ""))
        if any(item.padding):
            start = item.stop - len(item.padding)
            why = "the bytes after a record are not zero; its body is whole"
            self.found.append(Damage(path, start, item.stop, why))
        if header.kind == Kind.COMMIT:
            self._before = len(self.found)
            self._payload(path, item)
        elif header.kind == Kind.DROP:
            try:
                self.dropped = dropped_of(item.body, repr(str(path)))
            except CorruptLogError as error:
                self.found.append(Damage(path, at, item.stop, str(error)))

    def _flaw(self, path: Path, flaw: Flaw) -> None:
        """Note damage of a file."""
        header, none = flaw.header, range(0)
        commit = header is not None and header.kind == Kind.COMMIT
        concerned = range(header.tx, header.tx + 1) if header is not None and commit else none
        damage = Damage(path, flaw.start, flaw.stop, flaw.why, flaw.torn, concerned)
        if flaw.hides or flaw.torn:
            self._lose(damage)
            self._chain = flaw.chain
        elif header is not None:
            self._doubts.append(len(self.found))  # it stands for what is missing before it, too
            self.found.append(damage)
            self._count(header, damage)

    def _count(self, header: RecordHeader, site: Damage) -> None:
        """Place a record in the history; `site` is where to say that something is missing."""
        assert self._last is not None
        tx, kind = header.tx, header.kind
        opening, before = self._kind is None, self._before
        self._kind, self._before = kind, None
        if kind == Kind.COMMIT:
            if tx <= self._last and not self._doubts:
                why = f"transaction {tx} is here again"
                self.found.append(replace(site, problem=why, transactions=range(tx, tx + 1)))
            self._reach(tx - 1, site)
            self._last = max(self._last, tx)
        elif kind == Kind.ROLLBACK:
            if before is not None:  # nobody will read what was taken back
                del self.found[before:]
            self._reach(tx - 1, site)
            self._last = tx - 1
        elif kind in {Kind.CHECKPOINT, Kind.SEAL}:
            if opening:  # the log begins after this checkpoint
                self._last = max(self._last, tx)
            self._reach(tx, site)
        if kind in {Kind.COMMIT, Kind.SEAL}:
            self._doubts.clear()

    def _reach(self, tx: int, site: Damage) -> None:
        """Note that transactions up to `tx` were there; those not seen are missing."""
        assert self._last is not None
        missing = range(self._last + 1, tx + 1)
        if not missing:
            return
        self._last = tx
        for place in self._doubts:
            known = self.found[place].transactions
            first, stop = (known.start, known.stop) if known else (missing.start, missing.stop)
            both = range(min(first, missing.start), max(stop, missing.stop))
            self.found[place] = replace(self.found[place], transactions=both)
        if not self._doubts:
            why = f"{site.problem}: {_missing(missing)}".removeprefix(": ")
            self.found.append(replace(site, problem=why, transactions=missing))

    def _lose(self, damage: Damage) -> None:
        """Note damage that may hide any number of records."""
        self._doubts.append(len(self.found))
        self.found.append(damage)
        self._chain = self._before = None

    def _payload(self, path: Path, item: Whole) -> None:
        """Read what a COMMIT did, as a reader would."""
        record, where = item.record, repr(str(path))
        tx, start = record.header.tx, record.offset + HEADER_BYTES
        problem = Damage(path, start, start + len(item.body), "", transactions=range(tx, tx + 1))
        segment = None
        try:
            _, segment = outline_of(item.body, record, where)
            read_transaction(self.root, item.body, record, where, self._files)
        except (CorruptLogError, StoreError) as error:
            if segment is not None:
                found = damage_of(self.root / DELTAS / segment.name, segment, error, self._files)
                problem = replace(found, transactions=problem.transactions)
            cause = error.__cause__  # says it without naming the log first
            why = str(cause if isinstance(cause, CorruptStoreError) else error)
            self.found.append(replace(problem, problem=why))


def _missing(transactions: range) -> str:
    if transactions.start == transactions.stop - 1:  # its length may be beyond a machine word
        return f"transaction {transactions.start} is missing"
    return f"transactions {transactions[0]} to {transactions[-1]} are missing"
