"""Gossip over streams: one outgoing stream a peer, a queue before it, handlers behind topics."""

import logging
from collections import deque
from typing import Final

import trio

from eigen.node.libp2p.bounds import (
    DELIVERY_QUEUE_MAX,
    PUBLISH_BURST,
    PUBLISH_PER_S,
    RPC_BYTES_MAX,
    SEND_QUEUE_MAX,
)
from eigen.node.libp2p.connection import Connection, Served
from eigen.node.libp2p.errors import ConnectionLost, NotSupported, ProtocolViolation, StreamReset
from eigen.node.libp2p.gossip_router import HEARTBEAT_S, Router
from eigen.node.libp2p.multistream import read_varint
from eigen.node.libp2p.swarm import Swarm
from eigen.node.libp2p.token_bucket import TokenBucket
from eigen.node.libp2p.yamux_stream import Stream
from eigen.node.ports import GossipHandler, GossipValidator, Verdict
from eigen.protocol.limits import GOSSIP_MESSAGE_BYTES_MAX
from eigen.protocol.types import Address

log = logging.getLogger(__name__)

PROTOCOLS: Final = ("/meshsub/1.1.0", "/meshsub/1.0.0")
WRITE_BYTES: Final = 128 * 1024
"""Queued frames written at once."""
WRITE_TIMEOUT_S: Final = 30.0
"""A peer that takes no gossip for so long gets a new stream, and meanwhile nothing."""
REOPEN_S: Final = 1.0
SLOW_PEER_S: Final = 2.0
"""How long a publisher waits for peers whose queues are full; they learn of it by IHAVE."""


class _Outgoing:
    """Frames waiting for one peer."""

    def __init__(self) -> None:
        self.frames: deque[bytes] = deque()
        self.arrived = trio.Event()
        self.scope = trio.CancelScope()
        self.dropped = 0

    @property
    def is_full(self) -> bool:
        return len(self.frames) >= SEND_QUEUE_MAX

    def put(self, frame: bytes, *, droppable: bool) -> bool:
        if self.is_full and (droppable or len(self.frames) >= 2 * SEND_QUEUE_MAX):
            self.dropped += 1
            return False
        self.frames.append(frame)
        self.arrived.set()
        return True


class _Topic:
    """What this node does with a topic's messages."""

    def __init__(self, validate: GossipValidator, handle: GossipHandler) -> None:
        self.validate = validate
        self.handle = handle
        send, receive = trio.open_memory_channel[tuple[Address, bytes]](DELIVERY_QUEUE_MAX)
        self._send, self._receive = send, receive

    async def put(self, forwarder: Address, data: bytes) -> None:
        """Queue a message for the handler; waits while the queue is full."""
        await self._send.send((forwarder, data))

    async def take(self) -> tuple[Address, bytes]:
        """The next message, in order of arrival."""
        return await self._receive.receive()


