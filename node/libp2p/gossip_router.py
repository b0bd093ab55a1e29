"""The gossipsub 1.1 router: meshes, gossip about messages, scores. Does no I/O, reads no clock.

`gossipsub-v1.0.md` and `v1.1.md` of the libp2p specs. Left out on purpose: peer exchange in PRUNE
(`/eigen/peers/1` does it) and fan-out state (own messages are flooded to all subscribers instead).
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from eigen.node.libp2p import gossip_messages as messages
from eigen.node.libp2p import gossip_score as score
from eigen.node.libp2p.bounds import (
    CONTROL_PER_RPC_MAX,
    IDS_PER_HEARTBEAT_MAX,
    NEW_MESSAGES_BURST,
    NEW_MESSAGES_PER_S,
    TOPICS_PER_PEER_MAX,
)
from eigen.node.libp2p.errors import ProtocolViolation
from eigen.node.libp2p.gossip_cache import MessageCache, Seen
from eigen.node.libp2p.gossip_messages import Message, Rpc
from eigen.node.libp2p.gossip_score import PeerScore
from eigen.node.libp2p.identity import NodeKey
from eigen.node.libp2p.token_bucket import TokenBucket
from eigen.node.ports import Verdict
from eigen.protocol.limits import PENALTY_MALFORMED
from eigen.protocol.types import Address

DEGREE: Final = 6
DEGREE_LOW: Final = 5
DEGREE_HIGH: Final = 12
DEGREE_SCORE: Final = 4
"""Of the peers kept when a mesh is cut, how many are the best by score."""
DEGREE_LAZY: Final = 6
GOSSIP_FACTOR: Final = 0.25
HEARTBEAT_S: Final = 1.0
PRUNE_BACKOFF_S: Final = 60.0
BACKOFF_SLACK_S: Final = 1.0
BACKOFF_MAX_S: Final = 3600.0
OPPORTUNISTIC_EVERY: Final = 60
"""Heartbeats between looks for better mesh peers."""
IHAVE_PER_HEARTBEAT_MAX: Final = 10
"""IHAVE entries of one peer that are followed between two heartbeats, for each own topic."""
PROMISE_S: Final = 3.0
"""How long a peer has to deliver what it advertised."""
FLOOD_PENALTY: Final = 0.02
"""Of P7, for each message above the pace: a second of twice the pace costs 10."""
FLOOD_BYTES_MAX: Final = 4096
"""Own messages up to this size go to all subscribers; larger ones to the mesh."""

Send = Callable[[Address, bytes, bool], bool]
"""`(peer, frame, droppable)`: queue a frame for a peer; false if it was dropped."""


@dataclass(slots=True)
class Remote:
    """What the router knows of one connected peer."""

    topics: set[str] = field(default_factory=set)
    score: PeerScore = field(default_factory=PeerScore)
    pace: TokenBucket = field(
        default_factory=lambda: TokenBucket(NEW_MESSAGES_PER_S, NEW_MESSAGES_BURST, 0.0)
    )
    missed: set[str] = field(default_factory=set)
    """Topics of which a message was dropped on its way to the peer: it is told by IHAVE."""
    ihave_entries: int = 0
    ids_asked: int = 0
    ids_served: int = 0


@dataclass(frozen=True, slots=True)
class Accepted:
    """A message to hand to the topic's handler."""

    topic: str
    forwarder: Address
    data: bytes


