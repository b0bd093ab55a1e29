"""The DHT between real hosts in one process: found, fetched from, lied to, flooded."""

import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from nodes import make, until

from eigen.node.libp2p import kad_messages
from eigen.node.libp2p.bounds import (
    KAD_K,
    KAD_REQUESTS_BURST,
    PROVIDER_KEYS_PER_PEER_MAX,
    PROVIDERS_PER_KEY_MAX,
)
from eigen.node.libp2p.config import Limits
from eigen.node.libp2p.connection import Served
from eigen.node.libp2p.errors import StreamReset
from eigen.node.libp2p.kad_contact import contact, place_of, write_record
from eigen.node.libp2p.kad_messages import Kind, Message, PeerRecord
from eigen.node.libp2p.multiaddrs import parse
from eigen.node.libp2p.network import Libp2pNetwork
from eigen.protocol.cid import multihash_of, raw_cid

KAD = "/eigen/kad/1.0.0"
CONTENT = b"what everybody looks for"
CID = raw_cid(CONTENT)
KEY = multihash_of(CID)


def lone(**changes: object) -> Libp2pNetwork:
    """A host that dials nobody by itself: what connects it beyond its first peers is the DHT."""
    return make(**({"exchange": False, "limits": Limits(peers_wanted=1)} | changes))


async def meet(one: Libp2pNetwork, other: Libp2pNetwork) -> None:
    await one.connect(other.listen_addrs()[0], timeout_s=20)
    await until(lambda: one.local in other.peers())


@asynccontextmanager
async def ring(count: int, chords: int = 1) -> AsyncIterator[tuple[list[Libp2pNetwork], object]]:
    """Hosts that each dialled the next one and some others: all can be dialled, all are servers."""
    hosts = [lone() for _ in range(count)]
    rng = random.Random(1)
    async with trio.open_nursery() as nursery:
        for host in hosts:
            await nursery.start(host.run)
        for index, host in enumerate(hosts):
            await meet(host, hosts[(index + 1) % count])
            for other in rng.sample(hosts, chords):
                if other is not host and other.local not in host.peers():
                    await meet(host, other)
        await until(lambda: all(h._kad.is_server for h in hosts))
        wanted = min(count - 1, KAD_K) * 2 // 3
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
