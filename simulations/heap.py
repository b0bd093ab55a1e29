"""Protocol machines on a heap of virtual time: no socket, no clock, one seed, one trace.

Effects are performed by a model of the world: gossip takes a drawn latency and may be lost,
training takes a drawn time, and what a real node computes is replaced by a hash of its inputs, so
that two replicas agree exactly if real ones would. The machines cannot tell that it is simulated.
"""

import hashlib
import heapq
import itertools
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from eigen.protocol.cid import digest_of, raw_cid
from eigen.protocol.committee import CommitteeMachine, Promises
from eigen.protocol.context import RunContext
from eigen.protocol.effects import (
    Adopt,
    Adopted,
    Aggregate,
    Aggregated,
    Attest,
    Audit,
    Audited,
    Effect,
    Event,
    MembershipChanged,
    Note,
    PartArrived,
    PeerDown,
    PeerUp,
    Penalize,
    Persist,
    Publish,
    Received,
    Repair,
    ResultArrived,
    SendPart,
    SendResult,
    SetTimer,
    Started,
    Step,
    Stepped,
    TimerFired,
    Train,
    TrainAhead,
    Trained,
)
from eigen.protocol.head import HeadMachine
from eigen.protocol.limits import SKETCH_BYTES
from eigen.protocol.messages import (
    Attestation,
    Commitment,
    LocalWork,
    PartResult,
    RoundRecord,
    digest,
)
from eigen.protocol.trainer import TrainerMachine
from eigen.protocol.types import Address, Cid, Digest
from eigen.protocol.wire import decode


@dataclass(frozen=True, slots=True)
class Links:
    """The virtual network: every message is drawn a latency and, with `loss`, never arrives."""

    latency_s_min: float = 0.005
    latency_s_max: float = 0.080
    loss: float = 0.0
    down_notice_s: float = 1.0  # how long until peers notice that a node is gone


@dataclass(slots=True)
class VirtualNode:
    """One node: its machines, its disk, and whether it is running."""

    address: Address
    validator: bool
    alive: bool = True
    boots: int = 0
    disk: dict[tuple[str, bytes], bytes] = field(default_factory=dict)
    records: dict[int, RoundRecord] = field(default_factory=dict)  # adopted, by round
    head: HeadMachine = field(init=False)
    trainer: TrainerMachine | None = None
    committee: CommitteeMachine | None = None
    heard: list[Received] = field(default_factory=list)  # signed messages of the round
    timers: dict[TimerFired, float] = field(default_factory=dict)
    ahead: tuple[LocalWork, float] | None = None  # what is trained ahead, and when it is done
    penalties: list[Penalize] = field(default_factory=list)
    notes: list[tuple[float, Note]] = field(default_factory=list)


Hook = Callable[["HeapNetwork", VirtualNode, Effect], bool]
"""Sees each effect before it is performed; True takes it over (faults, adversaries)."""


