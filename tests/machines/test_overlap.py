"""Rounds that overlap: the next update is trained while the last one is exchanged."""

from collections import defaultdict
from dataclasses import replace
from typing import Any

import pytest
from scenes import Watch, context, everybody_finished, finished, play, state, trainers

from eigen.protocol.committee import CommitteeMachine
from eigen.protocol.effects import (
    Adopted,
    Effect,
    Note,
    Penalize,
    Persist,
    Publish,
    Received,
    Train,
    TrainAhead,
    Trained,
    TrainFailed,
)
from eigen.protocol.head import HeadMachine
from eigen.protocol.messages import (
    Attempt,
    Commitment,
    LocalWork,
    RoundRecord,
    SeatProposal,
    SeatVote,
    digest,
)
from eigen.protocol.seat import ahead_seed, assign_open, leader, order_seed, round_seed
from eigen.protocol.trainer import Phase, TrainerMachine
from eigen.protocol.types import Address, Cid, Digest
from eigen.protocol.wire import decode
from eigen.simulations.heap import HeapNetwork, Links, VirtualNode

RUN = context(1, 1, parts=2, shards=4, overlap=True)
[VALIDATOR] = RUN.validators
A, B = trainers(2)
NEXT = Cid("bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku")


class Trainer:
    """Trainer A with its head; each call tells both something and gives what A wants done."""

    def __init__(self, record: RoundRecord | None = None, **kept: Any) -> None:
        self.head = HeadMachine(RUN, record)
        self.machine = TrainerMachine(RUN, A, self.head, **kept)

    def tell(self, event: Any) -> list[Any]:
        self.head.handle(event, 0.0)
        return list(self.machine.handle(event, 0.0))

    def hear(self, sender: Address, message: Any) -> list[Any]:
        return self.tell(Received(sender, message))

    def seat(self, number: int = 0) -> SeatProposal:
        at = Attempt(RUN.run, self.head.round + 1, number)
        seed = round_seed(RUN.seed, at.round, self.head.previous)
        members, _ = assign_open([A, B], RUN.shard_count, seed)
        return SeatProposal(
            at, self.head.previous, Cid(self.head.checkpoint), members, (0,) * len(members)
        )

    def open(self, number: int = 0) -> list[Any]:
        seat = self.seat(number)
        self.hear(VALIDATOR, seat)
        return self.hear(VALIDATOR, SeatVote(seat.attempt, digest(seat)))


def commitment(at: Attempt, base: str, name: Address = A) -> Commitment:
    root = Digest(name[:1] * 32)
    return Commitment(at, Cid(base), root, root, bytes(256), 100, (1.0,))


def record(of: SeatProposal, checkpoint: Cid = NEXT) -> RoundRecord:
    return RoundRecord(of.attempt, of.previous, of.base, checkpoint, (), (), (), (), ())


def of_kind(effects: list[Any], kind: type) -> list[Any]:
    return [e for e in effects if isinstance(e, kind)]


def published(effects: list[Any]) -> list[Any]:
    return [e.message for e in of_kind(effects, Publish)]


# a trainer alone --------------------------------------------------------------------------------
def test_who_has_committed_begins_the_next_update_and_commits_to_it_in_the_next_round() -> None:
    trainer = Trainer()
    [first] = of_kind(trainer.open(), Train)
    seat = trainer.seat()
    seed = round_seed(RUN.seed, 1, Digest(bytes(32)))
    shards = seat.members[0].shards
    assert first.work == LocalWork(Cid(RUN.genesis), shards, order_seed(seed, A), False)

    effects = trainer.tell(Trained(seat.attempt, commitment(seat.attempt, RUN.genesis)))
    assert published(effects) == [commitment(seat.attempt, RUN.genesis)]
    [ahead] = of_kind(effects, TrainAhead)
    assert ahead.work == LocalWork(Cid(RUN.genesis), shards, ahead_seed(seed, A), True)
    [kept] = of_kind(effects, Persist)
    assert decode(kept.value, LocalWork) == ahead.work
    assert effects.index(kept) < effects.index(ahead)

    trainer.tell(Adopted(record(seat)))
    [second] = of_kind(trainer.open(), Train)
    assert second.work == ahead.work
    at = trainer.seat().attempt
    effects = trainer.tell(Trained(at, commitment(at, RUN.genesis)))
    assert published(effects) == [commitment(at, RUN.genesis)]
    [following] = of_kind(effects, TrainAhead)
    assert following.work.base == NEXT


def test_a_new_attempt_of_the_round_uses_what_was_trained_ahead() -> None:
    trainer = Trainer()
    trainer.open()
    seat = trainer.seat()
    trainer.tell(Trained(seat.attempt, commitment(seat.attempt, RUN.genesis)))
    trainer.tell(Adopted(record(seat)))
    trainer.open()
    at = trainer.seat().attempt
    [begun] = of_kind(
        trainer.tell(Trained(at, commitment(at, RUN.genesis))), TrainAhead
    )  # once a round: a second attempt begins nothing else
    effects = trainer.open(1)
    assert of_kind(effects, Train) == []
    assert published(effects) == [commitment(replace(at, number=1), RUN.genesis)]
    assert of_kind(effects, TrainAhead) == [begun]


