"""Two nodes that nobody can dial meet through a third."""

import contextlib
import os
import secrets
from pathlib import Path

import pytest
import trio
from namespaces import add, delete, inside, ip, join, need_namespaces
from nodes import make, running, until
from programs import program, python

from eigen.node.libp2p import relay
from eigen.node.libp2p.circuit import HOP, STOP
from eigen.node.libp2p.errors import StreamReset
from eigen.node.ports import PeerUnreachable, Verdict


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(relay, "LOOK_EVERY_S", 0.1)


async def test_two_hidden_nodes_talk_gossip_and_stream(nursery):
    hub = make()
    await nursery.start(hub.run)
    hidden = [make(listen=(), bootstrap=tuple(hub.listen_addrs())) for _ in range(2)]
    got, parts = [], []

    async def echo(_peer, payload):
        return payload

    async def hear(_peer, data):
        got.append(data)

    async def take(_peer, _header, reader):
        while (part := await reader.receive(timeout_s=10)) is not None:
            parts.append(part)

    alice, bob = hidden
    for node in hidden:
        node.serve("/test/echo/1", echo, request_bytes_max=1 << 20)
        node.subscribe("t", lambda _peer, _data: Verdict.ACCEPT, hear)
    bob.serve_bulk("/test/parts/1", take)
    await nursery.start(bob.run)
    await until(lambda: bob._swarm.relays)
    await nursery.start(alice.run)  # learns of bob by peer exchange, with the way through the hub
    await until(lambda: bob.local in alice.peers() and alice.local in bob.peers())
    remote = alice._swarm.connection(bob.local).remote
    assert str(remote.relay) in hub.listen_addrs()[0]
    payload = secrets.token_bytes(300_000)
    for here, there in ((alice, bob), (bob, alice)):
        reply = await here.request(
            there.local, "/test/echo/1", payload, reply_bytes_max=1 << 20, timeout_s=10
        )
        assert reply == payload
    await until(lambda: alice._gossip.router.subscribers("t"))
    await alice.publish("t", b"hello")
    await until(lambda: got == [b"hello"])
    async with alice.open_bulk(bob.local, "/test/parts/1", b"", timeout_s=10) as out:
        await out.send(payload, timeout_s=10)
        await out.finish(timeout_s=10)
    assert parts == [payload]
    assert alice._bulk.fallbacks == 1  # no lane leads through a relay
    nursery.cancel_scope.cancel()


async def test_nobody_is_passed_on_without_a_reservation(nursery):
    hub, alice = make(), make()
    bob = make(use_relays=False, listen=())
    for node in (hub, alice, bob):
        await nursery.start(node.run)
    for node in (alice, bob):
        await node.connect(hub.listen_addrs()[0], timeout_s=5)
    through = f"{hub.listen_addrs()[0]}/p2p-circuit/p2p/{bob._swarm.key.peer_id}"
    with pytest.raises(PeerUnreachable, match="does not pass on"):
        await alice.connect(through, timeout_s=5)
    nursery.cancel_scope.cancel()


async def test_a_circuit_that_nobody_asked_for_costs_the_relay(nursery):
    alice, mallory = make(), make()
    for node in (alice, mallory):
        await nursery.start(node.run)
    await mallory.connect(alice.listen_addrs()[0], timeout_s=5)
    with contextlib.suppress(StreamReset):
        await mallory._swarm.connection(alice.local).open([STOP])
    await until(lambda: alice.score(mallory.local) < 0)
    nursery.cancel_scope.cancel()


async def test_a_relay_is_not_blamed_for_a_reservation_wanted_no_more(nursery, monkeypatch):
    hub = make()
    await nursery.start(hub.run)
    alice, bob = (make(listen=(), bootstrap=tuple(hub.listen_addrs())) for _ in range(2))
    await nursery.start(bob.run)
    await until(lambda: bob._swarm.relays)
    monkeypatch.setattr(bob._swarm, "is_reachable", lambda: True)  # as it turns out
    await until(lambda: not bob._swarm.relays)
    await nursery.start(alice.run)
    await until(lambda: bob.local in alice.peers())
    assert alice.describe(bob.local).relayed
    assert bob.score(hub.local) == 0.0
    nursery.cancel_scope.cancel()


