"""Logs of a DAO's contracts in SQLite: read once, each after its confirmations, rolled back where
the chain changed its mind.

Knows blocks, logs and reorganisations, not what a log means.
"""

import hashlib
import logging
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import trio

from eigen.chain.database import READ_AGAIN, Database
from eigen.chain.rpc import Log, Rpc
from eigen.protocol.types import Address, Digest

SPAN_MAX: Final = 2000
"""Blocks of one query. Public endpoints allow 500 to 10,000; refused spans are halved."""
LOGS_WANTED: Final = 200
"""In one reply: formatting that many takes 10 ms, so larger spans are halved."""
MARKS_MAX: Final = 64
"""Places to go back to after a reorganisation that is deeper than our confirmations."""
LAGGING_LOOKS_MAX: Final = 10
"""So often a chain that is shorter than before is taken for an endpoint that lags."""
ROWS_AT_ONCE: Final = 256
"""Logs that one query of the index returns."""

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS binding (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS mark (block INTEGER PRIMARY KEY, hash BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS log (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  block INTEGER NOT NULL,
  position INTEGER NOT NULL,
  block_hash BLOB NOT NULL,
  tx BLOB NOT NULL,
  account BLOB NOT NULL,
  topic0 BLOB NOT NULL,
  topic1 BLOB NOT NULL,
  topics BLOB NOT NULL,
  data BLOB NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS by_block ON log (block);
CREATE INDEX IF NOT EXISTS by_topic ON log (topic0, topic1, id);
"""
# AUTOINCREMENT: an id is never used again, so what came after one is found after a rollback, too.

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Mark:
    """The end of a span that was read, in the history that it was read in."""

    block: int
    hash: Digest


class LogIndex:
    """Logs with one of `topics` first, from a block on. `confirmations` are blocks on top.

    A reorganisation that is not deeper than that is never seen. After a deeper one, the logs of
    the blocks that went are deleted, and those of the new history read. It goes back span by span,
    to the beginning if need be.

    Resource handling: `open` and `aclose`. The file can be deleted at any time while it is closed:
    it is read anew. Calls of `advance` take turns.
    """

    def __init__(
        self,
        rpc: Rpc,
        accounts: Sequence[Address],
        topics: Sequence[bytes],
        from_block: int,
        path: Path | None = None,
        *,
        confirmations: int,
        span_max: int = SPAN_MAX,
    ) -> None:
        """`path` None keeps it in memory."""
        self._rpc = rpc
        self._accounts = accounts
        self._topics = topics
        self._start = from_block
        self._database = Database(path, SCHEMA, synchronous=READ_AGAIN)
        self._confirmations = confirmations
        self._next_block = from_block
        self._span_max = span_max
        self._span = span_max
        self._marks: list[_Mark] = []  # oldest first
        self._lagging_looks = 0
        self._turn = trio.Lock()
        self._bound = False

    async def open(self) -> Self:
        """Open the file. Asks nothing of the chain."""
        await self._database.open()
        return self

    async def aclose(self) -> None:
        """Close the file, cancelled or not."""
        await self._database.aclose()

    # reading the chain ----------------------------------------------------------------------------
    async def advance(self) -> bool:
        """Read one span of blocks, or go back by one. Returns whether there is more to do now.

        Raises `ChainUnreachable`, `EndpointRefused` (then the next span is half as long) and
        `WrongChain`. A cancel leaves the index as it was.
        """
        async with self._turn:
            if not self._bound:
                await self._bind()
            return await self._read_span()

    def narrow(self) -> None:
        """The endpoint refused: the range or the reply may be too large."""
        self._span = max(self._span // 2, 1)

    @property
    def span_blocks(self) -> int:
        """How many blocks the next query asks for at most."""
        return self._span

    async def _bind(self) -> None:
        """An index of another chain, of other contracts or of other logs is started anew."""
        genesis = await self._rpc.block_hash(0)
        wanted = b"".join([*self._accounts, *self._topics, self._start.to_bytes(8, "big")])
        facts = {
            "genesis": genesis.hex() if genesis else "unknown",
            "of": hashlib.sha256(wanted).hexdigest(),
        }

        def work(db: sqlite3.Connection) -> list[_Mark]:
            if dict(db.execute("SELECT name, value FROM binding")) != facts:
                for table in ("binding", "mark", "log"):
                    db.execute(f"DELETE FROM {table}")  # noqa: S608 - no text of others
                db.executemany("INSERT INTO binding VALUES (?, ?)", facts.items())
            rows = db.execute("SELECT block, hash FROM mark ORDER BY block")
            return [_Mark(block, Digest(hash_)) for block, hash_ in rows]

        self._marks = await self._database.transaction(work)
        self._next_block = self._marks[-1].block + 1 if self._marks else self._start
        self._bound = True

    async def _read_span(self) -> bool:
        """The hash of the span's last block is read before its logs: if the two are of different
        histories, the next call finds the mark gone and reads the span again."""
        head = await self._rpc.block_number()
        if not await self._on_same_history():
            return True
        newest = head - self._confirmations
        last = min(newest, self._next_block + self._span - 1)
        if self._lagging_looks or last < self._next_block:
            return False
        end_hash = await self._rpc.block_hash(last)
        if end_hash is None:
            return False
        logs = await self._rpc.logs(self._accounts, [self._topics], self._next_block, last)
        await self._store(_Mark(last, end_hash), logs)
        crowded = len(logs) > LOGS_WANTED
        self._span = max(self._span // 2, 1) if crowded else min(self._span * 2, self._span_max)
        return last < newest

    async def _store(self, mark: _Mark, logs: Sequence[Log]) -> None:
        marks = [*self._marks, mark][-MARKS_MAX:]

        def work(db: sqlite3.Connection) -> None:
            db.executemany(
                "INSERT INTO log (block, position, block_hash, tx, account, topic0, topic1, topics,"
                " data) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        found.block,
                        found.index,
                        found.block_hash,
                        found.tx,
                        found.account,
                        found.topics[0],
                        found.topics[1] if len(found.topics) > 1 else b"",
                        b"".join(found.topics),
                        found.data,
                    )
                    for found in logs
                ],
            )
            db.execute("INSERT INTO mark VALUES (?, ?)", (mark.block, mark.hash))
            db.execute("DELETE FROM mark WHERE block < ?", (marks[0].block,))

        with trio.CancelScope(shield=True):  # file and memory move together
            await self._database.transaction(work)
            self._marks, self._next_block = marks, mark.block + 1

    async def _on_same_history(self) -> bool:
        """Whether the newest mark still stands; if not, go back to the one before it."""
        if not self._marks:
            return True
        mark = self._marks[-1]
        found = await self._rpc.block_hash(mark.block)
        if found == mark.hash:
            self._lagging_looks = 0
            return True
        if found is None and self._lagging_looks < LAGGING_LOOKS_MAX:
            self._lagging_looks += 1
            return True
        log.warning("index: block %d was reorganised, reading again", mark.block)
        marks = self._marks[:-1]
        kept = marks[-1].block if marks else self._start - 1

        def work(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM log WHERE block > ?", (kept,))
            db.execute("DELETE FROM mark WHERE block > ?", (kept,))

        with trio.CancelScope(shield=True):
            await self._database.transaction(work)
            self._marks, self._next_block = marks, kept + 1
        self._lagging_looks = 0
        return False

    # asking the index -----------------------------------------------------------------------------
    @property
    def next_block(self) -> int:
        """The first block that is not in the index."""
        return self._next_block

    async def after(self, id_: int, from_block: int = 0) -> list[tuple[int, Log]]:
        """Logs that came into the index after the one with this id, oldest first, and their ids.

        Some at a time: ask again with the last id. None before the first `advance`: only then it is
        known that the file is of this chain.
        """
        if not self._bound:
            return []

        def work(db: sqlite3.Connection) -> list[tuple[int, Log]]:
            rows = db.execute(
                f"{_SELECT} WHERE id > ? AND block >= ? ORDER BY id LIMIT {ROWS_AT_ONCE}",
                (id_, from_block),
            )
            return [(row[0], _log(row)) for row in rows]

        return await self._database.transaction(work)

    async def find(self, topic: bytes, first: bytes | None = None) -> list[Log]:
        """All logs of one event, in the chain's order; `first` is its first indexed argument.

        None before the first `advance`.
        """
        if not self._bound:
            return []

        def work(db: sqlite3.Connection) -> list[Log]:
            where, values = "topic0 = ?", [topic]
            if first is not None:
                where, values = f"{where} AND topic1 = ?", [topic, first]
            rows = db.execute(f"{_SELECT} WHERE {where} ORDER BY block, position", values)
            return [_log(row) for row in rows]

        return await self._database.transaction(work)


_SELECT: Final = "SELECT id, block, position, block_hash, tx, account, topics, data FROM log"


def _log(row: tuple[int, int, int, bytes, bytes, bytes, bytes, bytes]) -> Log:
    _, block, position, block_hash, tx, account, topics, data = row
    return Log(
        account=Address(account),
        topics=tuple(topics[i : i + 32] for i in range(0, len(topics), 32)),
        data=data,
        tx=Digest(tx),
        block=block,
        block_hash=Digest(block_hash),
        index=position,
    )