def test_a_trainer_that_was_late_begins_nothing() -> None:
    """What it has trained stands in nobody's way, and nobody could tell from what it went on."""
    trainer = Trainer()
    trainer.open()
    seat = trainer.seat()
    trainer.machine.phase = Phase.EXCHANGING
    effects = trainer.tell(Trained(seat.attempt, commitment(seat.attempt, RUN.genesis)))
    assert [type(e) for e in effects] == [Note]


def test_where_what_was_begun_fails_a_trainer_trains_as_one_that_has_nothing() -> None:
    work = LocalWork(Cid(RUN.genesis), (1,), Digest(b"o" * 32), True)
    trainer = Trainer(record(Trainer().seat()), begun={2: work})
    trainer.open()
    at = trainer.seat().attempt
    note, forgotten, train = trainer.tell(TrainFailed(at, "lost"))
    assert (note.detail, forgotten.value) == ("lost", None)
    assert (train.work.base, train.work.ahead) == (NEXT, False)
    assert [type(e) for e in trainer.tell(TrainFailed(at, "no key"))] == [Note]


def test_after_a_restart_a_trainer_trains_what_it_had_begun() -> None:
    work = LocalWork(Cid(RUN.genesis), (1,), Digest(b"o" * 32), True)
    one = record(Trainer().seat())
    [again] = of_kind(Trainer(one, begun={2: work}).open(), Train)
    assert again.work == work


def test_what_was_begun_for_a_round_that_went_by_is_forgotten() -> None:
    work = LocalWork(Cid(RUN.genesis), (1,), Digest(b"o" * 32), True)
    trainer = Trainer(begun={2: work})
    two = replace(record(trainer.seat()), attempt=Attempt(RUN.run, 2, 0), base=NEXT)
    [forgotten] = of_kind(trainer.tell(Adopted(two)), Persist)
    assert (forgotten.kind, forgotten.key[-8:], forgotten.value) == (
        "ahead",
        bytes([0] * 7 + [2]),
        None,
    )
    [train] = of_kind(trainer.open(), Train)
    assert train.work.base == trainer.head.checkpoint


def test_work_from_another_base_than_the_round_before_is_not_used() -> None:
    stale = LocalWork(
        Cid("bafkreieq5jui4j25lacwomsqgjeswwl3y5zcdrresptwgmfylxo2depppq"),
        (1,),
        Digest(b"o" * 32),
        True,
    )
    one = record(Trainer().seat())
    [train] = of_kind(Trainer(one, begun={2: stale}).open(), Train)
    assert train.work.base == NEXT


def test_the_last_round_begins_no_other() -> None:
    rounds = RUN.spec.rounds
    last = replace(record(Trainer().seat()), attempt=Attempt(RUN.run, rounds - 1, 0))
    trainer = Trainer(last)
    trainer.open()
    at = trainer.seat().attempt
    assert of_kind(trainer.tell(Trained(at, commitment(at, NEXT))), TrainAhead) == []


def test_a_failed_training_begins_nothing() -> None:
    trainer = Trainer()
    trainer.open()
    assert of_kind(trainer.tell(TrainFailed(trainer.seat().attempt, "no key")), TrainAhead) == []


@pytest.mark.parametrize("overlap", [True, False])
def test_a_commitment_from_another_base_costs_its_author(overlap: bool) -> None:
    run = replace(RUN, spec=replace(RUN.spec, overlap=overlap))
    one = record(Trainer().seat())
    head = HeadMachine(run, one)
    trainer, committee = TrainerMachine(run, A, head), CommitteeMachine(run, VALIDATOR, head)
    at = Attempt(run.run, 2, 0)
    far = "bafkreieq5jui4j25lacwomsqgjeswwl3y5zcdrresptwgmfylxo2depppq"
    for base, refused in ((NEXT, False), (RUN.genesis, not overlap), (far, True)):
        said = Received(B, commitment(at, base, B))
        for machine in (trainer, committee):
            blamed = of_kind(list(machine.handle(said, 0.0)), Penalize)
            reasons = ["a commitment from another base"] if refused else []
            assert [(p.peer, p.reason) for p in blamed] == [(B, r) for r in reasons]
    assert leader(committee.evidence.seed, 0, run.validators) == VALIDATOR


# whole runs -------------------------------------------------------------------------------------
class Bases:
    """Sees from which checkpoint each commitment comes: of this round, or of the one before."""

    def __init__(self, network: HeapNetwork) -> None:
        self.of: dict[tuple[int, Address], str] = {}
        self.count: dict[str, int] = defaultdict(int)
        network.hooks.append(self._see)

    def _see(self, network: HeapNetwork, node: VirtualNode, effect: Effect) -> bool:
        if isinstance(effect, Publish) and isinstance(effect.message, Commitment):
            made, bases = effect.message, network.context.bases(node.head.head)
            which = "this" if made.base == bases[0] else "before"
            assert made.base in bases
            self.of[made.attempt.round, node.address] = which
            self.count[which] += 1
        return False


