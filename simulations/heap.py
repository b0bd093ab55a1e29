"""Protocol machines on a heap of virtual time: no socket, no clock, one seed, one trace.

Effects are performed by a model of the world: gossip takes a drawn latency and may be lost,
training takes a drawn time, and what a real node computes is replaced by a hash of its inputs, so
that two replicas agree exactly if real ones would. The machines cannot tell that it is simulated.
"""

import hashlib
import heapq
import itertools
import random
import struct
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from typing import Any

from eigen.protocol.cid import digest_of
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
    Collect,
    Collected,
    Combine,
    Effect,
    Event,
    GroupArrived,
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
    Replay,
    Replayed,
    ResultArrived,
    SendGroup,
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
from eigen.protocol.messages import (
    Attempt,
    Attestation,
    Check,
    Finding,
    LocalWork,
    RoundRecord,
    digest,
)
from eigen.protocol.trainer import TrainerMachine
from eigen.protocol.types import Address, Cid, Digest
from eigen.protocol.wire import decode
from eigen.simulations.compute import Compute, Hashes, fault

REPLAY_TOLERANCE = 1e-3
"""Virtual nodes train on one machine: what deviates more was not trained."""
_TRACED = struct.Struct("<dIHQ")
_HANDLED: dict[type, frozenset[type]] = {
    HeadMachine: frozenset(HeadMachine.TRANSITIONS) | {Attestation},
    TrainerMachine: frozenset(TrainerMachine.TRANSITIONS) | frozenset(TrainerMachine.MESSAGES),
    CommitteeMachine: frozenset(CommitteeMachine.TRANSITIONS)
    | frozenset(CommitteeMachine.MESSAGES),
}
"""Events and messages that mean anything to a machine: it need not be asked about others."""


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
    index: int
    alive: bool = True
    frozen: bool = False  # it does nothing and its connections stay, as under SIGSTOP
    boots: int = 0
    backlog: list[tuple[Event, int]] = field(default_factory=list)  # what came while it was frozen
    inputs: set[tuple[Attempt, int, Address]] = field(default_factory=set)  # parts held here
    disk: dict[tuple[str, bytes], bytes] = field(default_factory=dict)
    records: dict[int, RoundRecord] = field(default_factory=dict)  # adopted, by round
    head: HeadMachine = field(init=False)
    trainer: TrainerMachine | None = None
    committee: CommitteeMachine | None = None
    heard: dict[int, Received] = field(default_factory=dict)  # signed messages of the round
    timers: dict[TimerFired, float] = field(default_factory=dict)
    ahead: tuple[LocalWork, float] | None = None  # what is trained ahead, and when it is done
    penalties: list[Penalize] = field(default_factory=list)
    notes: list[tuple[float, Note]] = field(default_factory=list)


