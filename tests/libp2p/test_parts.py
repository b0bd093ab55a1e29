"""Parts that need no network: addresses, the book, places, caps, reputation, mDNS texts, pacing."""

import json
import math
import random
import resource
import socket
import struct
import sys

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from nodes import make

from eigen.crypto.identity import Identity
from eigen.node.libp2p import address_book, bounds, identity, mdns, peerstore
from eigen.node.libp2p.accept import AcceptRate, HandshakePlaces
from eigen.node.libp2p.address_book import AddressBook
from eigen.node.libp2p.config import Libp2pConfig, Limits
from eigen.node.libp2p.descriptors import connections_allowed
from eigen.node.libp2p.errors import BadMultiaddr, HandshakeFailed
from eigen.node.libp2p.events import EventBus
from eigen.node.libp2p.give_way import QUEUE_TARGET_S, GiveWay, Governor, Line, Uplink, read_line
from eigen.node.libp2p.identity import ID, NodeKey, address_of_peer
from eigen.node.libp2p.multiaddrs import parse, parse_peer
from eigen.node.libp2p.reputation import Reputation
from eigen.node.ports import PeerConnected, PeerLost
from eigen.protocol.types import Address

KEYS = [NodeKey(bytes([number]) * 32) for number in range(1, 10)]


def test_the_peer_id_is_the_standard_one_and_holds_the_account():
    from libp2p.crypto.secp256k1 import create_new_key_pair

    for key in KEYS:
        pair = create_new_key_pair(key._key.secret)
        assert ID.from_pubkey(pair.public_key) == key.peer_id
        assert str(key.peer_id).startswith("16Uiu2HA")
        assert address_of_peer(key.peer_id) == Identity.from_secret(key._key.secret).address


@given(st.binary(max_size=60))
def test_other_peer_ids_have_no_account(raw):
    with pytest.raises(HandshakeFailed):
        address_of_peer(ID(raw))


@given(
    data=st.binary(max_size=50), signature=st.binary(max_size=80), wrapped=st.binary(max_size=40)
)
def test_checking_a_signature_never_raises(data, signature, wrapped):
    """Fault 19: `verify` of py-libp2p raises ValueError on a malformed signature."""
    assert identity.verify_signature(wrapped, data, signature) is False
    assert identity.verify_signature(KEYS[0].wrapped_public_key, data, signature) is False


def test_multiaddrs_round_trip():
    peer = KEYS[0].peer_id
    for text in (
        "/ip4/127.0.0.1/tcp/4001",
        f"/ip6/::1/tcp/1/p2p/{peer}",
        f"/dns4/example.org/tcp/443/p2p/{peer}",
    ):
        assert str(parse(text)) == text


@given(st.text(max_size=80) | st.from_regex(r"/ip4/.*/tcp/.*/p2p/.*"))
def test_parsing_a_multiaddr_is_total(text):
    try:
        parse_peer(text)
    except BadMultiaddr as error:
        assert "multiaddr" in str(error)  # noqa: PT017


def test_the_configuration_names_what_is_wrong():
    with pytest.raises(ValueError, match="network_id"):
        Libp2pConfig("")
    with pytest.raises(BadMultiaddr, match="add /p2p/"):
        Libp2pConfig("x", bootstrap=("/ip4/1.2.3.4/tcp/4001",))
    with pytest.raises(ValueError, match="network_key has 32 bytes"):
        Libp2pConfig("x", network_key=b"short")
    with pytest.raises(ValueError, match="connections must be above 0"):
        Limits(connections=0)
    with pytest.raises(ValueError, match="upload_bytes_per_s"):
        Limits(upload_bytes_per_s=-1)
    assert "network_key" not in repr(Libp2pConfig("x", network_key=bytes(32)))


def book_with(count: int) -> AddressBook:
    book = AddressBook(KEYS[0].peer_id, random.Random(1))
    for number, key in enumerate(KEYS[1 : count + 1]):
        book.add(key.peer_id, key.address, [parse(f"/ip4/10.0.0.{number}/tcp/1")])
    return book


