"""Passing connections on to peers that cannot be dialled: circuit relay v2, both roles.

A node that peers cannot dial (`Swarm.is_reachable`) reserves a place at up to two peers that it has
dialled itself; they then pass streams on to it. What is passed on is a whole Noise connection: a
relay sees who speaks with whom, when and how much, and nothing else. Only peers of this network are
served.
"""

import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

import trio

from eigen.node.libp2p import circuit
from eigen.node.libp2p.bounds import DIAL_TIMEOUT_S
from eigen.node.libp2p.circuit import HOP, STOP, Hop, Message, Status, Stop
from eigen.node.libp2p.connection import Connection, Served
from eigen.node.libp2p.errors import (
    ConnectionLost,
    HandshakeFailed,
    Libp2pError,
    ProtocolViolation,
    StreamReset,
)
from eigen.node.libp2p.identity import ID, address_of_peer
from eigen.node.libp2p.multiaddrs import Endpoint
from eigen.node.libp2p.own_addresses import reachable
from eigen.node.libp2p.rate import Pacer
from eigen.node.libp2p.stream_bytes import StreamBytes
from eigen.node.libp2p.swarm import Swarm
from eigen.node.libp2p.yamux_stream import Stream
from eigen.protocol.types import Address

log = logging.getLogger(__name__)

RESERVATIONS_MAX: Final = 128
"""Peers that may be dialled through this node."""
RESERVATION_S: Final = 3600
RENEW_AFTER_S: Final = 1200.0
"""Of a reservation's hour: two more tries are left."""
CIRCUITS_MAX: Final = 32
"""Connections passed on at a time; each costs up to 1 MiB of queues."""
CIRCUITS_PER_PEER_MAX: Final = 8
RELAYS_WANTED: Final = 2
FIRST_LOOK_S: Final = 10.0
"""How long to wait for somebody to dial this node, or to say that he cannot, before asking for
relays."""
LOOK_EVERY_S: Final = 15.0
COPY_BYTES: Final = 64 * 1024

Connect = Callable[[Endpoint], Awaitable[Connection]]


