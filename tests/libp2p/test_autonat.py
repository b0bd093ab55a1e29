"""AutoNAT: peers dial each other back; what a peer claims without a nonce does not count."""

import contextlib

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from nodes import make, until

from eigen.node.libp2p import autonat, bounds
from eigen.node.libp2p import autonat_messages as messages
from eigen.node.libp2p.autonat_messages import (
    DIAL_REQUEST,
    Dial,
    DialDataRequest,
    DialDataResponse,
    DialRequest,
    DialResponse,
    Status,
)
from eigen.node.libp2p.connection import Served
from eigen.node.libp2p.errors import ProtocolViolation, StreamReset
from eigen.node.libp2p.multiaddrs import Endpoint, from_bytes, parse, to_bytes
from eigen.node.libp2p.reach import ANSWER_LASTS_S, ANSWERS_MAX, Reach
from eigen.node.libp2p.surroundings import Surroundings, TcpTransport
from eigen.protocol.types import Address

PORTS = st.integers(0, 65_535)
ENDPOINTS = st.builds(Endpoint, st.just("ip4"), st.ip_addresses(v=4).map(str), PORTS) | st.builds(
    Endpoint, st.just("ip6"), st.ip_addresses(v=6).map(str), PORTS
)
HERE = parse("/ip4/11.0.0.1/tcp/4001")
NUMBERS = st.integers(0, 2**64 - 1)
MESSAGES = (
    st.builds(DialRequest, st.lists(ENDPOINTS, max_size=8).map(tuple), NUMBERS)
    | st.builds(DialResponse, NUMBERS, NUMBERS, NUMBERS)
    | st.builds(DialDataRequest, NUMBERS, NUMBERS)
    | st.builds(DialDataResponse, st.binary(min_size=1, max_size=100))
)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(autonat, "FIRST_ASK_S", 0.05)
    monkeypatch.setattr(autonat, "ASK_EVERY_S", 0.05)


@given(MESSAGES)
def test_messages_round_trip(message):
    assert messages.decode(messages.encode(message)) == message


@given(st.binary(max_size=200))
def test_other_bytes_are_violations_and_nothing_else(data):
    with contextlib.suppress(ProtocolViolation):
        messages.decode(data)
    with contextlib.suppress(ProtocolViolation):
        messages.decode_dial_back(data)


@given(NUMBERS)
def test_nonces_round_trip(nonce):
    assert messages.decode_dial_back(messages.encode_dial_back(nonce)) == nonce


@given(ENDPOINTS)
def test_binary_multiaddrs_are_those_of_the_library(endpoint):
    from multiaddr import Multiaddr

    assert to_bytes(endpoint) == Multiaddr(endpoint.bare).to_bytes()
    assert from_bytes(to_bytes(endpoint)) == endpoint


@given(st.binary(max_size=30))
def test_other_multiaddrs_are_none(data):
    endpoint = from_bytes(data)
    assert endpoint is None or to_bytes(endpoint) == data


def test_most_of_the_latest_answers_decide_and_neighbours_only_where_nobody_else_answers():
    reach = Reach()
    peers = [Address(bytes([n]) * 20) for n in range(40)]
    assert reach.verdict(0.0) is None
    reach.heard(peers[0], HERE, reachable=True, far=False, now_s=0.0)
    assert reach.verdict(0.0) is True
    reach.heard(peers[1], HERE, reachable=False, far=True, now_s=1.0)
    assert reach.verdict(1.0) is False, "a neighbour on the same network knows nothing of the NAT"
    for peer in peers[2:4]:
        reach.heard(peer, HERE, reachable=True, far=True, now_s=2.0)
    assert reach.verdict(2.0) is True
    assert reach.verdict(3.0 + ANSWER_LASTS_S) is None, "old answers say nothing"
    for peer in peers:
        reach.heard(peer, HERE, reachable=True, far=True, now_s=3.0)
    assert len(reach.counted(3.0)) == ANSWERS_MAX
    assert reach.verified == [HERE]
    reach.heard(peers[0], HERE, reachable=False, far=True, now_s=4.0)
    assert reach.verified == []


async def test_a_node_that_can_be_dialled_learns_so(nursery):
    alice, bob = make(), make()
    for node in (alice, bob):
        await nursery.start(node.run)
    await alice.connect(bob.listen_addrs()[0], timeout_s=5)
    await until(lambda: alice._swarm.reach.verdict(trio.current_time()) is True)
    assert alice._swarm.is_reachable()
    assert alice.connection_count == bob.connection_count == 1, "the dial-back is gone again"
    nursery.cancel_scope.cancel()