def test_a_failed_dial_is_tried_again_soon_and_then_less_often():
    """Fault 11: a stock host does not try again for 60 s, even when the peer is back."""
    book = book_with(1)
    known = book.all()[0]
    waits = []
    book.succeeded(known.address)
    for _ in range(15):
        book.failed(known.address, 100.0)
        waits.append(known.next_try_s - 100.0)
    assert waits[0] < 1
    assert waits[3] > waits[0]
    assert waits[-1] <= 1.3 * address_book.RETRY_MAX_S
    book.lost(known.address, 1000.0)
    book.failed(known.address, 1001.0)
    assert known.next_try_s - 1001.0 < 1.5


def test_a_peer_that_never_answers_is_forgotten_unless_configured():
    book = book_with(2)
    gone, kept = book.all()
    kept.permanent = True
    for _ in range(address_book.FORGET_AFTER_FAILURES):
        book.failed(gone.address, 0.0)
        book.failed(kept.address, 0.0)
    assert book.all() == [kept]


def test_hearsay_displaces_nothing_that_is_certain():
    book = book_with(1)
    known = book.all()[0]
    own = [parse(f"/ip4/10.1.0.{number}/tcp/1") for number in range(2)]
    book.announced(known.peer, known.address, own)
    for number in range(50):
        book.add(known.peer, known.address, [parse(f"/ip4/6.6.6.{number}/tcp/1")])
    assert set(own) < set(known.endpoints)
    assert known.in_order()[:2] == [own[1], own[0]]
    book.drop(known.address, own[0])
    book.drop(known.address, parse("/ip4/6.6.6.49/tcp/1"))
    assert own[0] in known.endpoints
    assert parse("/ip4/6.6.6.49/tcp/1") not in known.endpoints


def test_known_peers_round_trip_through_the_file_and_a_bad_file_is_passed_over(tmp_path, caplog):
    path = tmp_path / "deep" / "peers.json"
    peerstore.write(path, peerstore.snapshot(book_with(4)))
    again = AddressBook(KEYS[0].peer_id)
    assert peerstore.load(path, again) == 4
    assert {k.address for k in again.all()} == {key.address for key in KEYS[1:5]}
    for bad in (
        "{",
        "[]",
        '{"format": 2, "peers": {}}',
        '{"format": 1}',
        '{"format":1,"peers":[]}',
    ):
        path.write_text(bad)
        assert peerstore.load(path, AddressBook(KEYS[0].peer_id)) == 0
    path.write_text(
        json.dumps(
            {"format": 1, "peers": {"nobody": ["/ip4/1.2.3.4/tcp/1"], str(KEYS[3].peer_id): 7}}
        )
    )
    assert peerstore.load(path, AddressBook(KEYS[0].peer_id)) == 0
    assert "passing over" in caplog.text


async def test_the_oldest_handshake_gives_way():
    """Fault 14: 250 silent connections block a stock host for everybody."""
    places = HandshakePlaces(most=4, most_per_ip=2)
    first, second, third = (places.enter("1.1.1.1") for _ in range(3))
    assert first.cancel_called
    assert not second.cancel_called
    others = [places.enter(f"2.2.2.{number}") for number in range(3)]
    assert second.cancel_called  # of the address that holds most
    assert not any(scope.cancel_called for scope in [third, *others])
    for scope in (first, second, third, *others):
        places.leave(scope)
    assert len(places) == 0
    assert places._count == {}


