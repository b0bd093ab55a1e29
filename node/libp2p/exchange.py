"""`/eigen/peers/1`: whoever is connected to one peer soon knows them all.

A peer's word about others is only a hint where to dial: whoever is there proves itself.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Final

import trio

from eigen.node.libp2p.address_book import Known
from eigen.node.libp2p.bounds import PEERS_PER_REPLY_MAX, PEERS_REPLY_BYTES_MAX
from eigen.node.libp2p.connection import Connection
from eigen.node.libp2p.errors import BadMultiaddr, HandshakeFailed
from eigen.node.libp2p.multiaddrs import parse_peer
from eigen.node.libp2p.own_addresses import reachable
from eigen.node.libp2p.requests import Requests
from eigen.node.libp2p.supervisor import Supervisor
from eigen.node.libp2p.swarm import Swarm
from eigen.node.ports import NetworkError, PeerConnected
from eigen.protocol import wire
from eigen.protocol.limits import MULTIADDR_BYTES_MAX, PENALTY_MALFORMED
from eigen.protocol.types import Address

log = logging.getLogger(__name__)

PROTOCOL: Final = "/eigen/peers/1"
ADDRESSES_EACH: Final = 3
ASK_EVERY_S: Final = 30.0
"""How often a peer at random is asked again."""
FEW_PEERS: Final = 4
FEW_ASK_EVERY_S: Final = 5.0
"""The same while few are connected: somebody may just have found a relay."""
ENOUGH_PEERS: Final = 8
"""While more are connected a newcomer is not asked at once: of twenty peers that come up together
each would tell each the same."""
TIMEOUT_S: Final = 10.0

Multiaddr = Annotated[str, wire.Length(MULTIADDR_BYTES_MAX)]


@dataclass(frozen=True, slots=True)
class Peers:
    """Multiaddrs, `/p2p/` included, of peers that the sender is connected to."""

    known: Annotated[tuple[Multiaddr, ...], wire.Length(PEERS_PER_REPLY_MAX * (ADDRESSES_EACH + 1))]


class PeerExchange:
    """Asks peers for peers, and answers them."""

    def __init__(
        self,
        swarm: Swarm,
        supervisor: Supervisor,
        requests: Requests,
        relays_to: Callable[[Address], bool],
    ) -> None:
        self._swarm = swarm
        self._supervisor = supervisor
        self._requests = requests
        self._relays_to = relays_to
        self._rng = swarm.around.draws()  # whom to ask

    async def answer(self, asker: Address, _payload: bytes) -> bytes:
        """Peers connected now, as the asker could dial them."""
        connection = self._swarm.connection(asker)
        local = connection is not None and connection.remote.is_loopback
        known = []
        peers = [peer for peer in self._swarm.peers() if peer != asker]
        self._rng.shuffle(peers)
        for peer in peers[:PEERS_PER_REPLY_MAX]:
            entry = self._swarm.book.get(peer)
            endpoints = [] if entry is None else list(entry.endpoints)
            usable = [e for e in endpoints if local or not e.is_loopback]
            if entry is not None:
                known += [str(replace(e, peer=entry.peer)) for e in usable[-ADDRESSES_EACH:]]
                known += self._through_us(connection, entry)
        return wire.encode_bare(Peers(tuple(known)))

    def _through_us(self, asker: Connection | None, wanted: Known) -> list[str]:
        """How the asker reaches a peer that has a reservation here."""
        if asker is None or not self._relays_to(wanted.address):
            return []
        config, local = self._swarm.config, self._swarm.key.peer_id
        own = reachable(self._swarm.listening, config.announce, asker.remote, asker.local_ip)
        return [str(replace(e, peer=wanted.peer, relay=local)) for e in own[:1]]

    async def run(self) -> None:
        """Ask the first peers once as they connect, and one at random now and then."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ask_at_random)
            async for event in self._swarm.events.listen():
                known = len(list(self._swarm.peers()))
                if isinstance(event, PeerConnected) and known <= ENOUGH_PEERS:
                    nursery.start_soon(self._ask, event.peer)

    async def _ask_at_random(self) -> None:
        while True:
            few = len(list(self._swarm.peers())) < FEW_PEERS
            pause_s = FEW_ASK_EVERY_S if few else ASK_EVERY_S
            await trio.sleep(pause_s * self._rng.uniform(0.7, 1.3))
            peers = list(self._swarm.peers())
            if peers and len(peers) < self._swarm.config.limits.peers_wanted:
                await self._ask(self._rng.choice(peers))

    async def _ask(self, peer: Address) -> None:
        try:
            reply = await self._requests.request(
                peer, PROTOCOL, b"", reply_bytes_max=PEERS_REPLY_BYTES_MAX, timeout_s=TIMEOUT_S
            )
            told = wire.decode_bare(reply, Peers, bytes_max=PEERS_REPLY_BYTES_MAX)
        except wire.WireError as error:
            self._swarm.penalize(peer, PENALTY_MALFORMED, f"peer exchange: {error}")
            return
        except NetworkError as error:
            log.debug("asking %s for peers: %s", peer.hex()[:8], error)
            return
        for text in told.known:
            try:
                endpoint = parse_peer(text)
                assert endpoint.peer is not None
                self._supervisor.learn(endpoint.peer, [endpoint])
            except (BadMultiaddr, HandshakeFailed):
                continue