class HeapNetwork:
    """Virtual nodes of one run, and the world that performs their effects."""

    def __init__(
        self,
        context: RunContext,
        trainers: Iterable[Address],
        seed: int,
        links: Links | None = None,
        train_s: tuple[float, float] = (0.2, 0.6),
    ) -> None:
        self.context = context
        self.links = links or Links()
        self.random = random.Random(seed)
        self.train_s = train_s
        self.now = 0.0
        self.events = 0
        self.lost = 0  # gossiped messages that never arrived
        self.hooks: list[Hook] = []
        self.attested: dict[int, dict[Address, set[tuple[Digest, Digest]]]] = {}
        self._published: dict[Digest, RoundRecord] = {}  # any node serves any attested record
        self._trace = hashlib.sha256()
        self._heap: list[tuple[float, int, Address, int, Event]] = []
        self._count = itertools.count()
        names = [(a, False) for a in trainers] + [(a, True) for a in sorted(context.validators)]
        self.nodes = {address: VirtualNode(address, validator) for address, validator in names}
        for node in self.nodes.values():
            self._boot(node)
        self._tell_membership()

    # life and death -------------------------------------------------------------------------------
    def _boot(self, node: VirtualNode) -> None:
        node.alive = True
        node.timers.clear()
        node.ahead = None
        node.boots += 1
        last = node.records[max(node.records)] if node.records else None
        node.head = HeadMachine(self.context, last)
        if node.validator:
            stored = node.disk.get(("promises", self.context.run))
            promises = decode(stored, Promises) if stored else None
            node.committee = CommitteeMachine(self.context, node.address, node.head, promises)
        else:
            voted = frozenset(key for kind, key in node.disk if kind == "result-vote")
            begun = {
                int.from_bytes(key[-8:], "big"): decode(work, LocalWork)
                for (kind, key), work in node.disk.items()
                if kind == "ahead"
            }
            node.trainer = TrainerMachine(self.context, node.address, node.head, voted, begun)
        node.heard.clear()
        self._post(node, 0.0, Started())

    def kill(self, address: Address) -> None:
        """`kill -9`: memory is gone, the disk stays; peers notice after a while."""
        self.nodes[address].alive = False
        for other in self.nodes.values():
            self._post(other, self.links.down_notice_s, PeerDown(address))
        self._tell_membership(self.links.down_notice_s)

    def restart(self, address: Address) -> None:
        """Boot from disk; the node repairs what it missed."""
        node = self.nodes[address]
        self._boot(node)
        for other in self.nodes.values():
            self._post(other, self._latency(), PeerUp(address))
        self._tell_membership(self._latency())

    def _repair(self, node: VirtualNode) -> None:
        """One peer, drawn at random, answers with its head and with what it heard of the round."""
        others = [n for n in self.nodes.values() if n.alive and n is not node]
        if not others:
            return
        peer = self.random.choice(others)
        delay_s = 2 * self._latency()
        if peer.records and max(peer.records) > node.head.round:
            self._post(node, delay_s, Adopted(peer.records[max(peer.records)]))
        for received in peer.heard:
            self._post(node, delay_s + 1e-6, received)

    def _tell_membership(self, delay_s: float = 0.0) -> None:
        for node in self.nodes.values():
            self._post(node, delay_s + self._latency(), self._membership())

    def _membership(self) -> MembershipChanged:
        alive = (a for a, n in self.nodes.items() if n.alive and not n.validator)
        return MembershipChanged(tuple(alive))

    # the heap -------------------------------------------------------------------------------------
    def _latency(self) -> float:
        return self.random.uniform(self.links.latency_s_min, self.links.latency_s_max)

    def _post(self, node: VirtualNode, delay_s: float, event: Event) -> None:
        entry = (self.now + delay_s, next(self._count), node.address, node.boots, event)
        heapq.heappush(self._heap, entry)

    def run(self, until_s: float, done: Callable[["HeapNetwork"], bool] | None = None) -> bool:
        """Advance virtual time: True once `done` holds, False at `until_s` or with no event."""
        while self._heap and self._heap[0][0] <= until_s:
            self.now, _, address, boot, event = heapq.heappop(self._heap)
            node = self.nodes[address]
            if not node.alive or boot != node.boots:
                continue
            if isinstance(event, PeerDown) and self.nodes[event.peer].alive:
                continue  # it was back before anybody noticed
            if isinstance(event, MembershipChanged):
                event = self._membership()
            if isinstance(event, TimerFired) and node.timers.get(event, 0.0) > self.now:
                continue  # moved since
            self.events += 1
            self._trace.update(f"{self.now:.9f}{address.hex()}{event!r}".encode())
            self._deliver(node, event)
            if done is not None and done(self):
                return True
        return False

    @property
    def trace(self) -> str:
        """Hash of everything that happened; equal for equal seeds."""
        return self._trace.hexdigest()

    def _deliver(self, node: VirtualNode, event: Event) -> None:
        if isinstance(event, Adopted) and event.record.attempt.round <= node.head.round:
            return
        if (
            isinstance(event, Received)
            and event not in node.heard
            and _round_of(event) > node.head.round
        ):
            node.heard.append(event)
        if isinstance(event, Adopted):  # a node's head is on disk before its machines hear of it
            node.records[event.record.attempt.round] = event.record
            node.heard = [r for r in node.heard if _round_of(r) > event.record.attempt.round]
        for machine in (node.head, node.trainer, node.committee):
            if machine is None:
                continue
            for effect in machine.handle(event, self.now):
                if not node.alive:
                    return  # a hook killed the node between two effects
                if not any(hook(self, node, effect) for hook in self.hooks):
                    self.perform(node, effect)

    # the world ------------------------------------------------------------------------------------
    def gossip(self, sender: VirtualNode, message: object) -> None:
        """To every live node but the sender, each with its own latency and loss."""
        for node in self.nodes.values():
            if node is sender:
                continue
            if self.random.random() < self.links.loss:
                self.lost += 1
            else:
                self._post(node, self._latency(), Received(sender.address, message))

    def perform(self, node: VirtualNode, effect: Effect) -> None:
        """What the world does for an effect; a hook may call it with another one instead."""
        match effect:
            case Publish(message=message):
                node.heard.append(Received(node.address, message))
                self.gossip(node, message)
            case Repair():
                self._repair(node)
            case Persist(kind=kind, key=key, value=None):
                node.disk.pop((kind, key), None)
            case Persist(kind=kind, key=key, value=bytes(value)):
                node.disk[kind, key] = value
            case SetTimer(name=name, attempt=attempt, at_s=at_s, part=part):
                fired = TimerFired(name, attempt, part)
                node.timers[fired] = at_s
                self._post(node, max(0.0, at_s - self.now), fired)
            case Penalize():
                node.penalties.append(effect)
            case Note():
                node.notes.append((self.now, effect))
            case Train():
                self._train(node, effect)
            case TrainAhead(work=work):
                if node.ahead is None or node.ahead[0] != work:
                    node.ahead = (work, self.now + self.random.uniform(*self.train_s))
            case SendPart(attempt=attempt, part=part, owner=owner):
                assert node.trainer is not None
                mine = node.trainer.commitment_of(node.address)
                assert mine is not None
                arrived = PartArrived(node.address, attempt, part, mine.parts_root)
                self.send(owner, arrived)
            case Aggregate(attempt=attempt, part=part, inputs=inputs):
                roots = self._roots(node, inputs)
                value = _aggregate(attempt.round, part, inputs, roots, effect.carried)
                self._post(node, 0.005, Aggregated(attempt, part, value, ()))
            case SendResult(attempt=attempt, part=part, result=result, members=members):
                for member in members:
                    self.send(member, ResultArrived(node.address, attempt, part, result))
            case Step(attempt=attempt, base=base, results=results):
                self._post(node, 0.01, Stepped(attempt, _checkpoint(base, results)))
            case Audit(seat=seat, results=results):
                reason = _fault(effect)
                checkpoint = Cid("") if reason else _checkpoint(seat.base, results)
                left = (raw_cid(_hash("left", results)),)
                self._post(node, 0.02, Audited(seat.attempt, checkpoint, left, reason))
            case Attest(record=record):
                self._attest(node, record)
            case Adopt(round=round_, record=wanted):
                self._adopt(node, round_, wanted)

    def send(self, to: Address, event: Event) -> None:
        """An event for one node, after a latency; nothing where it is down."""
        if self.nodes[to].alive:
            self._post(self.nodes[to], self._latency(), event)

    def _roots(self, node: VirtualNode, inputs: tuple[tuple[Address, int], ...]) -> list[Digest]:
        assert node.trainer is not None
        made = [node.trainer.commitment_of(sender) for sender, _ in inputs]
        return [c.parts_root for c in made if c is not None]

    def _train(self, node: VirtualNode, effect: Train) -> None:
        took = self.random.uniform(*self.train_s)
        if node.ahead is not None and node.ahead[0] == effect.work:
            took = max(0.0, node.ahead[1] - self.now)
        self._post(node, took, Trained(effect.attempt, self._commitment(node, effect)))

    def _commitment(self, node: VirtualNode, effect: Train) -> Commitment:
        work = effect.work
        root = _hash("update", node.address, work.base, work.shards, work.order_seed)
        return Commitment(
            effect.attempt,
            work.base,
            root,
            Digest(bytes(32)),
            bytes(SKETCH_BYTES),
            100 * len(work.shards),
            (1.0,),
        )

    def _attest(self, node: VirtualNode, record: RoundRecord) -> None:
        root = (digest(record), digest_of(record.checkpoint))
        said = self.attested.setdefault(record.attempt.round, {})
        said.setdefault(node.address, set()).add(root)
        payout_root = self.context.payout_root(record.payouts)
        total = sum(p.cumulative for p in record.payouts)
        message = Attestation(
            self.context.run, record.attempt.round, root[1], root[0], payout_root, total, bytes(65)
        )
        self.gossip(node, message)
        self._post(node, 0.0, Received(node.address, message))
        self._published[root[0]] = record

    def _adopt(self, node: VirtualNode, round_: int, wanted: Digest) -> None:
        record = self._published[wanted]
        assert record.attempt.round == round_
        self._post(node, self._latency(), Adopted(record))


