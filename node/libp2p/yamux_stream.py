"""One Yamux stream: its windows, its buffer, its two halves. Its session moves the frames."""

from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Final

import trio

from eigen.node.libp2p.bounds import (
    FRAME_BYTES_MAX,
    WINDOW_BYTES_MAX,
    WINDOW_INITIAL_BYTES,
)
from eigen.node.libp2p.errors import ProtocolViolation, StreamClosed, StreamReset
from eigen.node.libp2p.yamux_frames import Flag, Kind, frame

if TYPE_CHECKING:
    from eigen.node.libp2p.yamux import Session

BULK_WRITE_BYTES: Final = 64 * 1024
"""A stream that writes more than this at once gives way to the others from then on."""
LARGE_BYTES: Final = 16 * 1024
"""A piece of this size is worth handing out alone, without joining it to the next."""
SMALL_BYTES: Final = 4096
"""Pieces below this are copied together, so that one-byte frames cost no object each."""


class Lane(Enum):
    """What goes first when both wait: control and requests, or bulk bytes."""

    URGENT = 0
    BULK = 1


class Stream:
    """A two-way byte stream to one peer. One task may read while another writes.

    A cancelled `read` takes nothing. A cancelled `write` may have queued a prefix: `reset` the
    stream then; the connection and its other streams are unharmed.
    """

    __slots__ = (
        "_buffer",
        "_failed",
        "_granted",
        "_readable",
        "_session",
        "_unacked",
        "_writable",
        "abandoned_at",
        "buffered",
        "failure",
        "finished",
        "inbound",
        "lane",
        "receive_window",
        "send_closed",
        "send_window",
        "stream_id",
        "window_target",
    )

    def __init__(self, session: "Session", stream_id: int, *, inbound: bool, lane: Lane) -> None:
        self._session = session
        self.stream_id = stream_id
        self.inbound = inbound
        self.lane = lane
        self.send_window = WINDOW_INITIAL_BYTES
        self.receive_window = WINDOW_INITIAL_BYTES
        self.window_target = WINDOW_INITIAL_BYTES
        self._granted = 0  # of the process's budget for larger windows
        self._unacked = 0
        self._buffer: deque[bytes | bytearray | memoryview] = deque()
        self.buffered = 0
        self._readable = trio.Event()
        self._writable = trio.Event()
        self.finished = False  # the peer sent FIN: no more will come
        self.send_closed = False
        self.failure: Exception | None = None
        self._failed: trio.Event | None = None
        self.abandoned_at: float | None = None

    # Reading ------------------------------------------------------------------------------------

    async def read(self, most: int = 1 << 20) -> bytes:
        """Up to `most` bytes, at least one; empty at the peer's FIN. Raises `StreamReset`."""
        while not self._buffer:
            if self.finished:
                return b""
            if self.failure is not None:
                raise StreamReset(str(self.failure)) from self.failure
            self._readable = trio.Event()
            await self._readable.wait()
        first = self._buffer.popleft()
        if len(first) > most:
            view = memoryview(first)
            self._buffer.appendleft(view[most:])
            out = bytes(view[:most])
        elif len(first) >= LARGE_BYTES or not self._buffer:
            out = bytes(first)
        else:
            pieces, have = [first], len(first)
            while self._buffer and have + len(self._buffer[0]) <= most:
                piece = self._buffer.popleft()
                pieces.append(piece)
                have += len(piece)
            out = b"".join(pieces)
        self._consumed(len(out))
        await trio.lowlevel.checkpoint_if_cancelled()
        return out

    async def read_exactly(self, count: int) -> bytes:
        """That many bytes. Raises `StreamReset` if the stream ends first."""
        if count == 0:
            return b""
        first = await self.read(count)
        if len(first) == count:
            return first
        pieces, have = [first], len(first)
        while have < count:
            if not pieces[-1]:
                raise StreamReset("the stream ended in the middle of a message")
            piece = await self.read(count - have)
            pieces.append(piece)
            have += len(piece)
        return b"".join(pieces)

    def _consumed(self, count: int) -> None:
        self.buffered -= count
        self._session.budget.release_buffer(self._session, count)
        self._unacked += count
        if self.finished or self.failure is not None:
            return
        if self._unacked * 2 >= self.window_target:
            grown = 0
            if self.window_target < WINDOW_BYTES_MAX:
                grown = self._session.budget.grant(
                    min(self.window_target, WINDOW_BYTES_MAX - self.window_target)
                )
                self.window_target += grown
                self._granted += grown
            delta = self._unacked + grown
            self._unacked = 0
            self.receive_window += delta
            self._session.owe(frame(Kind.WINDOW, 0, self.stream_id, delta))

    # Writing ------------------------------------------------------------------------------------

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Queue all bytes for sending; waits while the window or the connection's queue is full.

        Raises `StreamReset` if the peer gave the stream up, `StreamClosed` after `close_write`.
        """
        if not isinstance(data, bytes):
            data = bytes(data)
        total, start = len(data), 0
        if total > BULK_WRITE_BYTES:
            self.lane = Lane.BULK  # what is queued urgently goes first, so the order holds
        view = memoryview(data)
        while start < total:
            self._check_writable()
            if self.send_window <= 0:
                self._writable = trio.Event()
                await self._writable.wait()
                continue
            if not self._session.has_room(self.lane):
                await self._session.wait_for_room(self.lane)
                continue
            size = min(total - start, self.send_window, FRAME_BYTES_MAX)
            self.send_window -= size
            piece = data if size == total else view[start : start + size]
            self._session.enqueue(self, frame(Kind.DATA, 0, self.stream_id, size), piece)
            start += size
        await trio.lowlevel.checkpoint_if_cancelled()

    def _check_writable(self) -> None:
        if self.failure is not None:
            raise StreamReset(str(self.failure)) from self.failure
        if self.send_closed:
            raise StreamClosed("write after close")

    def close_write(self) -> None:
        """Send FIN after what is queued. The peer then reads the end; reading goes on."""
        if self.send_closed or self.failure is not None:
            return
        self.send_closed = True
        self._session.enqueue(self, frame(Kind.WINDOW, Flag.FIN, self.stream_id, 0), b"")
        self._forget_if_done()

    def close(self) -> None:
        """Done with both halves: sends FIN; what the peer still sends is dropped."""
        self.close_write()
        self._drop_buffer()
        if not self.finished and self.failure is None:
            self.abandoned_at = trio.current_time()
        self._forget_if_done()

    def reset(self, reason: str = "reset by this side") -> None:
        """Give the stream up at once, both ways, dropping what is queued. Never blocks."""
        if self.failure is None and not (self.finished and self.send_closed):
            self._session.drop_queued(self)
            self._session.owe(frame(Kind.WINDOW, Flag.RST, self.stream_id, 0))
        self.finished = False  # whatever came is given up too
        self.fail(StreamReset(reason))

    async def wait_failed(self) -> None:
        """Return once the stream was reset, by either side or with its connection."""
        if self.failure is None:
            if self._failed is None:
                self._failed = trio.Event()
            await self._failed.wait()

    # The session's side -------------------------------------------------------------------------

    def feed(self, piece: memoryview) -> None:
        """Bytes that have arrived; the session has charged them to the window already."""
        size = len(piece)
        if self.abandoned_at is not None or self.failure is not None:
            self._session.budget.release_buffer(self._session, size)
            return
        self.buffered += size
        if size < SMALL_BYTES:
            last = self._buffer[-1] if self._buffer else None
            if isinstance(last, bytearray) and len(last) < SMALL_BYTES:
                last += piece
            else:
                self._buffer.append(bytearray(piece))
        else:
            self._buffer.append(piece)
        self._readable.set()

    def charge(self, size: int) -> None:
        """Take a data frame's length off the window. Raises `ProtocolViolation` on an overrun."""
        self.receive_window -= size
        if self.receive_window < 0:
            raise ProtocolViolation("a peer sent more than its Yamux window")

    def widen(self, delta: int) -> None:
        """The peer granted more window. Raises `ProtocolViolation` past 2^32 - 1."""
        self.send_window += delta
        if self.send_window > 0xFFFF_FFFF:
            raise ProtocolViolation("a Yamux window above 2^32 - 1")
        self._writable.set()

    def finish(self) -> None:
        """The peer sent FIN."""
        self.finished = True
        self._readable.set()
        self._forget_if_done()

    def fail(self, reason: Exception) -> None:
        """The stream ends without a FIN, by the peer, by us or with its connection."""
        if self.failure is None:
            self.failure = reason
            if not self.finished:  # bytes before a FIN are whole and stay readable
                self._drop_buffer()
        self._readable.set()
        self._writable.set()
        if self._failed is not None:
            self._failed.set()
        self._session.wake_lane(self.lane)
        self._session.forget(self)

    def settle(self) -> int:
        """Return the granted window to the budget; how much it was. Called once, when forgotten."""
        granted, self._granted = self._granted, 0
        return granted

    def _drop_buffer(self) -> None:
        self._buffer.clear()
        self._session.budget.release_buffer(self._session, self.buffered)
        self.buffered = 0

    def _forget_if_done(self) -> None:
        if self.finished and self.send_closed:
            self._session.forget(self)
