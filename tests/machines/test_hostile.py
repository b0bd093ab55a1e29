"""Well-formed messages from anybody, in any order: no exception, bounded memory, no false move."""

import random
from collections.abc import Iterator
from dataclasses import is_dataclass, replace
from typing import Any

import pytest
from scenes import context, finished, payout_root, state, trainers
from wire_samples import sample

from eigen.protocol import limits
from eigen.protocol.cid import raw_cid
from eigen.protocol.committee import CommitteeMachine
from eigen.protocol.context import RunContext
from eigen.protocol.effects import (
    Adopted,
    Aggregate,
    Aggregated,
    Attest,
    Audit,
    Audited,
    MembershipChanged,
    PartArrived,
    PeerDown,
    PeerUp,
    Penalize,
    Publish,
    Received,
    ResultArrived,
    SetTimer,
    Started,
    Step,
    StepFailed,
    Stepped,
    TimerFired,
    Train,
    Trained,
    TrainFailed,
)
from eigen.protocol.head import HeadMachine
from eigen.protocol.messages import (
    Attempt,
    Attestation,
    Commitment,
    LocalWork,
    Outcome,
    OutcomeVote,
    PartResult,
    ResultVote,
    RoundRecord,
    SeatMember,
    SeatProposal,
    SeatVote,
    StepNotice,
    Timeout,
    digest,
)
from eigen.protocol.trainer import TrainerMachine
from eigen.protocol.types import Address, Digest
from eigen.protocol.wire import encode
from eigen.simulations.heap import HeapNetwork, VirtualNode

SAID = (
    SeatProposal,
    SeatVote,
    Commitment,
    ResultVote,
    StepNotice,
    Outcome,
    OutcomeVote,
    Timeout,
    Attestation,
)


class Liar:
    """Makes messages that decode: fields at random, or such that they nearly belong."""

    def __init__(self, run: RunContext, rng: random.Random) -> None:
        self.run = run
        self.rng = rng
        self.people = [*trainers(4), *sorted(run.validators), *(rng.randbytes(20) for _ in "abc")]
        self.seats: list[SeatProposal] = []
        self.records: list[RoundRecord] = []

    def attempt(self, head: HeadMachine) -> Attempt:
        rng = self.rng
        round_ = min(limits.ROUNDS_MAX, max(1, head.round + rng.choice((0, 1, 1, 1, 1, 2, 3))))
        return Attempt(self.run.run, round_, rng.choice((0, 0, 0, 1, 1, 2, 5, 1_000)))

    def message(self, head: HeadMachine) -> Any:
        rng = self.rng
        made = sample(rng.choice(SAID), rng)
        if rng.random() < 0.1:
            return made
        at = self.attempt(head)
        match made:
            case SeatProposal():
                count = rng.choice((0, 1, 2, 4, 4))
                names = [Address(rng.choice(self.people)) for _ in range(count)]
                members = tuple(SeatMember(name, (rng.randrange(6),)) for name in names)
                made = SeatProposal(at, head.previous, head.checkpoint, members, (0,) * count)
                self.seats = [*self.seats[-9:], made]
            case SeatVote() if self.seats:
                seat = rng.choice(self.seats)
                made = SeatVote(seat.attempt, digest(seat))
            case ResultVote():
                size = rng.choice((self.run.part_count, 1))
                results = tuple(
                    PartResult(Digest(b"r" * 32), rng.choice((1, 3, 2**64 - 1)))
                    for _ in range(size)
                )
                made = ResultVote(at, made.seat, results)
            case Outcome():
                made = Outcome(at, self.record(head, at))
            case OutcomeVote() if self.records:
                made = OutcomeVote(at, digest(rng.choice(self.records)))
            case Timeout():
                told = (Outcome(at, self.record(head, at)),) if rng.random() < 0.5 else ()
                made = Timeout(at, told)
            case Attestation():
                made = replace(made, run=self.run.run, round=at.round)
            case Commitment():
                bases = (made.base, head.checkpoint, *self.run.bases(head.head))
                made = replace(made, attempt=at, base=self.rng.choice(bases))
            case _:
                made = replace(made, attempt=at)
        return made

    def record(self, head: HeadMachine, at: Attempt) -> RoundRecord:
        shown = self.attempt(head) if self.rng.random() < 0.3 else at
        made = replace(sample(RoundRecord, self.rng), attempt=shown, previous=head.previous)
        self.records = [*self.records[-9:], made]
        return made

    def event(self, head: HeadMachine) -> Any:
        rng = self.rng
        at, who = self.attempt(head), Address(rng.choice(self.people))
        part = rng.choice((0, 1, 3, self.run.part_count, 1023))
        result = PartResult(Digest(b"r" * 32), rng.choice((0, 1, 3, 2**40)))
        return rng.choice(
            (
                *[Received(who, self.message(head)) for _ in range(8)],
                PartArrived(who, at, part, Digest(rng.randbytes(32))),
                ResultArrived(who, at, part, result),
                TimerFired(
                    rng.choice(("attempt", "commit", "owner", "inputs", "notices", "repair")),
                    at,
                    part,
                ),
                PeerDown(Address(rng.randbytes(20)) if rng.random() < 0.5 else who),
                PeerUp(who),
                members(rng.sample(trainers(4), rng.randint(0, 4))),
            )
        )