def test_one_address_may_not_connect_without_end():
    rate = AcceptRate(per_s=10, burst=5)
    assert [rate.allows("1.1.1.1", 0.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert rate.allows("2.2.2.2", 0.0)
    assert rate.allows("1.1.1.1", 0.11)
    for number in range(5000):
        rate.allows(f"x{number}", 1.0)
    assert len(rate._buckets) <= 4096


def test_connections_keep_within_the_limit_on_open_files(monkeypatch, caplog):
    limits = [256, 700]  # soft, hard
    monkeypatch.setattr(resource, "getrlimit", lambda _what: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda _what, new: limits.__setitem__(0, new[0]))
    assert connections_allowed(20) == 20
    assert limits[0] == 20 + bounds.PENDING_MAX + bounds.RESERVED_DESCRIPTORS
    assert connections_allowed(1000) == 700 - bounds.PENDING_MAX - bounds.RESERVED_DESCRIPTORS
    assert "ulimit -n" in caplog.text


def test_scores_fade_and_bans_end():
    banned = []
    reputation = Reputation(banned.append)
    peer = Address(bytes(20))
    for _ in range(5):
        reputation.penalize(peer, 20.0, "test", 0.0)
    assert banned == [peer]
    assert reputation.is_banned(peer, 599.0)
    assert not reputation.is_banned(peer, 601.0)
    assert reputation.score(peer, 600.0) == pytest.approx(-50.0)


async def test_a_slow_listener_loses_the_oldest_events_and_nothing_else():
    bus = EventBus()
    slow, gone = bus.listen(), bus.listen()
    await gone.aclose()
    peers = [Address(number.to_bytes(20)) for number in range(1100)]
    for peer in peers:
        bus.emit(PeerConnected(peer))
    bus.emit(PeerLost(peers[0]))
    bus.end()
    got = [event async for event in slow]
    assert len(got) == 1024
    assert got[-1] == PeerLost(peers[0])


def test_mdns_texts_round_trip_and_junk_is_passed_over():
    addresses = [f"/ip4/192.168.1.{n}/tcp/4001/p2p/{KEYS[n].peer_id}" for n in range(3)]
    text = mdns.encode_text(addresses)
    assert [str(endpoint) for endpoint in mdns.decode_text(text)] == addresses
    assert mdns.decode_text(b"\x08dnsaddr=\x03abc" + text[:30]) == []


async def test_a_neighbour_with_another_kind_of_key_is_passed_over(monkeypatch):
    """mDNS reports every libp2p node around; what it reports runs in Trio's own callbacks."""
    ed25519 = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"
    found = []

    async def run(_addresses, _port, learn):
        learn(parse(f"/ip4/10.0.0.1/tcp/1/p2p/{ed25519}"))
        learn(parse(f"/ip4/10.0.0.2/tcp/1/p2p/{KEYS[1].peer_id}"))
        found.append(True)

    monkeypatch.setattr(mdns, "run", run)
    node = make(mdns=True)
    monkeypatch.setattr(type(node), "listen_addrs", lambda _self: ["/ip4/10.0.0.9/tcp/4001"])
    await node._run_mdns()
    assert found
    assert [known.peer for known in node._swarm.book.all()] == [KEYS[1].peer_id]
    with pytest.raises(BadMultiaddr, match="secp256k1"):
        Libp2pConfig("x", bootstrap=(f"/ip4/10.0.0.1/tcp/1/p2p/{ed25519}",))


@given(st.binary(max_size=400))
def test_any_mdns_text_can_be_read(text):
    mdns.decode_text(text)


def simulate(
    capacity: float, seconds: float, senders: int = 1, jitter_s: float = 0.0
) -> tuple[float, float]:
    """Governed senders on one line with a fluid queue; its mean use and the queue's p95."""
    governors = [Governor() for _ in range(senders)]
    rng, queue, now, used, queues = random.Random(1), 0.0, 0.0, 0.0, []
    while now < seconds:
        caps = [g.cap_bytes_per_s for g in governors]
        most = capacity * 1.25 / senders
        rates = [most if cap is None else min(cap, most) for cap in caps]
        queue = max(0.0, min(queue + (sum(rates) - capacity) * 0.05, capacity * 0.1))
        through = capacity if queue else min(sum(rates), capacity)
        used += through * 0.05
        queues.append(queue / capacity)
        for governor, rate in zip(governors, rates, strict=True):
            rtt_s = 0.02 + queue / capacity + rng.uniform(0, jitter_s)
            governor.update(Line(rtt_s, 0.02, through * rate / sum(rates), False), now)
        now += 0.05
    late = sorted(queues[len(queues) // 4 :])
    return used / (capacity * seconds), late[int(0.95 * len(late))]


@pytest.mark.parametrize("capacity", [1e5, 1e6, 12e6, 1e9])
def test_a_governed_sender_uses_the_line_and_keeps_its_queue_short(capacity):
    use, queue_s = simulate(capacity, 120)
    assert use > 0.85
    assert queue_s < 4 * QUEUE_TARGET_S


@pytest.mark.parametrize("senders", [2, 3, 8])
def test_governed_senders_share_a_line_without_starving_each_other(senders):
    use, queue_s = simulate(2.5e6, 120, senders)
    assert use > 0.85
    assert queue_s < 4 * QUEUE_TARGET_S


@pytest.mark.parametrize("jitter_s", [0.01, 0.03])
def test_round_trips_that_vary_by_themselves_do_not_slow_a_sender_down(jitter_s):
    """A radio link, or a busy machine: the delay is there with or without our bytes."""
    use, _ = simulate(2.5e6, 120, jitter_s=jitter_s)
    assert use > 0.8


class SharedLine:
    """Lanes of one node on a fluid line; each is a socket to its `GiveWay`."""

    def __init__(self, capacity: float, lanes: int) -> None:
        self.capacity, self.queue, self.uplink = capacity, 0.0, Uplink()
        self.lanes = [Lane(self) for _ in range(lanes)]
        self.governed = [GiveWay(lane, self.uplink) for lane in self.lanes]
        self.now = 100.0

    def pass_time(self, seconds: float, *sending: int, demand: float = 1.25) -> float:
        """What share of the line those that send use."""
        used, end, began = 0.0, self.now + seconds, self.now
        while self.now < end:
            for index in sending:
                self.governed[index].begin(self.now)
            rates = [self.lanes[i].rate(self.capacity * demand / len(sending)) for i in sending]
            excess = (sum(rates) - self.capacity) * 0.05
            self.queue = min(max(0.0, self.queue + excess), self.capacity * 0.1)
            through = self.capacity if self.queue else min(sum(rates), self.capacity)
            used += through * 0.05
            for index, rate in zip(sending, rates, strict=True):
                self.lanes[index].through = through * rate / sum(rates)
                self.governed[index].end(self.now)
            self.now += 0.05
        return used / (self.capacity * (self.now - began))


class Lane:
    def __init__(self, line: SharedLine) -> None:
        self.line, self.through, self.options = line, 0.0, {}
        self.behind_s = 0.0  # a queue on the way that no other lane shares

    def rate(self, most: float) -> float:
        return min(most, struct.unpack("=Q", self.options.get(47, bytes([255] * 8)))[0])

    def getsockopt(self, _level: int, _name: int, size: int) -> bytes:
        info = bytearray(size)
        queue_s = self.line.queue / self.line.capacity + self.behind_s
        struct.pack_into("=I", info, 68, int((0.02 + queue_s) * 1e6))
        struct.pack_into("=I", info, 148, 20_000)
        struct.pack_into("=Q", info, 160, int(self.through))
        return bytes(info)

    def setsockopt(self, _level: int, name: int, value: bytes) -> None:
        self.options[name] = value


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's figures are Linux's")
def test_lanes_share_a_line_and_take_what_others_leave():
    line = SharedLine(2.5e6, 3)
    assert line.pass_time(3.0, 0, 1, 2) > 0.95
    rates = [lane.rate(math.inf) for lane in line.lanes]
    assert max(rates) == min(rates) < 2.5e6
    assert line.queue / line.capacity < 4 * QUEUE_TARGET_S
    assert line.pass_time(1.0, 0, 1) > 0.9
    assert line.pass_time(1.0, 0) > 0.9


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's figures are Linux's")
def test_a_queue_on_one_peers_line_slows_that_lane_alone():
    line = SharedLine(1e9, 2)
    line.lanes[0].behind_s = 0.05
    line.pass_time(0.45, 0, 1, demand=0.8)
    slow, fast = (lane.rate(math.inf) for lane in line.lanes)
    assert slow < fast
    assert fast == 2**64 - 1


def test_a_line_without_a_queue_is_not_capped():
    governor = Governor()
    assert not governor.update(Line(0.0201, 0.02, 1e6, False), 0.0)
    assert governor.cap_bytes_per_s is None


def test_a_sender_with_little_to_send_is_not_taken_for_the_queue():
    governor = Governor()
    assert not governor.update(Line(0.1, 0.02, 1e4, True), 0.0)
    assert governor.cap_bytes_per_s is None


async def test_the_kernel_is_asked_for_what_it_knows():
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    client = await trio.open_tcp_stream("127.0.0.1", port)
    server = await listener.accept()
    for _ in range(20):
        await client.send_all(bytes(50_000))
        received = 0
        while received < 50_000:
            received += len(await server.receive_some())
    line = read_line(client.socket)
    if line is None:
        pytest.skip("no TCP_INFO here")
    assert 0 < line.shortest_rtt_s <= line.rtt_s < 1
    assert line.delivered_bytes_per_s > 1000
    for end in (client, server, listener):
        await end.aclose()
    with socket.socket() as unconnected:
        assert read_line(unconnected) is None