class Router:
    """One node's view of all topics. `validate` judges each new message of a joined topic."""

    def __init__(
        self,
        key: NodeKey,
        *,
        send: Send,
        validate: Callable[[str, Address, bytes], Verdict],
        penalize: Callable[[Address, float, str], None],
        reputation: Callable[[Address], float],
        first_seqno: int,
        rng: random.Random,
    ) -> None:
        self._key = key
        self._send = send
        self._validate = validate
        self._penalize = penalize
        self._reputation = reputation
        self._seqno = first_seqno
        self._rng = rng
        self.peers: dict[Address, Remote] = {}
        self.mesh: dict[str, set[Address]] = {}
        self._backoff: dict[tuple[str, Address], float] = {}
        self._promises: dict[bytes, tuple[Address, float]] = {}
        self._cache = MessageCache()
        self._seen = Seen()
        self._beats = 0

    # Peers and topics ---------------------------------------------------------------------------

    def add_peer(self, peer: Address) -> None:
        """A stream to the peer is open: tell it our topics."""
        self.peers.setdefault(peer, Remote())
        self._send(peer, messages.subscriptions(self.mesh, joined=True), False)

    def remove_peer(self, peer: Address) -> None:
        """The peer is gone. Its backoffs stay."""
        self.peers.pop(peer, None)
        for members in self.mesh.values():
            members.discard(peer)

    def join(self, topic: str, now_s: float) -> None:
        """Subscribe to a topic."""
        if topic in self.mesh:
            return
        self.mesh[topic] = set()
        announcement = messages.subscriptions([topic], joined=True)
        for peer in self.peers:
            self._send(peer, announcement, False)
        self._fill(topic, now_s, DEGREE)

    def subscribers(self, topic: str) -> list[Address]:
        """Connected peers in a topic."""
        return [peer for peer, remote in self.peers.items() if topic in remote.topics]

    def score(self, peer: Address, now_s: float) -> float:
        """A peer's gossip score."""
        remote = self.peers.get(peer)
        reputation = self._reputation(peer)
        return reputation if remote is None else remote.score.value(reputation, now_s)

    # Publishing ---------------------------------------------------------------------------------

    def targets(self, topic: str, size: int, now_s: float) -> list[Address]:
        """Who gets an own message of this size at first hand."""
        subscribers = [
            peer
            for peer in self.subscribers(topic)
            if self.score(peer, now_s) >= score.PUBLISH_THRESHOLD
        ]
        members = self.mesh.get(topic, set())
        if size <= FLOOD_BYTES_MAX or len(members) < DEGREE_LOW:
            if size > FLOOD_BYTES_MAX and len(subscribers) > DEGREE:
                others = [peer for peer in subscribers if peer not in members]
                return [*members, *self._rng.sample(others, DEGREE - len(members))]
            return subscribers
        return list(members)

    def publish(self, topic: str, data: bytes, now_s: float) -> bytes:
        """Sign a message and send it; returns its id."""
        self._seqno += 1
        message = messages.sign(self._key, topic, data, self._seqno)
        message_id = messages.message_id(message)
        frame = messages.frame(Rpc(publish=[message]))
        self._seen.add(message_id, now_s)
        self._cache.put(message_id, topic, frame)
        for peer in self.targets(topic, len(data), now_s):
            self._pass(peer, topic, frame)
        return message_id

    def _pass(self, peer: Address, topic: str, frame: bytes) -> None:
        if not self._send(peer, frame, True) and peer in self.peers:
            self.peers[peer].missed.add(topic)

    # Receiving ----------------------------------------------------------------------------------

    def receive(self, peer: Address, body: bytes, now_s: float) -> list[Accepted]:
        """Act on one RPC of a peer; returns what its messages bring for this node.

        Never raises: what is wrong with the bytes costs the peer points.
        """
        remote = self.peers.get(peer)
        if remote is None or self.score(peer, now_s) < score.GRAYLIST_THRESHOLD:
            return []
        try:
            rpc = messages.parse(body)
            self._on_subscriptions(peer, remote, rpc, now_s)
        except ProtocolViolation as violation:
            self._penalize(peer, violation.cost, str(violation))
            return []
        accepted = [
            found
            for message in rpc.publish
            if (found := self._on_message(peer, remote, message, now_s)) is not None
        ]
        if rpc.HasField("control"):
            self._on_ihave(peer, remote, rpc, now_s)
            self._on_iwant(peer, remote, rpc, now_s)
            self._on_graft(peer, remote, rpc, now_s)
            self._on_prune(peer, rpc, now_s)
        return accepted

    def _on_subscriptions(self, peer: Address, remote: Remote, rpc: Rpc, now_s: float) -> None:
        for subscription in rpc.subscriptions:
            topic = subscription.topicid
            if not subscription.subscribe:
                remote.topics.discard(topic)
                self.mesh.get(topic, set()).discard(peer)
                continue
            if len(remote.topics) >= TOPICS_PER_PEER_MAX and topic not in remote.topics:
                raise ProtocolViolation(f"more than {TOPICS_PER_PEER_MAX} topics")
            if topic in self.mesh and topic not in remote.topics:
                remote.missed.add(topic)  # what was published just before it came
            remote.topics.add(topic)
            if topic in self.mesh and len(self.mesh[topic]) < DEGREE_LOW:
                self._fill(topic, now_s, DEGREE_LOW)

    def _on_message(
        self, peer: Address, remote: Remote, message: Message, now_s: float
    ) -> Accepted | None:
        try:
            messages.check_form(message)
        except ProtocolViolation as violation:
            self._penalize(peer, violation.cost, str(violation))
            return None
        topic, message_id = message.topicIDs[0], messages.message_id(message)
        if topic not in self.mesh or message_id in self._seen:
            self._promises.pop(message_id, None)
            return None
        if not remote.pace.take(1.0, now_s):
            remote.score.behaviour += FLOOD_PENALTY  # not seen: another peer may bring it
            return None
        try:
            messages.check_signature(message)  # before it counts as seen, or a forgery hides it
        except ProtocolViolation as violation:
            remote.score.topic(topic).invalid += 1
            self._penalize(peer, violation.cost, str(violation))
            return None
        self._promises.pop(message_id, None)
        self._seen.add(message_id, now_s)
        if message.from_id == self._key.peer_id.to_bytes():
            return None  # an old message of our own
        verdict = self._validate(topic, peer, message.data)
        if verdict is Verdict.REJECT:
            remote.score.topic(topic).invalid += 1
            self._penalize(peer, PENALTY_MALFORMED, f"an invalid message in {topic}")
            return None
        if verdict is Verdict.IGNORE:
            return None
        remote.score.delivered_first(topic)
        frame = messages.frame(Rpc(publish=[message]))
        self._cache.put(message_id, topic, frame)
        author = messages.author_of(message)
        for member in self.mesh[topic]:
            if member not in (peer, author):
                self._pass(member, topic, frame)
        return Accepted(topic, peer, message.data)

    def _on_ihave(self, peer: Address, remote: Remote, rpc: Rpc, now_s: float) -> None:
        if self.score(peer, now_s) < score.GOSSIP_THRESHOLD:
            return
        wanted: dict[bytes, None] = {}
        for entry in rpc.control.ihave:
            if entry.topicID not in self.mesh:
                continue
            remote.ihave_entries += 1
            if remote.ihave_entries > IHAVE_PER_HEARTBEAT_MAX * max(1, len(self.mesh)):
                break
            for message_id in entry.messageIDs:
                if len(message_id) <= messages.MESSAGE_ID_BYTES_MAX and (
                    message_id not in self._seen
                ):
                    wanted[message_id] = None
        room = IDS_PER_HEARTBEAT_MAX - remote.ids_asked
        asked = list(wanted)[: max(0, room)]
        if asked:
            remote.ids_asked += len(asked)
            self._promises.setdefault(self._rng.choice(asked), (peer, now_s + PROMISE_S))
            control = messages.Control(iwant=[messages.IWant(messageIDs=asked)])
            self._send(peer, messages.frame(Rpc(control=control)), False)

    def _on_iwant(self, peer: Address, remote: Remote, rpc: Rpc, now_s: float) -> None:
        if self.score(peer, now_s) < score.GOSSIP_THRESHOLD:
            return
        for entry in rpc.control.iwant:
            for message_id in entry.messageIDs:
                remote.ids_served += 1
                if remote.ids_served > IDS_PER_HEARTBEAT_MAX:
                    return
                cached = self._cache.get_for(peer, message_id)
                if cached is None:
                    continue
                if self._send(peer, cached.frame, True):
                    cached.sent[peer] = cached.sent.get(peer, 0) + 1
                else:
                    remote.missed.add(cached.topic)

    def _on_graft(self, peer: Address, remote: Remote, rpc: Rpc, now_s: float) -> None:
        refused = []
        for entry in rpc.control.graft:
            topic = entry.topicID
            members = self.mesh.get(topic)
            if members is None or peer in members:
                continue  # an unknown topic is not answered: it would tell what we follow
            if topic not in remote.topics and len(remote.topics) < TOPICS_PER_PEER_MAX:
                remote.topics.add(topic)
            if now_s < self._backoff.get((topic, peer), 0.0):
                remote.score.behaviour += 1
                self._set_backoff(topic, peer, now_s + PRUNE_BACKOFF_S)
                refused.append(topic)
            elif self.score(peer, now_s) < 0 or len(members) >= DEGREE_HIGH:
                self._set_backoff(topic, peer, now_s + PRUNE_BACKOFF_S)
                refused.append(topic)
            else:
                self._graft(topic, peer, now_s)
        if refused:
            self._send(peer, _prunes(refused), False)

    def _on_prune(self, peer: Address, rpc: Rpc, now_s: float) -> None:
        for entry in rpc.control.prune:
            topic = entry.topicID
            if topic not in self.mesh:
                continue
            self._ungraft(topic, peer)
            backoff_s = min(entry.backoff or PRUNE_BACKOFF_S, BACKOFF_MAX_S)
            self._set_backoff(topic, peer, now_s + backoff_s)

    # Heartbeat ----------------------------------------------------------------------------------

    def heartbeat(self, now_s: float) -> None:
        """Once each `HEARTBEAT_S`: mend the meshes, gossip, let scores fade."""
        self._beats += 1
        self._break_promises(now_s)
        for remote in self.peers.values():
            remote.score.decay()
            remote.ihave_entries = remote.ids_asked = remote.ids_served = 0
        for key in [k for k, until in self._backoff.items() if until + BACKOFF_SLACK_S < now_s]:
            del self._backoff[key]
        for topic, members in self.mesh.items():
            self._mend(topic, members, now_s)
            self._gossip(topic, members, now_s)
        self._cache.shift()
        self._seen.expire(now_s)

    def _mend(self, topic: str, members: set[Address], now_s: float) -> None:
        bad = [peer for peer in members if self.score(peer, now_s) < 0]
        for peer in bad:
            self._prune(topic, peer, now_s)
        if len(members) < DEGREE_LOW:
            self._fill(topic, now_s, DEGREE)
        if len(members) > DEGREE_HIGH:
            ranked = sorted(members, key=lambda p: (-self.score(p, now_s), self._rng.random()))
            rest = ranked[DEGREE_SCORE:]
            keep = set(self._rng.sample(rest, DEGREE - DEGREE_SCORE))
            for peer in rest:
                if peer not in keep:
                    self._prune(topic, peer, now_s)
        if self._beats % OPPORTUNISTIC_EVERY == 0 and len(members) > 1:
            scores = sorted(self.score(peer, now_s) for peer in members)
            median = scores[len(scores) // 2]
            if median < score.OPPORTUNISTIC_THRESHOLD:
                self._fill(topic, now_s, len(members) + 2, above=median)

    def _fill(self, topic: str, now_s: float, wanted: int, above: float | None = None) -> None:
        members = self.mesh[topic]
        candidates = [
            peer
            for peer in self.subscribers(topic)
            if peer not in members and now_s >= self._backoff.get((topic, peer), 0.0)
        ]
        least = 0.0 if above is None else above + 1e-9
        candidates = [peer for peer in candidates if self.score(peer, now_s) >= least]
        self._rng.shuffle(candidates)
        for peer in candidates[: max(0, wanted - len(members))]:
            self._graft(topic, peer, now_s)
            graft = messages.Control(graft=[messages.Graft(topicID=topic)])
            self._send(peer, messages.frame(Rpc(control=graft)), False)

    def _gossip(self, topic: str, members: set[Address], now_s: float) -> None:
        ids = self._cache.to_advertise(topic)
        if not ids:
            return
        candidates = [
            peer
            for peer in self.subscribers(topic)
            if peer not in members and self.score(peer, now_s) >= score.GOSSIP_THRESHOLD
        ]
        count = max(DEGREE_LAZY, int(GOSSIP_FACTOR * len(candidates)))
        ids = self._rng.sample(ids, min(len(ids), IDS_PER_HEARTBEAT_MAX))
        control = messages.Control(ihave=[messages.IHave(topicID=topic, messageIDs=ids)])
        frame = messages.frame(Rpc(control=control))
        chosen = self._rng.sample(candidates, min(count, len(candidates)))
        behind = [peer for peer, remote in self.peers.items() if topic in remote.missed]
        for peer in dict.fromkeys([*chosen, *behind]):
            if self._send(peer, frame, True):
                self.peers[peer].missed.discard(topic)

    def _graft(self, topic: str, peer: Address, now_s: float) -> None:
        self.mesh[topic].add(peer)
        self.peers[peer].score.topic(topic).grafted_at_s = now_s

    def _ungraft(self, topic: str, peer: Address) -> None:
        self.mesh[topic].discard(peer)
        if peer in self.peers:
            self.peers[peer].score.topic(topic).grafted_at_s = None

    def _prune(self, topic: str, peer: Address, now_s: float) -> None:
        self._ungraft(topic, peer)
        self._set_backoff(topic, peer, now_s + PRUNE_BACKOFF_S)
        self._send(peer, _prunes([topic]), False)

    def _set_backoff(self, topic: str, peer: Address, until_s: float) -> None:
        self._backoff[topic, peer] = max(until_s, self._backoff.get((topic, peer), 0.0))

    def _break_promises(self, now_s: float) -> None:
        for message_id, (peer, until_s) in list(self._promises.items()):
            if until_s < now_s:
                del self._promises[message_id]
                if (remote := self.peers.get(peer)) is not None:
                    remote.score.behaviour += 1


def _prunes(topics: Iterable[str]) -> bytes:
    control = messages.Control(
        prune=[messages.Prune(topicID=topic, backoff=int(PRUNE_BACKOFF_S)) for topic in topics]
    )
    return messages.frame(Rpc(control=control))


assert CONTROL_PER_RPC_MAX >= DEGREE_HIGH
