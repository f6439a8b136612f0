"""The ledger: every request that was paid for and its answer, in one SQLite file.

A request is claimed before it is sent and answered afterwards; its key is a digest of all that
is sent. What was answered is never asked again. One run at a time writes to a file (any may read),
so that what is claimed and not answered is what a run that was killed had in flight. In it one
thread writes: it gathers what waits for `GATHER_SECONDS` and commits it together, synced to disk,
and only then does an answer count as given. A kill therefore loses nothing but those calls.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from laterna.errors import LaternaError
from laterna.files import held
from laterna.records import Message, Reply
from laterna.synthesis import ledger_rows
from laterna.synthesis.ledger_rows import Rows, Totals
from laterna.synthesis.teachers.base import Identity

__all__ = ["Ledger", "Totals"]

GATHER_SECONDS = 0.02
"""How long writes wait for company: fewer commits, each of which waits for the disk."""
_BUSY_SECONDS = 60.0
"""How long a commit waits for that of another process."""

_DAMAGE = (sqlite3.Error, ValueError, TypeError, msgspec.MsgspecError)
"""What a damaged page or row raises when it is read."""

_T = TypeVar("_T")
_Step = Callable[[Rows], object]
_Waiting = tuple[asyncio.Future[object], object]


class Ledger:
    """An open ledger; close it, or use it in a `with` block.

    `totals` is what the whole file's answers come to as of the last commit. Raises LaternaError
    for a file that is no ledger.
    """

    def __init__(self, path: Path, *, create: bool = True) -> None:
        """Open the ledger at `path`, making it where there is none unless told not to."""
        if not create and not path.is_file():
            raise LaternaError(f"{path}: no such ledger")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._reader = _connect(path)
        self.totals: tuple[Totals, ...] = ()
        self._dead: LaternaError | None = None
        try:
            self.refresh()
        except LaternaError:
            self._reader.close()
            raise
        self._steps: queue.SimpleQueue[tuple[_Step, asyncio.Future[object]] | None]
        self._steps = queue.SimpleQueue()
        self._at_hand: list[tuple[_Step, asyncio.Future[object] | None]] = []
        """Steps that the thread took and has not told of; for should it die."""
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Ledger:
        """Return the ledger itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the ledger."""
        self.close()

    def find(self, key: str) -> Reply | None:
        """Return the answer to a request, None where there is none yet."""
        with self._reading():
            return ledger_rows.find(self._reader, key)

    async def claim(
        self, key: str, identity: Identity, messages: Sequence[Message]
    ) -> Reply | None:
        """Return the answer, or note that the request is about to be asked."""
        return await self.do(lambda rows: rows.claim(key, identity, messages))

    async def record(self, key: str, reply: Reply, seconds: float) -> Reply:
        """Keep the answer to a claimed request; return the first that came, once it is on disk."""
        return await self.do(lambda rows: rows.record(key, reply, seconds))

    async def release(self, key: str) -> None:
        """Give a claimed request back unanswered."""
        await self.do(lambda rows: rows.release(key))

    async def do(self, step: Callable[[Rows], _T]) -> _T:
        """Run a step in the next transaction and return its result once that is committed.

        Raises LaternaError where it fails, and where another run writes to the file.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._write, name="ledger", daemon=True)
            self._thread.start()
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._steps.put((step, future))
        if self._dead:
            raise self._dead
        result: _T = await future  # type: ignore[assignment]  # the step's own
        return result

    def refresh(self) -> None:
        """Read `totals` anew: another run may have answered since the last commit."""
        with self._reading():
            self.totals = ledger_rows.totals(self._reader)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Turn what is wrong with the file into a sentence."""
        try:
            yield
        except _DAMAGE as error:
            raise LaternaError(f"{self.path}: the ledger is damaged: {error}") from error

    def close(self) -> None:
        """Commit what waits, give unanswered claims back, and close the file."""
        if self._thread is not None:
            self._steps.put(None)
            self._thread.join()
            self._thread = None
        self._reader.close()

    def _write(self) -> None:
        """Write, in a thread of its own; should it die, say so to all who wait or come later."""
        try:
            self._write_until_told()
        except BaseException as error:  # noqa: BLE001  (whatever it is, nobody may wait for ever)
            told = f"{self.path}: the ledger can no longer be written: {error}"
            self._dead = error if isinstance(error, LaternaError) else LaternaError(told)
            while not self._steps.empty():
                step = self._steps.get_nowait()
                self._at_hand += [step] if step else []
            _tell([(future, self._dead) for _, future in self._at_hand if future])

    def _write_until_told(self) -> None:
        with held(self.path, "synthesis"), closing(_connect(self.path)) as connection:
            rows = Rows(connection)
            open_ = True
            while open_:
                steps, open_ = self._gather()
                self._commit(connection, rows, steps)
            self._commit(connection, rows, [(Rows.release, None)])

    def _gather(self) -> tuple[list[tuple[_Step, asyncio.Future[object] | None]], bool]:
        """Wait for steps and return those that came together, and whether to go on."""
        steps: list[tuple[_Step, asyncio.Future[object] | None]] = []
        self._at_hand = steps
        step = self._steps.get()
        if step is not None:
            time.sleep(GATHER_SECONDS)
        with suppress(queue.Empty):
            while step is not None:
                steps.append(step)
                step = self._steps.get_nowait()
        return steps, step is not None

    def _commit(
        self,
        connection: sqlite3.Connection,
        rows: Rows,
        steps: Sequence[tuple[_Step, asyncio.Future[object] | None]],
    ) -> None:
        """Run steps in one transaction; then, and not before, tell those who wait."""
        try:
            connection.execute("BEGIN IMMEDIATE")
            results = [self._step(connection, rows, step) for step, _ in steps]
            totals = ledger_rows.totals(connection)
            connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001  (all who wait must hear of it)
            rows.forget()
            with suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.rollback()
            complaint = self._complaint(error)
            _tell([(future, complaint) for _, future in steps if future])
            return
        self.totals = totals
        pairs = zip(steps, results, strict=True)
        _tell([(future, result) for (_, future), result in pairs if future])

    def _step(self, connection: sqlite3.Connection, rows: Rows, step: _Step) -> object:
        """Return what one step comes to; one that fails undoes itself and none of the others."""
        connection.execute("SAVEPOINT step")
        try:
            result = step(rows)
        except Exception as error:
            if not connection.in_transaction:  # a full disk undoes the whole by itself
                raise
            connection.execute("ROLLBACK TO step")
            rows.forget()
            result = self._complaint(error)
        connection.execute("RELEASE step")
        return result

    def _complaint(self, error: Exception) -> LaternaError:
        return LaternaError(f"{self.path}: the ledger cannot be written: {error}")


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        _begin_wal(connection)
        # FULL: a commit is on the disk before it is reported, power cuts included.
        connection.execute("PRAGMA synchronous = FULL")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        older = application == ledger_rows.APPLICATION and version < ledger_rows.VERSION
        if older or not (tables or version):
            ledger_rows.create(connection)
            return connection
    except sqlite3.DatabaseError as error:
        connection.close()
        raise LaternaError(f"{path}: cannot be read as a ledger: {error}") from error
    if (application, version) != (ledger_rows.APPLICATION, ledger_rows.VERSION):
        connection.close()
        raise LaternaError(
            f"{path}: not a ledger of this version of Laterna; name another file with --ledger"
        )
    return connection


def _begin_wal(connection: sqlite3.Connection) -> None:
    """Switch the file to WAL; of two processes that make it at once, one waits.

    SQLite's own timeout does not hold for this switch: it fails at once where another is at it.
    """
    given_up = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > given_up:
                raise
            time.sleep(GATHER_SECONDS)


def _tell(answers: Sequence[_Waiting]) -> None:
    """Hand results to those who wait for them, in their own event loop."""
    if not answers:
        return
    # RuntimeError: the loop has been closed, so nobody waits any more.
    with suppress(RuntimeError):
        answers[0][0].get_loop().call_soon_threadsafe(_resolve, answers)


def _resolve(answers: Sequence[_Waiting]) -> None:
    for future, result in answers:
        if future.done():  # cancelled
            continue
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)
