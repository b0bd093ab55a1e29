"""The blob store: content-addressed blocks in a folder, checked whenever they are read."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import structlog
import trio

from eigen.protocol import limits
from eigen.protocol.cid import CidError, CidMismatch, blocks_of, check_block, links_of
from eigen.protocol.types import Cid

log = structlog.get_logger()


class DirectoryBlobs:
    """`BlobStore` on a folder: one file a block, written aside, synced and renamed.

    A block that no longer hashes to its name is moved to `corrupt/` and reported as missing, so
    that it is fetched from somebody else.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._threads = trio.CapacityLimiter(4)

    def _path(self, cid: str) -> Path:
        return self._folder / cid[-2:] / cid

    async def put(self, data: bytes) -> Cid:
        """Store a content; durable on return. Returns its root CID."""

        def write() -> Cid:
            root = Cid("")
            for cid, block in blocks_of(data):
                self._write(cid, block)
                root = cid
            return root

        return await trio.to_thread.run_sync(write, limiter=self._threads)

    async def put_block(self, cid: Cid, block: bytes) -> None:
        """Store one block. Raises `CidMismatch` where it does not hash to its CID."""

        def write() -> None:
            check_block(cid, block)
            self._write(cid, block)

        await trio.to_thread.run_sync(write, limiter=self._threads)

    async def get_block(self, cid: Cid) -> bytes | None:
        """One block, or None where it is missing or corrupt."""
        return await trio.to_thread.run_sync(self._read, cid, limiter=self._threads)

    async def get(self, cid: Cid) -> bytes | None:
        """A whole content, or None where any block of it is missing or corrupt."""

        def read() -> bytes | None:
            parts: list[bytes] = []
            return b"".join(parts) if self._collect(cid, parts) else None

        return await trio.to_thread.run_sync(read, limiter=self._threads)

    async def missing(self, cid: Cid) -> Sequence[Cid]:
        """Blocks still needed, as far as the DAG is known; empty when the content is whole."""

        def find() -> list[Cid]:
            absent: list[Cid] = []
            pending = [cid]
            while pending:
                current = pending.pop()
                block = self._read(current)
                if block is None:
                    absent.append(current)
                else:
                    pending += [link.cid for link in links_of(current, block)]
            return absent

        return await trio.to_thread.run_sync(find, limiter=self._threads)

    def _collect(self, cid: Cid, parts: list[bytes]) -> bool:
        block = self._read(cid)
        if block is None:
            return False
        links = links_of(cid, block)
        if not links:
            parts.append(block)
            return True
        return all(self._collect(link.cid, parts) for link in links)

    def _read(self, cid: Cid) -> bytes | None:
        path = self._path(cid)
        try:
            with path.open("rb") as file:
                block = file.read(limits.BLOCK_BYTES_MAX + 1)
        except FileNotFoundError:
            return None
        try:
            check_block(cid, block)
        except CidMismatch:
            aside = self._folder / "corrupt"
            aside.mkdir(exist_ok=True)
            path.replace(aside / cid)
            log.warning("a stored block is corrupt and was put aside", cid=cid, aside=str(aside))
            return None
        return block

    def _write(self, cid: str, block: bytes) -> None:
        if len(block) > limits.BLOCK_BYTES_MAX:
            raise CidError(f"a block of {len(block)} bytes, at most {limits.BLOCK_BYTES_MAX}")
        path = self._path(cid)
        if path.exists() and path.stat().st_size == len(block):
            return
        path.parent.mkdir(exist_ok=True)
        fd, name = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(block)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
