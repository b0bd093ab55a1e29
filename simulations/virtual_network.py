"""A network in memory: libp2p's transport between virtual hosts, on Trio's virtual time.

Bytes travel as a scenario's lines say. Hosts are named; their addresses are `10.x.y.z`.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import trio

from eigen.node.libp2p.accept import AcceptRate
from eigen.node.libp2p.byte_stream import ByteStream
from eigen.node.libp2p.errors import ConnectionLost, ListenError
from eigen.node.libp2p.give_way import Uplink
from eigen.node.libp2p.identity import ID, NodeKey
from eigen.node.libp2p.multiaddrs import Endpoint, parse
from eigen.node.libp2p.surroundings import Listening
from eigen.simulations.lines import CHUNK_BYTES, Lines
from eigen.simulations.virtual_time import VirtualClock

PORT: Final = 4001
UNSENT_BYTES: Final = 64 * 1024
"""What a host holds of a connection before its line; then the writer waits."""
UNREAD_BYTES_MAX: Final = 1024 * 1024
"""What a host holds of a connection that is not read, as a socket's buffers do."""
DIAL_TIMEOUT_S: Final = 5.0
"""A dial that nobody answers is given up."""


class _Way:
    """One direction of a connection: chunks with the times of their arrival, b"" at its end."""

    __slots__ = ("arrived", "chunks", "closed", "held", "last_s", "room")

    def __init__(self) -> None:
        self.chunks: deque[tuple[float, bytes | memoryview]] = deque()
        self.held = 0
        self.last_s = 0.0
        self.closed = False
        self.arrived = trio.Event()
        self.room = trio.Event()

    def put(self, at_s: float, data: bytes | memoryview) -> None:
        """Bytes never overtake each other."""
        self.last_s = max(self.last_s, at_s)
        self.chunks.append((self.last_s, data))
        self.held += len(data)
        self.arrived.set()


