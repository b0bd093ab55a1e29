"""Hole punching: a relayed connection between two peers behind NATs becomes a direct one.

Both dial each other at the same time from the ports they listen on, so that each router takes the
other's packets for answers (TCP simultaneous open). The peer that was dialled through the relay
coordinates; whoever dialled through the relay is the dialling side of the new connection too.
"""

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from eigen.node.libp2p import dcutr_messages as messages
from eigen.node.libp2p.accept import AcceptRate
from eigen.node.libp2p.bounds import (
    DIAL_TIMEOUT_S,
    HANDSHAKE_TIMEOUT_S,
    PUNCH_TIMEOUT_S,
    PUNCH_TRIES,
    PUNCHES_BURST,
    PUNCHES_MAX,
    PUNCHES_PER_S,
)
from eigen.node.libp2p.connection import Connection, Served
from eigen.node.libp2p.dcutr_messages import DCUTR, HolePunch, Kind
from eigen.node.libp2p.errors import Libp2pError, ProtocolViolation, StreamReset
from eigen.node.libp2p.identity import ID, address_of_peer
from eigen.node.libp2p.multiaddrs import Endpoint
from eigen.node.libp2p.swarm import Swarm
from eigen.node.libp2p.tcp import connect_at_once
from eigen.node.libp2p.yamux_stream import Stream
from eigen.protocol.types import Address

log = logging.getLogger(__name__)

RETRY_FIRST_S: Final = 600.0
"""Routers do not change their ways soon; a laptop may have moved."""
RETRY_MAX_S: Final = 7200.0
SETTLE_S: Final = 0.5
"""Two peers that dial each other through relays have two connections at first."""
BACKOFFS_MAX: Final = 1024
"""Peers whose failures are remembered; the oldest goes."""
SERVE_TIMEOUT_S: Final = PUNCH_TRIES * (2 * DIAL_TIMEOUT_S + PUNCH_TIMEOUT_S + HANDSHAKE_TIMEOUT_S)

Dial = Callable[[ID, Sequence[Endpoint]], Awaitable[Connection]]


@dataclass(frozen=True, slots=True)
class Backoff:
    """After a failure: when to try again, and how long the pause is then."""

    until_s: float
    pause_s: float


