"""The `Network` port on libp2p: everything of this folder put together."""

import contextlib
import logging
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import trio

from eigen.node.libp2p import mdns, standard
from eigen.node.libp2p.autonat import AutoNatClient, AutoNatServer
from eigen.node.libp2p.bounds import HANDLER_TIMEOUT_S
from eigen.node.libp2p.bulk import Bulk
from eigen.node.libp2p.bulk_transfer import Outgoing
from eigen.node.libp2p.config import Libp2pConfig
from eigen.node.libp2p.connection import Connection, Served
from eigen.node.libp2p.dcutr import HolePuncher
from eigen.node.libp2p.errors import HandshakeFailed, Libp2pError
from eigen.node.libp2p.events import EventQueue
from eigen.node.libp2p.exchange import PROTOCOL as PEERS_PROTOCOL
from eigen.node.libp2p.exchange import PeerExchange
from eigen.node.libp2p.gossip import Gossip
from eigen.node.libp2p.identity import NodeKey
from eigen.node.libp2p.kad import Kad
from eigen.node.libp2p.multiaddrs import Endpoint, parse, parse_peer
from eigen.node.libp2p.own_addresses import expand, reachable
from eigen.node.libp2p.rate import Pacer
from eigen.node.libp2p.relay import RelayClient, RelayServer
from eigen.node.libp2p.requests import Requests
from eigen.node.libp2p.supervisor import Supervisor
from eigen.node.libp2p.surroundings import Surroundings
from eigen.node.libp2p.swarm import Swarm
from eigen.node.libp2p.upnp import PortMapper
from eigen.node.ports import (
    BulkHandler,
    GossipHandler,
    GossipValidator,
    PeerUnreachable,
    RequestHandler,
)
from eigen.protocol.cid import multihash_of
from eigen.protocol.types import Address, Cid

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """One connected peer, as a status page shows it."""

    peer_id: str
    multiaddr: str
    """Where its connection comes from or leads to, the relay included."""
    outbound: bool
    relayed: bool
    rtt_s: float | None
    connected_s: float
    streams: int
    score: float


@dataclass(frozen=True, slots=True)
class ReachInfo:
    """Whether and how this node is reached, as a status page shows it."""

    dialable: bool | None
    """What peers found who were asked to dial this node; None while none has answered."""
    relays: tuple[str, ...]
    """Multiaddrs of this node through its relays."""


