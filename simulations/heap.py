"""Protocol machines in virtual time: no socket, no clock, one seed, one trace.

Effects are performed by a model of the world: gossip takes a drawn latency and may be lost,
training takes a drawn time, and what a real node computes is replaced by a hash of its inputs, so
that two replicas agree exactly if real ones would. The machines cannot tell that it is simulated.
"""

import hashlib
import itertools
import random
from array import array
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Final, NamedTuple

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
from eigen.protocol.head import ROUNDS_AHEAD_MAX, HeadMachine
from eigen.protocol.messages import (
    Attempt,
    Attestation,
    Finding,
    LocalWork,
    RoundRecord,
    digest,
)
from eigen.protocol.trainer import TrainerMachine
from eigen.protocol.types import Address, Cid, Digest
from eigen.protocol.wire import decode
from eigen.simulations.agenda import Agenda
from eigen.simulations.compute import ROUNDS_KEPT, Compute, Hashes, fault

REPLAY_TOLERANCE: Final = 1e-3
"""Virtual nodes train on one machine: what deviates more was not trained."""
COMPUTE_S: Final = 0.005
"""What aggregating one part takes."""
STEP_S: Final = 0.01
AUDIT_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Links:
    """The virtual network: every message is drawn a latency and, with `loss`, never arrives."""

    latency_s_min: float = 0.005
    latency_s_max: float = 0.080
    loss: float = 0.0
    down_notice_s: float = 1.0  # how long until peers notice that a node is gone
    twice: float = 0.0  # share of gossiped messages that arrive a second time
    late: float = 0.0  # share of messages that take up to `late_s` longer: later ones overtake them
    late_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Clock:
    """A node's clock, which its machines are told: how far ahead, and how much too fast."""

    ahead_s: float = 0.0
    rate: float = 1.0

    def shows(self, at_s: float) -> float:
        """What it shows at a virtual time."""
        return at_s * self.rate + self.ahead_s

    def reaches(self, shown_s: float) -> float:
        """The virtual time at which it shows that."""
        return (shown_s - self.ahead_s) / self.rate


@dataclass(slots=True)
class Item:
    """What happens to a node: the same object for all whom a gossiped message reaches."""

    kind: type | str | None  # of the event or message, or which timer; None: the world's, a call
    event: Any
    number: int = 0  # of a gossiped message
    round: int = 0  # that it is about


@dataclass(slots=True)
class VirtualNode:
    """One node: its machines, its disk, and whether it is running."""

    address: Address
    validator: bool
    index: int
    alive: bool = True
    frozen: bool = False  # it does nothing and its connections stay, as under SIGSTOP
    idle: bool = False  # it is down or frozen
    boots: int = 0
    up_since_s: float = 0.0
    place: int = 0  # where it is, for who draws latencies
    clock: Clock | None = None  # None: it is right
    head: HeadMachine = field(init=False)
    trainer: TrainerMachine | None = None
    committee: CommitteeMachine | None = None
    # on disk
    stored: RoundRecord | None = None  # the last that it adopted
    records: dict[int, RoundRecord] = field(default_factory=dict)  # by round, where it keeps them
    disk: dict[tuple[str, bytes], bytes] = field(default_factory=dict)
    # in memory; what most nodes never have is made when it is needed
    heard: dict[int, Item] = field(default_factory=dict)  # gossip of the round, by number
    backlog: list[Item] | None = None  # what came while it was frozen
    inputs: set[tuple[Attempt, int, Address]] | None = None  # parts held here
    timers: dict[TimerFired, float] | None = None  # when they are due; not the head's one
    ahead: tuple[LocalWork, float] | None = None  # what is trained ahead, and when it is done
    # for who looks on
    penalties: Sequence[Penalize] = ()
    notes: Sequence[tuple[float, Note]] = ()


