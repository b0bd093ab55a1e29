"""Answers what peers ask of the DHT: who is near to a key, who provides it, and that they do.

Values are not stored: PUT_VALUE resets the stream, and GET_VALUE names nearer peers without a
record, as a node does that has none (`kad-dht/README.md`).
"""

import logging

import trio

from eigen.node.libp2p import kad_messages
from eigen.node.libp2p.bounds import (
    KAD_K,
    KAD_REQUESTS_BURST,
    KAD_REQUESTS_PER_S,
    KAD_SILENCE_S,
)
from eigen.node.libp2p.connection import Connection
from eigen.node.libp2p.errors import ProtocolViolation, StreamReset
from eigen.node.libp2p.kad_contact import Contact, contact, place_of, read_contact, write_record
from eigen.node.libp2p.kad_messages import Kind, Message, PeerRecord
from eigen.node.libp2p.kad_providers import ProviderStore
from eigen.node.libp2p.kad_table import RoutingTable
from eigen.node.libp2p.own_addresses import reachable
from eigen.node.libp2p.swarm import Swarm
from eigen.node.libp2p.token_bucket import TokenBucket
from eigen.node.libp2p.yamux_stream import Stream
from eigen.protocol.types import Address

log = logging.getLogger(__name__)


class KadServer:
    """One node's answers, from its table and store. `own` holds keys that it provides itself."""

    def __init__(
        self, swarm: Swarm, table: RoutingTable, store: ProviderStore, own: dict[bytes, float]
    ) -> None:
        self._swarm = swarm
        self._table = table
        self._store = store
        self._own = own
        self._rates: dict[Address, TokenBucket] = {}
        swarm.on_lost.append(self._lost)

    def _lost(self, peer: Address) -> None:
        self._rates.pop(peer, None)

    async def serve(self, connection: Connection, stream: Stream) -> None:
        """The stream handler: requests one after the other until the peer closes."""
        while True:
            request: Message | None = None
            try:
                with trio.move_on_after(KAD_SILENCE_S):
                    request = await kad_messages.read(stream)
            except StreamReset:
                if stream.finished:
                    return
                raise
            if request is None:
                raise StreamReset("no request came")
            now = trio.current_time()
            rate = self._rates.setdefault(
                connection.address, TokenBucket(KAD_REQUESTS_PER_S, KAD_REQUESTS_BURST, now)
            )
            if not rate.take(1.0, now):
                raise StreamReset("the peer asks too often")
            answer = self._answer(connection, request, now)
            if answer is not None:
                await stream.write(kad_messages.encode(answer))

    def _answer(self, connection: Connection, request: Message, now_s: float) -> Message | None:
        """The answer, if one is due. Raises `ProtocolViolation`, or `StreamReset` to refuse."""
        if request.kind is Kind.PING:
            return Message(Kind.PING)
        if not request.key:
            raise ProtocolViolation("kad: a request without a key")
        if request.kind is Kind.PUT_VALUE:
            raise StreamReset("values are not stored here")
        if request.kind is Kind.ADD_PROVIDER:
            self._take(connection, request, now_s)
            return None
        providers: tuple[PeerRecord, ...] = ()
        if request.kind is Kind.GET_PROVIDERS:
            providers = self._providers(connection, request.key, now_s)
        closer = self._closer(connection, request)
        return Message(request.kind, request.key, closer, providers)

    def own_contact(self, connection: Connection) -> Contact:
        """This node as the other side of a connection may dial it, through relays if need be."""
        direct = reachable(
            self._swarm.listening,
            self._swarm.config.announce,
            connection.remote,
            connection.local_ip,
        )
        return contact(self._swarm.key.peer_id, [*self._swarm.relays, *direct])

    def _closer(self, connection: Connection, request: Message) -> tuple[PeerRecord, ...]:
        near = [
            named
            for named in self._table.closest(place_of(request.key), KAD_K + 1)
            if named.address != connection.address
        ]
        if request.kind is Kind.FIND_NODE:
            exact = self._exactly(connection, request.key)
            if exact is not None:
                near = [exact, *(named for named in near if named.peer != exact.peer)]
        return tuple(self._record(connection, named) for named in near[:KAD_K])

    def _exactly(self, connection: Connection, key: bytes) -> Contact | None:
        """The peer whose id is the key: this node, or one that is connected, client or not."""
        if key == self._swarm.key.peer_id.to_bytes():
            return self.own_contact(connection)
        named = read_contact(PeerRecord(key), loopback=False)
        if named is None or self._swarm.connection(named.address) is None:
            return None
        known = self._swarm.book.get(named.address)
        return None if known is None else contact(named.peer, known.in_order())

    def _providers(
        self, connection: Connection, key: bytes, now_s: float
    ) -> tuple[PeerRecord, ...]:
        found = [p for p in self._store.get(key, now_s) if p.address != connection.address]
        if key in self._own:
            found.insert(0, self.own_contact(connection))
        return tuple(self._record(connection, provider) for provider in found[:KAD_K])

    def _record(self, asker: Connection, named: Contact) -> PeerRecord:
        return write_record(
            named,
            loopback=asker.remote.is_loopback,
            connected=self._swarm.connection(named.address) is not None,
        )

    def _take(self, connection: Connection, request: Message, now_s: float) -> None:
        """Store what the peer says of itself; to speak for another is a violation."""
        for record in request.providers:
            if record.peer != connection.peer.to_bytes():
                raise ProtocolViolation("kad: a provider record for another peer")
            provider = read_contact(record, loopback=connection.remote.is_loopback)
            if provider is None or not provider.endpoints:
                raise StreamReset("a provider that cannot be dialled")
            if not self._store.add(request.key, provider, now_s):
                log.debug("no place for another record of %s", connection.peer)
