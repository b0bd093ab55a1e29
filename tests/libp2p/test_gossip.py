"""Nodes gossip: delivery once, order, validation, and what bad messages cost."""

import itertools
from collections import Counter

import pytest
import trio
from nodes import make, running, until

from eigen.node.libp2p import gossip
from eigen.node.libp2p.gossip_messages import Message, Rpc, frame, sign
from eigen.node.libp2p.identity import NodeKey
from eigen.node.ports import Verdict
from eigen.protocol import limits


class Follower:
    """Notes what arrives on a topic."""

    def __init__(self, node, topic="t", verdict=Verdict.ACCEPT):
        self.got = []
        node.subscribe(topic, lambda _peer, _data: verdict, self._handle)

    async def _handle(self, peer, data):
        self.got.append((peer, data))

    @property
    def texts(self):
        return [data for _, data in self.got]


async def test_a_message_reaches_everybody_once_over_several_hops():
    nodes = [make(exchange=False) for _ in range(5)]  # a chain: nobody learns of the others
    followers = [Follower(node) for node in nodes]
    async with trio.open_nursery() as nursery:
        for node in nodes:
            await nursery.start(node.run)
        for left, right in itertools.pairwise(nodes):
            await left.connect(right.listen_addrs()[0], timeout_s=5)
        await until(lambda: all(n._gossip.router.mesh["t"] for n in nodes))
        for number in range(20):
            await nodes[0].publish("t", b"%d" % number)
        expected = [b"%d" % number for number in range(20)]
        for follower in followers[1:]:
            await until(lambda follower=follower: len(follower.got) >= 20)
        await trio.sleep(0.1)
        for follower in followers[1:]:
            assert follower.texts == expected  # in order, none twice
        assert followers[0].got == []  # own messages do not come back
        nursery.cancel_scope.cancel()


async def test_an_invalid_message_is_not_forwarded_and_its_sender_pays():
    alice, bob, carol = (make(exchange=False) for _ in range(3))
    Follower(alice)
    Follower(bob, verdict=Verdict.REJECT)
    carols = Follower(carol)
    async with running(alice), running(bob), running(carol):
        await alice.connect(bob.listen_addrs()[0], timeout_s=5)
        await bob.connect(carol.listen_addrs()[0], timeout_s=5)
        await until(lambda: len(bob._gossip.router.subscribers("t")) == 2)
        before = bob.score(alice.local)
        await alice.publish("t", b"bad")
        await until(lambda: bob.score(alice.local) < before)
        assert bob.score(alice.local) == pytest.approx(-limits.PENALTY_MALFORMED, abs=0.1)
        assert carols.got == []
        assert bob.peers() >= {alice.local, carol.local}


async def test_an_ignored_message_blames_nobody():
    alice, bob = make(), make()
    Follower(alice)
    bobs = Follower(bob, verdict=Verdict.IGNORE)
    async with running(alice), running(bob):
        await alice.connect(bob.listen_addrs()[0], timeout_s=5)
        await until(lambda: alice._gossip.router.subscribers("t"))
        await alice.publish("t", b"stale")
        await trio.sleep(0.2)
        assert bobs.got == []
        assert bob.score(alice.local) == 0


async def test_a_validator_or_handler_that_raises_ends_nothing(caplog):
    alice, bob = make(), make()
    Follower(alice)
    seen = []

    def validate(_peer, data):
        if data == b"trap":
            raise RuntimeError("a bug of ours")
        return Verdict.ACCEPT

    async def handle(_peer, data):
        if data == b"bomb":
            raise RuntimeError("another bug")
        seen.append(data)

    bob.subscribe("t", validate, handle)
    async with running(alice), running(bob):
        await alice.connect(bob.listen_addrs()[0], timeout_s=5)
        await until(lambda: alice._gossip.router.subscribers("t"))
        for data in (b"trap", b"bomb", b"fine"):
            await alice.publish("t", data)
        await until(lambda: seen == [b"fine"])
        assert "a bug of ours" in caplog.text
        assert "another bug" in caplog.text
        assert bob.score(alice.local) == 0


def poison(key: NodeKey) -> dict[str, bytes]:
    """Packets of which one ended a stock py-libp2p node, and some relatives."""
    good = sign(key, "t", b"data", 7)
    forged = Message()
    forged.CopyFrom(good)
    forged.data = b"other data"
    hashed = Message()
    hashed.CopyFrom(good)
    hashed.from_id = b"\x12\x20" + bytes(32)
    hashed.key = b"\x08\x02\x12\x21" + b"\x05" * 33
    short = Message()
    short.CopyFrom(good)
    short.signature = b"\x30\x01"
    two = Message()
    two.CopyFrom(good)
    two.topicIDs.append("t2")
    return {
        "no protobuf": b"\x05\xff\xff\xff\xff\xff",
        "a length above the bound": b"\xff\xff\xff\xff\x7f",
        "forged": frame(Rpc(publish=[forged])),
        "hash id with a bad key": frame(Rpc(publish=[hashed])),
        "malformed signature": frame(Rpc(publish=[short])),
        "two topics": frame(Rpc(publish=[two])),
        "no author": frame(Rpc(publish=[Message(data=b"x", topicIDs=["t"])])),
        "too many topics": frame(
            Rpc(subscriptions=[Rpc.SubOpts(subscribe=True, topicid=f"{i}") for i in range(200)])
        ),
        "a nameless topic": frame(Rpc(subscriptions=[Rpc.SubOpts(subscribe=True)])),
    }


