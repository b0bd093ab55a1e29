"""What a trainer goes on from after it made its update of a round: files, each for one round.

Its optimizer's state where a run keeps moments, and the update's parts where rounds overlap. Those
of the round before stay until the round is over: who is killed makes the same update again.
"""

import hashlib
from collections.abc import Collection
from pathlib import Path

import structlog
import trio

from eigen.node.durable import write_durably
from eigen.node.ports import RecordStore
from eigen.protocol.types import RunId

log = structlog.get_logger()

OPTIMIZER, PARTS = GONE_ON_FROM = ("optimizer", "parts")
DRAWN = "drawn"
"""An update that is to be replayed."""
KINDS = (*GONE_ON_FROM, DRAWN)


class StateFiles:
    """States in `folder`, whose digests are in the record store: what differs is refused."""

    def __init__(self, folder: Path, records: RecordStore) -> None:
        self._folder = folder
        self._records = records

    async def put(self, kind: str, run: RunId, round_: int, *pieces: bytes) -> None:
        """Store what there is after a round, in place of another one; durable on return.

        `pieces` are written one after another: nothing is joined in memory.
        """
        path = self._path(kind, run, round_)

        def write() -> bytes:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_durably(path, pieces, self._folder, "partial-")
            whole = hashlib.sha256()
            for piece in pieces:
                whole.update(piece)
            return whole.digest()

        digest = await trio.to_thread.run_sync(write)
        await self._records.commit([(kind, _key(run, round_), digest)])

    async def get(self, kind: str, run: RunId, round_: int) -> bytes:
        """What there is after a round; empty where there is none, or none as it was stored."""
        digest = await self._records.get(kind, _key(run, round_))
        if digest is None:
            return b""
        path = self._path(kind, run, round_)

        def read() -> bytes:
            data = path.read_bytes()
            if hashlib.sha256(data).digest() != digest:
                raise OSError("its bytes are not those that were stored")
            return data

        try:
            return await trio.to_thread.run_sync(read)
        except OSError as error:
            log.warning(
                "a stored state is refused; training starts without it",
                file=str(path),
                why=error.strerror or str(error),
            )
            return b""

    async def forget_before(self, run: RunId, round_: int) -> None:
        """Remove what a trainer went on from after earlier rounds."""
        await self._remove(
            run,
            [
                (kind, key)
                for kind in GONE_ON_FROM
                for key, _ in await self._records.scan(kind, run)
                if key < _key(run, round_)
            ],
        )

    async def keep_only(self, kind: str, run: RunId, rounds: Collection[int]) -> None:
        """Remove what there is of one kind after other rounds."""
        keys = [key for key, _ in await self._records.scan(kind, run)]
        old = [(kind, k) for k in keys if int.from_bytes(k[-8:], "big") not in rounds]
        await self._remove(run, old)

    async def _remove(self, run: RunId, old: list[tuple[str, bytes]]) -> None:
        def remove() -> None:
            for kind, key in old:
                self._path(kind, run, int.from_bytes(key[-8:], "big")).unlink(missing_ok=True)

        if old:
            await trio.to_thread.run_sync(remove)
            await self._records.commit([(kind, key, None) for kind, key in old])

    def clear_partial(self) -> None:
        """Remove what killed writes left; only while no other process writes into the folder."""
        for left in self._folder.glob("partial-*"):
            left.unlink()

    def _path(self, kind: str, run: RunId, round_: int) -> Path:
        return self._folder / f"{run.hex()}-{round_}.{kind}"


def _key(run: RunId, round_: int) -> bytes:
    return run + round_.to_bytes(8, "big")
