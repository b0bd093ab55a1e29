"""Replays of credited rounds: drawn after the fact, done by few, and dear to who did not train."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from scenes import context, finished, trainers

from eigen.protocol.checks import Checks, drawn, due, examiners, may_name
from eigen.protocol.cid import raw_cid
from eigen.protocol.context import RunContext
from eigen.protocol.effects import (
    Attest,
    Audit,
    Effect,
    Publish,
    Replay,
    Replayed,
    Suspected,
    Train,
)
from eigen.protocol.messages import (
    Attempt,
    Check,
    Commitment,
    Credit,
    Finding,
    RoundRecord,
    Verdict,
)
from eigen.protocol.run import PaySpec
from eigen.protocol.types import Address, Digest
from eigen.simulations.compute import Hashes
from eigen.simulations.heap import HeapNetwork, VirtualNode

ALWAYS = PaySpec(held_rounds=8, replay_bps=10_000)
CHEAT = trainers(5)[2]
WRONG = Digest(b"\xee" * 32)


class OneCheats(Hashes):
    """`CHEAT` commits to what it did not train, from a round on."""

    def __init__(self, first: int = 1) -> None:
        super().__init__()
        self._first = first

    def train(self, trainer: Address, effect: Train) -> Commitment:
        made = super().train(trainer, effect)
        cheats = trainer == CHEAT and effect.attempt.round >= self._first
        return replace(made, parts_root=WRONG) if cheats else made


def play(
    run: RunContext,
    compute: Hashes,
    *hooks: Callable[[HeapNetwork, VirtualNode, Effect], bool],
    seed: int = 1,
) -> HeapNetwork:
    network = HeapNetwork(run, trainers(5), seed, compute=compute)
    network.hooks.extend(hooks)
    network.run(600.0, finished)
    assert finished(network)
    return network


def last_record(network: HeapNetwork) -> RoundRecord:
    heads = {node.head.previous for node in network.nodes.values()}
    assert len(heads) == 1
    record = next(iter(network.nodes.values())).head.head
    assert record is not None
    return record


def paid(record: RoundRecord) -> dict[Address, int]:
    return {p.account: p.cumulative for p in record.payouts}


@pytest.mark.parametrize("seed", range(5))
def test_who_did_not_train_is_thrown_out_unpaid_and_the_others_are_paid(seed: int) -> None:
    run = context(validators=4, quorum=3, rounds=8, pay=ALWAYS)
    record = last_record(play(run, OneCheats(), seed=seed))
    assert record.ejected == (CHEAT,)
    assert CHEAT not in {member.account for member in record.trainers}
    honest = {t: paid(record)[t] for t in trainers(5) if t != CHEAT}
    assert len(honest) == 4
    assert min(honest.values()) > 0
    assert paid(record).get(CHEAT, 0) < min(honest.values()) / 4
    assert not record.checks


def test_honest_rounds_are_found_sound_and_all_pay_is_released() -> None:
    run = context(validators=4, quorum=3, rounds=6, pay=ALWAYS)
    record = last_record(play(run, Hashes()))
    assert record.ejected == ()
    assert record.checks == ()
    assert all(p.held == 0 for p in record.payouts)


def test_one_validator_cannot_throw_anybody_out_nor_hold_pay_back() -> None:
    run = context(validators=4, quorum=3, rounds=8, shards=5, pay=ALWAYS)
    slanderer = min(run.validators)

    def slander(network: HeapNetwork, node: VirtualNode, effect: Effect) -> bool:
        if node.address != slanderer or not isinstance(effect, Replay):
            return False
        network._post(node, 0.1, Replayed(effect.check, Finding.FALSE, 1.0))
        return True

    record = last_record(play(run, Hashes(), slander))
    assert record.ejected == ()
    assert len({paid(record)[t] for t in trainers(5)}) == 1


def test_where_an_examiner_is_silent_the_next_one_joins_in() -> None:
    run = context(validators=4, quorum=3, rounds=10, pay=ALWAYS)
    lazy = sorted(run.validators)[:1]

    def sleep(network: HeapNetwork, node: VirtualNode, effect: Effect) -> bool:
        return node.address in lazy and isinstance(effect, Replay)

    record = last_record(play(run, Hashes(), sleep))
    assert record.ejected == ()
    last_rounds = {check.round for check in record.checks}
    assert all(round_ >= 8 for round_ in last_rounds)  # only the newest were still open


RARELY = replace(ALWAYS, replay_bps=1)  # by chance nobody is drawn in a short run


def suspecting(*suspects: Address) -> Callable[[HeapNetwork, VirtualNode, Effect], bool]:
    """Every validator suspects the same trainers in every round."""

    def suspect(network: HeapNetwork, node: VirtualNode, effect: Effect) -> bool:
        if isinstance(effect, Audit):
            network._post(node, 0.0, Suspected(suspects))
        return False

    return suspect


@pytest.mark.parametrize("seed", range(3))
def test_who_is_suspected_and_did_not_train_is_thrown_out(seed: int) -> None:
    run = context(validators=4, quorum=3, rounds=8, pay=RARELY)
    assert last_record(play(run, OneCheats(), seed=seed)).ejected == ()
    assert last_record(play(run, OneCheats(), suspecting(CHEAT), seed=seed)).ejected == (CHEAT,)


def test_an_honest_suspect_is_replayed_and_paid_like_the_others() -> None:
    run = context(validators=4, quorum=3, rounds=8, shards=5, pay=RARELY)
    replayed: list[Check] = []

    def watch(_: HeapNetwork, node: VirtualNode, effect: Effect) -> bool:
        if isinstance(effect, Replay):
            replayed.append(effect.check)
        return False

    record = last_record(play(run, Hashes(), suspecting(CHEAT), watch))
    assert {check.trainer for check in replayed} == {CHEAT}
    assert record.ejected == ()
    assert record.checks == ()
    assert len({paid(record)[t] for t in trainers(5)}) == 1


@pytest.mark.parametrize(("credited", "named"), [(0, 0), (4, 1), (16, 2), (128, 9)])
def test_a_leader_names_few(credited: int, named: int) -> None:
    run = context(rounds=8, pay=RARELY)
    assert may_name(run, 3, credited) == named
    assert may_name(run, 8, credited) == 0, "nobody could tell of it after the last round"
    assert may_name(context(rounds=8), 3, credited) == 0, "such rounds are not replayed"


def test_a_record_that_names_too_many_gets_no_votes() -> None:
    """Half of the leaders name everybody: their attempts come to nothing, the run goes on."""
    run = context(validators=4, quorum=3, rounds=4, pay=RARELY)
    liars, named = sorted(run.validators)[:2], frozenset(trainers(5))
    network = HeapNetwork(run, trainers(5), 1, compute=Hashes())
    attested: list[RoundRecord] = []

    def watch(_: HeapNetwork, node: VirtualNode, effect: Effect) -> bool:
        if isinstance(effect, Attest):
            attested.append(effect.record)
        return False

    network.hooks.append(watch)
    for address in liars:
        committee = network.nodes[address].committee
        assert committee is not None
        committee.checks.suspects = lambda *_: named  # type: ignore[method-assign]
    network.run(600.0, finished)
    assert finished(network)
    assert not any(record.checks for record in attested)
    assert any(record.attempt.number for record in attested), "some attempts came to nothing"


def test_a_run_without_replays_draws_none() -> None:
    run = context(rounds=4)
    network = play(run, OneCheats())
    assert last_record(network).checks == ()
    assert last_record(network).ejected == ()


def credited(run: RunContext, number: int, count: int) -> RoundRecord:
    base = raw_cid(b"base")
    earnings = tuple(Credit(Address(i.to_bytes(20, "big")), 1, 1) for i in range(count))
    at = Attempt(run.run, number, 0)
    return RoundRecord(at, Digest(bytes(32)), base, base, (), (), earnings, (), ())


def test_as_many_are_drawn_as_the_run_says_and_everybody_draws_the_same() -> None:
    run = context(rounds=300, pay=PaySpec(replay_bps=500))
    records = [credited(run, number, 40) for number in range(1, 201)]
    assert len([c for r in records for c in drawn(run, r)]) == pytest.approx(400, abs=80)
    assert drawn(run, records[0]) == drawn(run, records[0])
    assert drawn(run, credited(run, 300, 40)) == ()  # after the last nobody could tell of it


def test_examiners_take_turns() -> None:
    run = context(validators=5, quorum=3)
    first = Counter(
        examiners(run, Check(Address(bytes([i % 250]) * 20), 1 + i // 250))[0] for i in range(1_000)
    )
    assert set(first) == run.validators
    assert max(first.values()) < 260


class Voice:
    """One validator's `Checks` in a round after a record that draws one check."""

    def __init__(self, turn: int) -> None:
        self.run = context(validators=4, quorum=3, rounds=50, pay=ALWAYS)
        self.record = credited(self.run, 3, 1)
        [self.check] = due(self.run, self.record)
        self.order = examiners(self.run, self.check)
        self.me = self.order[turn]
        self.checks = Checks(self.run, self.me)
        self.at = Attempt(self.run.run, 4, 0)
        self.begun = self.checks.begin_round(self.record, self.at)

    def hear(self, turn: int, finding: Finding) -> list[Effect]:
        return self.checks.add(self.order[turn], Verdict(self.at, self.check, int(finding), 0.5))


