"""Two and more nodes talk: connections, events, requests."""

import secrets

import pytest
import trio
from nodes import make, running, until

from eigen.node.libp2p.errors import BadMultiaddr, ListenError
from eigen.node.ports import (
    PeerConnected,
    PeerLost,
    PeerUnreachable,
    ReplyTooLarge,
    RequestRefused,
    RequestTimeout,
)
from eigen.protocol.types import Address

ECHO = "/test/echo/1"


async def echo(_peer: Address, payload: bytes) -> bytes:
    return payload


async def test_two_nodes_meet_and_part():
    async with running(make()) as alice:
        heard = alice.events()
        async with running(make()) as bob:
            assert await bob.connect(alice.listen_addrs()[0], timeout_s=5) == alice.local
            assert bob.peers() == {alice.local}
            assert await anext(heard) == PeerConnected(bob.local)
            assert alice.peers() == {bob.local}
        assert await anext(heard) == PeerLost(bob.local)
        assert alice.peers() == frozenset()


async def test_a_peer_can_be_described():
    async with running(make()) as alice, running(make()) as bob:
        assert bob.describe(alice.local) is None
        await bob.connect(alice.listen_addrs()[0], timeout_s=5)
        await until(lambda: bob.describe(alice.local).rtt_s is not None)
        info = bob.describe(alice.local)
        assert f"{info.multiaddr}/p2p/{info.peer_id}" == alice.listen_addrs()[0]
        assert (info.outbound, info.relayed, info.score) == (True, False, 0.0)
        assert 0 < info.rtt_s < 5


async def test_events_end_with_the_network():
    node = make()
    async with running(node):
        events = node.events()
    assert [event async for event in events] == []


async def test_a_request_is_answered_on_a_stream_of_its_own():
    async with running(make()) as alice, running(make()) as bob:
        asked_by = []

        async def handle(peer: Address, payload: bytes) -> bytes:
            asked_by.append(peer)
            return payload[::-1]

        alice.serve(ECHO, handle, request_bytes_max=1 << 22)
        await bob.connect(alice.listen_addrs()[0], timeout_s=5)
        for payload in (b"", b"x", b"hello", secrets.token_bytes(3_000_000)):
            reply = await bob.request(
                alice.local, ECHO, payload, reply_bytes_max=1 << 22, timeout_s=10
            )
            assert reply == payload[::-1]
        assert asked_by == [bob.local] * 4


async def test_a_refusal_carries_its_reason_and_a_bug_only_says_internal_error(caplog):
    async with running(make()) as alice, running(make()) as bob:

        async def refuse(_peer: Address, _payload: bytes) -> bytes:
            raise RequestRefused("not today")

        async def fail(_peer: Address, _payload: bytes) -> bytes:
            raise RuntimeError("secret detail")

        alice.serve("/test/refuse/1", refuse, request_bytes_max=10)
        alice.serve("/test/fail/1", fail, request_bytes_max=10)
        alice.serve(ECHO, echo, request_bytes_max=10)
        await bob.connect(alice.listen_addrs()[0], timeout_s=5)
        with pytest.raises(RequestRefused, match=r"^not today$"):
            await bob.request(alice.local, "/test/refuse/1", b"", reply_bytes_max=9, timeout_s=5)
        with pytest.raises(RequestRefused, match=r"^internal error$"):
            await bob.request(alice.local, "/test/fail/1", b"", reply_bytes_max=9, timeout_s=5)
        assert "secret detail" in caplog.text
        with pytest.raises(RequestRefused, match="does not serve"):
            await bob.request(alice.local, "/test/none/1", b"", reply_bytes_max=9, timeout_s=5)
        assert (
            await bob.request(alice.local, ECHO, b"ok", reply_bytes_max=9, timeout_s=5) == b"ok"
        )  # the host has survived


async def test_sizes_are_bounded_on_both_sides():
    async with running(make()) as alice, running(make()) as bob:

        async def grow(_peer: Address, _payload: bytes) -> bytes:
            return bytes(1000)

        alice.serve("/test/grow/1", grow, request_bytes_max=10)
        await bob.connect(alice.listen_addrs()[0], timeout_s=5)
        with pytest.raises(ReplyTooLarge):
            await bob.request(alice.local, "/test/grow/1", b"", reply_bytes_max=999, timeout_s=5)
        with pytest.raises(PeerUnreachable):
            await bob.request(
                alice.local, "/test/grow/1", bytes(11), reply_bytes_max=9999, timeout_s=5
            )
        await until(lambda: alice.score(bob.local) < 0)  # no honest node sends too much
        assert bob.score(alice.local) == 0