class Gossip:
    """Topics, published to and followed. Own messages are not delivered to own handlers."""

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm
        self._topics: dict[str, _Topic] = {}
        self._outgoing: dict[Address, _Outgoing] = {}
        self._drained = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._pace: TokenBucket | None = None
        self.router = Router(
            swarm.key,
            send=self._queue,
            validate=self._judge,
            penalize=swarm.penalize,
            reputation=lambda peer: swarm.reputation.score(peer, trio.current_time()),
            first_seqno=int(swarm.around.unix_s() * 1e9),
            rng=swarm.around.draws(),  # choice of mesh peers
        )
        for protocol in PROTOCOLS:
            swarm.served[protocol] = Served(self._read)
        swarm.on_connected.append(self._connected)
        swarm.on_lost.append(self._lost)
        swarm.on_switched.append(self._switched)

    @property
    def dropped(self) -> int:
        """Forwarded frames left out because a connected peer's queue was full."""
        return sum(outgoing.dropped for outgoing in self._outgoing.values())

    def subscribe(self, topic: str, validate: GossipValidator, handle: GossipHandler) -> None:
        """See `ports.Network.subscribe`. Raises ValueError the second time for a topic."""
        if topic in self._topics:
            raise ValueError(f"topic: {topic!r} is subscribed to already")
        self._topics[topic] = _Topic(validate, handle)
        if self._nursery is not None:
            self.router.join(topic, trio.current_time())
            self._nursery.start_soon(self._deliver, topic)

    async def publish(self, topic: str, data: bytes) -> None:
        """See `ports.Network.publish`. Raises ValueError above the bound on messages."""
        if len(data) > GOSSIP_MESSAGE_BYTES_MAX:
            raise ValueError(f"data: {len(data)} bytes, at most {GOSSIP_MESSAGE_BYTES_MAX} allowed")
        now = trio.current_time()
        if self._pace is None:
            self._pace = TokenBucket(PUBLISH_PER_S, PUBLISH_BURST, now)
        await trio.sleep(self._pace.owe(1.0, now))
        with trio.move_on_after(SLOW_PEER_S):
            while self._any_full(topic, len(data)):
                await self._drained.wait()
        self.router.publish(topic, data, trio.current_time())

    def _any_full(self, topic: str, size: int) -> bool:
        targets = self.router.targets(topic, size, trio.current_time())
        return any(self._outgoing[peer].is_full for peer in targets if peer in self._outgoing)

    async def run(self) -> None:
        """Heartbeats, deliveries and outgoing streams, for ever."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                for topic in self._topics:
                    self.router.join(topic, trio.current_time())
                    nursery.start_soon(self._deliver, topic)
                for peer in list(self._swarm.peers()):
                    self._connected(peer)
                while True:
                    await trio.sleep(HEARTBEAT_S)
                    self.router.heartbeat(trio.current_time())
            finally:
                self._nursery = None

    # Outgoing -----------------------------------------------------------------------------------

    def _connected(self, peer: Address) -> None:
        if self._nursery is not None and peer not in self._outgoing:
            outgoing = self._outgoing[peer] = _Outgoing()
            self.router.add_peer(peer)  # at once: its own announcement may be here already
            self._nursery.start_soon(self._send_to, peer, outgoing)

    def _lost(self, peer: Address) -> None:
        outgoing = self._outgoing.pop(peer, None)
        if outgoing is not None:
            outgoing.scope.cancel()
            self.router.remove_peer(peer)
            self._wake_publishers()

    def _wake_publishers(self) -> None:
        drained, self._drained = self._drained, trio.Event()
        drained.set()

    def _switched(self, peer: Address) -> None:
        """Another connection to the peer is to be used: let the sender look."""
        if (outgoing := self._outgoing.get(peer)) is not None:
            outgoing.arrived.set()

    def _queue(self, peer: Address, frame: bytes, droppable: bool) -> bool:
        outgoing = self._outgoing.get(peer)
        return outgoing is not None and outgoing.put(frame, droppable=droppable)

    async def _send_to(self, peer: Address, outgoing: _Outgoing) -> None:
        with outgoing.scope:
            while (connection := self._swarm.connection(peer)) is not None:
                try:
                    stream, _ = await connection.open(PROTOCOLS)
                except NotSupported:
                    break
                except (ProtocolViolation, StreamReset, ConnectionLost):
                    await trio.sleep(REOPEN_S)
                    continue
                try:
                    await self._pump(connection, stream, outgoing)
                except (StreamReset, ConnectionLost):
                    await trio.sleep(REOPEN_S)
                    self.router.add_peer(peer)
        if self._outgoing.get(peer) is outgoing:
            del self._outgoing[peer]
            self.router.remove_peer(peer)

    async def _pump(self, connection: Connection, stream: Stream, outgoing: _Outgoing) -> None:
        """Write frames as they come, until the stream breaks or its connection gives way."""
        try:
            while not connection.draining.is_set():
                if not outgoing.frames:
                    outgoing.arrived = trio.Event()
                    await outgoing.arrived.wait()
                    continue
                batch, size = [], 0
                while outgoing.frames and size < WRITE_BYTES:
                    batch.append(outgoing.frames.popleft())
                    size += len(batch[-1])
                with trio.move_on_after(WRITE_TIMEOUT_S) as writing:
                    await stream.write(b"".join(batch))
                if writing.cancelled_caught:
                    stream.reset("the peer takes no gossip")  # the next write raises
                self._wake_publishers()
            stream.close()
        except BaseException:
            stream.reset("gossip stream given up")
            raise

    # Incoming -----------------------------------------------------------------------------------

    async def _read(self, connection: Connection, stream: Stream) -> None:
        """Read RPCs of a peer until it closes the stream."""
        peer = connection.address
        while True:
            first = await stream.read(1)
            if not first:
                return
            size = await read_varint(_Prefixed(first, stream), RPC_BYTES_MAX)
            body = await stream.read_exactly(size)
            for found in self.router.receive(peer, body, trio.current_time()):
                topic = self._topics[found.topic]
                await topic.put(found.forwarder, found.data)

    def _judge(self, topic: str, forwarder: Address, data: bytes) -> Verdict:
        """The topic's validator; one that raises is our own fault and blames nobody."""
        try:
            return self._topics[topic].validate(forwarder, data)
        except Exception:
            log.exception("the validator of %s failed; the message is ignored", topic)
            return Verdict.IGNORE

    async def _deliver(self, name: str) -> None:
        topic = self._topics[name]
        while True:
            forwarder, data = await topic.take()
            try:
                await topic.handle(forwarder, data)
            except Exception:
                log.exception("the handler of %s failed", name)


class _Prefixed:
    """A stream with one byte put back."""

    def __init__(self, first: bytes, stream: Stream) -> None:
        self._first = first
        self._stream = stream

    async def read_exactly(self, count: int) -> bytes:
        if self._first and count == 1:
            first, self._first = self._first, b""
            return first
        return await self._stream.read_exactly(count)

    async def write(self, data: bytes) -> None:
        await self._stream.write(data)