class Trace:
    """Hashes events as they happen: when, at which node, of which kind, and which message."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=32)
        self.rows: list[float] = []  # four numbers an event; the network adds them itself

    def flush(self) -> None:
        """Hash what has been added."""
        self._hash.update(array("d", self.rows).tobytes())
        self.rows.clear()

    @property
    def hexdigest(self) -> str:
        """Of all events so far."""
        self.flush()
        return self._hash.hexdigest()


ROWS_MAX = 1 << 16
"""Numbers of a trace that wait to be hashed."""

Hook = Callable[["HeapNetwork", VirtualNode, Effect], bool]
"""Sees each effect before it is performed; True takes it over (faults, adversaries)."""


class HeapNetwork:
    """Virtual nodes of one run, and the world that performs their effects."""

    keeps_records = True
    """Whether nodes keep all records that they adopt, or the last alone."""

    def __init__(
        self,
        context: RunContext,
        trainers: Iterable[Address],
        seed: int,
        links: Links | None = None,
        train_s: tuple[float, float] = (0.2, 0.6),
        compute: Compute | None = None,
        absent: Container[Address] = (),
        clocks: Mapping[Address, Clock] | None = None,
    ) -> None:
        """`compute` names what nodes compute; hashes, if it is left out. Who is `absent` is down
        at first; whose clock is not among `clocks`, it is right."""
        self.compute = compute or Hashes()
        self.context = context
        self.links = links or Links()
        self.random = random.Random(seed)
        self.train_s = train_s
        self.uploads: dict[Address, int] = {}
        self.now = 0.0
        self.events = 0  # of which a machine was told
        self.last: VirtualNode  # to whom something happened
        self.last_event: Event
        self.adopted_round = 0  # the last that anybody holds
        self._over: dict[int, RoundRecord] = {}  # the last rounds
        self.lost = 0  # gossiped messages that never arrived
        self.doubled = 0  # those that came twice
        self.delayed = 0  # those that others overtook
        self.hooks: list[Hook] = []
        self.attested: dict[int, dict[Address, set[tuple[Digest, Digest]]]] = {}
        self._published: dict[Digest, RoundRecord] = {}  # any node serves any attested record
        self._cut: frozenset[Address] = frozenset()
        self._trace = Trace()
        self._agenda: Agenda[VirtualNode, Item] = Agenda()
        self._messages = itertools.count(1)
        self._told: MembershipChanged | None = None  # who is there, as long as that is so
        self._repairs: Item | None = None  # the heads' timer
        names = [(a, False) for a in trainers] + [(a, True) for a in sorted(context.validators)]
        self.nodes = {a: VirtualNode(a, v, i) for i, (a, v) in enumerate(names)}
        self._by_index = list(self.nodes.values())
        self._validators = [node for node in self._by_index if node.validator]
        for address, clock in (clocks or {}).items():
            self.nodes[address].clock = clock
        for node in self.nodes.values():
            if node.address in absent:
                node.alive, node.idle = False, True
                node.head = HeadMachine(context)
            else:
                self._boot(node)
        self._tell_membership()

    # life and death -------------------------------------------------------------------------------
    def _boot(self, node: VirtualNode) -> None:
        node.alive, node.frozen, node.idle = True, False, False
        node.boots += 1
        node.up_since_s = self.now
        node.timers = node.backlog = node.inputs = node.ahead = None
        node.heard = {}
        self._told = None
        node.head = HeadMachine(self.context, node.stored)
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
        self._post(node, 0.0, Started())

    def train_time_s(self, node: VirtualNode) -> float:
        """How long a node takes over its local steps."""
        return self.random.uniform(*self.train_s)

    def kill(self, address: Address) -> None:
        """`kill -9`: memory is gone, the disk stays; peers notice after a while."""
        node = self.nodes[address]
        node.alive, node.idle = False, True
        self._told = None
        noticed_s = self.links.down_notice_s
        connected = self.connected(node)
        self._spread(Item(PeerDown, PeerDown(address)), connected, [noticed_s] * len(connected))
        self._tell_membership(noticed_s)

    def freeze(self, address: Address) -> None:
        """SIGSTOP: the node stands still, and nothing tells the others."""
        node = self.nodes[address]
        node.frozen = node.idle = True

    def thaw(self, address: Address) -> None:
        """SIGCONT: the node goes on with all that came meanwhile."""
        node = self.nodes[address]
        node.frozen, node.idle = False, not node.alive
        backlog, node.backlog = node.backlog, None
        for item in backlog or ():
            self._agenda.add(self.now, node, node.boots, item)

    def restart(self, address: Address) -> None:
        """Boot from disk; the node repairs what it missed."""
        node = self.nodes[address]
        self._boot(node)
        connected = self.connected(node)
        delays = self.delays_s(node, connected)
        self._spread(Item(PeerUp, PeerUp(address)), connected, delays)
        self._tell_membership(0.0)

    def cut_off(self, addresses: Iterable[Address]) -> None:
        """Part these from all others; nobody, to heal it."""
        self._cut = frozenset(addresses)

    def reachable(self, node: VirtualNode, other: VirtualNode) -> bool:
        """Whether no partition is between two nodes."""
        return (node.address in self._cut) == (other.address in self._cut)

    def _repair(self, node: VirtualNode) -> None:
        """One peer answers with its head and what it heard of the round: a validator if it can."""
        answering = self._answering(node, self._validators) or self._answering(node, self._by_index)
        if not answering:
            return
        peer = answering[int(self.random.random() * len(answering))]
        if not self.answers(peer):
            return
        new = [item for item in self.evidence(peer, node) if item.number not in node.heard]
        behind = peer.stored is not None and peer.head.round > node.head.round
        if not new and not behind:
            return
        delay_s = 2 * self.latency_s(peer, node)
        if peer.stored is not None and behind:
            self._post(node, delay_s, Adopted(peer.stored))
        for item in new:
            self._agenda.add(self.now + delay_s + 1e-6, node, node.boots, item)

    def answers(self, peer: VirtualNode) -> bool:
        """Whether a peer's answer is of use to who asks it."""
        return True

    def _answering(self, node: VirtualNode, among: list[VirtualNode]) -> list[VirtualNode]:
        there = [other for other in among if not other.idle and other is not node]
        return [other for other in there if self.reachable(node, other)] if self._cut else there

    def evidence(self, peer: VirtualNode, asking: VirtualNode) -> Iterable[Item]:
        """What a node heard of rounds that are not over, and may tell one that asks."""
        return list(peer.heard.values())

    def _tell_membership(self, delay_s: float = 0.0) -> None:
        """Heartbeats, as far as they change who may be seated."""
        self._tell_members(self._by_index, delay_s)

    def _tell_members(self, among: Sequence[VirtualNode], delay_s: float = 0.0) -> None:
        delays = [delay_s + self.latency_s(to, to) for to in among]
        self._spread(Item(MembershipChanged, None), among, delays)

    def _membership(self, _node: VirtualNode, _event: object) -> MembershipChanged:
        """As it is by now."""
        if self._told is None:
            trainers = tuple(n.address for n in self._by_index if n.alive and not n.validator)
            uploads = tuple(self.uploads.get(t, 0) for t in trainers)
            self._told = MembershipChanged(trainers, uploads)
        return self._told

    # events ---------------------------------------------------------------------------------------
    def latency_s(self, sender: VirtualNode, to: VirtualNode) -> float:
        """How long a small message takes between two nodes."""
        return self.delays_s(sender, (to,))[0]

    def delays_s(self, sender: VirtualNode, among: Sequence[VirtualNode]) -> list[float]:
        """The same to each of some nodes."""
        links, draw = self.links, self.random.random
        least, span = links.latency_s_min, links.latency_s_max - links.latency_s_min
        delays = [least + span * draw() for _ in among]
        if links.late:
            overtaken = [i for i in range(len(delays)) if draw() < links.late]
            for i in overtaken:
                delays[i] += links.late_s * draw()
            self.delayed += len(overtaken)
        return delays

    def connected(self, node: VirtualNode) -> Sequence[VirtualNode]:
        """Who notices that a node goes or comes."""
        return self._by_index

    def audience(self, sender: VirtualNode, message: object) -> Sequence[VirtualNode]:
        """Whom a gossiped message means something to; others would do nothing with it."""
        return self._by_index

    def schedule(self, at_s: float, do: Callable[[], bool | None]) -> None:
        """Have something done at a virtual time. It may end `run` by returning True."""
        self._agenda.add(max(self.now, at_s), _WORLD, 0, Item(None, do))

    def _post(self, node: VirtualNode, delay_s: float, event: Event) -> None:
        self._agenda.add(self.now + delay_s, node, node.boots, Item(type(event), event))

    def _spread(self, item: Item, among: Sequence[VirtualNode], delays_s: Sequence[float]) -> None:
        now = self.now
        times = [now + delay_s for delay_s in delays_s]
        self._agenda.add_all(times, [(node, node.boots) for node in among], item)

    def run(self, until_s: float, done: Callable[["HeapNetwork"], bool] | None = None) -> bool:
        """Advance virtual time: True once `done` holds, False at `until_s` or with no event."""
        rows = self._trace.rows
        with closing(self._agenda.until(until_s)) as due:
            for at_s, _, node, boots, item in due:
                if node.idle or boots != node.boots:
                    if self._pass_over(at_s, node, boots, item):
                        return True
                    continue
                number, heard = item.number, node.heard
                if number:
                    if number in heard:
                        continue
                    heard[number] = item
                plan = _PLANS[node.validator].get(item.kind)
                if plan is None:
                    continue
                code, before, machines = plan
                self.now = at_s
                event = item.event
                if before is not None:
                    event = before(self, node, event)
                    if event is None:
                        continue
                self.events += 1
                self.last, self.last_event = node, event
                rows += (at_s, node.index, code, number)
                now = at_s if node.clock is None else node.clock.shows(at_s)
                for machine in machines:
                    effects = machine(node).handle(event, now)
                    if effects and not self._perform_all(node, effects):
                        break
                if len(rows) >= ROWS_MAX:
                    self._trace.flush()
                if done is not None and done(self):
                    return True
        return False

    def _pass_over(self, at_s: float, node: VirtualNode, boots: int, item: Item) -> bool:
        """What comes to a node that is not there, or to the world. True to end the run."""
        if item.kind is None:
            self.now = at_s
            return bool(item.event())
        if node.alive and node.frozen and boots == node.boots:
            if node.backlog is None:
                node.backlog = []
            node.backlog.append(item)
        return False

    def _perform_all(self, node: VirtualNode, effects: Iterable[Effect]) -> bool:
        """False where a hook killed the node between two effects."""
        for effect in effects:
            if not node.alive:
                return False
            for hook in self.hooks:
                if hook(self, node, effect):
                    break
            else:
                self.perform(node, effect)
        return True

    @property
    def trace(self) -> str:
        """Hash of what happened to whom when; equal for equal seeds."""
        return self._trace.hexdigest

    def _adopting(self, node: VirtualNode, event: Adopted) -> Adopted | None:
        """On disk before the machines hear of it. What is over is forgotten."""
        record = event.record
        over = record.attempt.round
        if over <= node.head.round:
            return None
        node.stored = record
        if self.keeps_records:
            node.records[over] = record
        if over > self.adopted_round:
            self.adopted_round = over
            self.round_over(record)
        node.heard = {n: item for n, item in node.heard.items() if item.round > over}
        for item in node.heard.values():  # it meant nothing while the head was behind
            again = Item(item.kind, item.event)
            self._agenda.add(self.now, node, node.boots, again)
        if node.timers is not None:
            node.timers = {t: s for t, s in node.timers.items() if t.attempt.round > over} or None
        if node.inputs is not None:
            node.inputs = {held for held in node.inputs if held[0].round > over} or None
        return event

    def round_over(self, record: RoundRecord) -> None:
        """The first node adopts a round."""
        self.compute.adopted(record)
        self._over[record.attempt.round] = record
        self._over.pop(record.attempt.round - ROUNDS_KEPT, None)
        oldest = record.attempt.round - ROUNDS_AHEAD_MAX
        old = [d for d, r in self._published.items() if r.attempt.round < oldest]
        for name in old:
            del self._published[name]

    def _arriving(self, node: VirtualNode, event: PartArrived) -> PartArrived:
        if node.inputs is None:
            node.inputs = set()
        node.inputs.add((event.attempt, event.part, event.sender))
        return event

    def _noticing(self, _node: VirtualNode, event: PeerDown) -> PeerDown | None:
        """None where it was back before anybody noticed."""
        return None if self.nodes[event.peer].alive else event

    def _due(self, node: VirtualNode, event: TimerFired) -> TimerFired | None:
        """None where it was moved since, or its round is over."""
        if event.attempt.round <= node.head.round or node.timers is None:
            return None
        return None if node.timers.get(event, 0.0) > self.now else event

    # the world ------------------------------------------------------------------------------------
    def gossip(self, sender: VirtualNode, message: Any) -> Item:
        """To every live node but the sender, each with its own latency and loss."""
        about = message if isinstance(message, Attestation) else message.attempt
        event = Received(sender.address, message)
        item = Item(type(message), event, next(self._messages), about.round)
        sender.heard[item.number] = item
        draw, loss = self.random.random, self.links.loss
        among = self.audience(sender, message)
        reached = [node for node in among if node.alive and node is not sender]
        if self._cut:
            reached = [node for node in reached if self.reachable(sender, node)]
        if loss:
            whole = len(reached)
            reached = [node for node in reached if draw() >= loss]
            self.lost += whole - len(reached)
        self._spread(item, reached, self.delays_s(sender, reached))
        if self.links.twice:
            again = [node for node in reached if draw() < self.links.twice]
            self._spread(item, again, self.delays_s(sender, again))
            self.doubled += len(again)
        return item

    def perform(self, node: VirtualNode, effect: Effect) -> None:
        """What the world does for an effect; a hook may call it with another one instead."""
        does = _PERFORM.get(type(effect))
        if does is not None:
            does(self, node, effect)

    def _publish(self, node: VirtualNode, effect: Publish) -> None:
        self.gossip(node, effect.message)

    def _ask(self, node: VirtualNode, _effect: Repair) -> None:
        self._repair(node)

    def _persist(self, node: VirtualNode, effect: Persist) -> None:
        if effect.value is None:
            node.disk.pop((effect.kind, effect.key), None)
        else:
            node.disk[effect.kind, effect.key] = effect.value

    def _set_timer(self, node: VirtualNode, effect: SetTimer) -> None:
        at_s = effect.at_s if node.clock is None else node.clock.reaches(effect.at_s)
        due_s = max(self.now, at_s)
        if effect.name == "repair":  # one a head, and the same for all
            if self._repairs is None:
                fired = TimerFired(effect.name, effect.attempt, effect.part)
                self._repairs = Item("repair", fired)
            self._agenda.add(due_s, node, node.boots, self._repairs)
            return
        fired = TimerFired(effect.name, effect.attempt, effect.part)
        if node.timers is None:
            node.timers = {}
        node.timers[fired] = due_s
        self._agenda.add(due_s, node, node.boots, Item(TimerFired, fired))

    def _penalize(self, node: VirtualNode, effect: Penalize) -> None:
        node.penalties = [*node.penalties, effect]

    def _note(self, node: VirtualNode, effect: Note) -> None:
        if not isinstance(node.notes, list):
            node.notes = []
        node.notes.append((self.now, effect))

    def _train(self, node: VirtualNode, effect: Train) -> None:
        took = self.train_time_s(node)
        if node.ahead is not None and node.ahead[0] == effect.work:
            took = max(0.0, node.ahead[1] - self.now)
        made = self.compute.train(node.address, effect)
        self._post(node, took, Trained(effect.attempt, made))

    def _train_ahead(self, node: VirtualNode, effect: TrainAhead) -> None:
        if node.ahead is None or node.ahead[0] != effect.work:
            node.ahead = (effect.work, self.now + self.train_time_s(node))

    # parts ----------------------------------------------------------------------------------------
    def _send_part(self, node: VirtualNode, effect: SendPart) -> None:
        assert node.trainer is not None
        mine = node.trainer.commitment_of(node.address)
        assert mine is not None
        arrived = PartArrived(node.address, effect.attempt, effect.part, mine.parts_root)
        self.send(node, effect.owner, arrived)

    def _send_group(self, node: VirtualNode, effect: SendGroup) -> None:
        arrived = GroupArrived(node.address, effect.attempt, effect.part, effect.group)
        self.send(node, effect.owner, arrived)

    def _send_result(self, node: VirtualNode, effect: SendResult) -> None:
        handed = ResultArrived(node.address, effect.attempt, effect.part, effect.result)
        for member in effect.members:
            self.send(node, member, handed)

    def send(self, sender: VirtualNode, to: Address, event: Event) -> None:
        """A part of an update for one node, after a while; nothing where that is out of reach."""
        node = self.nodes[to]
        if not node.alive or not self.reachable(sender, node):
            return
        self._post(node, self.transfer_s(sender, node, event), event)
        if self.links.twice and self.random.random() < self.links.twice:
            self._post(node, self.transfer_s(sender, node, event), event)
            self.doubled += 1

    def transfer_s(self, sender: VirtualNode, to: VirtualNode, event: Event) -> float:
        """How long a part is on its way."""
        return self.latency_s(sender, to)

    def _collect(self, node: VirtualNode, effect: Collect) -> None:
        value = self.compute.collect(effect.part, self._named(node, effect.inputs))
        self._post(node, COMPUTE_S, Collected(effect.attempt, effect.part, value, ()))

    def _combine(self, node: VirtualNode, effect: Combine) -> None:
        named = [(group.digest, weight) for _, group, weight in effect.groups]
        at, part = effect.attempt, effect.part
        value = self.compute.combine(at.round, part, named, effect.carried)
        self._post(node, COMPUTE_S, Aggregated(at, part, value, ()))

    def _aggregate(self, node: VirtualNode, effect: Aggregate) -> None:
        at, part = effect.attempt, effect.part
        named = self._named(node, effect.inputs)
        value = self.compute.aggregate(at.round, part, named, effect.carried)
        self._post(node, COMPUTE_S, Aggregated(at, part, value, ()))

    def _named(
        self, node: VirtualNode, inputs: tuple[tuple[Address, int], ...]
    ) -> list[tuple[Digest, int]]:
        assert node.trainer is not None
        made = [(node.trainer.commitment_of(sender), weight) for sender, weight in inputs]
        return [(said.parts_root, weight) for said, weight in made if said is not None]

    # steps, audits, attestations ------------------------------------------------------------------
    def _step(self, node: VirtualNode, effect: Step) -> None:
        checkpoint = self.compute.step(effect.base, effect.results)
        self._post(node, STEP_S, Stepped(effect.attempt, checkpoint))

    def _audit(self, node: VirtualNode, effect: Audit) -> None:
        lost = self._lost_input(effect)
        took = self.context.deadlines.inputs_s if lost and self.nodes[lost].frozen else AUDIT_S
        reason, suspects = fault(self.context, self.compute, effect)
        if lost:
            reason, suspects = f"an input of {lost.hex()} is not to be had", ()
        checkpoint = Cid("") if reason else self.compute.step(effect.seat.base, effect.results)
        left = () if reason else self.compute.left(effect.results)
        worth = () if reason else self.compute.contributions(effect)
        audited = Audited(effect.seat.attempt, checkpoint, left, reason, suspects, worth)
        self._post(node, took, audited)

    def _replay(self, node: VirtualNode, effect: Replay) -> None:
        """Whether what a trainer committed to is what its round comes to, after as long as that."""
        check = effect.check
        record = self._over.get(check.round)
        deviation = self.compute.replay(record, check.trainer) if record else None
        if deviation is None:
            return
        finding = Finding.FALSE if deviation > REPLAY_TOLERANCE else Finding.SOUND
        self._post(node, self.train_time_s(node), Replayed(check, finding, deviation))

    def _lost_input(self, audit: Audit) -> Address | None:
        """Whose committed input nobody who answers has, if there is one; one's own, one has."""
        answering = [n for m in audit.seat.members if not (n := self.nodes[m.trainer]).idle]
        held = {slot for node in answering for slot in node.inputs or ()}
        own = {n.address for n in answering if n.trainer and n.trainer.commitment_of(n.address)}
        for part, result in enumerate(audit.results):
            for i, member in enumerate(audit.seat.members):
                slot = (audit.seat.attempt, part, member.trainer)
                if result.included >> i & 1 and member.trainer not in own and slot not in held:
                    return member.trainer
        return None

    def _attest(self, node: VirtualNode, effect: Attest) -> None:
        record = effect.record
        root = (digest(record), digest_of(record.checkpoint))
        said = self.attested.setdefault(record.attempt.round, {})
        said.setdefault(node.address, set()).add(root)
        payout_root = self.context.payout_root(record.payouts)
        total = sum(p.cumulative for p in record.payouts)
        message = Attestation(
            self.context.run, record.attempt.round, root[1], root[0], payout_root, total, bytes(65)
        )
        self.gossip(node, message)
        own = Item(Attestation, Received(node.address, message))
        self._agenda.add(self.now, node, node.boots, own)
        self._published[root[0]] = record

    def _adopt(self, node: VirtualNode, effect: Adopt) -> None:
        record = self._published[effect.record]
        assert record.attempt.round == effect.round
        self._post(node, self.latency_s(node, node), Adopted(record))


