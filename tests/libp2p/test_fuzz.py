"""Mutated messages by the hundred thousand: no crash, no leak, and the sender pays.

`EIGEN_FUZZ=1000000 pytest tests/libp2p/test_fuzz.py` runs a million of each; `EIGEN_FUZZ_SEED`
chooses others.
"""

import os
import random
import resource

import pytest
import trio
from trio.testing import MockClock

from eigen.node.libp2p import hello, kad_messages, multistream, protobuf, requests
from eigen.node.libp2p.bulk_records import Kind, Opener, Sealer
from eigen.node.libp2p.errors import ConnectionLost, Libp2pError, ProtocolViolation, StreamReset
from eigen.node.libp2p.gossip_messages import Message, Rpc, sign
from eigen.node.libp2p.gossip_router import Router
from eigen.node.libp2p.identity import NodeKey
from eigen.node.libp2p.kad_contact import contact, read_contact, write_record
from eigen.node.libp2p.memory_budget import MemoryBudget
from eigen.node.libp2p.multiaddrs import parse
from eigen.node.libp2p.yamux import Session
from eigen.node.libp2p.yamux_frames import frame
from eigen.node.ports import NetworkError, Verdict
from eigen.protocol.types import Address

TOTAL = int(os.environ.get("EIGEN_FUZZ", "20000"))
SEED = int(os.environ.get("EIGEN_FUZZ_SEED", "1"))
PEER = Address(bytes(20))
GROWTH_BYTES_MAX = 120 * 1024 * 1024

pytestmark = pytest.mark.timeout(3600 if TOTAL > 100_000 else 120)


def mutate(rng: random.Random, seeds: list[bytes]) -> bytes:
    """One of the seeds with some bytes changed, cut, doubled or spliced."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(data) + 1)
        choice = rng.randrange(6)
        if choice == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif choice == 1 and at < len(data):
            data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif choice == 2:
            del data[at : at + rng.randrange(1, 9)]
        elif choice == 3:
            data[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif choice == 4:
            data[at:at] = data[at : at + rng.randrange(1, 33)]
        else:
            data[at:] = rng.choice(seeds)[at:]
    return bytes(data[:4096])


def rss_max_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Bytes:
    """A channel that holds what the peer sent, and takes what we answer."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    async def read_exactly(self, count: int) -> bytes:
        piece = self._data[self._at : self._at + count]
        self._at += count
        if len(piece) < count:
            raise StreamReset("ended")
        return piece

    async def write(self, data: bytes) -> None:
        pass

    def abort(self) -> None:
        pass


def gossip_seeds(key: NodeKey) -> list[bytes]:
    rpc = Rpc(publish=[sign(key, "t", b"data", 1), Message(data=b"x", topicIDs=["t"])])
    rpc.subscriptions.add(subscribe=True, topicid="t")
    control = Rpc()
    control.control.ihave.add(topicID="t", messageIDs=[b"a" * 40, b"b"])
    control.control.iwant.add(messageIDs=[b"a" * 40])
    control.control.graft.add(topicID="t")
    control.control.prune.add(topicID="t", backoff=60).peers.add(peerID=b"p")
    return [rpc.SerializeToString(), control.SerializeToString(), b"\x0a\x00"]


