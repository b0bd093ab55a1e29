"""Optimizer states on disk, where a run keeps them: a file for each round that may be needed again.

A state is what a trainer goes on from after it made its update of a round. That of the round before
stays until the round is over: who is killed makes the same update again, from the same state.
"""

import hashlib
import os
import tempfile
from pathlib import Path

import structlog
import trio

from eigen.node.ports import RecordStore
from eigen.protocol.types import RunId

log = structlog.get_logger()

KIND = "optimizer"


class StateFiles:
    """States in `folder`, whose digests are in the record store: what differs is refused."""

    def __init__(self, folder: Path, records: RecordStore) -> None:
        self._folder = folder
        self._records = records

    async def put(self, run: RunId, round_: int, data: bytes) -> None:
        """Store the state after a round, in place of another one; durable on return."""
        path = self._path(run, round_)

        def write() -> bytes:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd, name = tempfile.mkstemp(dir=self._folder, prefix="partial-")
            try:
                with os.fdopen(fd, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                Path(name).replace(path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
            return hashlib.sha256(data).digest()

        digest = await trio.to_thread.run_sync(write)
        await self._records.commit([(KIND, _key(run, round_), digest)])

    async def get(self, run: RunId, round_: int) -> bytes:
        """The state after a round; empty where there is none, or none that is as it was stored."""
        digest = await self._records.get(KIND, _key(run, round_))
        if digest is None:
            return b""
        path = self._path(run, round_)

        def read() -> bytes:
            data = path.read_bytes()
            if hashlib.sha256(data).digest() != digest:
                raise OSError("its bytes are not those that were stored")
            return data

        try:
            return await trio.to_thread.run_sync(read)
        except OSError as error:
            log.warning(
                "an optimizer state is refused; training starts afresh",
                file=str(path),
                why=error.strerror or str(error),
            )
            return b""

    async def forget_before(self, run: RunId, round_: int) -> None:
        """Remove the states after earlier rounds."""
        old = [key for key, _ in await self._records.scan(KIND, run) if key < _key(run, round_)]

        def remove() -> None:
            for key in old:
                self._path(run, int.from_bytes(key[-8:], "big")).unlink(missing_ok=True)

        if old:
            await trio.to_thread.run_sync(remove)
            await self._records.commit([(KIND, key, None) for key in old])

    def clear_partial(self) -> None:
        """Remove what killed writes left; only while no other process writes into the folder."""
        for left in self._folder.glob("partial-*"):
            left.unlink()

    def _path(self, run: RunId, round_: int) -> Path:
        return self._folder / f"{run.hex()}-{round_}.safetensors"


def _key(run: RunId, round_: int) -> bytes:
    return run + round_.to_bytes(8, "big")