class VirtualStream:
    """One end of a connection; see `ByteStream`."""

    relay: ID | None = None

    def __init__(
        self, network: "VirtualNetwork", here: str, there: str, ways: tuple[_Way, _Way], port: int
    ) -> None:
        """`ways` are those out of this end and into it."""
        self._network = network
        self._here, self._there = here, there
        self._out, self._in = ways
        self._unsent_s = UNSENT_BYTES / network.lines.bytes_s(here)
        self.remote_ip = network.ip_of(there)
        self.remote_port = port
        self.local_ip: str | None = network.ip_of(here)

    async def receive_into(self, buffer: memoryview) -> int:
        """See `ByteStream`."""
        way = self._in
        while not way.closed and not way.chunks:
            way.arrived = trio.Event()
            await way.arrived.wait()
        if way.closed:
            raise ConnectionLost("the connection was closed here")
        await self._network.clock.sleep_until(way.chunks[0][0])
        if way.closed:
            raise ConnectionLost("the connection was closed here")
        at_s, data = way.chunks[0]
        size = min(len(buffer), len(data))
        buffer[:size] = data[:size]
        if size < len(data):
            way.chunks[0] = (at_s, memoryview(data)[size:])
        elif data:
            way.chunks.popleft()
        way.held -= size
        way.room.set()
        return size

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See `ByteStream`."""
        way, lines, whole = self._out, self._network.lines, bytes(data)
        await trio.lowlevel.checkpoint_if_cancelled()
        for start in range(0, len(whole), CHUNK_BYTES):
            while way.held > UNREAD_BYTES_MAX and not way.closed:
                way.room = trio.Event()
                await way.room.wait()
            if lines.apart(self._here, self._there):
                await self._network.connected(self._here, self._there)
            if way.closed:
                raise ConnectionLost("the connection is closed")
            chunk = whole[start : start + CHUNK_BYTES]
            now_s = trio.current_time()
            left_s, at_s = lines.carry(now_s, self._here, self._there, len(chunk))
            way.put(at_s, chunk)
            await self._network.clock.sleep_until(left_s - self._unsent_s)

    def mark_as_bulk(self, uplink: Uplink) -> None:
        """See `ByteStream`: one chunk at a time waits for the line."""
        self._unsent_s = 0.0

    def abort(self) -> None:
        """See `ByteStream`."""
        if not self._out.closed:
            way_s = self._network.lines.way_s(self._here, self._there)
            self._out.put(trio.current_time() + way_s, b"")
        for way in (self._out, self._in):
            way.closed = way is self._in or way.closed
            way.arrived.set()
            way.room.set()


class VirtualListening:
    """See `Listening`."""

    def __init__(self, network: "VirtualNetwork", endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._network = network
        self._arriving_in, self._arriving = trio.open_memory_channel[tuple[float, VirtualStream]](
            1024
        )

    def connect(self, at_s: float, stream: VirtualStream) -> None:
        """Somebody dials. Raises `ConnectionLost` where too many do."""
        try:
            self._arriving_in.send_nowait((at_s, stream))
        except (trio.WouldBlock, trio.BrokenResourceError) as error:
            raise ConnectionLost("refused") from error

    async def serve(
        self,
        rate: AcceptRate,
        serve: Callable[[ByteStream], Awaitable[object]],
        nursery: trio.Nursery,
    ) -> None:
        """See `Listening.serve`."""
        async for at_s, stream in self._arriving:
            await self._network.clock.sleep_until(at_s)
            if rate.allows(stream.remote_ip, trio.current_time()):
                nursery.start_soon(serve, stream)
            else:
                stream.abort()

    def close(self) -> None:
        """See `Listening.close`."""
        self._arriving_in.close()
        self._network.forget(self)


class VirtualNetwork:
    """Hosts by name, and the lines between them."""

    def __init__(self, lines: Lines, names: Sequence[str], clock: VirtualClock) -> None:
        self.lines = lines
        self.clock = clock
        numbers = enumerate(names, start=1)
        self._ips = {n: f"10.{i >> 16 & 255}.{i >> 8 & 255}.{i & 255}" for i, n in numbers}
        self._names: Mapping[str, str] = {ip: name for name, ip in self._ips.items()}
        self._listening: dict[str, VirtualListening] = {}
        self._changed = trio.Event()
        self._ports = 49_152

    def ip_of(self, name: str) -> str:
        """A host's address."""
        return self._ips[name]

    def multiaddr(self, name: str, secret: bytes) -> str:
        """Where a host of this key is dialled."""
        return f"/ip4/{self._ips[name]}/tcp/{PORT}/p2p/{NodeKey(secret).peer_id}"

    def transport(self, name: str) -> "VirtualTransport":
        """What a host dials and listens with."""
        return VirtualTransport(self, name)

    def changed(self) -> None:
        """Lines were cut or healed: let those look who wait for it."""
        self._changed.set()
        self._changed = trio.Event()

    async def connected(self, a: str, b: str) -> None:
        """Wait until bytes get from one host to the other; at once, where they do."""
        while self.lines.apart(a, b):
            await self._changed.wait()

    def listen(self, listening: VirtualListening) -> None:
        """Take connections. Raises `ListenError`."""
        address = listening.endpoint.bare
        if address in self._listening:
            raise ListenError(address, "in use")
        self._listening[address] = listening

    def forget(self, listening: VirtualListening) -> None:
        """Take no more."""
        address = listening.endpoint.bare
        if self._listening.get(address) is listening:
            del self._listening[address]

    async def dial(self, here: str, endpoint: Endpoint) -> VirtualStream:
        """See `Transport.dial`."""
        there = self._names.get(endpoint.host)
        answered = False
        if there is not None:
            with trio.move_on_after(DIAL_TIMEOUT_S):
                await self.connected(here, there)
                await trio.sleep(2.0 * self.lines.way_s(here, there))
                answered = True
        if not answered or there is None:
            raise ConnectionLost(f"{endpoint.bare}: no answer in {DIAL_TIMEOUT_S:.0f} s")
        listening = self._listening.get(endpoint.bare)
        if listening is None:
            raise ConnectionLost(f"{endpoint.bare}: refused")
        self._ports = self._ports % 65_535 + 1
        out, into = _Way(), _Way()
        theirs = VirtualStream(self, there, here, (into, out), self._ports)
        listening.connect(trio.current_time() + self.lines.way_s(here, there), theirs)
        return VirtualStream(self, here, there, (out, into), endpoint.port)


class VirtualTransport:
    """One host's way to the others; see `Transport`."""

    def __init__(self, network: VirtualNetwork, name: str) -> None:
        self._network = network
        self._name = name

    async def dial(self, endpoint: Endpoint) -> ByteStream:
        """See `Transport.dial`."""
        return await self._network.dial(self._name, endpoint)

    async def listen(self, addresses: Sequence[str]) -> Sequence[Listening]:
        """See `Transport.listen`."""
        await trio.lowlevel.checkpoint()
        opened = [VirtualListening(self._network, parse(text)) for text in addresses]
        for listening in opened:
            self._network.listen(listening)
        return opened
