"""Faults of a stock host that no other test covers; the table is in `docs/network.md`."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from nodes import make, running, until

from eigen.node.libp2p import multistream, supervisor, surroundings, swarm, tcp
from eigen.node.libp2p.byte_stream import PlainChannel, TcpStream
from eigen.node.libp2p.errors import ConnectionLost, ListenError, NotSupported
from eigen.node.libp2p.multiaddrs import parse_peer
from eigen.node.ports import PeerUnreachable


async def test_plaintext_is_declined():
    async with running(make()) as node:
        endpoint = parse_peer(node.listen_addrs()[0])
        stream = TcpStream(await trio.open_tcp_stream(endpoint.host, endpoint.port))
        with pytest.raises(NotSupported):
            await multistream.propose(PlainChannel(stream), ["/plaintext/2.0.0", "/tls/1.0.0"])
        stream.abort()


async def test_the_first_address_is_tried_at_once(monkeypatch):
    """Fault 12: a stock host sleeps 250 ms before each dial."""
    monkeypatch.setattr(supervisor, "NEXT_ADDRESS_S", 3600.0)
    async with running(make()) as alice, running(make()) as bob:
        slept = []
        real = trio.sleep

        async def sleep(seconds):
            if sys._getframe(1).f_code.co_filename in (supervisor.__file__, tcp.__file__):
                slept.append(seconds)
            await real(seconds)

        monkeypatch.setattr(trio, "sleep", sleep)
        await bob._supervisor.connect(parse_peer(alice.listen_addrs()[0]))
        assert [seconds for seconds in slept if seconds < 1] == []


async def test_a_mute_listener_is_given_up(monkeypatch):
    monkeypatch.setattr(swarm, "HANDSHAKE_TIMEOUT_S", 0.3)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    async with running(make()) as node:
        address = f"/ip4/127.0.0.1/tcp/{port}/p2p/{make()._swarm.key.peer_id}"
        with trio.fail_after(5), pytest.raises(PeerUnreachable, match="took too long"):
            await node.connect(address, timeout_s=60)
    await listener.aclose()


async def test_an_address_that_never_answers_does_not_delay_the_next(monkeypatch):
    """A peer with a dead address first is reached over its second at once."""
    monkeypatch.setattr(supervisor, "NEXT_ADDRESS_S", 0.05)
    real = tcp.connect_tcp

    async def connect(endpoint):
        if endpoint.port == 1:
            await trio.sleep_forever()
        return await real(endpoint)

    monkeypatch.setattr(surroundings, "connect_tcp", connect)
    async with running(make()) as alice, running(make()) as bob:
        good = parse_peer(alice.listen_addrs()[0])
        dead = parse_peer(f"/ip4/127.0.0.1/tcp/1/p2p/{good.peer}")
        bob._supervisor.learn(good.peer, [good, dead])
        await until(lambda: bob.peers() == {alice.local}, timeout_s=5)


def test_importing_leaves_the_transports_out():
    code = (
        "import sys, eigen.node.libp2p.network as n;"
        "assert 'libp2p.peer.id' in sys.modules;"
        "assert not any('quic' in m or 'websocket' in m for m in sys.modules);"
        "from libp2p import new_host"  # whoever asks for the whole package still gets it
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


async def test_a_host_name_that_does_not_resolve_is_a_plain_error():
    with pytest.raises(ConnectionLost):
        await tcp.connect_tcp(
            parse_peer(f"/dns4/no.such.host.invalid/tcp/1/p2p/{make()._swarm.key.peer_id}")
        )


async def test_an_address_that_is_not_ours_cannot_be_listened_on():
    with pytest.raises(ExceptionGroup) as caught:
        async with running(make(listen=("/ip4/203.0.113.1/tcp/0",))):
            pytest.fail("it listens")
    assert caught.group_contains(ListenError, match="203.0.113.1")


def has_ipv6() -> bool:
    file = Path("/proc/net/if_inet6")
    return socket.has_ipv6 and file.exists() and bool(file.read_text().strip())


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 address")
async def test_ip_version_6():
    both = ("/ip6/::1/tcp/0", "/ip4/127.0.0.1/tcp/0")
    async with running(make(listen=both)) as alice, running(make(listen=both)) as bob:
        address = next(text for text in alice.listen_addrs() if text.startswith("/ip6/::1/"))
        await bob.connect(address, timeout_s=5)
        await until(lambda: alice.peers() == {bob.local})