def test_only_the_first_examiner_begins_and_says_what_it_finds() -> None:
    first, second = Voice(0), Voice(1)
    assert first.begun == [Replay(first.check)]
    assert second.begun == []
    [said] = first.checks.replayed(Replayed(first.check, Finding.SOUND, 0.0), first.at)
    assert said == Publish(said.topic, Verdict(first.at, first.check, int(Finding.SOUND), 0.0))
    assert first.checks.sound(4) == {first.check}


def test_an_unsure_examiner_calls_the_next_one() -> None:
    second = Voice(1)
    assert second.hear(0, Finding.UNCLEAR) == [Replay(second.check)]
    assert second.checks.sound(4) == frozenset()
    second.checks.replayed(Replayed(second.check, Finding.UNCLEAR, 0.1), second.at)
    assert second.checks.sound(4) == {second.check}  # the trainer has the benefit of the doubt


def test_who_is_not_an_examiner_yet_closes_nothing() -> None:
    first = Voice(0)
    first.hear(3, Finding.SOUND)
    assert first.checks.sound(4) == frozenset()
    assert first.checks.open(4)


def test_an_accusation_makes_all_replay_and_a_quorum_decides() -> None:
    third = Voice(2)
    assert third.hear(0, Finding.FALSE) == [Replay(third.check)]
    third.hear(1, Finding.SOUND)
    assert third.checks.sound(4) == frozenset()
    assert third.checks.false() == frozenset()
    third.hear(1, Finding.FALSE)  # changes nothing: the first word counts
    third.hear(3, Finding.FALSE)
    assert third.checks.false() == frozenset()
    third.checks.replayed(Replayed(third.check, Finding.FALSE, 1.0), third.at)
    assert third.checks.false() == {third.check.trainer}


def test_a_verdict_that_no_record_took_is_said_again() -> None:
    first = Voice(0)
    first.checks.replayed(Replayed(first.check, Finding.SOUND, 0.0), first.at)
    later = replace(credited(first.run, 4, 0), checks=(first.check,))
    at = Attempt(first.run.run, 5, 0)
    [again] = first.checks.begin_round(later, at)
    assert isinstance(again, Publish)
    assert again.message == Verdict(at, first.check, 0, 0.0)


def test_verdicts_on_what_is_not_due_change_nothing() -> None:
    first = Voice(0)
    other = Check(first.check.trainer, 2)
    assert first.checks.add(first.order[1], Verdict(first.at, other, 2, 1.0)) == []
    assert first.checks.false() == frozenset()
