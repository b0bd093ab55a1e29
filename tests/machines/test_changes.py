"""A run that the DAO changes while it goes on: every node trains each round by the same spec."""

import random
from dataclasses import replace
from functools import partial

import pytest
from scenes import Watch, context, everybody_finished, trainers

from eigen.protocol.changes import CHANGEABLE, Course, SpecChange, check_change, differences
from eigen.protocol.cid import raw_cid
from eigen.protocol.committee import CommitteeMachine
from eigen.protocol.context import RunContext
from eigen.protocol.effects import (
    Effect,
    MembershipChanged,
    Note,
    Publish,
    Received,
    SeatOpened,
    SpecChanged,
    Started,
    Train,
)
from eigen.protocol.head import HeadMachine
from eigen.protocol.messages import NO_DIGEST, Attempt, SeatProposal, SeatVote, digest
from eigen.protocol.run import AggregationSpec, RunSpec, spec_digest
from eigen.protocol.trainer import TrainerMachine
from eigen.protocol.types import Address, Digest
from eigen.simulations.heap import HeapNetwork, Links, VirtualNode

SPEC = context().spec


def changed(spec: RunSpec, lr: float) -> RunSpec:
    return replace(spec, inner=replace(spec.inner, lr=lr))


def change(from_round: int, spec: RunSpec, block: int = 1, **of: object) -> SpecChange:
    terms = {"shard_count": 6, "sealed": False} | of
    return SpecChange(from_round, spec, block=block, **terms)  # type: ignore[arg-type]


# the course of a run ------------------------------------------------------------------------------
def test_the_last_change_up_to_a_round_holds() -> None:
    course = Course(SPEC, 6, False)
    one, two, early = (
        change(5, changed(SPEC, 0.1)),
        change(8, changed(SPEC, 0.2), 2),
        change(3, changed(SPEC, 0.3), 3),
    )
    assert course.learn(one)
    assert not course.learn(one)
    assert course.learn(two)
    assert [course.expected(n).name for n in (1, 4)] == [NO_DIGEST] * 2
    assert [course.expected(n).spec for n in (5, 7, 8)] == [one.spec, one.spec, two.spec]
    assert course.learn(early)  # decided last, so it holds from its round on
    assert [course.expected(n).spec for n in (2, 3, 9)] == [SPEC, early.spec, early.spec]
    assert course.named(spec_digest(two.spec)) == two.terms
    assert course.named(Digest(b"?" * 32)) is None


