"""One SQLite file of one process, used from Trio: each call is a transaction on a worker thread.

Knows neither outbox nor index; what rows mean is theirs.
"""

import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Self, TypeVar

import trio

from eigen.chain.port import OutboxInUse

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

NEVER_LOST: Final = "FULL"
"""`synchronous`: what a transaction did survives a power loss."""
READ_AGAIN: Final = "NORMAL"
"""`synchronous`: the last transactions may be gone after a power loss; the file stays whole."""


class Database:
    """Opened by one process at a time, used from one thread at a time.

    A cancelled transaction has either done all of its work or none.
    """

    def __init__(self, path: Path | None, schema: str, *, synchronous: str) -> None:
        """`path` None keeps it in memory."""
        self._path = path
        self._schema = schema
        self._synchronous = synchronous
        self._connection: sqlite3.Connection | None = None
        self._limiter = trio.CapacityLimiter(1)

    async def open(self) -> Self:
        """Open or create the file, 0600. Idempotent. Raises `OutboxInUse`."""
        if self._connection is None:
            await trio.to_thread.run_sync(self._connect, limiter=self._limiter)
        return self

    async def aclose(self) -> None:
        """Close the file, cancelled or not."""
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._disconnect, limiter=self._limiter)

    async def transaction(self, work: Work[T]) -> T:
        """Do all of `work`, or none of it where it raises."""
        return await trio.to_thread.run_sync(self._run, work, limiter=self._limiter)

    def _run(self, work: Work[T]) -> T:
        db = self._connection
        if db is None:
            raise RuntimeError("the outbox is not open: enter its chain with `async with` first")
        db.execute("BEGIN IMMEDIATE")
        try:
            result = work(db)
            db.execute("COMMIT")
        except BaseException:
            db.execute("ROLLBACK")
            raise
        return result

    def _connect(self) -> None:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Never open a file that is there: closing it would drop this process's locks (POSIX).
            with suppress(FileExistsError):
                os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        target = ":memory:" if self._path is None else str(self._path)
        # Threads of Trio's pool take turns, one at a time: the limiter sees to it.
        db = sqlite3.connect(target, isolation_level=None, check_same_thread=False, timeout=0)
        try:
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(f"PRAGMA synchronous = {self._synchronous}")
            db.execute("PRAGMA foreign_keys = ON")
            db.executescript(self._schema)
        except sqlite3.OperationalError as error:
            db.close()
            if "locked" in str(error):
                raise OutboxInUse(
                    f"outbox {self._path}: another process has it open; stop that daemon first"
                ) from error
            raise
        self._connection = db

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
