"""The libp2p protocols that every peer expects: identify and ping. Both are answered, not asked."""

from collections.abc import Callable, Iterable
from typing import Final

import trio
from multiaddr import Multiaddr

from eigen.node.libp2p import protobuf
from eigen.node.libp2p.connection import Connection, StreamHandler
from eigen.node.libp2p.errors import ProtocolViolation
from eigen.node.libp2p.multistream import encode_varint
from eigen.node.libp2p.yamux_stream import Stream

IDENTIFY: Final = "/ipfs/id/1.0.0"
PING: Final = "/ipfs/ping/1.0.0"
PING_BYTES: Final = 32
PINGS_PER_STREAM_MAX: Final = 100_000
"""A stream that pings faster than it should ends at some point."""
PING_SILENCE_S: Final = 60.0
"""Between two pings of one stream."""


def identify_handler(
    wrapped_public_key: bytes,
    software: str,
    listening: Callable[[Connection], Iterable[str]],
    protocols: Callable[[], Iterable[str]],
) -> StreamHandler:
    """A handler that answers `identify/README.md` of the libp2p specs."""

    async def handle(connection: Connection, stream: Stream) -> None:
        message = protobuf.field(1, wrapped_public_key)
        for text in listening(connection):
            message += protobuf.field(2, Multiaddr(text).to_bytes())
        for protocol in protocols():
            message += protobuf.field(3, protocol.encode())
        message += protobuf.field(4, Multiaddr(connection.remote.bare).to_bytes())
        message += protobuf.field(5, b"eigen/1")
        message += protobuf.field(6, software.encode())
        await stream.write(encode_varint(len(message)) + message)

    return handle


async def ping_handler(_connection: Connection, stream: Stream) -> None:
    """Send back 32 bytes at a time until the peer closes (`ping/ping.md`)."""
    for _ in range(PINGS_PER_STREAM_MAX):
        first = b""
        with trio.move_on_after(PING_SILENCE_S):
            first = await stream.read(PING_BYTES)
        if not first:
            return
        await stream.write(first + await stream.read_exactly(PING_BYTES - len(first)))
    raise ProtocolViolation("too many pings on one stream")
