"""The DHT without a network: its messages, its table, its records, one lookup."""

import hashlib
import importlib.metadata
import importlib.util
import random
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eigen.node.libp2p import kad_messages
from eigen.node.libp2p.bounds import (
    ADDRESSES_PER_PEER_MAX,
    KAD_ALPHA,
    KAD_CANDIDATES_MAX,
    KAD_K,
    KAD_KEY_BYTES_MAX,
    KAD_PEER_ID_BYTES_MAX,
    KAD_PEERS_PER_MESSAGE_MAX,
    KAD_QUERIES_PER_LOOKUP_MAX,
    PROVIDER_KEYS_PER_PEER_MAX,
    PROVIDER_LIFE_S,
    PROVIDER_RENEW_S,
    PROVIDERS_PER_KEY_MAX,
)
from eigen.node.libp2p.errors import ProtocolViolation
from eigen.node.libp2p.identity import ID, NodeKey
from eigen.node.libp2p.kad_contact import Contact, contact, place_of, read_contact, write_record
from eigen.node.libp2p.kad_lookup import Lookup
from eigen.node.libp2p.kad_messages import Kind, Message, PeerRecord
from eigen.node.libp2p.kad_providers import ProviderStore
from eigen.node.libp2p.kad_table import CHECK_AFTER_S, FAILURES_MAX, REFRESH_DEPTH_MAX, RoutingTable
from eigen.node.libp2p.multiaddrs import parse
from eigen.protocol.types import Address

records = st.builds(
    PeerRecord,
    st.binary(min_size=1, max_size=KAD_PEER_ID_BYTES_MAX),
    st.lists(st.binary(max_size=40), max_size=ADDRESSES_PER_PEER_MAX).map(tuple),
    st.booleans(),
)
peers = st.lists(records, max_size=5).map(tuple)
messages = st.builds(
    Message, st.sampled_from(Kind), st.binary(max_size=KAD_KEY_BYTES_MAX), peers, peers
)
KEYS = [NodeKey(hashlib.sha256(bytes([n, 7])).digest()) for n in range(120)]
PEERS = [contact(key.peer_id, [parse(f"/ip4/10.0.0.{n}/tcp/4001")]) for n, key in enumerate(KEYS)]


def body(message: Message) -> bytes:
    """A message without its length."""
    encoded = kad_messages.encode(message)
    return encoded[next(i for i, byte in enumerate(encoded) if byte < 0x80) + 1 :]


def invented(number: int) -> Contact:
    """A peer as the machines see one; its key is never looked at."""
    raw = number.to_bytes(20, "big")
    return Contact(ID(raw), Address(raw), place_of(raw), (parse("/ip4/10.0.0.1/tcp/1"),))


