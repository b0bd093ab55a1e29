"""Who is let in: network id, private network key, allow and deny lists, score, one connection."""

import secrets

import pytest
import trio
from nodes import make, running, until

from eigen.node.libp2p import bounds
from eigen.node.libp2p.config import Limits
from eigen.node.libp2p.errors import Refused
from eigen.node.libp2p.identity import NodeKey
from eigen.node.libp2p.multiaddrs import parse_peer
from eigen.node.libp2p.tcp import connect_tcp
from eigen.node.ports import PeerUnreachable, RequestRefused
from eigen.protocol import limits


async def test_a_peer_of_another_network_is_refused_with_one_line(caplog):
    async with (
        running(make(network_id="one")) as alice,
        running(make(network_id="two", bootstrap=tuple(alice.listen_addrs()))) as bob,
    ):
        await until(lambda: "network 'two'" in caplog.text and "network 'one'" in caplog.text)
        with pytest.raises(PeerUnreachable, match="belongs to network 'one'"):
            await bob.connect(alice.listen_addrs()[0], timeout_s=5)
        assert alice.peers() == bob.peers() == frozenset()
        refused = [r for r in caplog.records if "refused: it is of network" in r.getMessage()]
        assert len(refused) == 2  # each side says so once


async def test_a_private_network_admits_only_those_with_its_key():
    key = secrets.token_bytes(32)
    async with (
        running(make(network_key=key)) as alice,
        running(make(network_key=key)) as bob,
        running(make()) as stranger,
        running(make(network_key=secrets.token_bytes(32))) as other,
    ):
        address = alice.listen_addrs()[0]
        await bob.connect(address, timeout_s=5)
        for outsider in (stranger, other):
            with pytest.raises(PeerUnreachable):
                await outsider.connect(address, timeout_s=5)
        assert alice.peers() == {bob.local}


async def test_lists_keep_peers_out_both_ways():
    secret = secrets.token_bytes(32)
    address = NodeKey(secret).address
    async with (
        running(make(secret=secret)) as bob,
        running(make(deny=frozenset({address}))) as denying,
        running(make(allow=frozenset({address}))) as allowing,
        running(make()) as carol,
    ):
        with pytest.raises(PeerUnreachable):
            await bob.connect(denying.listen_addrs()[0], timeout_s=5)
        with pytest.raises(PeerUnreachable, match="deny list"):
            await denying.connect(bob.listen_addrs()[0], timeout_s=5)
        await bob.connect(allowing.listen_addrs()[0], timeout_s=5)
        with pytest.raises(PeerUnreachable):
            await carol.connect(allowing.listen_addrs()[0], timeout_s=5)


async def test_a_penalised_peer_is_dropped_and_stays_out():
    async with running(make()) as alice, running(make()) as bob:
        await bob.connect(alice.listen_addrs()[0], timeout_s=5)
        await until(lambda: bob.local in alice.peers())
        for _ in range(4):
            alice.penalize(bob.local, limits.PENALTY_MALFORMED, "test")
        assert -80.1 < alice.score(bob.local) < -79
        assert bob.local in alice.peers()
        alice.penalize(bob.local, limits.PENALTY_MALFORMED, "test")
        await until(lambda: not alice.peers() and not bob.peers())
        with pytest.raises(PeerUnreachable):
            await bob.connect(alice.listen_addrs()[0], timeout_s=5)
        with pytest.raises(ValueError, match="points"):
            alice.penalize(bob.local, -1, "praise")


async def test_simultaneous_dials_leave_one_connection():
    for _ in range(5):
        async with running(make()) as alice, running(make()) as bob:
            events = alice.events()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: bob.connect(alice.listen_addrs()[0], timeout_s=5))
                nursery.start_soon(lambda: alice.connect(bob.listen_addrs()[0], timeout_s=5))
            with pytest.raises(RequestRefused):  # either side can use it at once
                await alice.request(bob.local, "/none/1", b"", reply_bytes_max=1, timeout_s=5)
            for node in (alice, bob):
                await until(lambda node=node: node.connection_count == 1, timeout_s=15)
            assert alice.peers() == {bob.local}
            await anext(events)
            with trio.move_on_after(0.1):
                pytest.fail(f"a second event: {await anext(events)}")


async def test_connections_are_limited():
    async with running(make(limits=Limits(connections=2))) as alice:
        nodes = [make() for _ in range(3)]
        async with running(nodes[0]), running(nodes[1]), running(nodes[2]):
            for node in nodes[:2]:
                await node.connect(alice.listen_addrs()[0], timeout_s=5)
            with pytest.raises(PeerUnreachable):
                await nodes[2].connect(alice.listen_addrs()[0], timeout_s=5)
            assert len(alice.peers()) == 2


async def never(_connection):
    await trio.sleep_forever()


async def test_one_peer_holds_few_connections(monkeypatch):
    async with running(make()) as alice, running(make()) as bob:
        monkeypatch.setattr(bob._swarm, "_drain", never)
        monkeypatch.setattr(alice._swarm, "_drain", never)
        endpoint = parse_peer(alice.listen_addrs()[0])
        for _ in range(bounds.CONNECTIONS_PER_PEER_MAX):
            await bob._swarm.dial(await connect_tcp(endpoint), endpoint.peer)
        with pytest.raises(Refused, match="too many connections"):
            await bob._swarm.dial(await connect_tcp(endpoint), endpoint.peer)
        await until(lambda: alice.connection_count == bounds.CONNECTIONS_PER_PEER_MAX)
        assert alice.peers() == {bob.local}