class HolePuncher:
    """Upgrades relayed connections that came in, and helps with those that this node dialled."""

    def __init__(self, swarm: Swarm, dial: Dial) -> None:
        """`dial` connects to a peer at one of some endpoints."""
        self._swarm = swarm
        self._dial = dial
        self._nursery: trio.Nursery | None = None
        self._upgrading: set[Address] = set()
        self._backoffs: OrderedDict[Address, Backoff] = OrderedDict()
        self._rate = AcceptRate(PUNCHES_PER_S, PUNCHES_BURST)
        self._busy = 0
        self.tried = self.opened = 0
        swarm.served[DCUTR] = Served(self._serve, timeout_s=SERVE_TIMEOUT_S)
        swarm.on_connected.append(self._look_at)
        swarm.on_switched.append(self._look_at)

    async def run(self) -> None:
        """Upgrade connections until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await trio.sleep_forever()

    def _is_direct(self, peer: Address) -> bool:
        connection = self._swarm.connection(peer)
        return connection is not None and connection.remote.relay is None

    def _look_at(self, peer: Address) -> None:
        wanted = self._wanted(peer) is not None and peer not in self._upgrading
        if wanted and self._nursery is not None:
            self._upgrading.add(peer)
            self._nursery.start_soon(self._upgrade, peer)

    def _wanted(self, peer: Address) -> Connection | None:
        """The connection in use, if it is relayed and this side was dialled."""
        connection = self._swarm.connection(peer)
        if connection is None or connection.outbound or connection.remote.relay is None:
            return None
        return connection

    # The side that was dialled ------------------------------------------------------------------

    async def _upgrade(self, peer: Address) -> None:
        """Try now and then for as long as a relayed connection is the one in use."""
        try:
            await trio.sleep(SETTLE_S)
            while (connection := self._wanted(peer)) is not None:
                backoff = self._backoffs.get(peer, Backoff(0.0, RETRY_FIRST_S))
                with trio.move_on_at(backoff.until_s):
                    await connection.closed.wait()
                if connection.closed.is_set():
                    continue
                if await self._try(connection):
                    self._backoffs.pop(peer, None)
                    log.info("peer %s is connected directly now", connection.peer)
                    return
                pause_s = min(2 * backoff.pause_s, RETRY_MAX_S)
                self._backoffs[peer] = Backoff(trio.current_time() + backoff.pause_s, pause_s)
                if len(self._backoffs) > BACKOFFS_MAX:
                    self._backoffs.popitem(last=False)
                log.info("no direct way to peer %s: it stays relayed", connection.peer)
        finally:
            self._upgrading.discard(peer)

    async def _try(self, connection: Connection) -> bool:
        """Dial the peer if it has a public address; else punch. False where both fail."""
        known = self._swarm.book.get(connection.address)
        endpoints = [] if known is None else known.in_order()
        public = [e for e in endpoints if e.relay is None and e.is_global]
        try:
            if public:
                with trio.move_on_after(DIAL_TIMEOUT_S):
                    await self._dial(connection.peer, public)
                    return True
        except Libp2pError as error:
            log.debug("%s cannot be dialled: %s", connection.peer, error)
        try:
            stream, _ = await connection.open([DCUTR])
        except Libp2pError as error:
            log.debug("%s punches no holes: %s", connection.peer, error)
            return self._is_direct(connection.address)
        try:
            for _ in range(PUNCH_TRIES):
                if await self._coordinate(connection, stream):
                    return True
        except ProtocolViolation as violation:
            self._swarm.penalize(connection.address, violation.cost, str(violation))
        except Libp2pError as error:
            log.debug("hole punching with %s: %s", connection.peer, error)
        finally:
            stream.close()
        return self._is_direct(connection.address)

    async def _coordinate(self, connection: Connection, stream: Stream) -> bool:
        own = self._own_addresses(connection)
        began = trio.current_time()
        theirs: HolePunch | None = None
        with trio.move_on_after(DIAL_TIMEOUT_S):
            await stream.write(messages.frame(HolePunch(Kind.CONNECT, own)))
            theirs = await messages.read(stream, Kind.CONNECT)
            await stream.write(messages.frame(HolePunch(Kind.SYNC)))
        if theirs is None:
            raise StreamReset("no answer to CONNECT")
        await trio.sleep((trio.current_time() - began) / 2)
        self.tried += 1
        carrier = await connect_at_once(self._swarm.listening, _public(theirs))
        if carrier is not None:
            await self._swarm.serve_inbound(carrier)
        direct = self._is_direct(connection.address)
        self.opened += direct
        return direct

    # The side that dialled ----------------------------------------------------------------------

    async def _serve(self, connection: Connection, stream: Stream) -> None:
        if connection.remote.relay is None or not connection.outbound:
            raise ProtocolViolation("dcutr: only over a relay, and of whoever was dialled")
        allowed = self._rate.allows(connection.address.hex(), trio.current_time())
        if not allowed or self._busy >= PUNCHES_MAX:
            raise StreamReset("too many hole punchings")
        self._busy += 1
        try:
            for _ in range(PUNCH_TRIES):
                if await self._follow(connection, stream):
                    return
        finally:
            self._busy -= 1

    async def _follow(self, connection: Connection, stream: Stream) -> bool:
        theirs = await messages.read(stream, Kind.CONNECT)
        own = self._own_addresses(connection)
        await stream.write(messages.frame(HolePunch(Kind.CONNECT, own)))
        await messages.read(stream, Kind.SYNC)
        self.tried += 1
        carrier = await connect_at_once(self._swarm.listening, _public(theirs))
        if carrier is None:
            return False
        try:
            direct = await self._swarm.dial(carrier, connection.peer)
        except ProtocolViolation:
            raise
        except Libp2pError as error:
            log.debug("a punched hole to %s was of no use: %s", connection.peer, error)
            return False
        direct.punched = True
        self.opened += 1
        return True

    def _own_addresses(self, connection: Connection) -> tuple[Endpoint, ...]:
        """Where the relay sees this node, with the ports that it listens on."""
        assert connection.remote.relay is not None
        relay = self._swarm.connection(address_of_peer(connection.remote.relay))
        addresses = [] if relay is None else self._swarm.seen_from(relay)
        return tuple(address for address in addresses if address.is_global)


def _public(message: HolePunch) -> list[Endpoint]:
    """Only public addresses are dialled for a peer: ours are none of its business."""
    return [e for e in message.addresses if e.is_global and e.port]