def _round_of(event: Received) -> int:
    message: Any = event.message
    at = message if isinstance(message, Attestation) else message.attempt
    return int(at.round)


def _hash(*parts: object) -> Digest:
    return Digest(hashlib.sha256(repr(parts).encode()).digest())


def _aggregate(
    round_: int,
    part: int,
    inputs: tuple[tuple[Address, int], ...],
    roots: list[Digest],
    carried: tuple[Cid, ...],
) -> Digest:
    return _hash("aggregate", round_, part, inputs, roots, carried)


def _fault(audit: Audit) -> str:
    """How results do not follow from the commitments; empty where they do."""
    made = dict(audit.commitments)
    for part, result in enumerate(audit.results):
        authors = [m.trainer for i, m in enumerate(audit.seat.members) if result.included >> i & 1]
        if any(author not in made for author in authors):
            return f"part {part} includes somebody who did not commit"
        inputs = tuple((author, made[author].samples) for author in authors)
        roots = [made[author].parts_root for author in authors]
        again = _aggregate(audit.seat.attempt.round, part, inputs, roots, audit.carried)
        if again != result.digest:
            return f"part {part} does not follow from its committed inputs"
    return ""


def _checkpoint(base: str, results: tuple[PartResult, ...]) -> Cid:
    return raw_cid(_hash("step", base, results))