class Libp2pNetwork:
    """A libp2p host of one secp256k1 key; see `ports.Network`. Nothing happens before `run`."""

    def __init__(
        self, config: Libp2pConfig, secret: bytes, around: Surroundings | None = None
    ) -> None:
        """`secret` is the raw 32-byte scalar. Raises ValueError where it is none."""
        self._config = config
        self._key = NodeKey(secret)
        self._swarm = Swarm(self._key, config, around)
        self._supervisor = Supervisor(self._swarm)
        self._requests = Requests(self._swarm)
        self._gossip = Gossip(self._swarm)
        relay_pacer = Pacer(0.0, config.limits.relay_bytes_per_s)
        self._relay = RelayServer(self._swarm, relay_pacer) if config.relay_for_others else None
        self._relay_client = RelayClient(self._swarm, self._supervisor.connect)
        self._mapper = PortMapper(self._swarm)
        self._autonat_server = AutoNatServer(self._swarm)
        self._autonat_client = AutoNatClient(self._swarm)
        if config.use_relays:
            self._supervisor.dial_relayed = self._relay_client.dial
        self._puncher = HolePuncher(self._swarm, self._supervisor.dial)
        self._exchange = PeerExchange(
            self._swarm, self._supervisor, self._requests, self._relays_to
        )
        limits = config.limits
        self._kad = Kad(self._swarm, self._supervisor, config.dht_protocol) if config.dht else None
        self._bulk = Bulk(
            self._swarm,
            upload=Pacer(limits.upload_bytes_per_s, limits.peer_upload_bytes_per_s),
            download=Pacer(limits.download_bytes_per_s, limits.peer_download_bytes_per_s),
        )
        self._swarm.on_lost.append(lambda _peer: self._supervisor.wake())
        served = self._swarm.served
        served[standard.IDENTIFY] = Served(
            standard.identify_handler(
                self._key.wrapped_public_key,
                config.software,
                self._reachable_by,
                lambda: sorted(served),
            ),
            before_admission=True,
            timeout_s=HANDLER_TIMEOUT_S,
        )
        served[standard.PING] = Served(standard.ping_handler, before_admission=True)
        self.serve(PEERS_PROTOCOL, self._exchange.answer, request_bytes_max=0)

    async def run(self, *, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; reports started once listening.

        Raises `ListenError` where an address cannot be listened on. A cancel closes all
        connections, and the other sides notice at once.
        """
        async with trio.open_nursery() as nursery:
            await nursery.start(self._swarm.run)
            log.info("listening on %s", ", ".join(self.listen_addrs()))
            nursery.start_soon(self._gossip.run)
            if self._config.exchange:
                nursery.start_soon(self._exchange.run)
            if self._kad is not None:
                nursery.start_soon(self._kad.run)
            nursery.start_soon(self._supervisor.run)
            nursery.start_soon(self._autonat_client.run)
            if self._config.use_relays:
                nursery.start_soon(self._relay_client.run)
                nursery.start_soon(self._puncher.run)
            if self._config.upnp:
                nursery.start_soon(self._mapper.run)
            if self._config.mdns:
                nursery.start_soon(self._run_mdns)
            task_status.started()

    @property
    def local(self) -> Address:
        """This node's address."""
        return self._key.address

    def listen_addrs(self) -> Sequence[str]:
        """See `ports.Network.listen_addrs`. Empty before `run` has started."""
        announced = [parse(text) for text in self._config.announce]
        own = announced or expand(self._swarm.listening)
        return [str(Endpoint(e.kind, e.host, e.port, self._key.peer_id)) for e in own]

    def peers(self) -> frozenset[Address]:
        """See `ports.Network.peers`."""
        return frozenset(self._swarm.peers())

    @property
    def connection_count(self) -> int:
        """Admitted connections; more than `peers()` only while two simultaneous dials settle."""
        return self._swarm.connection_count

    async def connect(self, multiaddr: str, *, timeout_s: float) -> Address:
        """See `ports.Network.connect`. Raises `BadMultiaddr` (a ValueError) on a bad address."""
        endpoint = parse_peer(multiaddr)
        with trio.move_on_after(timeout_s):
            try:
                connection = await self._supervisor.connect(endpoint)
            except Libp2pError as error:
                raise PeerUnreachable(f"{multiaddr}: {error}") from error
            return connection.address
        raise PeerUnreachable(f"{multiaddr}: not connected in {timeout_s} s")

    def subscribe(self, topic: str, validate: GossipValidator, handle: GossipHandler) -> None:
        """See `ports.Network.subscribe`. Raises ValueError the second time for a topic."""
        self._gossip.subscribe(topic, validate, handle)

    async def publish(self, topic: str, data: bytes) -> None:
        """See `ports.Network.publish`. Not delivered to this node's own handler.

        Raises ValueError above `limits.GOSSIP_MESSAGE_BYTES_MAX`.
        """
        await self._gossip.publish(topic, data)

    def serve(self, protocol: str, handle: RequestHandler, *, request_bytes_max: int) -> None:
        """See `ports.Network.serve`. Raises ValueError the second time for a protocol."""
        if protocol in self._swarm.served:
            raise ValueError(f"protocol: {protocol!r} is served already")
        handler = self._requests.handler(handle, request_bytes_max=request_bytes_max)
        self._swarm.served[protocol] = Served(handler)

    async def request(
        self,
        peer: Address,
        protocol: str,
        payload: bytes,
        *,
        reply_bytes_max: int,
        timeout_s: float,
    ) -> bytes:
        """See `ports.Network.request`."""
        return await self._requests.request(
            peer, protocol, payload, reply_bytes_max=reply_bytes_max, timeout_s=timeout_s
        )

    def open_bulk(
        self, peer: Address, protocol: str, header: bytes, *, timeout_s: float
    ) -> AbstractAsyncContextManager[Outgoing]:
        """See `ports.Network.open_bulk`."""
        return self._bulk.open(peer, protocol, header, timeout_s=timeout_s)

    def serve_bulk(self, protocol: str, handle: BulkHandler) -> None:
        """See `ports.Network.serve_bulk`. Raises ValueError the second time for a protocol."""
        self._bulk.handle(protocol, handle)

    async def provide(self, cid: Cid) -> None:
        """See `ports.ContentRouting.provide`."""
        await trio.lowlevel.checkpoint()
        if self._kad is not None:
            self._kad.provide(multihash_of(cid))

    async def withdraw(self, cid: Cid) -> None:
        """See `ports.ContentRouting.withdraw`."""
        await trio.lowlevel.checkpoint()
        if self._kad is not None:
            self._kad.withdraw(multihash_of(cid))

    async def find_providers(self, cid: Cid, *, limit: int, timeout_s: float) -> Sequence[Address]:
        """See `ports.ContentRouting.find_providers`."""
        if self._kad is None:
            return ()
        key = multihash_of(cid)
        return await self._kad.find_providers(key, limit=limit, timeout_s=timeout_s)

    def events(self) -> EventQueue:
        """See `ports.Network.events`. Ends when the network stops."""
        return self._swarm.events.listen()

    def describe(self, peer: Address) -> PeerInfo | None:
        """How a peer is connected, for people; None where it is not."""
        connection = self._swarm.connection(peer)
        if connection is None:
            return None
        return PeerInfo(
            peer_id=str(connection.peer),
            multiaddr=str(connection.remote),
            outbound=connection.outbound,
            relayed=connection.remote.relay is not None,
            rtt_s=connection.session.rtt_s,
            connected_s=trio.current_time() - connection.opened_at_s,
            streams=connection.session.stream_count,
            score=self.score(peer),
        )

    def reach(self) -> ReachInfo:
        """How this node is reached now."""
        local = self._key.peer_id
        relays = tuple(str(replace(relay, peer=local)) for relay in self._swarm.relays)
        return ReachInfo(self._swarm.reach.verdict(trio.current_time()), relays)

    def penalize(self, peer: Address, points: float, reason: str) -> None:
        """See `ports.Network.penalize`."""
        self._swarm.penalize(peer, points, reason)

    def score(self, peer: Address) -> float:
        """See `ports.Network.score`."""
        return self._swarm.reputation.score(peer, trio.current_time())

    def _relays_to(self, peer: Address) -> bool:
        return self._relay is not None and self._relay.serves(peer)

    def _reachable_by(self, connection: Connection) -> list[str]:
        endpoints = reachable(
            self._swarm.listening, self._config.announce, connection.remote, connection.local_ip
        )
        return [endpoint.bare for endpoint in dict.fromkeys(self._swarm.reach.verified + endpoints)]

    async def _run_mdns(self) -> None:
        addresses = [text for text in self.listen_addrs() if not parse(text).is_loopback]
        if not addresses:
            log.info("no peers will be found by multicast: listening on this machine only")
            return

        def learn(endpoint: Endpoint) -> None:
            if endpoint.peer is not None:
                with contextlib.suppress(HandshakeFailed):  # a neighbour with another kind of key
                    self._supervisor.learn(endpoint.peer, [endpoint])

        await mdns.run(addresses, parse(addresses[0]).port, learn)