async def ask(asker, server, *endpoints, pay=True):
    """One request as `asker`, by hand; returns the response and the bytes that were paid."""
    connection = asker._swarm.connection(server.local)
    stream, _ = await connection.open([DIAL_REQUEST])
    await stream.write(messages.frame(messages.encode(DialRequest(endpoints, 7))))
    reply = messages.decode(await messages.read(stream))
    paid = 0
    if isinstance(reply, DialDataRequest):
        if not pay:
            stream.reset("too dear")
            return reply, 0
        paid = reply.count
        for _ in range(0, reply.count, 4096):
            part = DialDataResponse(bytes(4096))
            await stream.write(messages.frame(messages.encode(part)))
        reply = messages.decode(await messages.read(stream))
    stream.close()
    return reply, paid


async def test_another_address_is_dialled_only_when_it_is_paid_for(nursery, monkeypatch):
    dialled = []

    class Elsewhere(TcpTransport):  # the victim's network is not here
        async def dial(self, endpoint):
            dialled.append(endpoint)
            raise autonat.StreamReset("nobody is there")

    monkeypatch.setattr(autonat, "FIRST_ASK_S", 3600.0)
    around = Surroundings(transport=Elsewhere())
    alice, server = make(listen=()), make(listen=("/ip4/127.0.0.1/tcp/0",), around=around)
    for node in (alice, server):
        await nursery.start(node.run)
    await alice.connect(server.listen_addrs()[0], timeout_s=5)
    victim, own = parse("/ip4/8.8.8.8/tcp/53"), parse("/ip4/127.0.0.1/tcp/9")
    private = parse("/ip4/192.168.1.1/tcp/80")

    assert await ask(alice, server, own) == (DialResponse(Status.OK, 0, Dial.DIAL_ERROR), 0)
    assert dialled == [own]
    assert await ask(alice, server, private) == (DialResponse(Status.DIAL_REFUSED), 0)
    bill, _ = await ask(alice, server, private, victim, pay=False)
    assert bill == DialDataRequest(1, bounds.DIAL_DATA_BYTES)
    await trio.sleep(0.1)
    assert dialled == [own], "nothing was paid"
    reply, paid = await ask(alice, server, private, victim)
    assert reply == DialResponse(Status.OK, 1, Dial.DIAL_ERROR)
    assert paid >= 30_000
    assert dialled == [own, victim]
    replies = [(await ask(alice, server, own))[0].status for _ in range(5)]
    assert replies[-1] == Status.REQUEST_REJECTED, "too many for one address"
    assert len(dialled) < 7
    assert server.score(alice.local) == 0.0, "asking too often is no violation"
    nursery.cancel_scope.cancel()


async def test_a_server_that_lies_about_a_dial_is_not_believed(nursery):
    alice, liar = make(), make()
    asked = trio.Event()

    async def lie(_connection, stream):
        await messages.read(stream)
        asked.set()
        response = DialResponse(Status.OK, 0, Dial.OK)
        await stream.write(messages.frame(messages.encode(response)))

    liar._swarm.served[DIAL_REQUEST] = Served(lie)
    for node in (alice, liar):
        await nursery.start(node.run)
    await alice.connect(liar.listen_addrs()[0], timeout_s=5)
    await asked.wait()
    await trio.sleep(0.2)
    assert alice._swarm.reach.verdict(trio.current_time()) is None
    nursery.cancel_scope.cancel()


async def test_a_bill_that_is_too_high_costs_the_server(nursery):
    alice, greedy = make(), make()

    async def charge(_connection, stream):
        await messages.read(stream)
        bill = DialDataRequest(0, bounds.DIAL_DATA_BYTES_MAX + 1)
        await stream.write(messages.frame(messages.encode(bill)))

    greedy._swarm.served[DIAL_REQUEST] = Served(charge)
    for node in (alice, greedy):
        await nursery.start(node.run)
    await alice.connect(greedy.listen_addrs()[0], timeout_s=5)
    await until(lambda: alice.score(greedy.local) < 0)
    nursery.cancel_scope.cancel()


async def test_a_request_that_is_none_costs_the_asker(nursery):
    mallory, server = make(listen=()), make()
    for node in (mallory, server):
        await nursery.start(node.run)
    await mallory.connect(server.listen_addrs()[0], timeout_s=5)
    stream, _ = await mallory._swarm.connection(server.local).open([DIAL_REQUEST])
    await stream.write(messages.frame(messages.encode(DialResponse(Status.OK))))
    with pytest.raises(StreamReset):
        await stream.read_exactly(1)
    await until(lambda: server.score(mallory.local) < 0)
    nursery.cancel_scope.cancel()