async def test_a_deadline_and_a_cancel_harm_no_other_request():
    async with running(make()) as alice, running(make()) as bob:
        started = ended = 0

        async def sleep(_peer: Address, _payload: bytes) -> bytes:
            nonlocal started, ended
            started += 1
            try:
                await trio.sleep_forever()
            finally:
                ended += 1

        alice.serve("/test/sleep/1", sleep, request_bytes_max=1 << 20)
        alice.serve(ECHO, echo, request_bytes_max=1 << 20)
        await bob.connect(alice.listen_addrs()[0], timeout_s=5)
        with pytest.raises(RequestTimeout):
            await bob.request(alice.local, "/test/sleep/1", b"", reply_bytes_max=9, timeout_s=0.1)
        with trio.move_on_after(0.05):
            await bob.request(
                alice.local, "/test/sleep/1", bytes(1 << 20), reply_bytes_max=9, timeout_s=9
            )
        assert await bob.request(alice.local, ECHO, b"1", reply_bytes_max=9, timeout_s=5) == b"1"
        assert started >= 1
        await until(lambda: ended == started)  # nobody waits for them any more


async def test_unreachable_and_malformed_addresses_are_said_clearly():
    async with running(make()) as alice:
        async with running(make()) as gone:
            address = gone.listen_addrs()[0]
        with pytest.raises(PeerUnreachable, match="refused"):
            await alice.connect(address, timeout_s=5)
        with pytest.raises(PeerUnreachable):
            await alice.request(gone.local, ECHO, b"", reply_bytes_max=1, timeout_s=1)
        for bad in (
            "nonsense",
            "/ip4/127.0.0.1/tcp/99999/p2p/x",
            "/ip4/127.0.0.1/udp/1/quic-v1",
            "/ip4/127.0.0.1/tcp/80",
            "/ip4/0.0.0.0/tcp/80/p2p/" + address.rpartition("/")[2],
            "/ip6/127.0.0.1/tcp/80",
        ):
            with pytest.raises(BadMultiaddr):
                await alice.connect(bad, timeout_s=1)


async def test_another_peer_at_the_address_is_noticed():
    async with running(make()) as alice, running(make()) as bob, running(make()) as eve:
        other = (
            alice.listen_addrs()[0].rpartition("/")[0]
            + "/"
            + eve.listen_addrs()[0].rpartition("/")[2]
        )
        with pytest.raises(PeerUnreachable, match=r"asked for .* found"):
            await bob.connect(other, timeout_s=5)
        assert bob.peers() == frozenset()


async def test_a_taken_port_is_a_clear_error():
    async with running(make()) as alice:
        taken = alice.listen_addrs()[0].rpartition("/p2p/")[0]
        with pytest.raises(ExceptionGroup) as caught:
            async with running(make(listen=(taken,))):
                pass
        error = caught.value
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        assert isinstance(error, ListenError)
        assert error.address == taken


async def test_three_nodes_know_each_other_through_one():
    async with running(make()) as hub:
        bootstrap = (hub.listen_addrs()[0],)
        async with (
            running(make(bootstrap=bootstrap)) as bob,
            running(make(bootstrap=bootstrap)) as carol,
        ):
            await until(lambda: bob.peers() == {hub.local, carol.local})
            await until(lambda: carol.peers() == {hub.local, bob.local})


async def test_a_peer_that_restarts_is_back_soon():
    secret = secrets.token_bytes(32)
    async with running(make(secret=secret)) as bob:
        address = bob.listen_addrs()[0]
    where = (address.rpartition("/p2p/")[0],)
    async with running(make(bootstrap=(address,))) as alice:
        events = alice.events()
        for _ in range(2):
            async with running(make(secret=secret, listen=where)) as bob:
                with trio.fail_after(10):
                    assert await anext(events) == PeerConnected(bob.local)
            with trio.fail_after(5):
                assert await anext(events) == PeerLost(bob.local)
            await trio.sleep(0.5)
        async with running(make(secret=secret, listen=where)):
            with trio.fail_after(10):  # 0.6 s; tests/bench/network.py measures it
                assert await anext(events) == PeerConnected(bob.local)


async def test_known_peers_survive_a_restart(tmp_path):
    secret, file = secrets.token_bytes(32), tmp_path / "state" / "peers.json"
    async with running(make()) as alice:
        async with running(make(secret=secret, peerstore=file)) as bob:
            await bob.connect(alice.listen_addrs()[0], timeout_s=5)
        await until(lambda: not alice.peers())
        async with running(make(secret=secret, peerstore=file)) as bob:
            await until(lambda: bob.peers() == {alice.local})  # without any bootstrap list