@pytest.mark.parametrize(
    ("after", "told"),
    [
        (replace(SPEC, rounds=9), "rounds stays"),
        (replace(SPEC, reward_per_round=1), "reward_per_round stays"),
        (replace(SPEC, model=replace(SPEC.model, options=(("hidden", 3),))), "model.options stays"),
        (replace(SPEC, inner=replace(SPEC.inner, moments="kept")), "inner.moments stays"),
        (replace(SPEC, part_values=4096), "part_values stays"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_checkpoints_and_budgets_are_made_of_stays(after: RunSpec, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        check_change(SPEC, after)


def test_what_may_change_is_told_in_words() -> None:
    after = replace(
        changed(SPEC, 0.5), dataset=raw_cid(b"other"), aggregation=AggregationSpec("median", 3_000)
    )
    check_change(SPEC, after)
    check_change(SPEC, SPEC)  # back to how it began
    told = differences(SPEC, after)
    assert "inner.lr 0.001 → 0.5" in told
    assert "aggregation.rule mean → median" in told
    assert len(told) == 4
    assert {word.split()[0] for word in told} <= CHANGEABLE
    overlapping = replace(SPEC, overlap=True)
    with pytest.raises(ValueError, match="overlap"):
        check_change(overlapping, changed(overlapping, 0.5))


# the machines -------------------------------------------------------------------------------------
def apart(run: RunContext) -> RunContext:
    """The same run as another node knows it."""
    return replace(run)


RUN = context(1, 1, rounds=3)
[VALIDATOR] = RUN.validators
A, B = trainers(2)


def seat_of(run: RunContext) -> SeatProposal:
    """What a validator proposes that knows what `run` knows."""
    machine = CommitteeMachine(run, VALIDATOR, HeadMachine(run))
    effects = machine.handle(Started(), 0.0)
    effects += machine.handle(MembershipChanged((A, B), (0, 0)), 0.0)
    [seat] = [
        e.message for e in effects if isinstance(e, Publish) and isinstance(e.message, SeatProposal)
    ]
    return seat


def test_a_trainer_waits_for_a_change_that_its_seat_names() -> None:
    knowing, trainer = apart(RUN), apart(RUN)
    decided = change(1, changed(RUN.spec, 0.5))
    knowing.course.learn(decided)
    seat = seat_of(knowing)
    assert seat.spec == spec_digest(decided.spec)

    machine = TrainerMachine(trainer, A, HeadMachine(trainer))
    effects = machine.handle(Received(VALIDATOR, seat), 0.0)
    effects += machine.handle(Received(VALIDATOR, SeatVote(seat.attempt, digest(seat))), 0.0)
    assert not any(isinstance(e, SeatOpened | Train) for e in effects)
    assert any(isinstance(e, Note) and "not known here yet" in e.event for e in effects)

    effects = machine.handle(SpecChanged(decided), 1.0)
    [train] = [e for e in effects if isinstance(e, Train)]
    assert train.work.spec == seat.spec
    assert trainer.course.of(seat.attempt).spec == decided.spec


def test_validators_vote_only_for_what_the_dao_decided() -> None:
    run = context(2, 2, rounds=3)
    decided = change(1, changed(run.spec, 0.5))
    knowing, other = apart(run), apart(run)
    knowing.course.learn(decided)
    machines = {}
    seats: list[tuple[Address, SeatProposal]] = []
    for who, mine in zip(sorted(run.validators), (knowing, other), strict=True):
        machine = machines[who] = CommitteeMachine(mine, who, HeadMachine(mine))
        effects = machine.handle(Started(), 0.0)
        effects += machine.handle(MembershipChanged((A, B), (0, 0)), 0.0)
        seats += [
            (who, e.message)
            for e in effects
            if isinstance(e, Publish) and isinstance(e.message, SeatProposal)
        ]
    [(leader, seat)] = seats
    [voter] = [who for who in run.validators if who != leader]
    effects = machines[voter].handle(Received(leader, seat), 0.0)
    assert not any(isinstance(e, Publish) and isinstance(e.message, SeatVote) for e in effects)
    assert any(isinstance(e, Note) and e.event == "seat by another spec" for e in effects)
    if seat.spec != NO_DIGEST:  # the leader knew first: now the other one hears, and votes
        effects = machines[voter].handle(SpecChanged(decided), 0.0)
        votes = [e for e in effects if isinstance(e, Publish) and isinstance(e.message, SeatVote)]
        assert len(votes) == 1


# whole runs ---------------------------------------------------------------------------------------
class Apart(HeapNetwork):
    """Nodes that each hear of the DAO's decisions in their own time."""

    told: dict[Address, list[SpecChange]]

    def _boot(self, node: VirtualNode) -> None:
        shared = self.context
        self.context = apart(shared)
        for known in self.__dict__.setdefault("told", {}).get(node.address, ()):
            self.context.course.learn(known)  # what it knew is on its disk
        super()._boot(node)
        self.context = shared

    def tell(self, address: Address, decided: SpecChange) -> None:
        node = self.nodes[address]
        self.told.setdefault(address, []).append(decided)
        if node.alive:
            self._post(node, 0.0, SpecChanged(decided))


@pytest.mark.parametrize("seed", range(16))
def test_every_round_goes_by_one_spec_whenever_nodes_hear_of_a_change(seed: int) -> None:
    dice = random.Random(seed)
    run = context(dice.choice((1, 3, 4)), 1, rounds=6, sealed=dice.random() < 0.5)
    run = replace(run, quorum=len(run.validators) // 2 + 1)
    network = Apart(run, trainers(4), seed, Links(loss=dice.choice((0.0, 0.02))))
    watch = Watch(network)
    decided = [
        change(3, changed(run.spec, 0.5), 1, sealed=run.sealed),
        change(5, replace(changed(run.spec, 0.5), dataset=raw_cid(b"o")), 2, shard_count=4),
    ]
    trained: dict[Attempt, set[Digest]] = {}

    def see(_: HeapNetwork, _node: VirtualNode, effect: Effect) -> bool:
        if isinstance(effect, Train):
            trained.setdefault(effect.attempt, set()).add(effect.work.spec)
        return False

    network.hooks.append(see)
    in_time = dice.random() < 0.5
    for address in network.nodes:
        at_s = 0.0
        for one in decided:
            at_s += 0.0 if in_time else dice.uniform(0.0, 4.0)
            network.schedule(at_s, partial(network.tell, address, one))
    victim, killed_s = dice.choice(list(network.nodes)), dice.uniform(1.0, 6.0)
    network.schedule(killed_s, partial(network.kill, victim))
    network.schedule(killed_s + dice.uniform(0.1, 9.0), partial(network.restart, victim))
    assert network.run(4_000.0, everybody_finished), seed
    watch.check(seed)
    records = {r: record for node in network.nodes.values() for r, record in node.records.items()}
    names = [records[r].spec for r in range(1, 7)]
    order = [NO_DIGEST, *(one.terms.name for one in decided)]
    assert names == sorted(names, key=order.index), "a round went back to an older spec"
    assert names[:2] == [NO_DIGEST] * 2
    if in_time:
        assert names[2:] == [order[1]] * 2 + [order[2]] * 2
    for round_ in range(1, 7):
        record = records[round_]
        # an update of an earlier attempt may serve again, and then is of the same spec
        specs = trained.get(record.attempt, {record.spec})
        assert specs == {record.spec}, "trained by another spec than recorded"