def test_gossip_rpcs():
    rng = random.Random(SEED)
    us, them = NodeKey(b"\x01" * 32), NodeKey(b"\x02" * 32)
    paid = 0.0

    def penalize(_peer: Address, points: float, _reason: str) -> None:
        nonlocal paid
        paid += points

    sent: list[int] = [0]

    def send(_peer: Address, data: bytes, _droppable: bool) -> bool:
        sent[0] += len(data)
        return True

    router = Router(
        us,
        send=send,
        validate=lambda _topic, _peer, data: Verdict.ACCEPT if data == b"data" else Verdict.REJECT,
        penalize=penalize,
        reputation=lambda _peer: 0.0,  # never cut off: the fuzzing goes on
        first_seqno=1,
        rng=random.Random(SEED),
    )
    router.add_peer(PEER)
    router.join("t", 0.0)
    seeds = gossip_seeds(them)
    before = rss_max_bytes()
    for number in range(TOTAL):
        if router.score(PEER, number / 100) < -50:
            router.remove_peer(PEER)
            router.add_peer(PEER)
        router.receive(PEER, mutate(rng, seeds), number / 100)
        if number % 100 == 0:
            router.heartbeat(number / 100)
    assert paid > TOTAL / 10, "malformed messages cost points"
    assert rss_max_bytes() - before < GROWTH_BYTES_MAX
    fresh = sign(them, "t", b"data", 10**6).SerializeToString()
    body = protobuf.field(2, fresh)
    router.remove_peer(PEER)
    router.add_peer(PEER)
    assert [a.data for a in router.receive(PEER, body, TOTAL)] == [b"data"], "it still works"


def test_yamux_frames():
    rng = random.Random(SEED)
    seeds = [
        frame(1, 1, 1, 0) + frame(0, 0, 1, 5) + b"hello" + frame(1, 4, 1, 0),
        frame(0, 1, 3, 3) + b"abc" + frame(2, 1, 0, 7) + frame(1, 8, 3, 0),
        frame(1, 0, 1, 1000) + frame(2, 2, 0, 1),
    ]

    async def main() -> int:
        budget = MemoryBudget()
        violations = 0
        for _ in range(TOTAL):
            session = Session(
                Bytes(b""), initiator=False, budget=budget, on_stream=lambda _stream: None
            )
            try:
                session._feed(mutate(rng, seeds))
            except ProtocolViolation:
                violations += 1
            except ConnectionLost:
                pass
            session.abort()
            assert (budget.buffered_bytes, budget.granted_bytes) == (0, 0)
        return violations

    assert trio.run(main, clock=MockClock()) > TOTAL / 20


def test_own_protocols():
    """Hello, requests, negotiation, bulk records: whatever comes, a named error or nothing."""
    rng = random.Random(SEED)
    greeting = hello.Hello("net", "eigen", 1, ("/ip4/127.0.0.1/tcp/1",), "/ip4/1.2.3.4/tcp/5")
    sealer, out = Sealer(bytes(32)), bytearray(100)
    bulk = bytes(out[: sealer.seal(Kind.DATA, b"message", out)])
    lines = multistream.line(multistream.HEADER) + multistream.line("/eigen/x/1")
    peer = contact(NodeKey(b"\x01" * 32).peer_id, [parse("/ip4/127.0.0.1/tcp/1")])
    record = write_record(peer, loopback=True, connected=True)
    named = kad_messages.encode(
        kad_messages.Message(kad_messages.Kind.GET_PROVIDERS, b"key", (record,), (record,))
    )
    errors: dict[str, int] = {}

    async def one() -> None:
        kind = rng.randrange(5)
        if kind == 0:
            await hello.read(Bytes(mutate(rng, [hello.frame(greeting)])))
        elif kind == 1:
            data = mutate(rng, [b"\x00\x05hello", b"\x01\x03why", b"\x00\xff\xff\x03"])
            await requests._read_reply(Bytes(data), 1000, PEER)
        elif kind == 2:
            await multistream.answer(Bytes(mutate(rng, [lines])), {"/eigen/x/1"})
        elif kind == 3:
            message = await kad_messages.read(Bytes(mutate(rng, [named])))
            for record in (*message.closer, *message.providers):
                read_contact(record, loopback=True)
        else:
            data = mutate(rng, [bulk]) + bytes(4)
            opener = Opener(bytes(32))
            size = opener.body_bytes(data)
            opener.open(data[:4], data[4 : 4 + size])

    async def main() -> None:
        for _ in range(TOTAL):
            try:
                await one()
            except (Libp2pError, NetworkError) as error:
                name = type(error).__name__
                errors[name] = errors.get(name, 0) + 1

    trio.run(main)
    assert {"ProtocolViolation", "StreamReset"} <= set(errors)
