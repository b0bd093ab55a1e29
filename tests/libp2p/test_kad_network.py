"""The DHT between real hosts in one process: found, fetched from, lied to, flooded."""

import os
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
import trio
from nodes import make, until

from eigen.node.libp2p import kad, kad_messages, relay
from eigen.node.libp2p.bounds import (
    KAD_K,
    KAD_REQUESTS_BURST,
    PROVIDER_KEYS_PER_PEER_MAX,
    PROVIDER_LIFE_S,
    PROVIDER_RENEW_S,
)
from eigen.node.libp2p.config import Limits
from eigen.node.libp2p.connection import Served
from eigen.node.libp2p.errors import StreamReset
from eigen.node.libp2p.kad_contact import contact, write_record
from eigen.node.libp2p.kad_messages import Kind, Message, PeerRecord
from eigen.node.libp2p.multiaddrs import parse
from eigen.node.libp2p.network import Libp2pNetwork
from eigen.protocol.cid import multihash_of, raw_cid
from eigen.protocol.types import Address

HOSTS = int(os.environ.get("EIGEN_KAD_HOSTS", "50"))
KAD = "/eigen/kad/1.0.0"
CONTENT = b"what everybody looks for"
CID = raw_cid(CONTENT)
KEY = multihash_of(CID)


LIMITS = Limits(peers_wanted=1, connections_per_ip=256, accepts_per_ip_burst=1000)


def lone(**changes: object) -> Libp2pNetwork:
    """A host that dials nobody by itself: what connects it beyond its first peers is the DHT."""
    return make(**({"exchange": False, "limits": LIMITS} | changes))


async def meet(one: Libp2pNetwork, other: Libp2pNetwork) -> None:
    await one.connect(other.listen_addrs()[0], timeout_s=20)
    await until(lambda: one.local in other.peers())


scopes: dict[Address, trio.CancelScope] = {}
"""Of hosts in a ring: a cancel is as when a process ends."""


async def live(host: Libp2pNetwork, *, task_status=trio.TASK_STATUS_IGNORED) -> None:
    with trio.CancelScope() as scopes[host.local]:
        await host.run(task_status=task_status)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(relay, "LOOK_EVERY_S", 0.1)


@asynccontextmanager
async def ring(
    count: int, chords: int = 1, known: int | None = None
) -> AsyncIterator[tuple[list[Libp2pNetwork], object]]:
    """Hosts that each dialled the next one and some others: all can be dialled, all are servers.

    Ready once each has so many in its table; by default what their own lookups bring.
    """
    hosts = [lone() for _ in range(count)]
    rng = random.Random(1)
    async with trio.open_nursery() as nursery:
        for host in hosts:
            await nursery.start(live, host)
        for index, host in enumerate(hosts):
            await meet(host, hosts[(index + 1) % count])
            for other in rng.sample(hosts, chords):
                if other is not host and other.local not in host.peers():
                    await meet(host, other)
        await until(lambda: all(h._kad.is_server for h in hosts))
        wanted = known or min(count - 1, KAD_K) * 2 // 3
        await until(lambda: all(len(h._kad.table) >= wanted for h in hosts), timeout_s=120)
        yield hosts, nursery
        nursery.cancel_scope.cancel()


async def announced(hosts: Sequence[Libp2pNetwork], provider: Libp2pNetwork) -> int:
    """Wait until a host's announcement of CID has reached others; how many."""
    await provider.provide(CID)

    def holders() -> int:
        now = trio.current_time()
        return sum(provider.local in {p.address for p in h._kad.store.get(KEY, now)} for h in hosts)

    await until(lambda: provider._kad._own[KEY] > trio.current_time())
    return holders()


async def test_a_provider_is_found_by_a_host_that_is_not_connected_to_it_and_serves_it():
    async with ring(20) as (hosts, nursery):
        provider, seeker = hosts[3], lone()

        async def serve(_peer, payload):
            return CONTENT if payload == CID.encode() else b""

        provider.serve("/test/block/1", serve, request_bytes_max=100)
        assert await announced(hosts, provider) >= 15, "the nearest of all hold the record"
        await nursery.start(seeker.run)
        await meet(seeker, hosts[13])
        assert seeker.peers() == {hosts[13].local}
        assert not seeker._kad.is_server, "nobody has dialled it"
        start = time.perf_counter()
        assert await seeker.find_providers(CID, limit=4, timeout_s=20) == [provider.local]
        print(f"found among 20 in {1e3 * (time.perf_counter() - start):.0f} ms")
        got = await seeker.request(
            provider.local, "/test/block/1", CID.encode(), reply_bytes_max=100, timeout_s=5
        )
        assert got == CONTENT
        me = contact(seeker._swarm.key.peer_id)
        assert not any(me in host._kad.table for host in hosts), "a client is in no table"


