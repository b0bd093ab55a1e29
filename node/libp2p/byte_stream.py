"""A byte stream under Noise: a TCP connection, or any Trio stream. Knows no protocol."""

import contextlib
import socket
from typing import Final, Protocol

import trio

from eigen.node.libp2p.bounds import UNSENT_BYTES_MAX
from eigen.node.libp2p.errors import ConnectionLost
from eigen.node.libp2p.give_way import TCP_NOTSENT_LOWAT, GiveWay, Uplink
from eigen.node.libp2p.identity import ID

DSCP_LOWER_EFFORT: Final = 1


class ByteStream(Protocol):
    """Ordered bytes both ways. One task reads, one task writes."""

    remote_ip: str
    remote_port: int
    local_ip: str | None
    relay: ID | None
    """Through whom the bytes go, if not directly; then ip and port are the relay's."""

    async def receive_into(self, buffer: memoryview) -> int:
        """Some bytes into the front of the buffer; 0 at the end. Raises `ConnectionLost`."""
        ...

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """All bytes. A cancel leaves a prefix sent: close the stream then."""
        ...

    def abort(self) -> None:
        """Close at once, whatever is unsent; both directions fail from now on."""
        ...

    def mark_as_bulk(self, uplink: Uplink) -> None:
        """Let everything else go first, as far as the way of the bytes knows of such.

        `uplink` is the line that all of this node's bulk connections share.
        """
        ...


class TcpStream:
    """A connected TCP socket with Nagle off and a short unsent queue."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._socket = stream.socket
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, UNSENT_BYTES_MAX)
        try:
            name = self._socket.getpeername()
        except OSError as error:
            self.abort()
            raise ConnectionLost(f"closed on arrival: {error}") from error
        self.remote_ip: str = plain_ip(name[0])
        self.remote_port: int = name[1]
        self.local_ip: str | None = plain_ip(self._socket.getsockname()[0])
        self.relay: ID | None = None
        self._give_way: GiveWay | None = None

    def mark_as_bulk(self, uplink: Uplink) -> None:
        """See `ByteStream`: by a short queue of its own, and DSCP LE (RFC 8622)."""
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, DSCP_LOWER_EFFORT << 2)
        self._give_way = GiveWay(self._socket, uplink)

    async def receive_into(self, buffer: memoryview) -> int:
        """See `ByteStream`."""
        try:
            return await self._socket.recv_into(buffer)
        except (OSError, trio.ClosedResourceError) as error:
            raise ConnectionLost(f"receiving: {error}") from error

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See `ByteStream`."""
        if self._give_way is not None:
            self._give_way.begin(trio.current_time())
        try:
            await self._stream.send_all(memoryview(data))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionLost(f"sending: {error.__cause__ or error}") from error
        finally:
            if self._give_way is not None:
                self._give_way.end(trio.current_time())

    def abort(self) -> None:
        """See `ByteStream`."""
        self._socket.close()


class PipeStream:
    """Any `trio.abc.Stream`, such as one end of `trio.testing.memory_stream_pair()`."""

    def __init__(self, stream: trio.abc.Stream, remote_ip: str = "127.0.0.1") -> None:
        self._stream = stream
        self._closed = trio.CancelScope()
        self.remote_ip = remote_ip
        self.remote_port = 0
        self.local_ip: str | None = None
        self.relay: ID | None = None

    async def receive_into(self, buffer: memoryview) -> int:
        """See `ByteStream`."""
        try:
            data = await self._stream.receive_some(len(buffer))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionLost(f"receiving: {error}") from error
        buffer[: len(data)] = data
        return len(data)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See `ByteStream`."""
        try:
            await self._stream.send_all(bytes(data))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionLost(f"sending: {error}") from error

    def mark_as_bulk(self, uplink: Uplink) -> None:
        """See `ByteStream`."""

    def abort(self) -> None:
        """See `ByteStream`."""
        close = getattr(self._stream, "close", None)
        if close is None:
            send = getattr(self._stream, "send_stream", None)
            receive = getattr(self._stream, "receive_stream", None)
            for half in (send, receive):
                if half is not None:
                    half.close()
        else:
            close()


async def read_exactly(stream: ByteStream, count: int) -> bytes:
    """That many bytes and not one more. Raises `ConnectionLost` if the stream ends first."""
    buffer = bytearray(count)
    view = memoryview(buffer)
    have = 0
    while have < count:
        received = await stream.receive_into(view[have:])
        if received == 0:
            raise ConnectionLost("the connection ended in the middle of a message")
        have += received
    return bytes(buffer)


class PlainChannel:
    """A byte stream before encryption, as `multistream.Channel`."""

    def __init__(self, stream: ByteStream, already_read: bytes = b"") -> None:
        self._stream = stream
        self._already_read = already_read

    async def read_exactly(self, count: int) -> bytes:
        """See `multistream.Channel`."""
        first, self._already_read = self._already_read[:count], self._already_read[count:]
        return first + await read_exactly(self._stream, count - len(first))

    async def write(self, data: bytes) -> None:
        """See `multistream.Channel`."""
        await self._stream.send_all(data)


def plain_ip(ip: str) -> str:
    """An address without IPv6 mapping or zone."""
    return ip.removeprefix("::ffff:").partition("%")[0]