class Trace:
    """Hashes events as they happen: when, at which node, of which kind, and which message."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=32)
        self._kinds: dict[type, int] = {}
        self._waiting: list[bytes] = []

    def add(self, now: float, node: int, kind: type, number: int) -> None:
        """One event."""
        code = self._kinds.setdefault(kind, len(self._kinds))
        self._waiting.append(_TRACED.pack(now, node, code, number))
        if len(self._waiting) == 1024:
            self._flush()

    def _flush(self) -> None:
        self._hash.update(b"".join(self._waiting))
        self._waiting.clear()

    @property
    def hexdigest(self) -> str:
        """Of all events so far."""
        self._flush()
        return self._hash.hexdigest()


@dataclass(slots=True)
class _Broadcast:
    """An event on its way to many: when it is at which node (in which life), the next one last.

    All of it is one entry of the heap, which moves on from arrival to arrival.
    """

    event: Event
    number: int
    arrivals: list[tuple[float, int, int]]


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
        compute: Compute | None = None,
        absent: Container[Address] = (),
    ) -> None:
        """`compute` names what nodes compute; hashes, if it is left out. Who is `absent` is down
        at first."""
        self.compute = compute or Hashes()
        self.context = context
        self.links = links or Links()
        self.random = random.Random(seed)
        self.train_s = train_s
        self.uploads: dict[Address, int] = {}
        self.now = 0.0
        self.events = 0
        self.last: tuple[VirtualNode, Event]
        self.adopted_round = 0  # the last that anybody holds
        self.lost = 0  # gossiped messages that never arrived
        self.hooks: list[Hook] = []
        self.attested: dict[int, dict[Address, set[tuple[Digest, Digest]]]] = {}
        self._published: dict[Digest, RoundRecord] = {}  # any node serves any attested record
        self._trace = Trace()
        self._heap: list[tuple[float, int, VirtualNode | None, int, Event | _Broadcast, int]] = []
        self._count = itertools.count()
        self._messages = itertools.count(1)
        names = [(a, False) for a in trainers] + [(a, True) for a in sorted(context.validators)]
        self.nodes = {a: VirtualNode(a, v, i) for i, (a, v) in enumerate(names)}
        self._by_index = list(self.nodes.values())
        for node in self.nodes.values():
            if node.address in absent:
                node.alive = False
                node.head = HeadMachine(context)
            else:
                self._boot(node)
        self._tell_membership()

    # life and death -------------------------------------------------------------------------------
    def _boot(self, node: VirtualNode) -> None:
        node.alive = True
        node.frozen = False
        for held in (node.timers, node.backlog, node.inputs):
            held.clear()
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

    def train_time_s(self, node: VirtualNode) -> float:
        """How long a node takes over its local steps."""
        return self.random.uniform(*self.train_s)

    def kill(self, address: Address) -> None:
        """`kill -9`: memory is gone, the disk stays; peers notice after a while."""
        node = self.nodes[address]
        node.alive = False
        noticed_s = self.links.down_notice_s
        self._spread(PeerDown(address), 0, self.connected(node), lambda _: noticed_s)
        self._tell_membership(noticed_s)

    def freeze(self, address: Address) -> None:
        """SIGSTOP: the node stands still, and nothing tells the others."""
        self.nodes[address].frozen = True

    def thaw(self, address: Address) -> None:
        """SIGCONT: the node goes on with all that came meanwhile."""
        node = self.nodes[address]
        node.frozen = False
        backlog, node.backlog = node.backlog, []
        for event, number in backlog:
            self._post(node, 0.0, event, number)

    def restart(self, address: Address) -> None:
        """Boot from disk; the node repairs what it missed."""
        node = self.nodes[address]
        self._boot(node)
        connected = self.connected(node)
        self._spread(PeerUp(address), 0, connected, lambda to: self.latency_s(node, to))
        self._tell_membership(0.0)

    def _repair(self, node: VirtualNode) -> None:
        """One peer, drawn at random, answers with its head and with what it heard of the round."""
        others = [n for n in self.nodes.values() if n.alive and not n.frozen and n is not node]
        if not others:
            return
        peer = self.random.choice(others)
        delay_s = 2 * self.latency_s(peer, node)
        if peer.records and max(peer.records) > node.head.round:
            self._post(node, delay_s, Adopted(peer.records[max(peer.records)]))
        for number, received in peer.heard.items():
            self._post(node, delay_s + 1e-6, received, number)

    def _tell_membership(self, delay_s: float = 0.0) -> None:
        """Heartbeats, as far as they change who may be seated: that concerns validators."""
        among = [node for node in self._by_index if node.validator]
        told = self._membership()
        self._spread(told, 0, among, lambda to: delay_s + self.latency_s(to, to))

    def _membership(self) -> MembershipChanged:
        alive = (a for a, n in self.nodes.items() if n.alive and not n.validator)
        trainers = tuple(alive)
        return MembershipChanged(trainers, tuple(self.uploads.get(t, 0) for t in trainers))

    # the heap -------------------------------------------------------------------------------------
    def latency_s(self, sender: VirtualNode, to: VirtualNode) -> float:
        """How long a small message takes between two nodes."""
        return self.random.uniform(self.links.latency_s_min, self.links.latency_s_max)

    def connected(self, node: VirtualNode) -> Iterable[VirtualNode]:
        """Who notices that a node goes or comes."""
        return self._by_index

    def audience(self, sender: VirtualNode, message: object) -> Iterable[VirtualNode]:
        """Whom a gossiped message means something to; others would do nothing with it."""
        return self._by_index

    def _post(self, node: VirtualNode, delay_s: float, event: Event, number: int = 0) -> None:
        """`number` names a gossiped message."""
        entry = (self.now + delay_s, next(self._count), node, node.boots, event, number)
        heapq.heappush(self._heap, entry)

    def _next(self) -> tuple[float, VirtualNode, int, Event, int]:
        at_s, order, node, boot, event, number = self._heap[0]
        if not isinstance(event, _Broadcast):
            heapq.heappop(self._heap)
            assert node is not None
            return at_s, node, boot, event, number
        _, index, boot = event.arrivals.pop()
        if event.arrivals:
            heapq.heapreplace(self._heap, (event.arrivals[-1][0], order, None, 0, event, 0))
        else:
            heapq.heappop(self._heap)
        return at_s, self._by_index[index], boot, event.event, event.number

    def run(self, until_s: float, done: Callable[["HeapNetwork"], bool] | None = None) -> bool:
        """Advance virtual time: True once `done` holds, False at `until_s` or with no event."""
        while self._heap and self._heap[0][0] <= until_s:
            self.now, node, boot, event, number = self._next()
            if not node.alive or boot != node.boots:
                continue
            if node.frozen:
                node.backlog.append((event, number))
                continue
            if isinstance(event, PeerDown) and self.nodes[event.peer].alive:
                continue  # it was back before anybody noticed
            if isinstance(event, MembershipChanged):
                event = self._membership()  # as it is by now
            if isinstance(event, TimerFired) and node.timers.get(event, 0.0) > self.now:
                continue  # moved since
            self.events += 1
            self._trace.add(self.now, node.index, type(event), number)
            self.last = (node, event)
            self._deliver(node, event, number)
            if done is not None and done(self):
                return True
        return False

    @property
    def trace(self) -> str:
        """Hash of what happened to whom when; equal for equal seeds."""
        return self._trace.hexdigest

    def _deliver(self, node: VirtualNode, event: Event, number: int) -> None:
        kind: type = type(event)
        if kind is Received:
            assert isinstance(event, Received)
            kind = type(event.message)
            if number not in node.heard:
                node.heard[number] = event
        elif isinstance(event, Adopted):  # on disk before the machines hear of it
            over = event.record.attempt.round
            if over <= node.head.round:
                return
            if over > self.adopted_round:
                self.adopted_round = over
                self.compute.adopted(event.record)
            node.records[over] = event.record
            node.heard = {n: r for n, r in node.heard.items() if _round_of(r) > over}
        elif isinstance(event, PartArrived):
            node.inputs.add((event.attempt, event.part, event.sender))
        for machine in (node.head, node.trainer, node.committee):
            if machine is None or kind not in _HANDLED[type(machine)]:
                continue
            for effect in machine.handle(event, self.now):
                if not node.alive:
                    return  # a hook killed the node between two effects
                if not any(hook(self, node, effect) for hook in self.hooks):
                    self.perform(node, effect)

    # the world ------------------------------------------------------------------------------------
    def gossip(self, sender: VirtualNode, message: object) -> None:
        """To every live node but the sender, each with its own latency and loss."""
        received, number = Received(sender.address, message), next(self._messages)
        sender.heard[number] = received
        draw, loss = self.random.random, self.links.loss
        reached = [node for node in self.audience(sender, message) if node is not sender]
        if loss:
            whole = len(reached)
            reached = [node for node in reached if draw() >= loss]
            self.lost += whole - len(reached)
        self._spread(received, number, reached, lambda to: self.latency_s(sender, to))

    def _spread(
        self,
        event: Event,
        number: int,
        among: Iterable[VirtualNode],
        delay_s: Callable[[VirtualNode], float],
    ) -> None:
        now = self.now
        arrivals = [(now + delay_s(node), node.index, node.boots) for node in among]
        if arrivals:
            arrivals.sort(reverse=True)
            entry = (
                arrivals[-1][0],
                next(self._count),
                None,
                0,
                _Broadcast(event, number, arrivals),
                0,
            )
            heapq.heappush(self._heap, entry)

    def perform(self, node: VirtualNode, effect: Effect) -> None:
        """What the world does for an effect; a hook may call it with another one instead."""
        match effect:
            case Publish(message=message):
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
                    node.ahead = (work, self.now + self.train_time_s(node))
            case SendPart() | SendGroup() | SendResult():
                self._hand_over(node, effect)
            case Collect() | Combine() | Aggregate():
                self._compute(node, effect)
            case Step(attempt=attempt, base=base, results=results):
                self._post(node, 0.01, Stepped(attempt, self.compute.step(base, results)))
            case Audit(seat=seat, results=results):
                lost = self._lost_input(effect)
                took = self.context.deadlines.inputs_s if lost and self.nodes[lost].frozen else 0.02
                reason, suspects = fault(self.context, self.compute, effect)
                if lost:
                    reason, suspects = f"an input of {lost.hex()} is not to be had", ()
                checkpoint = Cid("") if reason else self.compute.step(seat.base, results)
                left = () if reason else self.compute.left(results)
                worth = () if reason else self.compute.contributions(effect)
                audited = Audited(seat.attempt, checkpoint, left, reason, suspects, worth)
                self._post(node, took, audited)
            case Replay(check=check):
                self._replay(node, check)
            case Attest(record=record):
                self._attest(node, record)
            case Adopt(round=round_, record=wanted):
                self._adopt(node, round_, wanted)

    def _replay(self, node: VirtualNode, check: Check) -> None:
        """Whether what a trainer committed to is what its round comes to, after as long as that."""
        record = node.records.get(check.round)
        if record is None:
            return
        deviation = self.compute.replay(record, check.trainer)
        if deviation is None:
            return
        finding = Finding.FALSE if deviation > REPLAY_TOLERANCE else Finding.SOUND
        self._post(node, self.train_time_s(node), Replayed(check, finding, deviation))

    def _hand_over(self, node: VirtualNode, effect: SendPart | SendGroup | SendResult) -> None:
        match effect:
            case SendPart(attempt=attempt, part=part, owner=owner):
                assert node.trainer is not None
                mine = node.trainer.commitment_of(node.address)
                assert mine is not None
                arrived = PartArrived(node.address, attempt, part, mine.parts_root)
                self.send(node, owner, arrived, part)
            case SendGroup(attempt=attempt, part=part, group=group, owner=owner):
                self.send(node, owner, GroupArrived(node.address, attempt, part, group), part)
            case SendResult(attempt=attempt, part=part, result=result, members=members):
                for member in members:
                    handed = ResultArrived(node.address, attempt, part, result)
                    self.send(node, member, handed, part)

    def _compute(self, node: VirtualNode, effect: Collect | Combine | Aggregate) -> None:
        match effect:
            case Collect(attempt=attempt, part=part, inputs=inputs):
                value = self.compute.collect(part, self._named(node, inputs))
                self._post(node, 0.005, Collected(attempt, part, value, ()))
            case Combine(attempt=attempt, part=part, groups=groups):
                named = [(group.digest, weight) for _, group, weight in groups]
                value = self.compute.combine(attempt.round, part, named, effect.carried)
                self._post(node, 0.005, Aggregated(attempt, part, value, ()))
            case Aggregate(attempt=attempt, part=part, inputs=inputs):
                named = self._named(node, inputs)
                value = self.compute.aggregate(attempt.round, part, named, effect.carried)
                self._post(node, 0.005, Aggregated(attempt, part, value, ()))

    def _lost_input(self, audit: Audit) -> Address | None:
        """Whose committed input nobody who answers has, if there is one; one's own, one has."""
        answering = [n for n in self.nodes.values() if n.alive and not n.frozen]
        held = {slot for node in answering for slot in node.inputs}
        own = {n.address for n in answering if n.trainer and n.trainer.commitment_of(n.address)}
        for part, result in enumerate(audit.results):
            for i, member in enumerate(audit.seat.members):
                slot = (audit.seat.attempt, part, member.trainer)
                if result.included >> i & 1 and member.trainer not in own and slot not in held:
                    return member.trainer
        return None

    def send(self, sender: VirtualNode, to: Address, event: Event, part: int) -> None:
        """Part `part` of an update for one node, after a while; nothing where that is down."""
        node = self.nodes[to]
        if node.alive:
            self._post(node, self.transfer_s(sender, node, event, part), event)

    def transfer_s(self, sender: VirtualNode, to: VirtualNode, event: Event, part: int) -> float:
        """How long a part is on its way."""
        return self.latency_s(sender, to)

    def _named(
        self, node: VirtualNode, inputs: tuple[tuple[Address, int], ...]
    ) -> list[tuple[Digest, int]]:
        assert node.trainer is not None
        made = [(node.trainer.commitment_of(sender), weight) for sender, weight in inputs]
        return [(said.parts_root, weight) for said, weight in made if said is not None]

    def _train(self, node: VirtualNode, effect: Train) -> None:
        took = self.train_time_s(node)
        if node.ahead is not None and node.ahead[0] == effect.work:
            took = max(0.0, node.ahead[1] - self.now)
        made = self.compute.train(node.address, effect)
        self._post(node, took, Trained(effect.attempt, made))

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
        self._post(node, self.latency_s(node, node), Adopted(record))


def _round_of(event: Received) -> int:
    message: Any = event.message
    at = message if isinstance(message, Attestation) else message.attempt
    return int(at.round)