async def test_a_provider_that_cannot_be_dialled_is_found_and_reached_through_its_relay():
    async with ring(6) as (hosts, nursery):
        provider, seeker = lone(listen=()), lone()
        await nursery.start(provider.run)
        await meet(provider, hosts[0])
        await until(lambda: provider._swarm.relays)
        assert await announced(hosts, provider) >= 5
        assert not provider._kad.is_server
        await nursery.start(seeker.run)
        await meet(seeker, hosts[3])
        assert await seeker.find_providers(CID, limit=4, timeout_s=20) == [provider.local]
        assert seeker.describe(provider.local).relayed


def test_an_announcement_is_renewed_twice_a_day_and_sooner_while_few_have_it():
    ours = lone()._kad
    key_a, key_b = b"a", b"b"
    assert ours._pause_s(key_a, taken=0) <= kad.RETRY_S
    gaps_s = [ours._pause_s(key_a, taken=KAD_K - 1) for _ in range(12)]
    assert gaps_s[0] <= kad.FIRST_RENEWAL_S
    assert all(later > 1.5 * gap for gap, later in pairwise(gaps_s[:9]))
    for last_s in (gaps_s[-1], ours._pause_s(key_b, taken=KAD_K)):
        assert PROVIDER_RENEW_S / 2 < last_s <= PROVIDER_RENEW_S


async def test_what_nobody_provides_is_not_found():
    async with ring(5) as (hosts, _):
        assert await hosts[0].find_providers(CID, limit=4, timeout_s=20) == []


async def test_alone_or_without_the_dht_nothing_is_found_and_nothing_fails():
    alone, without = lone(), lone(dht=False)
    async with trio.open_nursery() as nursery:
        for host in (alone, without):
            await nursery.start(host.run)
            await host.provide(CID)
            assert list(await host.find_providers(CID, limit=4, timeout_s=20)) == []
        await meet(alone, without)
        assert list(await alone.find_providers(CID, limit=4, timeout_s=20)) == []
        nursery.cancel_scope.cancel()


async def test_a_lookup_passes_the_dead_and_forgets_them():
    async with ring(12) as (hosts, nursery):
        provider = hosts[5]
        await announced(hosts, provider)
        seeker = lone()
        await nursery.start(seeker.run)
        await meet(seeker, hosts[0])
        await until(lambda: len(seeker._kad.table) >= 10)
        dead = [contact(h._swarm.key.peer_id) for h in hosts[8:]]
        for host in hosts[8:]:
            scopes[host.local].cancel()
        await until(lambda: not any(host.peers() for host in hosts[8:]))
        assert await seeker.find_providers(CID, limit=1, timeout_s=30) == [provider.local]
        for _ in range(2):
            await seeker._kad._look_up(Kind.FIND_NODE, KEY)
        assert not any(gone in seeker._kad.table for gone in dead)
        assert len(seeker._kad.table) >= 6, "the living stay"


async def test_connections_that_a_lookup_opened_are_given_back_unless_they_are_in_use():
    async with ring(10) as (hosts, nursery):
        seeker = lone()

        async def hang(_peer, _payload):
            await trio.sleep_forever()

        hosts[5].serve("/test/hang/1", hang, request_bytes_max=0)
        await nursery.start(seeker.run)
        await meet(seeker, hosts[0])
        await until(lambda: hosts[5].local in seeker._kad._borrowed)
        kept = {hosts[0].local, hosts[5].local}

        async def use() -> None:
            await seeker.request(
                hosts[5].local, "/test/hang/1", b"", reply_bytes_max=0, timeout_s=60
            )

        nursery.start_soon(use)
        connection = seeker._swarm.connection(hosts[5].local)
        await until(lambda: connection.session.stream_count > kad.RESIDENT_STREAMS)
        assert len(seeker.peers()) > 2
        seeker._kad._give_back(trio.current_time())
        assert len(seeker.peers()) > 2, "they were used just now"
        later_s = trio.current_time() + kad.BORROWED_S + 1
        await until(lambda: seeker._kad._give_back(later_s) or seeker.peers() == kept)


# Hostile peers --------------------------------------------------------------------------------


class Hostile:
    """A host whose answers on the DHT's protocol are what a test says; counts what it was asked."""

    def __init__(self, answer) -> None:
        self.host = lone()
        self.asked = 0
        self._answer = answer
        # Its own DHT is off: the handler below is all that speaks the protocol.
        self.host._kad._set_mode = lambda: None
        self.host._swarm.served[KAD] = Served(self._serve)

    async def _serve(self, _connection, stream) -> None:
        request = await kad_messages.read(stream)
        self.asked += 1
        await stream.write(self._answer(request))


