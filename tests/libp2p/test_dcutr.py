"""Hole punching where it needs no NAT: messages, refusals, and what listening ports allow."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nodes import make, until

from eigen.node.libp2p import dcutr, relay
from eigen.node.libp2p import dcutr_messages as messages
from eigen.node.libp2p.accept import open_listeners
from eigen.node.libp2p.dcutr_messages import DCUTR, HolePunch, Kind
from eigen.node.libp2p.errors import ListenError, ProtocolViolation, StreamReset
from eigen.node.libp2p.multiaddrs import Endpoint
from eigen.node.libp2p.tcp import connect_at_once

ENDPOINTS = st.builds(
    Endpoint, st.just("ip4"), st.ip_addresses(v=4).map(str), st.integers(0, 65_535)
)
MESSAGES = st.builds(HolePunch, st.sampled_from(Kind), st.lists(ENDPOINTS, max_size=8).map(tuple))


@given(MESSAGES)
def test_messages_round_trip(message):
    assert messages.decode(messages.encode(message)) == message


@given(st.binary(max_size=200))
def test_other_bytes_are_violations_and_nothing_else(data):
    with contextlib.suppress(ProtocolViolation):
        messages.decode(data)


async def test_a_port_that_is_listened_on_is_dialled_from_and_still_taken(nursery):
    (local, listener), (remote, other) = await open_listeners(["/ip4/127.0.0.1/tcp/0"] * 2)
    with pytest.raises(ListenError, match="in use"):
        await open_listeners([str(local)])
    stream = await connect_at_once([local], [remote])
    assert stream is not None
    accepted = await other.accept()
    assert accepted.socket.getpeername() == (local.host, local.port)
    for each in (listener, other, accepted):
        await each.aclose()
    stream.abort()


async def test_hole_punching_that_makes_no_sense_costs_its_sender(nursery):
    alice, mallory = make(), make()
    for node in (alice, mallory):
        await nursery.start(node.run)
    await mallory.connect(alice.listen_addrs()[0], timeout_s=5)
    with contextlib.suppress(StreamReset):
        stream, _ = await mallory._swarm.connection(alice.local).open([DCUTR])
        await stream.write(messages.frame(HolePunch(Kind.CONNECT)))
    await until(lambda: alice.score(mallory.local) < 0)
    nursery.cancel_scope.cancel()


async def test_where_no_hole_can_be_punched_the_relay_stays(nursery, monkeypatch):
    """Without a public address on either side all tries fail, and a pause follows."""
    monkeypatch.setattr(relay, "LOOK_EVERY_S", 0.1)
    hub = make()
    await nursery.start(hub.run)
    alice, bob = (make(listen=(), bootstrap=tuple(hub.listen_addrs())) for _ in range(2))
    await nursery.start(bob.run)
    await until(lambda: bob._swarm.relays)
    await nursery.start(alice.run)
    await until(lambda: alice._puncher.tried == bob._puncher.tried == 3)
    await until(lambda: alice.local in bob._puncher._backoffs)
    assert bob._puncher._backoffs[alice.local].pause_s == 2 * dcutr.RETRY_FIRST_S
    assert alice.describe(bob.local).relayed
    assert bob.describe(alice.local).relayed
    assert alice.score(bob.local) == bob.score(alice.local) == 0.0
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("first", [Kind.SYNC, None])
async def test_a_peer_that_punches_out_of_turn_pays(nursery, monkeypatch, first):
    monkeypatch.setattr(relay, "LOOK_EVERY_S", 0.1)
    monkeypatch.setattr(dcutr.HolePuncher, "_look_at", lambda _self, _peer: None)
    hub = make()
    await nursery.start(hub.run)
    alice, mallory = (make(listen=(), bootstrap=tuple(hub.listen_addrs())) for _ in range(2))
    await nursery.start(mallory.run)
    await until(lambda: mallory._swarm.relays)
    await nursery.start(alice.run)
    await until(lambda: mallory.local in alice.peers() and alice.local in mallory.peers())
    stream, _ = await mallory._swarm.connection(alice.local).open([DCUTR])
    await stream.write(b"\x02\xff\xff" if first is None else messages.frame(HolePunch(first)))
    await until(lambda: alice.score(mallory.local) < 0)
    nursery.cancel_scope.cancel()
