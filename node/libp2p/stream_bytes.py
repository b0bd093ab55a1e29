"""A libp2p stream where a byte stream is wanted: relayed connections, and bulk without a lane."""

from eigen.node.libp2p.errors import ConnectionLost, StreamReset
from eigen.node.libp2p.give_way import Uplink
from eigen.node.libp2p.identity import ID
from eigen.node.libp2p.multiaddrs import Endpoint
from eigen.node.libp2p.yamux_stream import Stream


class StreamBytes:
    """A stream as `ByteStream`; `remote` is where the connection under it leads."""

    def __init__(self, stream: Stream, remote: Endpoint, relay: ID | None = None) -> None:
        self._stream = stream
        self.remote_ip = remote.host
        self.remote_port = remote.port
        self.local_ip: str | None = None
        self.relay = relay

    async def receive_into(self, buffer: memoryview) -> int:
        """See `ByteStream`."""
        try:
            data = await self._stream.read(len(buffer))
        except StreamReset as error:
            raise ConnectionLost(str(error)) from error
        buffer[: len(data)] = data
        return len(data)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See `ByteStream`."""
        try:
            await self._stream.write(data)
        except StreamReset as error:
            raise ConnectionLost(str(error)) from error

    def mark_as_bulk(self, uplink: Uplink) -> None:
        """See `ByteStream`: the stream's lane says so already."""

    def abort(self) -> None:
        """See `ByteStream`."""
        self._stream.reset("given up")

    def close(self) -> None:
        """Close after what is queued."""
        self._stream.close()