@pytest.mark.parametrize("name", list(poison(NodeKey(b"\x01" * 32))))
async def test_poison_costs_its_sender_and_nobody_else(name):
    alice, mallory, bob = make(), make(secret=b"\x01" * 32), make()
    follower = Follower(alice)
    Follower(bob)
    async with running(alice), running(mallory), running(bob):
        await mallory.connect(alice.listen_addrs()[0], timeout_s=5)
        await bob.connect(alice.listen_addrs()[0], timeout_s=5)
        await until(lambda: alice.peers() == {mallory.local, bob.local})
        connection = mallory._swarm.connection(alice.local)
        stream, _ = await connection.open(["/meshsub/1.1.0"])
        await stream.write(poison(NodeKey(b"\x01" * 32))[name])
        await until(lambda: alice.score(mallory.local) < 0)
        assert alice.score(bob.local) == 0
        await bob.publish("t", b"still here")
        await until(lambda: follower.texts == [b"still here"])


async def test_grafts_to_unknown_topics_are_not_answered():
    alice, mallory = make(), make()
    follower = Follower(alice)
    Follower(mallory)
    async with running(alice), running(mallory):
        await mallory.connect(alice.listen_addrs()[0], timeout_s=5)
        stream, _ = await mallory._swarm.connection(alice.local).open(["/meshsub/1.1.0"])
        rpc = Rpc()
        rpc.control.graft.add(topicID="no such topic")
        rpc.control.prune.add(topicID="nor this").peers.add(peerID=b"x")
        await stream.write(frame(rpc))
        await until(lambda: mallory._gossip.router.subscribers("t"))
        await mallory.publish("t", b"alive")
        await until(lambda: follower.texts == [b"alive"])
        assert set(alice._gossip.router.mesh) == {"t"}


async def test_publishing_fast_loses_nothing():
    alice, bob = make(), make()
    Follower(alice)
    follower = Follower(bob)
    async with running(alice), running(bob):
        await alice.connect(bob.listen_addrs()[0], timeout_s=5)
        await until(lambda: alice._gossip.router.subscribers("t"))
        for number in range(100):
            await alice.publish("t", number.to_bytes(2) + bytes(1000))
        await until(lambda: len(follower.got) == 100)
        assert Counter(follower.texts).most_common(1)[0][1] == 1


async def test_bounds_of_publishing_are_named():
    node = make()
    with pytest.raises(ValueError, match="data: 65537 bytes"):
        await node.publish("t", bytes(limits.GOSSIP_MESSAGE_BYTES_MAX + 1))
    Follower(node)
    with pytest.raises(ValueError, match="subscribed to already"):
        Follower(node)


async def test_a_peer_that_comes_late_hears_what_was_said_just_before():
    alice, bob = make(), make()
    Follower(alice)
    follower = Follower(bob)
    async with running(alice), running(bob):
        await alice.publish("t", b"early")
        await alice.connect(bob.listen_addrs()[0], timeout_s=5)
        await until(lambda: follower.texts == [b"early"])


async def test_a_peer_that_does_not_read_is_left_out_and_told_later(monkeypatch):
    """Its queue fills, publishing goes on for the others, and it catches up by IHAVE."""
    monkeypatch.setattr(gossip, "SEND_QUEUE_MAX", 5)
    monkeypatch.setattr(gossip, "SLOW_PEER_S", 0.05)
    alice, bob, carol = (make(exchange=False) for _ in range(3))
    Follower(alice)
    bobs, carols = Follower(bob), Follower(carol)
    async with running(alice), running(bob), running(carol):
        for node in (bob, carol):
            await alice.connect(node.listen_addrs()[0], timeout_s=5)
        await until(lambda: len(alice._gossip.router.subscribers("t")) == 2)
        slow = alice._gossip._outgoing[bob.local]
        put, stuck = slow.put, True

        def held(frame, *, droppable):
            if stuck and droppable:
                slow.dropped += 1
                return False
            return put(frame, droppable=droppable)

        slow.put = held
        for number in range(10):
            await alice.publish("t", b"%d" % number)
        await until(lambda: len(carols.got) == 10)
        assert bobs.got == []
        assert slow.dropped >= 10
        stuck = False
        await until(lambda: sorted(bobs.texts) == sorted(carols.texts))
