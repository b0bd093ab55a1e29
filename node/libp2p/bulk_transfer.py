"""One bulk transfer, as its two ends see it: messages one way, records over any byte stream."""

import contextlib
from collections.abc import Iterator

import trio

from eigen.node.libp2p.bulk_records import (
    HEADER_BYTES,
    MESSAGE_BYTES_MAX,
    TAG_BYTES,
    Keys,
    Kind,
    Opener,
    Sealer,
)
from eigen.node.libp2p.byte_stream import ByteStream
from eigen.node.libp2p.errors import ConnectionLost, ProtocolViolation, StreamReset
from eigen.node.libp2p.rate import Pacer
from eigen.node.libp2p.stream_bytes import StreamBytes
from eigen.node.ports import PeerUnreachable, RequestRefused, RequestTimeout
from eigen.protocol.types import Address

RECORD_BYTES_MAX = HEADER_BYTES + MESSAGE_BYTES_MAX + TAG_BYTES
ABORT_TEXT_BYTES_MAX = 256
LARGE_BYTES = 64 * 1024
REASON_S = 1.0
"""How long to look for the reason of a cut."""
RECEIVE_BYTES = 16 * 1024
"""First size of the receive buffer; it grows to a whole record where records are larger."""


class Records:
    """Sealed records over a byte stream, both ways. Any failure or cancel ends the transfer."""

    def __init__(self, stream: ByteStream, keys: Keys) -> None:
        self._stream = stream
        self._sealer = Sealer(keys.send)
        self._opener = Opener(keys.receive)
        self._out = bytearray()
        self._in = bytearray(RECEIVE_BYTES)
        self._start = self._end = 0

    async def send(self, kind: Kind, message: bytes | memoryview = b"") -> None:
        """Seal and send one record. A cancel leaves a torn record: abort then."""
        size = HEADER_BYTES + len(message) + TAG_BYTES
        if len(self._out) < size:
            self._out = bytearray(min(RECORD_BYTES_MAX, max(size, 2 * len(self._out))))
        length = self._sealer.seal(kind, message, self._out)
        with memoryview(self._out) as view, view[:length] as record:
            await self._stream.send_all(record)

    async def receive(self) -> tuple[Kind, bytes]:
        """The next record, checked. Raises `ConnectionLost` where the stream ends before."""
        await self._need(HEADER_BYTES)
        header = bytes(self._in[self._start : self._start + HEADER_BYTES])
        size = HEADER_BYTES + self._opener.body_bytes(header)
        await self._need(size)
        with memoryview(self._in) as view:
            body = view[self._start + HEADER_BYTES : self._start + size]
            opened = self._opener.open(header, body)
            body.release()
        self._start += size
        return opened

    async def _need(self, count: int) -> None:
        """Have that many bytes in the buffer."""
        while self._end - self._start < count:
            if self._start:
                left = self._end - self._start
                self._in[:left] = self._in[self._start : self._end]
                self._start, self._end = 0, left
            if count + HEADER_BYTES > len(self._in):
                self._in.extend(bytes(count + HEADER_BYTES - len(self._in)))
            # Of a large record not much more is read than itself, so that little is moved.
            until = count + HEADER_BYTES if count > LARGE_BYTES else len(self._in)
            with memoryview(self._in) as view, view[self._end : self._start + until] as free:
                received = await self._stream.receive_into(free)
            if received == 0:
                raise ConnectionLost("the bulk lane was cut off")
            self._end += received

    def abort(self) -> None:
        """Close at once; the other side sees a cut."""
        self._stream.abort()

    def close(self) -> None:
        """Close after what was sent."""
        if isinstance(self._stream, StreamBytes):
            self._stream.close()
        else:
            self._stream.abort()  # the kernel still delivers what it was given


class Outgoing:
    """The opener's end: see `ports.BulkWriter`."""

    def __init__(self, peer: Address, records: Records, pacer: Pacer, offset: int) -> None:
        self.offset = offset
        self._peer = peer
        self._records = records
        self._pacer = pacer

    async def send(self, message: bytes | memoryview, *, timeout_s: float) -> None:
        """See `ports.BulkWriter.send`."""
        with _faults(self._peer), trio.fail_after(timeout_s):
            await self._pacer.wait(self._peer, len(message))
            try:
                await self._records.send(Kind.DATA, message)
            except ConnectionLost:
                await self._find_reason()
                raise

    async def finish(self, *, timeout_s: float) -> None:
        """See `ports.BulkWriter.finish`."""
        with _faults(self._peer), trio.fail_after(timeout_s):
            await self._records.send(Kind.END)
            kind, message = await self._records.receive()
        self._check_refusal(kind, message)
        if kind is not Kind.DONE:
            raise PeerUnreachable("the bulk transfer was not confirmed", self._peer)

    async def _find_reason(self) -> None:
        """The receiver cut the lane: perhaps it said why."""
        with contextlib.suppress(ConnectionLost, ProtocolViolation), trio.move_on_after(REASON_S):
            self._check_refusal(*await self._records.receive())

    def _check_refusal(self, kind: Kind, message: bytes) -> None:
        if kind is Kind.ABORT:
            reason = message[:ABORT_TEXT_BYTES_MAX].decode(errors="replace")
            raise RequestRefused(reason, self._peer)


class Incoming:
    """The receiver's end: see `ports.BulkReader`."""

    def __init__(self, peer: Address, records: Records, pacer: Pacer) -> None:
        self._peer = peer
        self._records = records
        self._pacer = pacer
        self._ended = False

    async def receive(self, *, timeout_s: float) -> bytes | None:
        """See `ports.BulkReader.receive`."""
        if self._ended:
            return None
        with _faults(self._peer), trio.fail_after(timeout_s):
            kind, message = await self._records.receive()
            await self._pacer.wait(self._peer, len(message))
        if kind is Kind.DATA:
            return message
        if kind is Kind.END:
            self._ended = True
            return None
        reason = message[:ABORT_TEXT_BYTES_MAX].decode(errors="replace")
        raise PeerUnreachable(f"the sender gave up: {reason}", self._peer)

    async def confirm(self) -> None:
        """Tell the opener that everything was taken."""
        if self._ended:
            await self._records.send(Kind.DONE)

    async def refuse(self, reason: str) -> None:
        """Tell the opener why this side gives up."""
        await self._records.send(Kind.ABORT, reason.encode()[:ABORT_TEXT_BYTES_MAX])


@contextlib.contextmanager
def _faults(peer: Address) -> Iterator[None]:
    """Turn this folder's errors into the port's."""
    try:
        yield
    except trio.TooSlowError as error:
        raise RequestTimeout("the bulk transfer stalled", peer) from error
    except (ConnectionLost, StreamReset) as error:
        raise PeerUnreachable(str(error), peer) from error
    except ProtocolViolation as error:
        raise PeerUnreachable(f"the peer broke the bulk protocol: {error}", peer) from error
