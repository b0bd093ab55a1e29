"""Connections with all peers: who is let in, one connection a peer, and streams over it."""

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import trio
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from eigen.node.libp2p import hello as hello_protocol
from eigen.node.libp2p.accept import AcceptRate, HandshakePlaces
from eigen.node.libp2p.address_book import AddressBook
from eigen.node.libp2p.bounds import (
    CONNECTIONS_PER_PEER_MAX,
    HANDSHAKE_TIMEOUT_S,
    SIMULTANEOUS_GRACE_S,
)
from eigen.node.libp2p.byte_stream import ByteStream, read_exactly
from eigen.node.libp2p.config import Libp2pConfig
from eigen.node.libp2p.connection import Connection, Served, upgrade_inbound, upgrade_outbound
from eigen.node.libp2p.descriptors import connections_allowed
from eigen.node.libp2p.errors import (
    ConnectionLost,
    Libp2pError,
    NotSupported,
    ProtocolViolation,
    Refused,
    StreamReset,
    WrongNetwork,
)
from eigen.node.libp2p.events import EventBus
from eigen.node.libp2p.hello import Hello
from eigen.node.libp2p.identity import ID, NodeKey, address_of_peer
from eigen.node.libp2p.memory_budget import MemoryBudget
from eigen.node.libp2p.multiaddrs import Endpoint
from eigen.node.libp2p.noise_channel import NoiseChannel
from eigen.node.libp2p.own_addresses import reachable, seen
from eigen.node.libp2p.reach import Reach
from eigen.node.libp2p.reputation import Reputation
from eigen.node.libp2p.surroundings import Surroundings
from eigen.node.libp2p.yamux_stream import Lane, Stream
from eigen.node.ports import PeerConnected, PeerLost
from eigen.protocol.limits import MULTIADDRS_MAX
from eigen.protocol.types import Address

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = logging.getLogger(__name__)

LANE_FIRST_BYTE = b"\xeb"
"""Starts a bulk lane; multistream-select starts with 0x13."""
STRANGER_WAIT_S = 1.0
"""Where strangers are admitted, how long their hello is waited for."""