class RelayServer:
    """Takes reservations, and passes connections on to those who hold one."""

    def __init__(self, swarm: Swarm, pacer: Pacer) -> None:
        self._swarm = swarm
        self._pacer = pacer
        self._reserved: dict[Address, float] = {}
        self._circuits: dict[Address, int] = {}
        swarm.served[HOP] = Served(self._serve)
        swarm.on_lost.append(self._lost)

    def _lost(self, peer: Address) -> None:
        self._reserved.pop(peer, None)

    def serves(self, peer: Address) -> bool:
        """Whether the peer may be dialled through this node now."""
        return self._reserved.get(peer, 0.0) > trio.current_time()

    async def _serve(self, connection: Connection, stream: Stream) -> None:
        request: Message | None = None
        with trio.move_on_after(DIAL_TIMEOUT_S):
            request = await circuit.read(stream, hop=True)
        if request is None:
            raise StreamReset("no request came")
        if request.type == Hop.RESERVE:
            await self._reserve(connection, stream)
        elif connection.remote.relay is not None:
            await _answer_hop(stream, Status.PERMISSION_DENIED)  # no circuits over circuits
        elif request.type == Hop.CONNECT and request.peer is not None:
            await self._connect(connection, stream, request.peer)
        else:
            raise ProtocolViolation("circuit relay: neither a reservation nor a connection")

    async def _reserve(self, connection: Connection, stream: Stream) -> None:
        now = trio.current_time()
        for peer in [p for p, until in self._reserved.items() if until <= now]:
            del self._reserved[peer]
        known = connection.address in self._reserved
        far = connection.remote.relay is not None
        if far or (not known and len(self._reserved) >= RESERVATIONS_MAX):
            await _answer_hop(stream, Status.RESERVATION_REFUSED)
            return
        self._reserved[connection.address] = now + RESERVATION_S
        expire = int(self._swarm.around.unix_s()) + RESERVATION_S
        own = reachable(
            self._swarm.listening,
            self._swarm.config.announce,
            connection.remote,
            connection.local_ip,
        )
        local = self._swarm.key.peer_id
        addresses = tuple(str(replace(endpoint, peer=local)) for endpoint in own)
        reply = Message(Hop.STATUS, status=Status.OK, expire_s=expire, addresses=addresses)
        await stream.write(circuit.encode(reply, hop=True))

    async def _connect(self, connection: Connection, stream: Stream, wanted: ID) -> None:
        try:
            target_address = address_of_peer(wanted)
        except HandshakeFailed:
            await _answer_hop(stream, Status.NO_RESERVATION)
            return
        target = self._swarm.connection(target_address)
        if target is None or not self.serves(target_address):
            await _answer_hop(stream, Status.NO_RESERVATION)
            return
        asker = connection.address
        held = self._circuits.get(asker, 0)
        if held >= CIRCUITS_PER_PEER_MAX or sum(self._circuits.values()) >= CIRCUITS_MAX:
            await _answer_hop(stream, Status.RESOURCE_LIMIT_EXCEEDED)
            return
        self._circuits[asker] = held + 1
        try:
            await self._pass_on(connection, stream, target)
        finally:
            self._circuits[asker] -= 1
            if not self._circuits[asker]:
                del self._circuits[asker]

    async def _pass_on(self, connection: Connection, stream: Stream, target: Connection) -> None:
        onward: Stream | None = None
        accepted = False
        try:
            with trio.move_on_after(DIAL_TIMEOUT_S):
                onward, _ = await target.open([STOP])
                announcement = Message(Stop.CONNECT, connection.peer)
                await onward.write(circuit.encode(announcement, hop=False))
                reply = await circuit.read(onward, hop=False)
                accepted = reply.status == Status.OK
        except Libp2pError as error:
            log.debug("passing on to %s failed: %s", target.peer, error)
        if onward is None or not accepted:
            if onward is not None:
                onward.reset("not accepted")
            await _answer_hop(stream, Status.CONNECTION_FAILED)
            return
        try:
            await _answer_hop(stream, Status.OK)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._copy, connection.address, stream, onward, nursery)
                nursery.start_soon(self._copy, target.address, onward, stream, nursery)
        finally:
            stream.reset("circuit over")
            onward.reset("circuit over")

    async def _copy(
        self, sender: Address, source: Stream, sink: Stream, nursery: trio.Nursery
    ) -> None:
        try:
            while data := await source.read(COPY_BYTES):
                await self._pacer.wait(sender, len(data))
                await sink.write(data)
        except (StreamReset, ConnectionLost) as error:
            log.debug("a circuit ended: %s", error)
        nursery.cancel_scope.cancel()


