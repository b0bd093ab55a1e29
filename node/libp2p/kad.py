"""Kademlia DHT: finding who provides a content, and announcing what this node provides.

A node that peers can dial answers the DHT's protocol (server mode of `kad-dht/README.md`); another
only asks (client mode). A peer enters the routing table once it has answered on the protocol, which
clients do not, and only where an address of it is known.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import trio

from eigen.node.libp2p import kad_messages
from eigen.node.libp2p.bounds import (
    ADDRESSES_PER_PEER_MAX,
    KAD_ALPHA,
    KAD_BORROWED_MAX,
    KAD_K,
    KAD_LOOKUP_TIMEOUT_S,
    KAD_LOOKUPS_MAX,
    KAD_PROBES_MAX,
    KAD_QUERY_TIMEOUT_S,
    PROVIDER_KEYS_PER_PEER_MAX,
    PROVIDER_RENEW_S,
)
from eigen.node.libp2p.connection import Connection, Served
from eigen.node.libp2p.errors import (
    ConnectionLost,
    Libp2pError,
    NotSupported,
    ProtocolViolation,
)
from eigen.node.libp2p.kad_contact import Contact, contact, place_of, read_contact, write_record
from eigen.node.libp2p.kad_lookup import Lookup
from eigen.node.libp2p.kad_messages import Kind, Message, PeerRecord
from eigen.node.libp2p.kad_providers import ProviderStore
from eigen.node.libp2p.kad_server import KadServer
from eigen.node.libp2p.kad_table import RoutingTable
from eigen.node.libp2p.supervisor import Supervisor
from eigen.node.libp2p.swarm import Swarm
from eigen.node.libp2p.yamux_stream import Stream
from eigen.protocol.types import Address

log = logging.getLogger(__name__)

JOIN_DELAY_S: Final = 3.0
"""After a new peer in the table before this node looks itself up: several cost one lookup. The
next such lookup waits twice as long, and so on."""
JOIN_EVERY_S: Final = 300.0
"""Between two lookups of this node itself because the table grew, in the end."""
PROBE_DELAY_S: Final = 2.0
"""After a connection, before asking what the peer is: a lookup may have opened it to ask."""
STEP_S: Final = 60.0
"""One bucket at most is refreshed in that time, and expired records are dropped."""
REFRESH_S: Final = 3600.0
"""A bucket without a lookup for so long gets one."""
PROBE_EVERY_S: Final = 60.0
"""A peer that is no server is asked again whether it became one, when it asks something."""
RETRY_S: Final = 10.0
"""An announcement that nobody took is repeated after that."""
FIRST_RENEWAL_S: Final = 60.0
"""While fewer than k peers took an announcement it is repeated: after this time, then twice that,
and so on. A node that has just started knows few peers."""
PACE_S: Final = 0.2
"""Between two announcements: a node with a thousand keys takes minutes, not all of a CPU."""
BORROWED_S: Final = 60.0
"""How long a connection that a lookup opened is kept after its last query, if it is one too many
and nothing else uses it."""
RESIDENT_STREAMS: Final = 2
"""Streams of gossip, one each way, which every connection has: more are work under way."""
DIALS_MAX: Final = 4
"""Providers dialled at a time by one search."""

Hear = Callable[[Sequence[Contact]], None]


class Kad:
    """This node in the DHT. `run` keeps it there; nothing is asked or announced before."""

    def __init__(self, swarm: Swarm, supervisor: Supervisor, protocol: str) -> None:
        self._swarm = swarm
        self._supervisor = supervisor
        self._protocol = protocol
        self._rng = swarm.around.draws()  # jitter, and which bucket's peers to look for
        self.table = RoutingTable(swarm.key.peer_id, self._rng)
        self.store = ProviderStore()
        self._own: dict[bytes, float] = {}  # keys, with the time of the next announcement
        self._gaps_s: dict[bytes, float] = {}
        self._server = KadServer(swarm, self.table, self.store, self._own)
        self._lookups = trio.Semaphore(KAD_LOOKUPS_MAX)
        self._borrowed: dict[Address, float] = {}  # least recently used first
        self._probed_s: dict[Address, float] = {}
        self._to_probe: dict[Address, Contact] = {}
        self._new_peer = trio.Event()
        self._grown = trio.Event()
        self._news = trio.Event()
        swarm.on_connected.append(self._connected)
        swarm.on_lost.append(self._lost)

    # Life ---------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Learn who is in the DHT, renew announcements and refresh the table until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._probe_for_ever)
            nursery.start_soon(self._join_for_ever)
            nursery.start_soon(self._announce_for_ever)
            nursery.start_soon(self._refresh_for_ever)

    @property
    def is_server(self) -> bool:
        """Whether this node answers the DHT's protocol: it does once a peer has dialled it."""
        return self._protocol in self._swarm.served

    def _set_mode(self) -> None:
        reachable = self._swarm.is_reachable()
        if reachable and not self.is_server:
            self._swarm.served[self._protocol] = Served(self._serve)
            self._grown.set()  # who is asked by a server will ask back, and keep it
        elif not reachable:
            self._swarm.served.pop(self._protocol, None)

    def _connected(self, peer: Address) -> None:
        self._set_mode()
        self._news.set()
        connection = self._swarm.connection(peer)
        if connection is not None:
            self._want_probe(contact(connection.peer))

    def _lost(self, peer: Address) -> None:
        for known in (self._probed_s, self._borrowed):
            known.pop(peer, None)

    async def _serve(self, connection: Connection, stream: Stream) -> None:
        asker = contact(connection.peer)
        last_s = self._probed_s.get(asker.address, -PROBE_EVERY_S)
        if asker not in self.table and trio.current_time() - last_s >= PROBE_EVERY_S:
            self._want_probe(asker)
        await self._server.serve(connection, stream)

    def _want_probe(self, named: Contact) -> None:
        if len(self._to_probe) < KAD_PROBES_MAX:
            self._to_probe[named.address] = named
            self._new_peer.set()

    async def _probe_for_ever(self) -> None:
        """Ask peers, one after the other, whether they are servers, or still there."""
        request = Message(Kind.FIND_NODE, self._swarm.key.peer_id.to_bytes())
        while True:
            while self._to_probe:
                named = self._to_probe.pop(next(iter(self._to_probe)))
                if self.table.is_fresh(named, trio.current_time()):
                    continue
                if self._swarm.connection(named.address) is not None:
                    self._probed_s[named.address] = trio.current_time()
                try:
                    await self._ask(self._known(named), request)
                except Libp2pError as error:
                    log.debug("%s is not in the DHT: %s", named.peer, error)
            self._new_peer = trio.Event()
            await self._new_peer.wait()
            await trio.sleep(PROBE_DELAY_S)

    async def _join_for_ever(self) -> None:
        """Look this node itself up when the table has grown: its neighbours learn of it."""
        delay_s = JOIN_DELAY_S
        while True:
            await self._grown.wait()
            await trio.sleep(delay_s * self._rng.uniform(0.7, 1.3))
            delay_s = min(2 * delay_s, JOIN_EVERY_S)
            self._grown = trio.Event()
            await self._look_up(Kind.FIND_NODE, self._swarm.key.peer_id.to_bytes())

    async def _refresh_for_ever(self) -> None:
        while True:
            await trio.sleep(STEP_S * self._rng.uniform(0.7, 1.3))
            self._set_mode()
            now = trio.current_time()
            self.store.prune(now)
            self._give_back(now)
            bucket = self.table.due(now, REFRESH_S)
            if bucket is not None:
                await self._look_up(Kind.FIND_NODE, self.table.key_in(bucket))

    # Asking -------------------------------------------------------------------------------------

    async def _ask(self, named: Contact, request: Message) -> Message:
        """One query; what it shows of the peer goes into the table. Raises `Libp2pError`."""
        try:
            answer = await self._query(named, request)
        except NotSupported:
            self.table.remove(named)
            raise
        except ProtocolViolation as violation:
            self.table.remove(named)
            self._swarm.penalize(named.address, violation.cost, str(violation))
            raise
        except Libp2pError:
            self.table.failed(named)
            raise
        if named.endpoints:
            new = named not in self.table
            silent = self.table.add(named, trio.current_time())
            if new and named in self.table:
                self._grown.set()
            if silent is not None:
                self._want_probe(silent)
        return answer

    async def _query(self, named: Contact, request: Message) -> Message:
        answer: Message | None = None
        with trio.move_on_after(KAD_QUERY_TIMEOUT_S):
            connection = await self._reach(named)
            frame = kad_messages.encode(request)
            stream, _ = await connection.open([self._protocol])
            try:
                await stream.write(frame)
                answer = await kad_messages.read(stream)
                stream.close()  # not before: py-libp2p 0.8.1 resets what is half closed
            finally:
                if answer is None:
                    stream.reset("no answer")
        if answer is None:
            raise ConnectionLost(f"no answer in {KAD_QUERY_TIMEOUT_S} s")
        if answer.kind is not request.kind:
            raise ProtocolViolation("kad: an answer to another request")
        return answer

    async def _reach(self, named: Contact) -> Connection:
        """The connection with a peer, dialled if need be; what is dialled here is given back."""
        connection = self._swarm.connection(named.address)
        if connection is None:
            connection = await self._supervisor.reach(named.peer, named.endpoints)
            self._borrowed[named.address] = trio.current_time()
            if len(self._borrowed) > KAD_BORROWED_MAX:
                self._give_back(trio.current_time())
        elif self._borrowed.pop(named.address, None) is not None:
            self._borrowed[named.address] = trio.current_time()
        return connection

    def _give_back(self, now_s: float) -> None:
        """Close connections that a lookup opened, as far as there are more than are wanted."""
        spare = len(list(self._swarm.peers())) - self._swarm.config.limits.peers_wanted
        crowded = len(self._borrowed) > KAD_BORROWED_MAX
        for peer, used_s in list(self._borrowed.items()):
            connection = self._swarm.connection(peer)
            if spare <= 0 or (now_s - used_s < BORROWED_S and not crowded):
                return
            if connection is None or connection.session.stream_count <= RESIDENT_STREAMS:
                crowded = False
                spare -= 1
                del self._borrowed[peer]
                if connection is not None:
                    connection.session.close()

    def _known(self, named: Contact) -> Contact:
        """A contact with what the address book knows of the peer; direct addresses only."""
        known = self._swarm.book.get(named.address)
        listed = [] if known is None else known.in_order()
        connection = self._swarm.connection(named.address)
        if connection is not None and connection.outbound:
            listed.insert(0, connection.remote)
        direct = [e for e in (*listed, *named.endpoints) if e.relay is None]
        return replace(named, endpoints=tuple(dict.fromkeys(direct))[:ADDRESSES_PER_PEER_MAX])

    def _read(self, who: Contact, records: Sequence[PeerRecord]) -> list[Contact]:
        connection = self._swarm.connection(who.address)
        loopback = connection is not None and connection.remote.is_loopback
        read = [read_contact(record, loopback=loopback) for record in records[:KAD_K]]
        return [named for named in read if named is not None]

    async def _look_up(self, kind: Kind, key: bytes, hear: Hear | None = None) -> Lookup:
        """Ask nearer and nearer peers; `hear` is told of the providers in each answer.

        Raises nothing of a peer's. Ends after a minute with whom it has found.
        """
        place, request = place_of(key), Message(kind, key)
        seeds = self.table.closest(place)
        if len(seeds) < KAD_ALPHA:  # just started: whoever is connected may be a server
            connected = [self._swarm.connection(peer) for peer in self._swarm.peers()]
            seeds += [self._known(contact(c.peer)) for c in connected[:KAD_K] if c is not None]
        lookup = Lookup(place, self._swarm.key.address, seeds)
        news = trio.Event()

        async def query(named: Contact) -> None:
            try:
                answer = await self._ask(named, request)
            except Libp2pError as error:
                log.debug("asking %s: %s", named.peer, error)
                lookup.failed(named)
            else:
                lookup.answered(named, [self._known(c) for c in self._read(named, answer.closer)])
                if hear is not None:
                    hear(self._read(named, answer.providers))
            news.set()

        with trio.move_on_after(KAD_LOOKUP_TIMEOUT_S):
            async with self._lookups, trio.open_nursery() as nursery:
                while not lookup.done:
                    news = trio.Event()
                    for named in lookup.next():
                        nursery.start_soon(query, named)
                    await news.wait()
                nursery.cancel_scope.cancel()
        self.table.touch(place, trio.current_time())
        log.debug("a lookup took %d queries, %d hops", lookup.queries, lookup.hops)
        return lookup

    # Providers ----------------------------------------------------------------------------------

    def provide(self, key: bytes) -> None:
        """Announce a content soon, and again for as long as `run` does. Of more than 1,024 contents
        the oldest is no longer announced."""
        if key in self._own:
            return
        if len(self._own) >= PROVIDER_KEYS_PER_PEER_MAX:
            oldest = next(iter(self._own))
            del self._own[oldest]
            self._gaps_s.pop(oldest, None)
        self._own[key] = 0.0
        self._news.set()

    def withdraw(self, key: bytes) -> None:
        """Announce a content no more."""
        self._own.pop(key, None)
        self._gaps_s.pop(key, None)

    async def find_providers(self, key: bytes, *, limit: int, timeout_s: float) -> list[Address]:
        """Up to `limit` peers that say they provide a content, and are connected by now.

        Of each answer at most half of `limit` is tried, so that one liar cannot fill it.
        """
        found: dict[Address, Contact] = {}
        reached: list[Address] = []
        dials = trio.Semaphore(DIALS_MAX)

        async def reach(provider: Contact) -> None:
            async with dials:
                with trio.move_on_after(KAD_QUERY_TIMEOUT_S):
                    try:
                        await self._reach(provider)
                    except Libp2pError as error:
                        log.debug("provider %s: %s", provider.peer, error)
                        return
                    reached.append(provider.address)
            if len(reached) >= limit:
                nursery.cancel_scope.cancel()

        def hear(providers: Sequence[Contact]) -> None:
            fresh = [p for p in providers if p.address not in found and self._may_dial(p.address)]
            for provider in fresh[: max(1, limit // 2)]:
                found[provider.address] = provider
                nursery.start_soon(reach, provider)

        with trio.move_on_after(timeout_s):
            async with trio.open_nursery() as nursery:
                hear(self.store.get(key, trio.current_time()))
                await self._look_up(Kind.GET_PROVIDERS, key, hear)
        return reached[:limit]

    def _may_dial(self, peer: Address) -> bool:
        if peer == self._swarm.key.address or not self._swarm.is_listed(peer):
            return False
        return not self._swarm.reputation.is_banned(peer, trio.current_time())

    async def _announce_for_ever(self) -> None:
        while True:
            self._news = trio.Event()
            if not any(True for _ in self._swarm.peers()):
                await self._news.wait()
                continue
            due = [key for key, at_s in self._own.items() if at_s <= trio.current_time()]
            for key in due:
                taken = await self._announce(key) if key in self._own else 0
                if key in self._own:  # no newer one took its place meanwhile
                    self._own[key] = trio.current_time() + self._pause_s(key, taken)
                await trio.sleep(PACE_S)
            wait_s = min(self._own.values(), default=float("inf")) - trio.current_time()
            with trio.move_on_after(max(wait_s, 0.0)):
                await self._news.wait()

    def _pause_s(self, key: bytes, taken: int) -> float:
        """Until the next announcement, after one that so many peers took."""
        pause_s = PROVIDER_RENEW_S
        if taken == 0:
            pause_s = RETRY_S
        elif taken < KAD_K:
            pause_s = min(2 * self._gaps_s.get(key, FIRST_RENEWAL_S / 2), PROVIDER_RENEW_S)
            self._gaps_s[key] = pause_s
        return pause_s * self._rng.uniform(0.8, 1.0)

    async def _announce(self, key: bytes) -> int:
        """Tell the nearest peers that this node provides a content; how many took it."""
        lookup = await self._look_up(Kind.FIND_NODE, key)
        taken = 0
        places = trio.Semaphore(KAD_ALPHA)

        async def tell(named: Contact) -> None:
            nonlocal taken
            async with places:
                try:
                    with trio.move_on_after(KAD_QUERY_TIMEOUT_S):
                        await self._tell(named, key)
                        taken += 1
                except Libp2pError as error:
                    log.debug("announcing to %s: %s", named.peer, error)

        async with trio.open_nursery() as nursery:
            for named in lookup.closest():
                nursery.start_soon(tell, named)
        log.debug("announced %s to %d peers", key.hex(), taken)
        return taken

    async def _tell(self, named: Contact, key: bytes) -> None:
        """One ADD_PROVIDER. Raises `Libp2pError`, also where the peer refuses it.

        It has no answer of its own (py-libp2p sends it back, others nothing). A PING behind it on
        the same stream is answered after it was worked on.
        """
        connection = await self._reach(named)
        loopback = connection.remote.is_loopback
        me = write_record(self._server.own_contact(connection), loopback=loopback, connected=False)
        if not me.addresses:
            raise ConnectionLost("this node knows no address of its own to tell")
        stream, _ = await connection.open([self._protocol])
        try:
            request, ping = Message(Kind.ADD_PROVIDER, key, providers=(me,)), Message(Kind.PING)
            await stream.write(kad_messages.encode(request) + kad_messages.encode(ping))
            while (await kad_messages.read(stream)).kind is not Kind.PING:
                pass
        except BaseException:
            stream.reset("not announced")
            raise
        stream.close()