class Swarm:
    """Listens, admits, and finds the connection of a peer. `served` maps protocol ids."""

    def __init__(
        self, key: NodeKey, config: Libp2pConfig, around: Surroundings | None = None
    ) -> None:
        self.key = key
        self.config = config
        self.around = around or Surroundings()
        self.events = EventBus()
        self.reputation = Reputation(self._disconnect)
        self.book = AddressBook(key.peer_id, self.around.draws())
        self.budget = MemoryBudget()
        self.served: dict[str, Served] = {
            hello_protocol.PROTOCOL: Served(
                self._answer_hello, before_admission=True, timeout_s=HANDSHAKE_TIMEOUT_S
            )
        }
        self.listening: list[Endpoint] = []
        self.on_connected: list[Callable[[Address], None]] = []
        self.on_lost: list[Callable[[Address], None]] = []
        self.on_switched: list[Callable[[Address], None]] = []
        self.take_lane: Callable[[ByteStream], Awaitable[None]] | None = None
        """Takes over a connection whose first byte is `LANE_FIRST_BYTE`."""
        self._dialled_nearby = self._dialled_from_afar = False
        self.reach = Reach()
        self.mapped: list[Endpoint] = []
        """Endpoints at a router that forwards them to this node."""
        self.mapping_tried = trio.Event()
        """Set once the router was asked, if it is asked at all."""
        self.relays: list[Endpoint] = []
        """Endpoints of relays that pass connections on to this node."""
        self.places = HandshakePlaces()
        self._static = X25519PrivateKey.from_private_bytes(self.around.entropy(32))
        self._prologue = b"" if config.network_key is None else b"/eigen/psk/1" + config.network_key
        self._connections: dict[Address, list[Connection]] = {}
        self._per_ip: dict[str, int] = {}
        self._connections_max = config.limits.connections
        self._nursery: trio.Nursery | None = None
        self._foreign_logged: set[Address] = set()

    # Life ---------------------------------------------------------------------------------------

    async def run(self, *, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and serve until cancelled. Raises `ListenError`."""
        self._connections_max = connections_allowed(self.config.limits.connections)
        opened = await self.around.transport.listen(self.config.listen)
        rate = AcceptRate(
            self.config.limits.accepts_per_ip_per_s, self.config.limits.accepts_per_ip_burst
        )
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for listening in opened:
                    self.listening.append(listening.endpoint)
                    nursery.start_soon(listening.serve, rate, self.serve_inbound, nursery)
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None
            self.listening.clear()
            for listening in opened:
                listening.close()
            self.events.end()

    async def serve_inbound(self, stream: ByteStream) -> Connection | None:
        """Shake hands with whoever connected, and wait for its hello. Raises nothing.

        Returns the connection if it was admitted; it lives on by itself.
        """
        scope = self.places.enter(stream.remote_ip)
        connection: Connection | None = None
        handed_over = False
        try:
            with scope, trio.move_on_after(HANDSHAKE_TIMEOUT_S):
                first = await read_exactly(stream, 1)
                if first == LANE_FIRST_BYTE and self.take_lane is not None:
                    handed_over = True
                    await self.take_lane(stream)
                    return None
                channel = await upgrade_inbound(
                    stream, self.key, self._static, prologue=self._prologue, already_read=first
                )
                self._check(channel.peer, inbound_ip=stream.remote_ip)
                connection = self._spawn(channel, outbound=False)
                if self.config.admit_strangers:
                    with trio.move_on_after(STRANGER_WAIT_S):
                        await connection.settled.wait()
                    self._admit(connection)
                await connection.settled.wait()
        except Libp2pError as error:
            log.debug("inbound connection from %s: %s", stream.remote_ip, error)
        finally:
            self.places.leave(scope)
            if connection is None and not handed_over:
                stream.abort()
            elif connection is not None and not connection.admitted.is_set():
                connection.session.abort()
        return connection if connection is not None and connection.admitted.is_set() else None

    async def dial(self, stream: ByteStream, expected: ID) -> Connection:
        """Make a fresh connection into an admitted one.

        Raises `Libp2pError`: `WrongPeer`, `WrongNetwork`, `Refused`, `ConnectionLost` and others.
        A cancel closes the connection.
        """
        connection: Connection | None = None
        try:
            with trio.move_on_after(HANDSHAKE_TIMEOUT_S):
                self._check(expected, inbound_ip=None)
                connection = await self.probe(stream, expected)
                await self._say_hello(connection)
        finally:
            if connection is None:
                stream.abort()
            elif not connection.admitted.is_set():
                connection.session.abort()
        if connection is None or not connection.admitted.is_set():
            raise ConnectionLost("the handshake took too long")
        return connection

    async def probe(self, stream: ByteStream, expected: ID) -> Connection:
        """Find out that the peer is there, without a hello: the caller closes the connection.

        Raises `Libp2pError`; then, and at a cancel, the stream is closed.
        """
        connection: Connection | None = None
        try:
            channel = await upgrade_outbound(
                stream, self.key, self._static, expected=expected, prologue=self._prologue
            )
            connection = self._spawn(channel, outbound=True)
            return connection
        finally:
            if connection is None:
                stream.abort()

    def _spawn(self, channel: NoiseChannel, *, outbound: bool) -> Connection:
        if self._nursery is None:
            raise ConnectionLost("the network is not running")
        connection = Connection(
            channel,
            outbound=outbound,
            served=self.served,
            budget=self.budget,
            blame=self._blame,
        )
        self._nursery.start_soon(self._run_connection, connection)
        return connection

    async def _run_connection(self, connection: Connection) -> None:
        try:
            await connection.run()
        finally:
            self._remove(connection)

    # Admission ----------------------------------------------------------------------------------

    def _check(self, peer: ID, *, inbound_ip: str | None) -> None:
        """Raises `Refused` for whom a limit, a list or a score keeps out."""
        address = address_of_peer(peer)
        if address == self.key.address:
            raise Refused("that is this node itself")
        if not self.is_listed(address):
            raise Refused("the peer is not on the allow list, or is on the deny list")
        if self.reputation.is_banned(address, trio.current_time()):
            raise Refused("the peer's score is too low")
        own = self._connections.get(address)
        if own is not None:
            if len(own) >= CONNECTIONS_PER_PEER_MAX:
                raise Refused("the peer has too many connections")
            return
        if len(self._connections) >= self._connections_max:
            raise Refused("all places for connections are taken")
        if (
            inbound_ip is not None
            and self._per_ip.get(inbound_ip, 0) >= self.config.limits.connections_per_ip
        ):
            raise Refused(f"too many connections from {inbound_ip}")

    def is_listed(self, peer: Address) -> bool:
        """Whether the lists let a peer in."""
        allow, deny = self.config.allow, self.config.deny
        return peer not in deny and (not allow or peer in allow)

    def is_reachable(self) -> bool:
        """Whether peers can dial this node, as those say who were asked to try.

        While none was: whether one did dial, from as far away as any peer is.
        """
        verdict = self.reach.verdict(trio.current_time())
        if verdict is not None:
            return verdict
        if self._dialled_from_afar:
            return True
        far = any(c[0].remote.is_global for c in self._connections.values())
        return self._dialled_nearby and not far

    def seen_from(self, connection: Connection) -> list[Endpoint]:
        """Where this peer might dial this node, the surest first; not all need to work."""
        guesses = seen(self.listening, self.config.announce, connection.observed)
        return list(dict.fromkeys(self.mapped + guesses))

    def hello(self, connection: Connection) -> Hello:
        """What this node says of itself to this peer."""
        own = reachable(
            self.listening, self.config.announce, connection.remote, connection.local_ip
        )
        listen = list(dict.fromkeys(self.relays + self.reach.verified + own))
        return Hello(
            network=self.config.network_id,
            software=self.config.software,
            time_s=int(self.around.unix_s()),
            listen=tuple(str(endpoint) for endpoint in listen[:MULTIADDRS_MAX]),
            observed=connection.remote.bare,
        )

    async def _say_hello(self, connection: Connection) -> None:
        ours = hello_protocol.frame(self.hello(connection))
        polite = self.config.admit_strangers  # a stranger may choke on bytes sent too early
        try:
            stream, _ = await connection.open(
                [hello_protocol.PROTOCOL], lazily=b"" if polite else ours
            )
        except (NotSupported, StreamReset):
            if not polite:
                raise
            self._admit(connection)
            return
        if polite:
            await stream.write(ours)
        theirs = await hello_protocol.read(stream)
        stream.close()
        self._judge(connection, theirs)

    async def _answer_hello(self, connection: Connection, stream: Stream) -> None:
        theirs = await hello_protocol.read(stream)
        await stream.write(hello_protocol.frame(self.hello(connection)))
        stream.close_write()
        if not connection.admitted.is_set():
            self._judge(connection, theirs)

    def _judge(self, connection: Connection, theirs: Hello) -> None:
        try:
            hello_protocol.judge(
                theirs, self.config.network_id, connection.peer, self.around.unix_s()
            )
        except WrongNetwork as error:
            if connection.address not in self._foreign_logged:
                if len(self._foreign_logged) > 1024:
                    self._foreign_logged.clear()
                self._foreign_logged.add(connection.address)
                log.warning(
                    "peer %s at %s refused: it is of network %r, this node of %r",
                    connection.peer,
                    connection.remote,
                    error.theirs,
                    self.config.network_id,
                )
            connection.session.close()
            raise
        connection.observed = theirs.observed_endpoint()
        endpoints = theirs.endpoints()
        if connection.remote.is_loopback or not all(e.is_loopback for e in endpoints):
            self.book.announced(connection.peer, connection.address, endpoints)
        try:
            self._admit(connection)
        except Refused:
            connection.session.close()
            raise

    def _admit(self, connection: Connection) -> None:
        """The peer is one of us: from now on it is in `peers()`."""
        if connection.admitted.is_set() or connection.closed.is_set():
            return
        inbound_ip = None if connection.outbound else connection.remote.host
        self._check(connection.peer, inbound_ip=inbound_ip)
        connection.admitted.set()
        connection.settled.set()
        if inbound_ip is not None and connection.remote.relay is None:
            self._dialled_nearby = True
            self._dialled_from_afar = self._dialled_from_afar or connection.remote.is_global
        if inbound_ip is not None:
            self._per_ip[inbound_ip] = self._per_ip.get(inbound_ip, 0) + 1
        others = self._connections.setdefault(connection.address, [])
        others.append(connection)
        self.book.succeeded(connection.address)
        if len(others) == 1:
            log.info("peer %s connected (%s)", connection.peer, connection.remote)
            self.events.emit(PeerConnected(connection.address))
            for observer in self.on_connected:
                observer(connection.address)
            return
        others.sort(key=self._preference)
        for loser in others[1:]:
            if not loser.draining.is_set() and self._nursery is not None:
                loser.draining.set()
                self._nursery.start_soon(self._drain, loser)
        for observer in self.on_switched:
            observer(connection.address)

    def _preference(self, connection: Connection) -> tuple[bool, bool, float]:
        """Both sides order connections alike: direct ones first, by who dialled, newest first."""
        ours_is_smaller = self.key.peer_id.to_bytes() < connection.peer.to_bytes()
        relayed = connection.remote.relay is not None
        return relayed, connection.outbound != ours_is_smaller, -connection.opened_at_s

    async def _drain(self, connection: Connection) -> None:
        """Let the losing connection finish its streams, then close it."""
        with trio.move_on_after(SIMULTANEOUS_GRACE_S):
            await connection.session.idle()
        connection.session.close()

    def _remove(self, connection: Connection) -> None:
        connection.settled.set()
        if not connection.admitted.is_set():
            return
        if not connection.outbound:
            ip = connection.remote.host
            self._per_ip[ip] -= 1
            if not self._per_ip[ip]:
                del self._per_ip[ip]
        others = self._connections[connection.address]
        others.remove(connection)
        if not others:
            del self._connections[connection.address]
            log.info("peer %s lost", connection.peer)
            self.book.lost(connection.address, trio.current_time())
            for observer in self.on_lost:
                observer(connection.address)
            self.events.emit(PeerLost(connection.address))

    # Use ----------------------------------------------------------------------------------------

    def peers(self) -> Iterable[Address]:
        """Peers connected now."""
        return self._connections.keys()

    @property
    def connection_count(self) -> int:
        """Admitted connections."""
        return sum(len(connections) for connections in self._connections.values())

    def connection(self, peer: Address) -> Connection | None:
        """The connection to use with a peer."""
        connections = self._connections.get(peer)
        return connections[0] if connections else None

    async def open(
        self, peer: Address, protocols: Sequence[str], *, lane: Lane = Lane.URGENT, lazily: bytes
    ) -> tuple[Stream, str]:
        """As `Connection.open`. Raises `ConnectionLost` where the peer is not connected."""
        connection = self.connection(peer)
        if connection is None:
            raise ConnectionLost("the peer is not connected")
        return await connection.open(protocols, lane=lane, lazily=lazily)

    def penalize(self, peer: Address, points: float, reason: str) -> None:
        """Take points off a peer's score; it is disconnected below the threshold."""
        self.reputation.penalize(peer, points, reason, trio.current_time())

    def _blame(self, connection: Connection, violation: ProtocolViolation) -> None:
        self.penalize(connection.address, violation.cost, str(violation))

    def _disconnect(self, peer: Address) -> None:
        for connection in self._connections.get(peer, ()):
            log.warning("peer %s disconnected: its score is too low", connection.peer)
            connection.session.abort()