def test_rounds_overlap_and_so_take_as_long_as_training_or_exchange_and_not_both() -> None:
    slow = Links(0.15, 0.15)  # gossip and transfers: about as long as the training
    took = {}
    for overlap in (False, True):
        run = context(rounds=8, overlap=overlap)
        network = HeapNetwork(run, trainers(4), 7, slow, train_s=(1.5, 1.5))
        watch, bases = Watch(network), Bases(network)
        assert network.run(200.0, everybody_finished), state(network)
        watch.check()
        took[overlap] = (watch.adopted_s[8] - watch.adopted_s[2]) / 6
        ahead = {r for (r, _), which in bases.of.items() if which == "before"}
        assert ahead == (set(range(2, 9)) if overlap else set())
        for node in network.nodes.values():
            assert [r.attempt.number for r in node.records.values()] == [0] * 8
            for made in node.records.values():
                assert [c.account for c in made.trainers] == trainers(4)
            assert not node.disk, "what was begun stays on disk"
    exchange_s = took[False] - 1.5
    assert exchange_s > 1.0
    assert took[True] == pytest.approx(max(1.5, exchange_s), rel=0.15)


def test_a_newcomer_begins_at_the_rounds_own_base_among_others_who_trained_ahead() -> None:
    network = HeapNetwork(context(rounds=8, overlap=True), trainers(4), 9)
    watch, bases = Watch(network), Bases(network)
    late = trainers(4)[3]
    network.kill(late)
    watch.died(late)
    assert network.run(60.0, lambda n: max(x.head.round for x in n.nodes.values()) >= 3)
    watch.came_back(late)
    network.restart(late)
    assert network.run(120.0, everybody_finished), state(network)
    watch.check()
    of_late = {r: which for (r, who), which in bases.of.items() if who == late}
    first = min(of_late)
    assert first > 3
    assert of_late[first] == "this"
    assert bases.of[first, A] == "before"
    assert of_late[first + 1] == "before"
    paid = network.nodes[A].records[first].trainers
    assert {late, A} <= {credit.account for credit in paid}


@pytest.mark.parametrize("seed", range(6))
def test_who_dies_after_it_committed_says_the_same_again(seed: int) -> None:
    """A commitment to what was trained ahead outlives its author's memory."""
    network = HeapNetwork(context(1, 1, rounds=5, overlap=True), trainers(3), seed)
    watch = Watch(network)
    victim = trainers(3)[seed % 3]
    said: list[Commitment] = []

    def die_once(net: HeapNetwork, node: VirtualNode, effect: Effect) -> bool:
        if node.address != victim or not isinstance(effect, Publish):
            return False
        if not isinstance(effect.message, Commitment) or effect.message.attempt.round != 3:
            return False
        said.append(effect.message)
        if len(said) == 1:
            net.perform(node, effect)
            net.kill(victim)
            return True
        return False

    network.hooks.append(die_once)
    assert network.run(500.0, lambda net: not net.nodes[victim].alive)
    network.restart(victim)
    assert network.run(500.0, everybody_finished), state(network)
    watch.check(seed)
    assert len(said) >= 2
    assert len({(c.base, c.parts_root) for c in said}) == 1


def test_who_trains_from_an_older_checkpoint_is_blamed_by_all_and_unpaid() -> None:
    run = context(2, 2, rounds=6, overlap=True)
    network = HeapNetwork(run, trainers(4), 11)
    liar = trainers(4)[2]
    watch = Watch(network, frozenset([liar]))
    lies = 0

    def act(net: HeapNetwork, node: VirtualNode, effect: Effect) -> bool:
        nonlocal lies
        if node.address != liar or not isinstance(effect, Publish):
            return False
        made = effect.message
        if not isinstance(made, Commitment) or made.attempt.round < 3:
            return False
        lies += 1
        net.perform(node, replace(effect, message=replace(made, base=Cid(run.genesis))))
        return True

    network.hooks.append(act)
    assert network.run(500.0, finished), state(network)
    watch.check()
    assert lies
    for node in network.nodes.values():
        if node.address != liar:
            assert "a commitment from another base" in {p.reason for p in node.penalties}
            paid = [r for r, x in node.records.items() if liar in {c.account for c in x.trainers}]
            assert paid == [1, 2]


@pytest.mark.parametrize("block", range(4))
def test_crashes_and_losses_break_nothing(block: int) -> None:
    kills = later = 0
    for seed in range(block * 25, (block + 1) * 25):
        watch, plan, done = play(seed, overlap=True)
        assert done, f"seed {seed} stands still: {state(watch.network)}"
        watch.check(seed)
        kills += len(plan.fired)
        records = [r for n in watch.network.nodes.values() for r in n.records.values()]
        later += any(r.attempt.number for r in records)
    assert kills > 0
    assert later > 0