def fake_peer(number: int) -> PeerRecord:
    """A well-formed peer at a port where nobody listens."""
    named = contact(make()._swarm.key.peer_id, [parse(f"/ip4/127.0.0.1/tcp/{number + 1}")])
    return write_record(named, loopback=True, connected=True)


def garbage_ids(request: Message) -> bytes:
    junk = tuple(PeerRecord(bytes([n]) * 39, (b"\xff\xff",)) for n in range(20))
    return kad_messages.encode(Message(request.kind, request.key, junk, junk))


def nonsense(_request: Message) -> bytes:
    return b"\x05\xff\xff\xff\xff\xff"


def too_long(_request: Message) -> bytes:
    return b"\xff\xff\xff\xff\x7f"


def too_many(request: Message) -> bytes:
    many = (fake_peer(1),) * 65
    return kad_messages.encode(Message(request.kind, request.key, many))


def another_kind(request: Message) -> bytes:
    return kad_messages.encode(Message(Kind.PING))


@pytest.mark.parametrize("answer", [nonsense, too_long, too_many, another_kind])
async def test_a_malformed_answer_costs_its_sender_and_the_lookup_goes_on(answer):
    async with ring(5) as (hosts, nursery):
        hostile = Hostile(answer)
        await nursery.start(hostile.host.run)
        await announced(hosts, hosts[2])
        seeker = lone()
        await nursery.start(seeker.run)
        await meet(seeker, hostile.host)
        await until(lambda: seeker.score(hostile.host.local) < 0)
        assert hostile.asked > 0
        assert contact(hostile.host._swarm.key.peer_id) not in seeker._kad.table
        await meet(seeker, hosts[0])
        assert await seeker.find_providers(CID, limit=2, timeout_s=20) == [hosts[2].local]


async def test_garbage_ids_and_self_references_lead_nowhere():
    async with ring(5) as (hosts, nursery):
        seeker = lone()

        def about_themselves(request: Message) -> bytes:
            mirror = contact(hostile.host._swarm.key.peer_id, map(parse, [address]))
            asker = contact(seeker._swarm.key.peer_id, map(parse, [address]))
            named = [write_record(c, loopback=True, connected=True) for c in (mirror, asker)]
            return kad_messages.encode(Message(request.kind, request.key, (*named,), (*named,)))

        hostile, junk = Hostile(about_themselves), Hostile(garbage_ids)
        for host in (hostile.host, junk.host, seeker):
            await nursery.start(host.run)
        address = hostile.host.listen_addrs()[0].rpartition("/p2p/")[0]
        await announced(hosts, hosts[2])
        for host in (hostile.host, junk.host, hosts[0]):
            await meet(seeker, host)
        await until(lambda: len(seeker._kad.table) >= 3)
        asked = hostile.asked + junk.asked
        found = await seeker.find_providers(CID, limit=4, timeout_s=20)
        assert hosts[2].local in found
        assert set(found) <= {hosts[2].local, hostile.host.local}, "nobody invented, not itself"
        assert asked < hostile.asked + junk.asked <= asked + 2, "each is asked once"


async def test_providers_that_a_liar_invents_do_not_hide_the_real_one():
    async with ring(5) as (hosts, nursery):
        fakes = tuple(fake_peer(n) for n in range(20))

        def invent(request: Message) -> bytes:
            return kad_messages.encode(Message(request.kind, request.key, fakes, fakes))

        hostile, seeker = Hostile(invent), lone()
        for host in (hostile.host, seeker):
            await nursery.start(host.run)
        await announced(hosts, hosts[2])
        for host in (hostile.host, hosts[0]):
            await meet(seeker, host)
        await until(lambda: len(seeker._kad.table) >= 2)
        asked = hostile.asked
        assert await seeker.find_providers(CID, limit=4, timeout_s=20) == [hosts[2].local]
        assert hostile.asked > asked, "the lie was told"
        assert len(seeker._swarm.book) <= 10, "what it invented is not remembered"


async def say(host: Libp2pNetwork, to: Libp2pNetwork, *requests: Message) -> list[Message]:
    """Send requests on one stream; the answers that come until the other side closes."""
    stream, _ = await host._swarm.connection(to.local).open([KAD])
    for request in requests:
        await stream.write(kad_messages.encode(request))
    stream.close_write()
    answers = []
    while True:
        try:
            answers.append(await kad_messages.read(stream))
        except StreamReset:
            if not stream.finished:
                raise
            return answers


@asynccontextmanager
async def server_and_peer() -> AsyncIterator[tuple[Libp2pNetwork, Libp2pNetwork]]:
    server, peer = lone(), lone()
    async with trio.open_nursery() as nursery:
        for host in (server, peer):
            await nursery.start(host.run)
        await meet(peer, server)
        yield server, peer
        nursery.cancel_scope.cancel()