async def test_a_reservation_is_renewed_before_it_ends(nursery, monkeypatch):
    monkeypatch.setattr(relay, "RESERVATION_S", 1)
    monkeypatch.setattr(relay, "RENEW_AFTER_S", 0.3)
    hub = make()
    await nursery.start(hub.run)
    bob = make(listen=(), bootstrap=tuple(hub.listen_addrs()))
    await nursery.start(bob.run)
    await until(lambda: hub._relays_to(bob.local))
    first = hub._relay._reserved[bob.local]
    await until(lambda: hub._relay._reserved[bob.local] > first + 1.0)
    assert hub._relays_to(bob.local)
    assert bob._swarm.relays
    nursery.cancel_scope.cancel()


async def test_a_relay_can_be_switched_off(nursery):
    hub = make(relay_for_others=False)
    await nursery.start(hub.run)
    assert HOP not in hub._swarm.served
    async with running(make(listen=(), bootstrap=tuple(hub.listen_addrs()))) as node:
        await until(node.peers)
        await trio.sleep(0.3)
        assert node._swarm.relays == []
    nursery.cancel_scope.cancel()


NODE = """
import json, sys, trio
from namespaces import add, delete, inside, ip, join, need_namespaces
from nodes import make
from eigen.node.libp2p import relay
relay.FIRST_LOOK_S = relay.LOOK_EVERY_S = 0.2

async def main():
    async def echo(_peer, payload):
        return payload

    node = make(listen=(sys.argv[1],), bootstrap=tuple(sys.argv[2:]))
    node.serve("/test/echo/1", echo, request_bytes_max=1 << 20)
    events = node.events()
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        print(json.dumps({"address": node.listen_addrs()[0]}), flush=True)
        async for event in events:
            connection = node._swarm.connection(event.peer)
            if connection is None or connection.remote.relay is None:
                continue
            payload = bytes(1 << 20)
            reply = await node.request(
                event.peer, "/test/echo/1", payload, reply_bytes_max=1 << 20, timeout_s=20
            )
            print(json.dumps({"relayed": len(reply)}), flush=True)

trio.run(main)
"""


@pytest.mark.slow
async def test_nodes_in_networks_without_a_route_between_them(tmp_path, monkeypatch):
    """Two network namespaces that reach the hub's and not each other, as behind two NATs."""
    need_namespaces()
    script = tmp_path / "node.py"
    script.write_text(NODE)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    tag = f"eigen{os.getpid() % 10_000}"
    spaces = [f"{tag}{letter}" for letter in "hab"]
    try:
        for space in spaces:
            add(space)
        for index, letter in enumerate("ab", start=1):
            here, there = f"10.78.{index}", f"10.78.{3 - index}"
            join(spaces[0], f"{here}.1/24", spaces[index], f"{here}.2/24", f"{tag}{letter}")
            ip("-n", spaces[index], "route", "add", "blackhole", f"{there}.0/24")

        def command(space: str, *arguments: str) -> list[str]:
            return inside(space, python(str(script), *arguments))

        async with program(command(spaces[0], "/ip4/0.0.0.0/tcp/4001")) as hub:
            peer = str(await hub.line("address")).rpartition("/")[2]

            def member(index: int) -> list[str]:
                return command(
                    spaces[index],
                    f"/ip4/10.78.{index}.2/tcp/4001",
                    f"/ip4/10.78.{index}.1/tcp/4001/p2p/{peer}",
                )

            async with program(member(1)) as alice, program(member(2)) as bob:
                assert await alice.line("relayed", timeout_s=60) == 1 << 20
                assert await bob.line("relayed", timeout_s=60) == 1 << 20
    finally:
        delete(*spaces)
