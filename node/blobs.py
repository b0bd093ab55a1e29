"""The blob store: content-addressed blocks in a folder, checked whenever they are read."""

import io
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import structlog
import trio

from eigen.node.dag import Node, children
from eigen.node.durable import write_durably
from eigen.protocol import limits
from eigen.protocol.cid import (
    RAW,
    CidError,
    CidMismatch,
    blocks_from,
    blocks_of,
    check_block,
    parse_cid,
)
from eigen.protocol.types import Cid

log = structlog.get_logger()

IN_USE_S = 60.0
"""What was read, served or written within this is not deleted: somebody may be in its midst."""


class DirectoryBlobs:
    """`BlobStore` on a folder: one file a block, written in `partial/`, synced and renamed.

    A block that no longer hashes to its name is moved to `corrupt/` and reported as missing, so
    that it is fetched from somebody else.
    """

    def __init__(self, folder: Path, in_use_s: float = IN_USE_S) -> None:
        self._folder = folder
        self._in_use_s = in_use_s
        self._used_s: dict[str, float] = {}  # blocks, the one that was used last at the end
        self._using = threading.Lock()
        self._partial = folder / "partial"
        self._partial.mkdir(parents=True, exist_ok=True)
        self._threads = trio.CapacityLimiter(4)

    def clear_partial(self) -> None:
        """Remove what killed writes left; only while no other process writes into the folder."""
        for left in self._partial.iterdir():
            left.unlink()

    def _path(self, cid: str) -> Path:
        return self._folder / cid[-2:] / cid

    async def put(self, data: bytes) -> Cid:
        """Store a content; durable on return. Returns its root CID."""
        return await trio.to_thread.run_sync(self._put, blocks_of(data), limiter=self._threads)

    @contextmanager
    def draft(self) -> Iterator[Path]:
        """A name for another process to write a file under, gone with the context."""
        path = self._partial / secrets.token_hex(16)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    async def put_file(self, path: Path) -> Cid:
        """As `put`, of what is in a file, without holding it in memory."""

        def write() -> Cid:
            with path.open("rb") as file:
                leaves = iter(partial(file.read, limits.BLOCK_BYTES_MAX), b"")
                return self._put(blocks_from(leaves if path.stat().st_size else [b""]))

        return await trio.to_thread.run_sync(write, limiter=self._threads)

    def _put(self, blocks: Iterable[tuple[Cid, bytes]]) -> Cid:
        root = Cid("")
        for cid, block in blocks:
            self._write(cid, block)
            root = cid
        return root

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
            whole = io.BytesIO()  # hands over what it holds, where joining would hold it twice
            return (
                whole.getvalue() if self._walk(cid, lambda _, block: whole.write(block)) else None
            )

        return await trio.to_thread.run_sync(read, limiter=self._threads)

    async def files(self, cid: Cid) -> Sequence[Path] | None:
        """The files that a whole content lies in, in order, or None as for `get`."""

        def find() -> list[Path] | None:
            found: list[Path] = []
            whole = self._walk(cid, lambda leaf, _: found.append(self._path(leaf)))
            return found if whole else None

        return await trio.to_thread.run_sync(find, limiter=self._threads)

    async def missing(self, cid: Cid) -> Sequence[Cid]:
        """Blocks still needed, as far as the DAG is known; empty when the content is whole.

        Raises `CidError` where the blocks that are here are not those of one file.
        """

        def find() -> list[Cid]:
            absent: list[Cid] = []
            pending = [Node(cid)]
            while pending:
                current = pending.pop()
                block = self._read(current.cid)
                if block is None:
                    absent.append(current.cid)
                else:
                    pending += children(current, block)
            return absent

        return await trio.to_thread.run_sync(find, limiter=self._threads)

    async def drop(self, contents: Iterable[Cid], keep: Iterable[Cid]) -> frozenset[Cid]:
        """Delete contents, but no block that a content in `keep` has. Returns which are gone.

        One of which a block was read or written within `in_use_s` stays whole. Leaves go before
        what names them, so that a call that was cut short is done by the next.
        """

        def delete() -> frozenset[Cid]:
            blocks = {cid: list(self._blocks(cid)) for cid in contents}
            busy = {cid for cid, below in blocks.items() if any(map(self._is_in_use, below))}
            doomed = {block for cid in blocks.keys() - busy for block in blocks[cid]}
            for cid in [*keep, *busy]:
                if not doomed:
                    break
                doomed.difference_update(self._blocks(cid))
            gone = set()
            for cid in blocks.keys() - busy:
                if all(self._delete(b) for b in reversed(blocks[cid]) if b in doomed):
                    gone.add(cid)
            return frozenset(gone)

        return await trio.to_thread.run_sync(delete, limiter=self._threads)

    def _blocks(self, content: Cid) -> Iterator[Cid]:
        """The blocks of a content as far as its DAG is here, each after what names it."""
        pending = [Node(content)]
        while pending:
            node = pending.pop()
            yield node.cid
            if node.level == 0 or parse_cid(node.cid)[0] == RAW:
                continue
            block = self._load(node.cid)
            with suppress(CidError):
                pending += children(node, block) if block is not None else []

    def _is_in_use(self, block: str) -> bool:
        return time.monotonic() - self._used_s.get(block, float("-inf")) < self._in_use_s

    def _use(self, block: str) -> None:
        with self._using:
            now_s = time.monotonic()
            self._used_s.pop(block, None)
            self._used_s[block] = now_s
            while now_s - self._used_s[oldest := next(iter(self._used_s))] > self._in_use_s:
                del self._used_s[oldest]

    def _delete(self, block: str) -> bool:
        """False where somebody has begun to use it."""
        with self._using:
            if self._is_in_use(block):
                return False
            self._path(block).unlink(missing_ok=True)
            return True

    def _walk(self, cid: Cid, take: Callable[[Cid, bytes], object]) -> bool:
        """Give each leaf of a content to `take`, in order; whether all blocks are here and good."""
        pending = [Node(cid)]
        try:
            while pending:
                node = pending.pop()
                block = self._read(node.cid)
                if block is None:
                    return False
                below = children(node, block)
                if not below:
                    take(node.cid, block)
                pending += reversed(below)
        except CidError as error:
            log.warning("a stored content is no file", cid=cid, why=str(error))
            return False
        return True

    def _read(self, cid: Cid) -> bytes | None:
        self._use(cid)
        return self._load(cid)

    def _load(self, cid: Cid) -> bytes | None:
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
            with suppress(FileNotFoundError):  # another reader was first
                path.replace(aside / cid)
                log.warning("a stored block is corrupt and was put aside", cid=cid, at=str(aside))
            return None
        return block

    def _write(self, cid: str, block: bytes) -> None:
        if len(block) > limits.BLOCK_BYTES_MAX:
            raise CidError(f"a block of {len(block)} bytes, at most {limits.BLOCK_BYTES_MAX}")
        path = self._path(cid)
        if self._read(Cid(cid)) is not None:
            return
        path.parent.mkdir(exist_ok=True)
        write_durably(path, [block], self._partial)