class RelayClient:
    """Dials through relays, lets itself be dialled through them, and keeps reservations."""

    def __init__(self, swarm: Swarm, connect: Connect) -> None:
        self._swarm = swarm
        self._connect = connect
        self._granted: dict[ID, float] = {}  # when each relay last took a reservation
        swarm.served[STOP] = Served(self._serve_stop)

    async def dial(self, endpoint: Endpoint) -> StreamBytes:
        """A byte stream to the endpoint's peer through its relay. Raises `Libp2pError`."""
        assert endpoint.relay is not None
        assert endpoint.peer is not None
        at_relay = Endpoint(endpoint.kind, endpoint.host, endpoint.port, endpoint.relay)
        connection = await self._connect(at_relay)
        stream, _ = await connection.open([HOP])
        ready = False
        try:
            with trio.move_on_after(2 * DIAL_TIMEOUT_S):
                request = Message(Hop.CONNECT, endpoint.peer)
                await stream.write(circuit.encode(request, hop=True))
                reply = await circuit.read(stream, hop=True)
                ready = reply.status == Status.OK
        finally:
            if not ready:
                stream.reset("no circuit")
        if not ready:
            raise ConnectionLost(f"the relay {endpoint.relay} does not pass on to {endpoint.peer}")
        return StreamBytes(stream, connection.remote, endpoint.relay)

    async def _serve_stop(self, connection: Connection, stream: Stream) -> None:
        """Somebody dials this node through the peer of `connection`."""
        asked = any(relay.relay == connection.peer for relay in self._swarm.relays)
        if not asked and not self._may_pass_on(connection.peer):
            raise ProtocolViolation("circuit relay: a connection that nobody asked for")
        request: Message | None = None
        with trio.move_on_after(DIAL_TIMEOUT_S):
            request = await circuit.read(stream, hop=False)
        if request is None or request.type != Stop.CONNECT:
            raise ProtocolViolation("circuit relay: no connection to take")
        reply = Message(Stop.STATUS, status=Status.OK)
        await stream.write(circuit.encode(reply, hop=False))
        carrier = StreamBytes(stream, connection.remote, connection.peer)
        relayed = await self._swarm.serve_inbound(carrier)
        if relayed is not None:
            await relayed.closed.wait()

    def _may_pass_on(self, relay: ID) -> bool:
        """Whether a reservation may stand there, wanted or not any more."""
        return trio.current_time() - self._granted.get(relay, -math.inf) < RESERVATION_S

    async def run(self) -> None:
        """Hold reservations for as long as nobody can dial this node directly."""
        if self._swarm.listening:
            with trio.move_on_after(FIRST_LOOK_S):
                await self._swarm.reach.known.wait()
        while True:
            if self._swarm.is_reachable():
                self._swarm.relays.clear()  # what stands goes on; nobody new is sent there
            else:
                await self._look_for_relays()
            await trio.sleep(LOOK_EVERY_S)

    async def _look_for_relays(self) -> None:
        connected = set(self._swarm.peers())
        kept = [r for r in self._swarm.relays if r.relay and address_of_peer(r.relay) in connected]
        self._swarm.relays[:] = kept
        self._granted = {p: at for p, at in self._granted.items() if self._may_pass_on(p)}
        await self._renew()
        for peer in connected:
            if len(self._swarm.relays) >= RELAYS_WANTED:
                return
            connection = self._swarm.connection(peer)
            if connection is None or not connection.outbound or connection.remote.relay:
                continue
            if any(relay.relay == connection.peer for relay in self._swarm.relays):
                continue
            await self._reserve(connection)

    async def _renew(self) -> None:
        """Reserve again where the reservation grows old; a relay that refuses is dropped."""
        for endpoint in list(self._swarm.relays):
            assert endpoint.relay is not None
            connection = self._swarm.connection(address_of_peer(endpoint.relay))
            age_s = trio.current_time() - self._granted.get(endpoint.relay, -math.inf)
            if connection is not None and age_s > RENEW_AFTER_S:
                self._swarm.relays.remove(endpoint)
                await self._reserve(connection)

    async def _reserve(self, connection: Connection) -> None:
        remote = connection.remote
        endpoint = Endpoint(remote.kind, remote.host, remote.port, relay=connection.peer)
        try:
            stream, _ = await connection.open([HOP])
        except Libp2pError as error:
            log.debug("%s is no relay: %s", connection.peer, error)
            return
        self._swarm.relays.append(endpoint)  # at once: a circuit may come with the answer
        granted = False
        try:
            with trio.move_on_after(DIAL_TIMEOUT_S):
                await stream.write(circuit.encode(Message(Hop.RESERVE), hop=True))
                granted = (await circuit.read(stream, hop=True)).status == Status.OK
        except Libp2pError as error:
            log.debug("%s is no relay: %s", connection.peer, error)
        finally:
            stream.close()
            if not granted and endpoint in self._swarm.relays:
                self._swarm.relays.remove(endpoint)
        if granted:
            if not self._may_pass_on(connection.peer):
                log.info("peers can dial this node through %s", connection.peer)
            self._granted[connection.peer] = trio.current_time()


async def _answer_hop(stream: Stream, status: Status) -> None:
    await stream.write(circuit.encode(Message(Hop.STATUS, status=status), hop=True))
