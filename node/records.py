"""The record store: small records in SQLite, durable when `commit` returns."""

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import trio

T = TypeVar("T")

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS record ("
    "kind TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, "
    "PRIMARY KEY (kind, key)) WITHOUT ROWID"
)


class SqliteRecords:
    """`RecordStore` on one SQLite file (WAL, `synchronous=FULL`).

    All access goes through one thread at a time, never through the event loop's. A cancelled call
    finishes its transaction first: what it wrote is either all there or not at all.
    """

    def __init__(self, path: Path) -> None:
        self._turn = trio.CapacityLimiter(1)
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.execute(_SCHEMA)

    def close(self) -> None:
        """Close the file; the last call."""
        self._db.close()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, limiter=self._turn)

    async def commit(self, records: Sequence[tuple[str, bytes, bytes | None]]) -> None:
        """Write rows in one transaction; a value of None deletes."""

        def write() -> None:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                for kind, key, value in records:
                    if value is None:
                        self._db.execute("DELETE FROM record WHERE kind=? AND key=?", (kind, key))
                    else:
                        self._db.execute(
                            "INSERT OR REPLACE INTO record VALUES (?,?,?)", (kind, key, value)
                        )
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise

        await self._in_thread(write)

    async def get(self, kind: str, key: bytes) -> bytes | None:
        """One value, or None."""

        def read() -> bytes | None:
            row = self._db.execute(
                "SELECT value FROM record WHERE kind=? AND key=?", (kind, key)
            ).fetchone()
            return bytes(row[0]) if row else None

        return await self._in_thread(read)

    async def scan(self, kind: str, prefix: bytes = b"") -> Sequence[tuple[bytes, bytes]]:
        """Rows of a kind whose key starts with `prefix`, in key order."""

        def read() -> list[tuple[bytes, bytes]]:
            rows = self._db.execute(
                "SELECT key, value FROM record WHERE kind=? AND key>=? "
                "AND coalesce(substr(key,1,?), x'')=? ORDER BY key",  # of x'' it gives NULL
                (kind, prefix, len(prefix), prefix),
            )
            return [(bytes(key), bytes(value)) for key, value in rows]

        return await self._in_thread(read)