def stock_schema():
    """py-libp2p's own message class; its package around it would load every transport."""
    path = importlib.metadata.distribution("libp2p").locate_file(
        "libp2p/kad_dht/pb/kademlia_pb2.py"
    )
    spec = importlib.util.spec_from_file_location("kademlia_pb2", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Message


StockMessage = stock_schema()


# Messages -------------------------------------------------------------------------------------


@given(messages)
def test_a_message_is_read_as_it_was_written(message):
    assert kad_messages.decode(body(message)) == message


@given(messages)
def test_the_stock_schema_reads_what_we_write_and_we_what_it_writes(message):
    stock = StockMessage.FromString(body(message))
    assert (stock.type, stock.key) == (message.kind, message.key)
    assert [bytes(p.id) for p in stock.closerPeers] == [p.peer for p in message.closer]
    assert [tuple(p.addrs) for p in stock.providerPeers] == [p.addresses for p in message.providers]
    stock.senderRecord = b"a signed record that we pass over"
    assert kad_messages.decode(stock.SerializeToString()) == message


@given(st.binary(max_size=200))
def test_garbage_raises_only_the_named_error(garbage):
    try:
        message = kad_messages.decode(garbage)
    except ProtocolViolation:
        return
    for record in (*message.closer, *message.providers):
        read_contact(record, loopback=True)


@given(messages, st.integers(0, 300), st.integers(0, 255))
def test_a_damaged_message_raises_only_the_named_error(message, at, byte):
    damaged = bytearray(body(message))
    damaged[at % len(damaged)] = byte
    try:
        message = kad_messages.decode(bytes(damaged))
    except ProtocolViolation:
        return
    for record in (*message.closer, *message.providers):
        read_contact(record, loopback=False)


@pytest.mark.parametrize(
    "message",
    [
        Message(Kind.PING, closer=(PeerRecord(b""),)),
        Message(Kind.PING, closer=(PeerRecord(bytes(KAD_PEER_ID_BYTES_MAX + 1)),)),
        Message(Kind.PING, key=bytes(KAD_KEY_BYTES_MAX + 1)),
        Message(Kind.PING, providers=(PeerRecord(b"p"),) * (KAD_PEERS_PER_MESSAGE_MAX + 1)),
    ],
)
def test_bounds_of_a_message_are_violations(message):
    with pytest.raises(ProtocolViolation):
        kad_messages.decode(body(message))


def test_an_unknown_kind_is_a_violation_and_none_means_put_value():
    with pytest.raises(ProtocolViolation):
        kad_messages.decode(b"\x08\x06")
    assert kad_messages.decode(b"").kind is Kind.PUT_VALUE, "protobuf leaves zeros out"


def test_addresses_above_the_bound_are_passed_over():
    record = PeerRecord(b"p", tuple(bytes([n]) for n in range(ADDRESSES_PER_PEER_MAX + 3)))
    [read] = kad_messages.decode(body(Message(Kind.PING, closer=(record,)))).closer
    assert read.addresses == record.addresses[:ADDRESSES_PER_PEER_MAX]


# Contacts -------------------------------------------------------------------------------------


def test_a_contact_is_read_as_it_was_written():
    relay = KEYS[1].peer_id
    texts = ("/ip4/10.0.0.1/tcp/4001", "/dns/example.org/tcp/1", f"/ip6/::2/tcp/5/p2p/{relay}")
    named = contact(KEYS[0].peer_id, map(parse, (*texts[:2], f"{texts[2]}/p2p-circuit")))
    record = write_record(named, loopback=True, connected=True)
    assert record.connected
    assert read_contact(record, loopback=False) == named


def test_what_cannot_be_dialled_is_left_out_and_strange_ids_are_no_contacts():
    me = KEYS[0].peer_id
    usable = parse("/ip4/10.0.0.1/tcp/1")
    local = parse("/ip4/127.0.0.1/tcp/1")
    written = write_record(contact(me, [usable, local]), loopback=True, connected=False)
    odd = (b"", b"\xff" * 30, b"\x04\x01", parse("/ip4/0.0.0.0/tcp/1").bare.encode(), bytes(300))
    record = PeerRecord(me.to_bytes(), written.addresses + odd)
    assert read_contact(record, loopback=True).endpoints == (usable, local)
    assert read_contact(record, loopback=False).endpoints == (usable,)
    for strange in (b"x", b"\x12\x20" + bytes(32), b"\x00\x25\x08\x02\x12\x21" + bytes(33)):
        assert read_contact(PeerRecord(strange, written.addresses), loopback=True) is None


def test_addresses_of_this_machine_are_told_only_on_it():
    named = contact(KEYS[0].peer_id, [parse("/ip4/127.0.0.1/tcp/1")])
    assert write_record(named, loopback=True, connected=False).addresses
    assert not write_record(named, loopback=False, connected=False).addresses


# Table ----------------------------------------------------------------------------------------


def table(size: int = KAD_K) -> RoutingTable:
    return RoutingTable(KEYS[0].peer_id, random.Random(1), size=size)


@given(st.lists(st.integers(0, 2**16)), st.integers(0, 2**256 - 1), st.integers(1, 5))
def test_the_table_is_bounded_and_gives_the_nearest_of_what_it_holds(numbers, place, size):
    ours = table(size)
    for number in numbers:
        ours.add(invented(number), 0.0)
    held = [invented(n) for n in set(numbers) if invented(n) in ours]
    assert len(ours) == len(held)
    buckets = [ours.bucket_of(named.place) for named in held]
    assert all(buckets.count(index) <= size for index in buckets)
    assert ours.closest(place, 3) == sorted(held, key=lambda named: named.place ^ place)[:3]
    for index in {ours.bucket_of(invented(n).place) for n in numbers}:
        wanted = {n for n in numbers if ours.bucket_of(invented(n).place) == index}
        assert buckets.count(index) == min(size, len(wanted)), "a place is never left empty"


def test_this_node_itself_is_not_in_its_table():
    ours = table()
    ours.add(contact(KEYS[0].peer_id), 0.0)
    assert len(ours) == 0


def test_a_newcomer_waits_for_a_place_and_the_silent_make_room():
    ours = table(size=2)
    far = [named for named in PEERS if ours.bucket_of(named.place) == 0]
    first, second, third = far[:3]
    ours.add(first, 0.0)
    ours.add(second, 1.0)
    assert ours.add(third, 2.0) is None
    assert third not in ours, "who has stayed long stays on"
    assert ours.add(third, CHECK_AFTER_S) == first, "it has been silent: is it still there?"
    ours.failed(first)
    assert first in ours, "one failure may be a moment's trouble"
    ours.add(third, CHECK_AFTER_S)
    assert third in ours
    assert first not in ours


def test_who_fails_again_and_again_is_forgotten_and_an_answer_clears_it():
    ours = table()
    named = PEERS[1]
    ours.add(named, 0.0)
    for _ in range(FAILURES_MAX - 1):
        ours.failed(named)
    ours.add(named, 1.0)
    for _ in range(FAILURES_MAX - 1):
        ours.failed(named)
    assert named in ours
    ours.failed(named)
    assert named not in ours


def test_an_answer_without_addresses_keeps_those_that_are_known():
    ours = table()
    ours.add(PEERS[1], 0.0)
    ours.add(contact(PEERS[1].peer), 1.0)
    assert ours.closest(0) == [PEERS[1]]


def test_every_bucket_gets_its_turn_to_be_refreshed():
    ours = table()
    for named in PEERS[1:]:
        ours.add(named, 0.0)
    deepest = max(ours.bucket_of(named.place) for named in PEERS[1:])
    seen = []
    while (index := ours.due(100.0, 60.0)) is not None:
        key = ours.key_in(index)
        assert ours.bucket_of(place_of(key)) == index
        seen.append(index)
        ours.touch(place_of(key), 100.0)
    assert sorted(seen) == list(range(min(deepest + 1, REFRESH_DEPTH_MAX)))
    assert ours.due(159.0, 60.0) is None
    assert ours.due(161.0, 60.0) is not None


# Records --------------------------------------------------------------------------------------


def test_a_record_stands_for_a_day_unless_it_is_renewed():
    store = ProviderStore()
    assert store.add(b"key", PEERS[1], 0.0)
    store.add(b"key", PEERS[2], 0.0)
    store.add(b"key", PEERS[2], PROVIDER_RENEW_S)
    assert store.get(b"key", PROVIDER_LIFE_S - 1) == [PEERS[2], PEERS[1]]
    assert store.get(b"key", PROVIDER_LIFE_S) == [PEERS[2]]
    store.prune(PROVIDER_LIFE_S)
    assert len(store) == 1
    store.prune(PROVIDER_LIFE_S + PROVIDER_RENEW_S)
    assert len(store) == 0


def test_the_newest_addresses_of_a_provider_are_told_for_all_that_it_provides():
    store = ProviderStore()
    moved = contact(PEERS[1].peer, [parse("/ip4/10.9.9.9/tcp/1")])
    store.add(b"old", PEERS[1], 0.0)
    store.add(b"new", moved, 1.0)
    assert store.get(b"old", 2.0) == [moved]


def test_a_key_has_only_so_many_providers_and_overdue_ones_give_way():
    store = ProviderStore()
    for named in PEERS[:PROVIDERS_PER_KEY_MAX]:
        assert store.add(b"key", named, 0.0)
    newcomer = PEERS[PROVIDERS_PER_KEY_MAX]
    assert not store.add(b"key", newcomer, 1.0)
    assert store.add(b"key", PEERS[0], 2.0), "renewing is always possible"
    assert store.add(b"key", newcomer, 1.2 * PROVIDER_RENEW_S)
    assert len(store.get(b"key", 1.2 * PROVIDER_RENEW_S)) == PROVIDERS_PER_KEY_MAX


def test_a_peer_that_announces_without_end_displaces_its_own_oldest():
    store = ProviderStore()
    store.add(b"honest", PEERS[2], 0.0)
    for number in range(PROVIDER_KEYS_PER_PEER_MAX + 50):
        assert store.add(b"%d" % number, PEERS[1], 0.0)
    assert len(store) == PROVIDER_KEYS_PER_PEER_MAX + 1
    assert store.get(b"49", 1.0) == []
    assert store.get(b"50", 1.0) == [PEERS[1]]
    assert store.get(b"honest", 1.0) == [PEERS[2]]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 6), st.floats(0, 3e5))))
