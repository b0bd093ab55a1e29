"""What rounds leave in the blob store, and when it goes: old checkpoints, left-over, residuals.

Every content that a round makes or fetches is noted under its run and round, in the record store.
Only what is noted is ever deleted, and of that nothing which a later round, another run or a pin
names. So a blob that nobody thought of stays, rather than being lost.
"""

from collections.abc import Container, Iterable, Sequence

import structlog
import trio

from eigen.node.fetch import BlockExchange
from eigen.node.ports import BlobStore, RecordStore
from eigen.protocol.messages import RoundRecord
from eigen.protocol.types import Cid, RunId

log = structlog.get_logger()

Row = tuple[str, bytes, bytes | None]

NOTED = "round-blob"
"""Rows of the record store: run, round, content id."""
PINNED = "pin"
"""Rows of the record store: content id."""
ONCE_UNNAMED = 0
"""The round of what goes as soon as nothing names it any more, as a residual that was replaced."""


class Retention:
    """Deletes what rounds of `keep_checkpoints` and more ago left behind.

    Crash safety: a note is deleted after its blob, and what was noted twice or is half deleted is
    deleted again. A blob that was noted but never written costs nothing.
    """

    def __init__(
        self, records: RecordStore, blobs: BlobStore, blocks: BlockExchange, keep_checkpoints: int
    ) -> None:
        self._records = records
        self._blobs = blobs
        self._blocks = blocks
        self._keep = keep_checkpoints
        self._one_at_a_time = trio.Lock()

    # noting ---------------------------------------------------------------------------------------
    def rows(self, run: RunId, round_: int, contents: Iterable[Cid]) -> list[Row]:
        """Notes of what a round leaves, for a transaction of the caller's."""
        return [(NOTED, _key(run, round_, cid), b"") for cid in contents]

    def moved(self, run: RunId, round_: int, to_round: int, cid: Cid) -> list[Row]:
        """As `rows`, of what another round left until now."""
        return [(NOTED, _key(run, round_, cid), None), *self.rows(run, to_round, [cid])]

    async def note(self, run: RunId, round_: int, *contents: Cid) -> None:
        """Note what a round leaves; before anything else names it."""
        await self._records.commit(self.rows(run, round_, contents))

    async def pin(self, *contents: Cid) -> None:
        """Keep contents until they are unpinned, whatever rounds name them."""
        await self._records.commit([(PINNED, cid.encode(), b"") for cid in contents])

    async def unpin(self, cid: Cid) -> bool:
        """Give a pin up; the content goes with the round that left it. False where none was."""
        pinned = await self._records.get(PINNED, cid.encode()) is not None
        await self._records.commit([(PINNED, cid.encode(), None)])
        return pinned

    async def pins(self) -> Sequence[Cid]:
        """What is pinned."""
        return [Cid(key.decode()) for key, _ in await self._records.scan(PINNED)]

    # deleting -------------------------------------------------------------------------------------
    async def collect(
        self, head: RoundRecord, *, finished: bool, needed: Container[int] = ()
    ) -> None:
        """A run's head is on disk: delete what its old rounds left, but for the `needed` ones. Of a
        finished run, the last checkpoint stays.

        What was read or written a moment ago, or is pinned, waits for a later call. A cancel leaves
        the rest for the next.
        """
        async with self._one_at_a_time:
            run, last = head.attempt.run, head.attempt.round
            oldest_kept = last if finished else max(1, last - self._keep + 1)
            named = {Cid(head.checkpoint), *head.left, *await self.pins()}
            named |= {Cid(cid.decode()) for _, cid in await self._records.scan("residual")}
            old: dict[bytes, Cid] = {}
            again: set[Cid] = set()
            for key, _ in await self._records.scan(NOTED):
                of_run, of_round, cid = _read(key)
                if of_run == run and of_round < oldest_kept and of_round not in needed:
                    old[key] = cid
                else:
                    again.add(cid)
            named |= again
            doomed = {cid for cid in old.values() if cid not in named}
            gone = await self._blobs.drop(doomed, named) if doomed else frozenset()
            for cid in gone:
                await self._blocks.withdraw(cid)
            done = [key for key, cid in old.items() if cid in gone or cid in again]
            await self._records.commit([(NOTED, key, None) for key in done])
            if gone:
                log.debug("old rounds deleted", run=run.hex()[:8], contents=len(gone))


def _key(run: RunId, round_: int, cid: str) -> bytes:
    return run + round_.to_bytes(8, "big") + cid.encode()


def _read(key: bytes) -> tuple[bytes, int, Cid]:
    return key[:32], int.from_bytes(key[32:40], "big"), Cid(key[40:].decode())
