"""The outbox's rows in SQLite: intents and the signed attempts at each of them.

Knows no chain: what a state means and when it changes is the outbox's.
"""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final, Self, TypeVar

from eigen.chain.database import NEVER_LOST, Database
from eigen.chain.fees import Fee
from eigen.protocol.types import Address, Digest

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS binding (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS intent (
  id INTEGER PRIMARY KEY,
  key TEXT NOT NULL,
  nonce INTEGER NOT NULL,
  recipient BLOB,
  data BLOB NOT NULL,
  value_wei TEXT NOT NULL,
  gas INTEGER NOT NULL,
  state TEXT NOT NULL,
  tx BLOB,
  block INTEGER NOT NULL DEFAULT 0,
  gas_used INTEGER NOT NULL DEFAULT 0,
  error TEXT NOT NULL DEFAULT '',
  error_name TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS one_live_intent_a_key
  ON intent (key) WHERE state IN ('open', 'mined', 'landed');
CREATE INDEX IF NOT EXISTS by_nonce ON intent (state, nonce);
CREATE TABLE IF NOT EXISTS attempt (
  tx BLOB PRIMARY KEY,
  intent INTEGER NOT NULL REFERENCES intent (id),
  raw BLOB NOT NULL,
  max_fee_wei TEXT NOT NULL,
  priority_wei TEXT NOT NULL,
  signed_at_s REAL NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS attempts_of ON attempt (intent);
"""
# Wei are text: SQLite's integers end at 2^63, which is 9.2 ETH.

T = TypeVar("T")


class State(Enum):
    """Where an intent stands. OPEN and MINED may still change; the others are kept for good."""

    OPEN = "open"  # signed and stored; in a pool, or lost and to be sent again
    MINED = "mined"  # in a block that has not all its confirmations
    LANDED = "landed"
    REVERTED = "reverted"  # the contract refused it; its key is free again
    VOID = "void"  # a gap filler whose nonce another transaction took


@dataclass(frozen=True, slots=True)
class Intent:
    """What is to happen once.

    `tx`, `block` and `gas_used` are set from MINED on, `error` and `error_name` where REVERTED.
    """

    id: int
    key: str
    nonce: int
    to: Address | None
    data: bytes
    value_wei: int
    gas: int
    state: State
    tx: Digest | None
    block: int
    gas_used: int
    error: str
    error_name: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """Signed bytes that carry an intent out; later ones replace earlier ones with a higher fee."""

    tx: Digest
    raw: bytes
    fee: Fee
    signed_at_s: float


class Journal:
    """One SQLite file, opened by one process at a time, used from one thread at a time.

    Each method is one transaction with `synchronous=FULL`: after it returns its effect survives a
    crash of the process or the machine. A cancelled method has either done all of its work or none.
    """

    def __init__(self, path: Path | None) -> None:
        self._database = Database(path, SCHEMA, synchronous=NEVER_LOST)
        self._transaction = self._database.transaction

    async def open(self) -> Self:
        """Open or create the file, 0600; in memory where the path is None. Idempotent.

        Raises `OutboxInUse` where another process has it open.
        """
        await self._database.open()
        return self

    async def aclose(self) -> None:
        """Close the file, cancelled or not."""
        await self._database.aclose()

    async def bind(self, facts: Mapping[str, str]) -> Mapping[str, str]:
        """Remember facts about what the file is for, unless known; returns those remembered."""

        def work(db: sqlite3.Connection) -> dict[str, str]:
            db.executemany("INSERT OR IGNORE INTO binding VALUES (?, ?)", facts.items())
            return dict(db.execute("SELECT name, value FROM binding").fetchall())

        return await self._transaction(work)

    async def add(
        self,
        key: str,
        nonce: int,
        *,
        to: Address | None,
        data: bytes,
        value_wei: int,
        gas: int,
        attempt: Attempt,
    ) -> Intent:
        """Store a new open intent and its first attempt."""

        def work(db: sqlite3.Connection) -> Intent:
            cursor = db.execute(
                "INSERT INTO intent (key, nonce, recipient, data, value_wei, gas, state)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (key, nonce, to, data, str(value_wei), gas, State.OPEN.value),
            )
            assert cursor.lastrowid is not None
            _insert_attempt(db, cursor.lastrowid, attempt)
            return _by_id(db, cursor.lastrowid)

        return await self._transaction(work)

    async def add_attempt(
        self, intent: Intent, attempt: Attempt, *, nonce: int, gas: int
    ) -> Intent:
        """Store another attempt, under the same nonce or another one."""

        def work(db: sqlite3.Connection) -> Intent:
            db.execute("UPDATE intent SET nonce = ?, gas = ? WHERE id = ?", (nonce, gas, intent.id))
            _insert_attempt(db, intent.id, attempt)
            return _by_id(db, intent.id)

        return await self._transaction(work)

    async def mark(
        self,
        intent: Intent,
        state: State,
        *,
        tx: Digest | None = None,
        block: int = 0,
        gas_used: int = 0,
        error: str = "",
        error_name: str = "",
    ) -> Intent:
        """Store where an intent stands now."""

        def work(db: sqlite3.Connection) -> Intent:
            db.execute(
                "UPDATE intent SET state = ?, tx = ?, block = ?, gas_used = ?, error = ?,"
                " error_name = ? WHERE id = ?",
                (state.value, tx, block, gas_used, error, error_name, intent.id),
            )
            return _by_id(db, intent.id)

        return await self._transaction(work)

    async def get(self, intent_id: int) -> Intent:
        """An intent as it stands now."""
        return await self._transaction(lambda db: _by_id(db, intent_id))

    async def find(self, key: str) -> Intent | None:
        """The intent of a key that is under way or has landed."""
        return await self._one("key = ? AND state IN ('open', 'mined', 'landed')", key)

    async def reopen_landed(self, used: int) -> list[Intent]:
        """Open intents again that landed with a nonce which the chain does not count as used."""

        def work(db: sqlite3.Connection) -> list[Intent]:
            rows = db.execute(f"{_SELECT} WHERE state = 'landed' AND nonce >= ?", (used,))
            gone = [_intent(row) for row in rows]
            db.executemany(
                "UPDATE intent SET state = 'open', tx = NULL WHERE id = ?",
                [(intent.id,) for intent in gone],
            )
            return gone

        return await self._transaction(work)

    async def promised_wei(self) -> int:
        """What all open intents may cost together, at each one's newest fee."""

        def work(db: sqlite3.Connection) -> int:
            rows = db.execute(
                "SELECT gas, value_wei, (SELECT max_fee_wei FROM attempt"
                " WHERE attempt.intent = intent.id ORDER BY attempt.rowid DESC LIMIT 1)"
                " FROM intent WHERE state = 'open'"
            )
            return sum(gas * int(fee) + int(value) for gas, value, fee in rows)

        return await self._transaction(work)

    async def landed_count(self, prefix: str) -> int:
        """How many intents landed whose key begins with `prefix`."""

        def work(db: sqlite3.Connection) -> int:
            row = db.execute(
                "SELECT count(*) FROM intent WHERE state = 'landed' AND substr(key, 1, ?) = ?",
                (len(prefix), prefix),
            ).fetchone()
            return int(row[0])

        return await self._transaction(work)

    async def unfinished(self) -> list[Intent]:
        """Open and mined intents in the order of their nonces."""

        def work(db: sqlite3.Connection) -> list[Intent]:
            rows = db.execute(f"{_SELECT} WHERE state IN ('open', 'mined') ORDER BY nonce, id")
            return [_intent(row) for row in rows]

        return await self._transaction(work)

    async def next_nonce(self) -> int:
        """One more than the highest nonce that was ever signed and may have been used."""

        def work(db: sqlite3.Connection) -> int:
            row = db.execute("SELECT max(nonce) FROM intent WHERE state != 'void'").fetchone()
            return 0 if row[0] is None else int(row[0]) + 1

        return await self._transaction(work)

    async def attempts(self, intent: Intent) -> list[Attempt]:
        """All attempts at an intent, newest first."""

        def work(db: sqlite3.Connection) -> list[Attempt]:
            rows = db.execute(
                "SELECT tx, raw, max_fee_wei, priority_wei, signed_at_s FROM attempt"
                " WHERE intent = ? ORDER BY rowid DESC",
                (intent.id,),
            )
            return [
                Attempt(Digest(tx), raw, Fee(int(max_fee), int(priority)), signed_at_s)
                for tx, raw, max_fee, priority, signed_at_s in rows
            ]

        return await self._transaction(work)

    async def _one(self, condition: str, value: str | int) -> Intent | None:
        def work(db: sqlite3.Connection) -> Intent | None:
            row = db.execute(f"{_SELECT} WHERE {condition}", (value,)).fetchone()
            return _intent(row) if row else None

        return await self._transaction(work)


_SELECT: Final = (
    "SELECT id, key, nonce, recipient, data, value_wei, gas, state, tx, block, gas_used, error,"
    " error_name FROM intent"
)


def _by_id(db: sqlite3.Connection, intent_id: int) -> Intent:
    return _intent(db.execute(f"{_SELECT} WHERE id = ?", (intent_id,)).fetchone())


def _intent(row: tuple[object, ...]) -> Intent:
    (id_, key, nonce, to, data, value_wei, gas, state, tx, block, gas_used, error, name) = row
    return Intent(
        id=_typed(id_, int),
        key=_typed(key, str),
        nonce=_typed(nonce, int),
        to=Address(_typed(to, bytes)) if to is not None else None,
        data=_typed(data, bytes),
        value_wei=int(_typed(value_wei, str)),
        gas=_typed(gas, int),
        state=State(state),
        tx=Digest(_typed(tx, bytes)) if tx is not None else None,
        block=_typed(block, int),
        gas_used=_typed(gas_used, int),
        error=_typed(error, str),
        error_name=_typed(name, str),
    )


def _typed(value: object, kind: type[T]) -> T:
    assert isinstance(value, kind)  # the tables are STRICT
    return value


def _insert_attempt(db: sqlite3.Connection, intent_id: int, attempt: Attempt) -> None:
    db.execute(
        "INSERT INTO attempt VALUES (?, ?, ?, ?, ?, ?)",
        (
            attempt.tx,
            intent_id,
            attempt.raw,
            str(attempt.fee.max_wei),
            str(attempt.fee.priority_wei),
            attempt.signed_at_s,
        ),
    )