def test_the_store_never_holds_more_than_it_may_and_counts_what_it_holds(said):
    store = ProviderStore(records_max=10)
    keys = {b"%d" % key for key, _, _ in said}
    for key, who, now_s in sorted(said, key=lambda one: one[2]):
        taken = store.add(b"%d" % key, PEERS[who], now_s)
        assert taken == (PEERS[who] in store.get(b"%d" % key, now_s)) or not taken
        held = sum(len(holders) for holders in store._expires_s.values())
        assert len(store) == held <= 10
        assert held == sum(len(p.keys) for p in store._providers.values())
    store.prune(1e6)
    assert len(store) == 0
    assert not store._providers
    assert not any(store.get(key, 0.0) for key in keys)


def test_when_the_store_is_full_the_greediest_gives_way_to_a_newcomer():
    store = ProviderStore(records_max=10)
    for number in range(20):
        store.add(b"%d" % number, PEERS[1], 0.0)
    assert len(store) == 10
    assert store.add(b"mine", PEERS[2], 1.0)
    assert store.get(b"mine", 2.0) == [PEERS[2]]
    assert len(store) == 10


# One lookup -----------------------------------------------------------------------------------


def ask_all(lookup: Lookup, answer) -> None:
    """Drive a lookup; `answer(contact)` is what it names, or None for silence."""
    while not lookup.done:
        asked = lookup.next()
        assert 0 < len(asked) <= KAD_ALPHA
        for named in asked:
            closer = answer(named)
            if closer is None:
                lookup.failed(named)
            else:
                lookup.answered(named, closer)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("dead_share", "found_min"), [(0.0, 20), (0.2, 18), (0.4, 14)])