def members(trainers: list[Address]) -> MembershipChanged:
    return MembershipChanged(tuple(trainers), (0,) * len(trainers))


def answers(effect: Any, rng: random.Random) -> Iterator[Any]:
    """What the world of an honest node answers to its machine's own effects."""
    match effect:
        case Train(attempt=at, work=LocalWork(base=base)):
            if rng.random() < 0.2:
                yield TrainFailed(at, "no data")
            else:
                root = Digest(rng.randbytes(32))
                yield Trained(at, Commitment(at, base, root, root, bytes(256), 100, (1.0,)))
        case Aggregate(attempt=at, part=part, inputs=inputs):
            yield Aggregated(at, part, Digest(b"r" * 32), tuple(a for a, _ in inputs[1:2]))
        case Step(attempt=at):
            yield (
                StepFailed(at, "none had it") if rng.random() < 0.5 else Stepped(at, raw_cid(b"n"))
            )
        case Audit(seat=seat):
            reason = "" if rng.random() < 0.5 else "does not follow"
            yield Audited(seat.attempt, raw_cid(b"n"), (), reason)
        case SetTimer(name=name, attempt=at, part=part) if rng.random() < 0.2:
            yield TimerFired(name, at, part)


def size(value: Any, seen: set[int]) -> int:
    """How many objects hang on a machine: containers, messages and strings, each once."""
    if id(value) in seen or isinstance(value, type | RunContext) or callable(value):
        return 0
    seen.add(id(value))
    if isinstance(value, dict):
        return 1 + sum(size(k, seen) + size(v, seen) for k, v in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return 1 + sum(size(v, seen) for v in value)
    if is_dataclass(value):
        return 1 + sum(size(getattr(value, name), seen) for name in value.__dataclass_fields__)
    if hasattr(value, "__dict__"):
        return 1 + sum(size(v, seen) for v in vars(value).values())
    return 1


SEEDS = [*range(6), *(pytest.param(s, marks=pytest.mark.slow) for s in range(6, 60))]


@pytest.mark.parametrize("seed", SEEDS)
def test_hostile_messages_raise_nothing_and_move_no_promise(seed: int) -> None:
    rng = random.Random(seed)
    validators, quorum = rng.choice(((1, 1), (2, 2), (4, 3)))
    run = context(validators, quorum, sealed=rng.random() < 0.5)
    liar = Liar(run, rng)
    head = HeadMachine(run)
    me = sorted(run.validators)[0]
    trainer = TrainerMachine(run, trainers(1)[0], head)
    committee = CommitteeMachine(run, me, head)
    said: dict[tuple[type, Attempt], set[Digest]] = {}
    kinds: set[type] = set()
    waiting: list[Any] = [Started(), members(trainers(4))]
    for step in range(2_000):
        event = waiting.pop(0) if waiting else liar.event(head)
        if step and step % 500 == 0 and not head.finished:
            seen = replace(sample(RoundRecord, rng), attempt=Attempt(run.run, head.round + 1, 0))
            event = Adopted(seen)
        for machine in (head, trainer, committee):
            for effect in machine.handle(event, float(step)):
                kinds.add(type(effect))
                if isinstance(effect, Publish):
                    encode(effect.message)  # what is said can be said
                    name = (type(effect.message), effect.message.attempt)
                    if name[0] not in (Timeout, StepNotice):
                        said.setdefault(name, set()).add(digest(effect.message))
                waiting += answers(effect, rng)
        waiting = waiting[-50:]
    assert {Publish, SetTimer, Penalize} <= kinds
    assert not [name for name, words in said.items() if len(words) > 1]


def test_memory_is_bounded_however_many_strangers_speak() -> None:
    run = context(4, 3)
    rng = random.Random(7)
    liar = Liar(run, rng)
    head = HeadMachine(run)
    trainer = TrainerMachine(run, trainers(1)[0], head)
    committee = CommitteeMachine(run, sorted(run.validators)[0], head)
    machines = (head, trainer, committee)

    def speak(count: int) -> None:
        for i in range(count):
            stranger = Address(rng.randbytes(20))
            message = liar.message(head)
            for event in (Received(stranger, message), PeerDown(stranger)):
                for machine in machines:
                    machine.handle(event, float(i))

    speak(8_000)
    filled = size(machines, set())
    speak(8_000)
    assert size(machines, set()) < 1.5 * filled
    assert len(trainer._early) <= limits.EARLY_MAX
    assert len(trainer._down) <= limits.MEMBERS_MAX


def test_memory_is_bounded_where_members_and_validators_speak_without_end() -> None:
    run = context(4, 3)
    rng = random.Random(8)
    liar = Liar(run, rng)
    head = HeadMachine(run)
    trainer = TrainerMachine(run, trainers(1)[0], head)
    committee = CommitteeMachine(run, sorted(run.validators)[0], head)
    machines = (head, trainer, committee)

    def speak(count: int) -> None:
        for i in range(count):
            who = Address(rng.choice(liar.people))
            for machine in machines:
                machine.handle(Received(who, liar.message(head)), float(i))

    speak(3_000)
    filled = size(machines, set())
    speak(6_000)
    assert size(machines, set()) < 1.5 * filled + 5_000


def test_a_flooded_network_still_makes_its_rounds() -> None:
    """Strangers answer every message with ten of their own."""
    run = context(2, 2, rounds=3)
    network = HeapNetwork(run, trainers(3), 5)
    liar = Liar(run, random.Random(5))
    liar.people = []
    flood = 0

    def hook(net: HeapNetwork, node: VirtualNode, effect: Any) -> bool:
        nonlocal flood
        if isinstance(effect, Publish):
            for _ in range(10):
                ghost = VirtualNode(Address(liar.rng.randbytes(20)), False, -1)
                message = sample(liar.rng.choice((Commitment, ResultVote, StepNotice)), liar.rng)
                at = effect.message.attempt
                net.gossip(ghost, replace(message, attempt=at))
                flood += 1
        return isinstance(effect, Attest) and False

    network.hooks.append(hook)
    assert network.run(120.0, finished), state(network)
    assert flood > 300
    assert payout_root(network.nodes[trainers(1)[0]].records[3].payouts)
    for node in network.nodes.values():
        assert {c.account for c in node.records[3].trainers} == set(trainers(3))