def record_of(host: Libp2pNetwork) -> PeerRecord:
    named = host._kad._server.own_contact(next(iter(host._swarm._connections.values()))[0])
    return write_record(named, loopback=True, connected=False)


async def test_who_announces_for_another_is_scored_down_and_nothing_is_stored():
    async with server_and_peer() as (server, peer):
        lie = Message(Kind.ADD_PROVIDER, KEY, providers=(fake_peer(7),))
        with pytest.raises(StreamReset):
            await say(peer, server, lie)
        assert server.score(peer.local) < 0
        assert len(server._kad.store) == 0


async def test_a_record_is_told_until_it_expires():
    async with server_and_peer() as (server, peer):
        assert (
            await say(peer, server, Message(Kind.ADD_PROVIDER, KEY, providers=(record_of(peer),)))
            == []
        )
        connection = server._swarm.connection(peer.local)
        request, now = Message(Kind.GET_PROVIDERS, KEY), trio.current_time()
        assert server._kad.store.get(KEY, now)[0].address == peer.local
        assert server._kad._server._answer(connection, request, now).providers == (), (
            "it is not told about itself"
        )
        assert server._kad.store.get(KEY, now + PROVIDER_LIFE_S + 1) == []


async def test_a_flood_of_announcements_stays_bounded():
    async with server_and_peer() as (server, peer):
        me = record_of(peer)
        flood = [
            Message(Kind.ADD_PROVIDER, b"\x12\x20" + n.to_bytes(32, "big"), providers=(me,))
            for n in range(int(KAD_REQUESTS_BURST) * 3)
        ]
        with pytest.raises(StreamReset):
            await say(peer, server, *flood)
        assert KAD_REQUESTS_BURST <= len(server._kad.store) < len(flood)
        assert len(server._kad.store) <= PROVIDER_KEYS_PER_PEER_MAX
        assert server.score(peer.local) == 0, "too fast is no crime: it is only not served"


async def test_values_are_refused():
    async with server_and_peer() as (server, peer):
        [answer] = await say(peer, server, Message(Kind.GET_VALUE, b"/pk/x"))
        assert (answer.kind, answer.key) == (Kind.GET_VALUE, b"/pk/x"), "and no record"
        with pytest.raises(StreamReset):
            await say(peer, server, Message(Kind.PUT_VALUE, b"/pk/x"))
        [pong] = await say(peer, server, Message(Kind.PING))
        assert pong == Message(Kind.PING)
        assert server.score(peer.local) == 0


async def test_a_peer_is_found_by_its_id_and_several_requests_share_a_stream():
    async with server_and_peer() as (server, peer):
        ids = [h._swarm.key.peer_id.to_bytes() for h in (server, peer)]
        answers = await say(peer, server, *(Message(Kind.FIND_NODE, raw) for raw in ids))
        assert [answer.closer[0].peer for answer in answers] == ids
        assert all(answer.closer[0].addresses for answer in answers)


async def test_a_request_without_a_key_is_a_violation():
    async with server_and_peer() as (server, peer):
        with pytest.raises(StreamReset):
            await say(peer, server, Message(Kind.GET_PROVIDERS))
        assert server.score(peer.local) < 0


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_many_hosts_find_what_two_of_them_provide(monkeypatch):
    """`EIGEN_KAD_HOSTS=50 pytest -s tests/libp2p/test_kad_network.py -k many` prints figures."""
    monkeypatch.setattr(kad, "JOIN_DELAY_S", 1e6)  # one process: they join one after the other
    async with ring(HOSTS, chords=3, known=4) as (hosts, _):
        for host in hosts:
            await host._kad._look_up(Kind.FIND_NODE, host._swarm.key.peer_id.to_bytes())
        await trio.sleep(2)  # who was asked asks back
        providers = (hosts[11], hosts[-7])
        for provider in providers:
            assert await announced(hosts, provider) >= min(HOSTS, KAD_K) * 3 // 4
        wanted = {provider.local for provider in providers}
        took_ms, hops, queries = [], [], []
        for seeker in hosts[::2]:
            start = time.perf_counter()
            found = await seeker.find_providers(CID, limit=4, timeout_s=30)
            took_ms.append(1e3 * (time.perf_counter() - start))
            assert set(found) == wanted - {seeker.local}
            lookup = await seeker._kad._look_up(Kind.FIND_NODE, KEY)
            hops.append(lookup.hops)
            queries.append(lookup.queries)
        tables = sorted(len(host._kad.table) for host in hosts)
        median_ms = sorted(took_ms)[len(took_ms) // 2]
        print(f"\nlookups {median_ms:.0f} ms median, {max(took_ms):.0f} at most;")
        print(f"hops {max(hops)} at most, queries {sum(queries) / len(queries):.0f} on average;")
        print(f"tables hold {tables[0]} to {tables[-1]} peers")