def test_the_nearest_that_live_are_found(seed, dead_share, found_min):
    """Every table is full of the dead, as after a power cut: answers name fewer that live."""
    rng = random.Random(seed)
    everybody = [invented(rng.randrange(2**60)) for _ in range(200)]
    dead = {named.address for named in everybody if rng.random() < dead_share}
    tables = {}
    for named in everybody:
        own = RoutingTable(named.peer, rng)
        for other in rng.sample(everybody, len(everybody)):
            own.add(other, 0.0)
        tables[named.address] = own
    place = rng.randrange(2**256)
    alive = [named for named in everybody if named.address not in dead]
    lookup = Lookup(place, invented(1).address, alive[:3])
    ask_all(lookup, lambda n: None if n.address in dead else tables[n.address].closest(place))
    found = lookup.closest()
    nearest = sorted(alive, key=lambda named: named.place ^ place)[:KAD_K]
    assert found[0] == nearest[0]
    assert len(set(found) & set(nearest)) >= found_min


def test_a_liar_that_invents_peers_cannot_keep_a_lookup_busy():
    place, asked = 0, []
    honest = sorted((invented(n) for n in range(1, 30)), key=lambda n: n.place)
    fakes = (invented(n) for n in range(1000, 10**9))

    def answer(named):
        asked.append(named)
        if named == honest[0]:
            near = sorted((next(fakes) for _ in range(2000)), key=lambda n: n.place)
            return near[:500]
        return honest if named in honest else None

    lookup = Lookup(place, invented(0).address, honest[::10])
    ask_all(lookup, answer)
    invented_and_asked = [named for named in asked if named not in honest]
    assert 0 < len(invented_and_asked) <= 2 * KAD_ALPHA, "the lie was tried, and given up"
    assert lookup.closest() == honest[:KAD_K]


def test_accomplices_that_answer_end_at_the_bound_of_queries():
    fresh = iter(range(10**6, 10**9))
    lookup = Lookup(0, invented(0).address, [invented(1)])

    def nearer(named):
        """Names only peers nearer than itself: a chain that never ends."""
        found = []
        while not found:
            found = [c for c in (invented(next(fresh)) for _ in range(2000)) if c.place < 2**248]
        return found

    ask_all(lookup, nearer)
    assert lookup.queries <= KAD_QUERIES_PER_LOOKUP_MAX
    assert len(lookup._candidates) <= KAD_CANDIDATES_MAX + KAD_K


def test_who_names_itself_or_the_asker_or_nobody_adds_nobody():
    me, liar = invented(1), invented(2)
    lookup = Lookup(0, me.address, [liar])
    ask_all(lookup, lambda named: [named, me, liar, contact(PEERS[3].peer)])
    assert lookup.queries == 1
    assert lookup.closest() == [liar]


def test_without_anybody_to_ask_a_lookup_is_done():
    assert Lookup(0, Address(secrets.token_bytes(20)), []).done