class _Plan(NamedTuple):
    """What is done with an event of one kind at one kind of node."""

    code: int
    before: Callable[[HeapNetwork, VirtualNode, Any], Any] | None
    machines: tuple[Callable[[VirtualNode], Any], ...]


_BEFORE: Final[dict[type | str, Callable[[HeapNetwork, VirtualNode, Any], Any]]] = {
    Adopted: HeapNetwork._adopting,
    PartArrived: HeapNetwork._arriving,
    PeerDown: HeapNetwork._noticing,
    TimerFired: HeapNetwork._due,
    MembershipChanged: HeapNetwork._membership,
}
HANDLED: Final[dict[str, frozenset[type | str]]] = {
    "head": frozenset(HeadMachine.TRANSITIONS) - {TimerFired} | {Attestation, "repair"},
    "trainer": frozenset(TrainerMachine.TRANSITIONS) | frozenset(TrainerMachine.MESSAGES),
    "committee": frozenset(CommitteeMachine.TRANSITIONS) | frozenset(CommitteeMachine.MESSAGES),
}
"""Events and messages that mean anything to a machine: it need not be asked about others."""


def _plans(machines: tuple[str, ...]) -> dict[type | str | None, _Plan]:
    every: frozenset[type | str] = frozenset().union(*HANDLED.values())
    kinds = sorted(every, key=lambda kind: kind if isinstance(kind, str) else kind.__name__)
    asked = {kind: tuple(attrgetter(m) for m in machines if kind in HANDLED[m]) for kind in kinds}
    return {
        kind: _Plan(code, _BEFORE.get(kind), asked[kind])
        for code, kind in enumerate(kinds)
        if asked[kind]
    }


_PLANS: Final = (_plans(("head", "trainer")), _plans(("head", "committee")))
"""Of trainers and of validators."""
_PERFORM: Final[dict[type, Callable[[HeapNetwork, VirtualNode, Any], None]]] = {
    Publish: HeapNetwork._publish,
    Repair: HeapNetwork._ask,
    Persist: HeapNetwork._persist,
    SetTimer: HeapNetwork._set_timer,
    Penalize: HeapNetwork._penalize,
    Note: HeapNetwork._note,
    Train: HeapNetwork._train,
    TrainAhead: HeapNetwork._train_ahead,
    SendPart: HeapNetwork._send_part,
    SendGroup: HeapNetwork._send_group,
    SendResult: HeapNetwork._send_result,
    Collect: HeapNetwork._collect,
    Combine: HeapNetwork._combine,
    Aggregate: HeapNetwork._aggregate,
    Step: HeapNetwork._step,
    Audit: HeapNetwork._audit,
    Replay: HeapNetwork._replay,
    Attest: HeapNetwork._attest,
    Adopt: HeapNetwork._adopt,
}
_WORLD: Final = VirtualNode(Address(b""), False, -1, idle=True)
"""To whom it happens when `schedule`d things are done."""
