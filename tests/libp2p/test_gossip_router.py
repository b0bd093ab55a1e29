"""The gossipsub router alone, on a clock and links of the test: loss, floods, backoff, scores."""

import random
from collections import Counter

import pytest

from eigen.node.libp2p import bounds
from eigen.node.libp2p import gossip_router as module
from eigen.node.libp2p.gossip_messages import Rpc, sign
from eigen.node.libp2p.gossip_router import Router
from eigen.node.libp2p.identity import NodeKey
from eigen.node.ports import Verdict
from eigen.protocol.types import Address


class World:
    """Routers on links that lose some of what may be lost."""

    def __init__(self, count: int, *, loss: float, seed: int) -> None:
        self.rng = random.Random(seed)
        self.loss = loss
        self.now = 0.0
        self.wire: list[tuple[int, int, bytes]] = []
        self.lost = 0
        self.got: list[Counter[bytes]] = [Counter() for _ in range(count)]
        self.penalties: Counter[Address] = Counter()
        self.keys = [NodeKey(bytes([n + 1]) * 32) for n in range(count)]
        self.index = {key.address: number for number, key in enumerate(self.keys)}
        self.routers = [self._router(number) for number in range(count)]

    def _router(self, number: int) -> Router:
        def send(peer: Address, frame: bytes, droppable: bool) -> bool:
            if droppable and self.rng.random() < self.loss:
                self.lost += 1
                return False
            self.wire.append((number, self.index[peer], frame))
            return True

        def penalize(peer: Address, points: float, _reason: str) -> None:
            self.penalties[peer] += int(points)

        return Router(
            self.keys[number],
            send=send,
            validate=lambda _topic, _peer, _data: Verdict.ACCEPT,
            penalize=penalize,
            reputation=lambda _peer: 0.0,
            first_seqno=number * 10**6,
            rng=random.Random(self.rng.random()),
        )

    def link(self, left: int, right: int) -> None:
        self.routers[left].add_peer(self.keys[right].address)
        self.routers[right].add_peer(self.keys[left].address)

    def settle(self) -> None:
        while self.wire:
            source, target, frame = self.wire.pop(0)
            body = frame[1:] if frame[0] < 0x80 else frame[2 if frame[1] < 0x80 else 3 :]
            peer = self.keys[source].address
            for found in self.routers[target].receive(peer, body, self.now):
                self.got[target][found.data] += 1

    def beat(self, times: int) -> None:
        for _ in range(times):
            self.now += module.HEARTBEAT_S
            for router in self.routers:
                router.heartbeat(self.now)
            self.settle()


@pytest.mark.parametrize("seed", range(12))
def test_every_message_reaches_everybody_once_though_a_third_is_lost(seed):
    count = 24
    world = World(count, loss=0.33, seed=seed)
    for router in world.routers:
        router.join("t", 0.0)
    for number in range(count):
        world.link(number, (number + 1) % count)
        for other in world.rng.sample(range(count), 4):
            if other != number:
                world.link(number, other)
    world.settle()
    world.beat(3)
    texts = []
    for number in range(20):
        texts.append(b"message %d" % number)
        author = world.rng.randrange(count)
        world.got[author][texts[-1]] += 1  # its own is not handed back
        world.routers[author].publish("t", texts[-1], world.now)
        world.settle()
        world.beat(1)
    world.beat(6)
    assert world.lost > 100
    for got in world.got:
        assert set(got) == set(texts)
        assert set(got.values()) == {1}
    for router in world.routers:
        assert len(router.mesh["t"]) <= module.DEGREE_HIGH
    assert not world.penalties


def pair() -> tuple[World, Address]:
    world = World(2, loss=0.0, seed=1)
    for router in world.routers:
        router.join("t", 0.0)
    world.link(0, 1)
    world.settle()
    return world, world.keys[1].address


def test_a_flood_of_fresh_messages_is_paced_and_scored_down():
    world, flooder = pair()
    router, key = world.routers[0], world.keys[1]
    total = int(bounds.NEW_MESSAGES_BURST) + 1500
    delivered = 0
    for number in range(total):
        rpc = Rpc(publish=[sign(key, "t", b"x", number + 1)])
        delivered += len(router.receive(flooder, rpc.SerializeToString(), 1.0))
    assert delivered <= bounds.NEW_MESSAGES_BURST + bounds.NEW_MESSAGES_PER_S
    assert router.score(flooder, 1.0) < 0
    router.heartbeat(2.0)
    assert flooder not in router.mesh["t"]


def test_a_graft_during_the_backoff_is_refused_and_costs():
    world, peer = pair()
    router = world.routers[0]
    prune = Rpc()
    prune.control.prune.add(topicID="t", backoff=60)
    router.receive(peer, prune.SerializeToString(), 1.0)
    assert peer not in router.mesh["t"]
    graft = Rpc()
    graft.control.graft.add(topicID="t")
    for _ in range(4):
        router.receive(peer, graft.SerializeToString(), 2.0)
    assert peer not in router.mesh["t"]
    assert router.score(peer, 2.0) < 0
    answered = [frame for source, _, frame in world.wire if source == 0 and b"\x22" in frame]
    assert answered, "each graft is answered with a prune"


def test_promises_of_messages_that_do_not_come_cost():
    world, peer = pair()
    router = world.routers[0]
    for number in range(6):
        rpc = Rpc()
        rpc.control.ihave.add(topicID="t", messageIDs=[b"made up %d" % number])
        router.receive(peer, rpc.SerializeToString(), float(number))
    for beat in range(12):
        router.heartbeat(float(6 + beat))
    assert router.peers[peer].score.behaviour > module.score.BEHAVIOUR_THRESHOLD
    assert router.score(peer, 18.0) < 0


def test_advertisements_are_followed_only_up_to_a_bound():
    world, peer = pair()
    world.wire.clear()
    router = world.routers[0]
    for batch in range(20):
        rpc = Rpc()
        ids = [b"%d-%d" % (batch, number) for number in range(2000)]
        rpc.control.ihave.add(topicID="t", messageIDs=ids)
        router.receive(peer, rpc.SerializeToString(), 1.0)
    asked = sum(frame.count(b"-") for _, _, frame in world.wire)
    assert 0 < asked <= bounds.IDS_PER_HEARTBEAT_MAX


def test_a_mesh_that_is_too_large_is_cut_and_one_too_small_is_filled():
    world = World(30, loss=0.0, seed=3)
    for router in world.routers:
        router.join("t", 0.0)
    for number in range(1, 30):
        world.link(0, number)
    world.settle()
    world.beat(2)
    hub = world.routers[0]
    assert module.DEGREE_LOW <= len(hub.mesh["t"]) <= module.DEGREE_HIGH
    for peer in list(hub.mesh["t"])[1:]:
        hub.remove_peer(peer)
    world.beat(int(module.PRUNE_BACKOFF_S) + 3)  # those that it had no room for may come again
    assert len(hub.mesh["t"]) >= module.DEGREE_LOW
