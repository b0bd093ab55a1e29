"""The head, the trainer and the committee, each spoken with alone: an event in, effects out."""

from dataclasses import replace
from typing import Any

import pytest
from scenes import context, trainers

from eigen.protocol.cid import digest_of, raw_cid
from eigen.protocol.committee import CommitteeMachine, Promises, Stage
from eigen.protocol.effects import (
    Adopt,
    Adopted,
    Aggregate,
    Aggregated,
    Attest,
    Audit,
    Audited,
    MembershipChanged,
    Note,
    PartArrived,
    PeerDown,
    Penalize,
    Persist,
    Publish,
    Received,
    Repair,
    ResultArrived,
    SeatOpened,
    SendPart,
    SendResult,
    SetTimer,
    Started,
    Step,
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
    Credit,
    Outcome,
    OutcomeVote,
    PartResult,
    ResultVote,
    RoundRecord,
    SeatProposal,
    SeatVote,
    StepNotice,
    Timeout,
    digest,
)
from eigen.protocol.seat import assign_open, leader, part_owners, round_seed
from eigen.protocol.trainer import Phase, TrainerMachine
from eigen.protocol.types import Address, Cid, Digest
from eigen.protocol.wire import decode

RUN = context(2, 2, parts=2, shards=4)
VALIDATORS = sorted(RUN.validators)
A, B, C = trainers(3)
SEED = round_seed(RUN.seed, 1, Digest(bytes(32)))
LEADER = leader(SEED, 0, RUN.validators)
OTHER = next(v for v in VALIDATORS if v != LEADER)
AT = Attempt(RUN.run, 1, 0)
SEAT = SeatProposal(
    AT,
    Digest(bytes(32)),
    Cid(RUN.genesis),
    assign_open([A, B, C], RUN.shard_count, SEED)[0],
    (0, 0, 0),
)
OWNERS = part_owners(RUN.seed, 2, (A, B, C))
VOTE = SeatVote(AT, digest(SEAT))
RESULTS = (PartResult(Digest(b"0" * 32), 0b111), PartResult(Digest(b"1" * 32), 0b111))
NEXT = raw_cid(b"next")


def commitment(name: Address, at: Attempt = AT) -> Commitment:
    root = Digest(name[:1] * 32)
    return Commitment(at, Cid(RUN.genesis), root, root, bytes(256), 100, (1.0,))


class Voice:
    """One machine; each call tells it something and gives what it wants done."""

    def __init__(self, machine: Any, now: float = 0.0) -> None:
        self.machine, self.now = machine, now

    def tell(self, event: Any) -> list[Any]:
        return list(self.machine.handle(event, self.now))

    def hear(self, sender: Address, message: Any) -> list[Any]:
        return self.tell(Received(sender, message))


def kinds(effects: list[Any]) -> list[type]:
    return [type(e) for e in effects]


def published(effects: list[Any]) -> list[Any]:
    return [e.message for e in effects if isinstance(e, Publish)]


def reasons(effects: list[Any]) -> list[str]:
    return [e.reason for e in effects if isinstance(e, Penalize)]


# the head ---------------------------------------------------------------------------------------
def record(number: int = 1, **fields: Any) -> RoundRecord:
    at = Attempt(RUN.run, number, 0)
    base = Cid(RUN.genesis)
    return replace(
        RoundRecord(at, Digest(bytes(32)), base, raw_cid(bytes([number])), (), (), (), (), ()),
        **fields,
    )


def attestation(of: RoundRecord) -> Attestation:
    root = Digest(bytes(32))
    checkpoint = digest_of(of.checkpoint)
    return Attestation(RUN.run, of.attempt.round, checkpoint, digest(of), root, 0, bytes(65))


def test_a_quorum_of_one_root_is_adopted_once() -> None:
    head = Voice(HeadMachine(RUN))
    assert kinds(head.tell(Started())) == [Repair, SetTimer]
    assert head.hear(A, attestation(record())) == []  # no validator
    assert head.hear(LEADER, attestation(record())) == []
    [adopt] = head.hear(OTHER, attestation(record()))
    assert isinstance(adopt, Adopt)
    assert (adopt.round, adopt.record) == (1, digest(record()))
    assert [v for v, _ in adopt.attestations] == VALIDATORS
    assert head.hear(OTHER, attestation(record())) == []
    assert head.machine.round == 0
    head.tell(Adopted(record()))
    assert (head.machine.round, head.machine.checkpoint) == (1, record().checkpoint)
    assert head.hear(LEADER, attestation(record())) == []


def test_two_roots_by_one_validator_count_once_and_are_blamed() -> None:
    head = Voice(HeadMachine(RUN))
    head.hear(LEADER, attestation(record()))
    other = record(checkpoint=NEXT)
    assert kinds(head.hear(LEADER, attestation(other))) == [Penalize, Note]
    assert head.hear(OTHER, attestation(other)) == []  # no quorum of either root


def test_a_late_head_jumps_over_rounds_but_not_into_the_far_future() -> None:
    head = Voice(HeadMachine(RUN))
    for validator in VALIDATORS:
        assert head.hear(validator, attestation(record(100))) == []
    head.hear(LEADER, attestation(record(5)))
    assert kinds(head.hear(OTHER, attestation(record(5)))) == [Adopt]


def test_the_head_asks_for_repair_only_while_a_round_stands_still() -> None:
    head = Voice(HeadMachine(RUN))
    due = TimerFired("repair", Attempt(RUN.run, 1, 0))
    assert kinds(head.tell(due)) == [SetTimer]
    assert kinds(head.tell(due)) == [Repair, SetTimer]
    head.tell(Adopted(record()))
    assert kinds(head.tell(due)) == [SetTimer]
    head.tell(Adopted(record(RUN.spec.rounds)))
    assert head.tell(due) == []


# the trainer ------------------------------------------------------------------------------------
def seated(me: Address = A, voted: frozenset[bytes] = frozenset()) -> Voice:
    voice = Voice(TrainerMachine(RUN, me, HeadMachine(RUN), voted))
    voice.hear(LEADER, SEAT)
    voice.hear(LEADER, VOTE)
    voice.hear(OTHER, VOTE)
    return voice


def exchanging(me: Address = A, voted: frozenset[bytes] = frozenset()) -> Voice:
    voice = seated(me, voted)
    voice.tell(Trained(AT, commitment(me)))
    for name in (A, B, C):
        if name != me:
            voice.hear(name, commitment(name))
    assert voice.machine.phase is Phase.EXCHANGING
    return voice


def owned_by(name: Address, rank: int = 0) -> list[int]:
    return [p for p in range(2) if OWNERS[p][rank] == name]


def test_a_trainer_trains_only_in_a_seat_that_a_quorum_opened() -> None:
    voice = Voice(TrainerMachine(RUN, A, HeadMachine(RUN)))
    assert voice.hear(LEADER, VOTE) == []
    assert voice.hear(LEADER, SEAT) == []
    assert voice.hear(A, VOTE) == []  # no validator
    opened, timer, train = voice.hear(OTHER, VOTE)
    assert kinds([opened, timer, train]) == [SeatOpened, SetTimer, Train]
    assert train.work.base == RUN.genesis
    assert train.work.shards == SEAT.members[0].shards


def test_a_seat_by_another_than_the_leader_opens_nothing() -> None:
    voice = Voice(TrainerMachine(RUN, A, HeadMachine(RUN)))
    voice.hear(OTHER, SEAT)
    voice.hear(LEADER, VOTE)
    assert voice.hear(OTHER, VOTE) == []
    assert voice.machine.phase is Phase.WAITING


@pytest.mark.parametrize("members", [(), (SEAT.members[0], SEAT.members[0])])
def test_a_seat_that_nobody_can_take_is_blamed(members: Any) -> None:
    voice = Voice(TrainerMachine(RUN, A, HeadMachine(RUN)))
    bad = replace(SEAT, members=members, uploads=(0,) * len(members))
    for validator in VALIDATORS:
        voice.hear(validator, SeatVote(AT, digest(bad)))
    assert reasons(voice.hear(LEADER, bad)) == ["a seat that nobody can take"]


def test_a_whole_round_of_a_trainer() -> None:
    voice = seated()
    [mine] = published(voice.tell(Trained(AT, commitment(A))))
    assert mine == commitment(A)
    assert voice.hear(B, commitment(B)) == []
    begun = voice.hear(C, commitment(C))  # the last one: no need to wait for the deadline
    sent = [e for e in begun if isinstance(e, SendPart)]
    assert {e.part for e in sent if not e.reserve} == {0, 1} - set(owned_by(A))
    reserves = [SendPart(AT, p, OWNERS[p][1], True) for p in owned_by(A)]
    assert [e for e in sent if e.reserve] == reserves
    for part in range(2):
        owner = OWNERS[part][0]
        if owner == A:
            voice.tell(PartArrived(B, AT, part, commitment(B).parts_root))
            [work] = [
                e
                for e in voice.tell(PartArrived(C, AT, part, commitment(C).parts_root))
                if isinstance(e, Aggregate)
            ]
            assert work.inputs == ((A, 100), (B, 100), (C, 100))
            last = voice.tell(Aggregated(AT, part, RESULTS[part].digest, ()))
            assert SendResult(AT, part, RESULTS[part], (B, C)) in last
        else:
            last = voice.tell(ResultArrived(owner, AT, part, RESULTS[part]))
    assert kinds(last)[-2:] == [Persist, Publish]  # durable before it is said
    assert published(last) == [ResultVote(AT, digest(SEAT), RESULTS)]
    [step] = voice.hear(B, ResultVote(AT, digest(SEAT), RESULTS))
    assert step == Step(AT, Cid(RUN.genesis), RESULTS, (B,))
    assert published(voice.tell(Stepped(AT, NEXT))) == [StepNotice(AT, NEXT)]
    paid = record(trainers=(Credit(A, 100, 1),))
    [forget] = voice.tell(Adopted(paid))
    assert isinstance(forget, Persist)
    assert forget.value is None
    assert voice.machine.phase is Phase.WAITING


def test_who_has_a_result_last_still_votes_and_notes() -> None:
    voice = exchanging()
    for name in (B, C):
        effects = voice.hear(name, ResultVote(AT, digest(SEAT), RESULTS))
    assert kinds(effects) == [Step]
    told = published(voice.tell(Stepped(AT, NEXT)))
    assert told == [ResultVote(AT, digest(SEAT), RESULTS), StepNotice(AT, NEXT)]


def test_a_restarted_trainer_does_not_vote_again_in_the_attempt() -> None:
    key = AT.run + (1).to_bytes(8, "big") + (0).to_bytes(4, "big")
    voice = exchanging(voted=frozenset([key]))
    effects: list[Any] = []
    for part in range(2):
        owner = OWNERS[part][0]
        if owner == A:
            voice.machine.phase = Phase.EXCHANGING
            effects += voice.tell(Aggregated(AT, part, RESULTS[part].digest, ()))
        else:
            effects += voice.tell(ResultArrived(owner, AT, part, RESULTS[part]))
    assert published(effects) == []
    assert "already voted before a restart" in [e.event for e in effects if isinstance(e, Note)]


def test_a_part_that_is_not_what_was_committed_is_refused_and_blamed() -> None:
    voice = exchanging()
    effects = voice.tell(PartArrived(B, AT, 0, Digest(b"x" * 32)))
    assert reasons(effects) == ["part 0 does not match its commitment"]


def test_two_commitments_and_two_votes_are_blamed() -> None:
    voice = seated()
    voice.hear(B, commitment(B))
    assert voice.hear(B, commitment(B)) == []
    [first] = reasons(voice.hear(B, replace(commitment(B), samples=99)))
    assert first == "two commitments in one attempt"
    voice.hear(B, ResultVote(AT, digest(SEAT), RESULTS))
    [second] = reasons(voice.hear(B, ResultVote(AT, digest(SEAT), RESULTS[::-1])))
    assert second == "two result votes in one attempt"


def test_the_exchange_begins_without_who_is_late_and_skips_an_owner_that_is_gone() -> None:
    voice = seated()
    voice.tell(Trained(AT, commitment(A)))
    voice.hear(B, commitment(B))
    effects = voice.tell(TimerFired("commit", AT))
    assert "2 committed" in [e.detail for e in effects if isinstance(e, Note)]
    assert voice.hear(C, commitment(C)) == []
    assert looked_to(voice) == [next(o for o in owners(p) if o != C) for p in range(2)]


def owners(part: int) -> tuple[Address, ...]:
    return OWNERS[part]


def looked_to(voice: Voice) -> list[Address]:
    return [part.owners.now for part in voice.machine._exchange.parts]


def result_votes(*voters: Address) -> list[tuple[Address, ResultVote]]:
    return [(voter, ResultVote(AT, digest(SEAT), RESULTS)) for voter in voters]


def test_an_owners_own_input_is_kept_in_reserve_until_our_turn() -> None:
    first, second, third = owners(0)
    voice = exchanging(second)
    assert voice.tell(PartArrived(first, AT, 0, commitment(first).parts_root)) == []
    assert voice.tell(PartArrived(third, AT, 0, commitment(third).parts_root)) == []
    [work] = [e for e in voice.tell(PeerDown(first)) if isinstance(e, Aggregate) and e.part == 0]
    assert {who for who, _ in work.inputs} == {A, B, C}


def test_owners_are_passed_over_together_and_not_waited_for_again() -> None:
    """When an owner had its time for inputs and for the result, whatever has come from it."""
    first, second, third = owners(0)
    times = RUN.deadlines
    for me in (second, third):
        voice = exchanging(me)
        voice.machine._exchange.parts[1].result = RESULTS[1]
        voice.now = times.owner_s + times.inputs_s - 0.1
        [again] = [e for e in voice.tell(TimerFired("owner", AT)) if isinstance(e, SetTimer)]
        assert again.at_s == times.owner_s + times.inputs_s
        assert looked_to(voice)[0] == first
        voice.now = again.at_s
        effects = voice.tell(TimerFired("owner", AT))
        assert looked_to(voice)[0] == second
        if me == second:
            root = commitment(third).parts_root
            [work] = [
                e for e in voice.tell(PartArrived(third, AT, 0, root)) if isinstance(e, Aggregate)
            ]
            assert {who for who, _ in work.inputs} == {second, third}
        else:
            assert SendPart(AT, 0, second) in effects


def test_a_result_that_an_owner_left_here_goes_to_who_takes_the_part_over() -> None:
    first, second, third = owners(0)
    voice = exchanging(third)
    voice.tell(ResultArrived(first, AT, 0, RESULTS[0]))
    assert SendResult(AT, 0, RESULTS[0], (second,)) in voice.tell(PeerDown(first))
    assert SendResult not in kinds(voice.tell(PeerDown(first))), "once"


def test_who_takes_a_part_over_takes_and_hands_out_what_its_owner_left_with_others() -> None:
    first, second, third = owners(0)
    voice = exchanging(second)
    part = voice.machine._exchange.parts[0]
    voice.tell(ResultArrived(third, AT, 0, RESULTS[0]))
    assert part.result is None, "it is not our turn"
    voice.tell(PeerDown(first))
    assert part.result == RESULTS[0]
    voice = exchanging(second)
    voice.tell(ResultArrived(first, AT, 0, RESULTS[0]))
    voice.tell(PeerDown(first))
    asked = PartArrived(third, AT, 0, commitment(third).parts_root)
    assert voice.tell(asked) == [SendResult(AT, 0, RESULTS[0], (third,))]
    assert voice.tell(asked) == [], "once"


def test_nobody_decides_a_part_whose_owner_did_not_commit() -> None:
    """It cannot have left a result with anybody."""
    _, second, third = owners(0)
    voice = seated(second)
    voice.tell(Trained(AT, commitment(second)))
    voice.hear(third, commitment(third))
    voice.tell(TimerFired("commit", AT))
    assert looked_to(voice)[0] == second
    voice.tell(ResultArrived(third, AT, 0, PartResult(Digest(b"f" * 32), 0b1)))
    assert voice.machine._exchange.parts[0].result is None


def test_who_was_silent_in_the_attempt_before_is_not_waited_for() -> None:
    again = replace(SEAT, attempt=replace(AT, number=1))
    for voters, phase in ((B,), Phase.EXCHANGING), ((), Phase.COMMITTED):
        voice = exchanging()
        for owner, part in ((owners(p)[0], p) for p in range(2)):
            voice.tell(ResultArrived(owner, AT, part, RESULTS[part]))
            voice.tell(Aggregated(AT, part, RESULTS[part].digest, ()))
        for voter, vote in result_votes(*voters):
            voice.hear(voter, vote)
        assert A in voice.machine._exchange.votes.votes(AT.number)
        voice.hear(leader(SEED, 1, RUN.validators), again)
        for validator in VALIDATORS:
            voice.hear(validator, SeatVote(again.attempt, digest(again)))
        voice.hear(B, commitment(B, again.attempt))
        assert voice.machine.phase is phase, "C is waited for unless a majority voted without it"


def test_a_result_counts_from_the_owner_whose_turn_it_is() -> None:
    voice = exchanging()
    part = next(p for p in range(2) if OWNERS[p][0] != A)
    first, second, third = OWNERS[part]
    other = third if second == A else second
    false = PartResult(Digest(b"f" * 32), 0b111)
    assert voice.tell(ResultArrived(other, AT, part, false)) == []
    voice.tell(ResultArrived(first, AT, part, RESULTS[part]))
    assert voice.machine._exchange.parts[part].result == RESULTS[part]
    outside = PartResult(Digest(b"f" * 32), 0b1000)
    assert reasons(voice.tell(ResultArrived(first, AT, part, outside))) == [
        "a mask outside the seat"
    ]


def test_a_new_attempt_uses_the_update_that_was_trained() -> None:
    voice = seated()
    voice.tell(Trained(AT, commitment(A)))
    again = replace(SEAT, attempt=replace(AT, number=1))
    voice.hear(leader(SEED, 1, RUN.validators), again)
    effects: list[Any] = []
    for validator in VALIDATORS:
        effects += voice.hear(validator, SeatVote(again.attempt, digest(again)))
    assert Train not in kinds(effects)
    assert published(effects) == [commitment(A, again.attempt)]


def test_a_trainer_that_cannot_train_says_why_and_goes_on_without_an_input() -> None:
    voice = seated()
    [note] = voice.tell(TrainFailed(AT, "no key"))
    assert note.detail == "no key"
    voice.hear(B, commitment(B))
    voice.hear(C, commitment(C))
    effects = voice.tell(TimerFired("commit", AT))
    assert SendPart not in kinds(effects)
    assert voice.machine.phase is Phase.EXCHANGING


# the committee ----------------------------------------------------------------------------------
def committee(me: Address, promises: Promises | None = None) -> Voice:
    return Voice(CommitteeMachine(RUN, me, HeadMachine(RUN), promises))


def opened(me: Address = LEADER) -> Voice:
    voice = committee(me)
    voice.tell(MembershipChanged((A, B, C), (0, 0, 0)))
    if me != LEADER:
        voice.hear(LEADER, SEAT)
    voice.hear(OTHER if me == LEADER else LEADER, VOTE)
    assert voice.machine.stage is Stage.OPEN
    return voice


def audited(me: Address = LEADER) -> tuple[Voice, list[Any]]:
    voice = opened(me)
    for name in (A, B, C):
        voice.hear(name, commitment(name))
    effects: list[Any] = []
    for name in (A, B):
        effects = voice.hear(name, ResultVote(AT, digest(SEAT), RESULTS))
    [audit] = effects
    assert isinstance(audit, Audit)
    voice.hear(C, ResultVote(AT, digest(SEAT), RESULTS))
    effects = voice.tell(Audited(AT, NEXT))
    for name in (A, B, C):
        effects += voice.hear(name, StepNotice(AT, NEXT))
    return voice, effects


def outcome_of(effects: list[Any]) -> Outcome:
    [found] = [m for m in published(effects) if isinstance(m, Outcome)]
    return found


def test_the_leader_promises_before_it_proposes() -> None:
    voice = committee(LEADER)
    effects = voice.tell(MembershipChanged((A, B, C), (0, 0, 0)))
    assert kinds(effects)[:4] == [SetTimer, Persist, Publish, Publish]
    assert published(effects) == [SEAT, VOTE]
    kept = decode(effects[1].value, Promises)
    assert kept.seat_votes == (0,)


def test_too_few_trainers_open_nothing() -> None:
    voice = committee(LEADER)
    assert voice.tell(MembershipChanged((A,), (0,))) == []
    assert voice.machine.stage is Stage.IDLE


def test_a_seat_with_strangers_gets_its_vote_when_they_are_known() -> None:
    voice = committee(OTHER)
    voice.tell(MembershipChanged((A, B), (0, 0)))
    assert published(voice.hear(LEADER, SEAT)) == []
    assert published(voice.tell(MembershipChanged((A, B, C), (0, 0, 0)))) == [VOTE]


def test_shards_that_the_seed_did_not_draw_get_no_vote() -> None:
    voice = committee(OTHER)
    voice.tell(MembershipChanged((A, B, C), (0, 0, 0)))
    easy = replace(SEAT.members[0], shards=(0, 1, 2, 3))
    effects = voice.hear(LEADER, replace(SEAT, members=(easy, *SEAT.members[1:])))
    assert published(effects) == []
    assert reasons(effects) == ["shards not as the seed draws them"]


def test_a_second_seat_gets_no_second_vote() -> None:
    voice = committee(OTHER)
    voice.tell(MembershipChanged((A, B, C), (0, 0, 0)))
    assert published(voice.hear(LEADER, SEAT)) == [VOTE]
    fewer = assign_open([A, B], RUN.shard_count, SEED)[0]
    effects = voice.hear(LEADER, replace(SEAT, members=fewer))
    assert published(effects) == []
    assert reasons(effects) == ["two seats in one attempt"]


def test_a_restart_gives_no_second_seat_vote() -> None:
    voice = committee(OTHER)
    voice.tell(MembershipChanged((A, B, C), (0, 0, 0)))
    kept = [e for e in voice.hear(LEADER, SEAT) if isinstance(e, Persist)][-1]
    again = committee(OTHER, decode(kept.value, Promises))
    again.tell(MembershipChanged((A, B, C), (0, 0, 0)))
    fewer = assign_open([A, B], RUN.shard_count, SEED)[0]
    assert published(again.hear(LEADER, replace(SEAT, members=fewer))) == []


def test_a_whole_round_of_a_leader() -> None:
    voice, effects = audited()
    outcome = outcome_of(effects)
    assert kinds(effects)[-3:] == [Persist, Publish, Publish]
    assert [c.account for c in outcome.record.trainers] == [A, B, C]
    assert [c.account for c in outcome.record.validators] == VALIDATORS
    done = voice.hear(OTHER, OutcomeVote(AT, digest(outcome.record)))
    assert kinds(done) == [Persist, Attest]
    assert done[1].record == outcome.record
    voice.machine.head.handle(Adopted(outcome.record), 0.0)  # the node tells the head first
    after = voice.tell(Adopted(outcome.record))
    assert after[0] == Persist("promises", RUN.run, None)
    assert voice.machine.attempt.round == 2


def test_a_validator_votes_only_for_what_its_own_evidence_shows() -> None:
    _, effects = audited()
    outcome = outcome_of(effects)
    voice, _ = audited(OTHER)
    greedy = replace(outcome.record, trainers=(replace(outcome.record.trainers[0], amount=10**20),))
    assert published(voice.hear(LEADER, Outcome(AT, greedy))) == []
    voice, _ = audited(OTHER)
    votes = published(voice.hear(LEADER, outcome))
    assert votes == [OutcomeVote(AT, digest(outcome.record))]
    two = voice.hear(LEADER, Outcome(AT, greedy))
    assert reasons(two) == ["two outcomes in one attempt"]
    assert published(two) == []


def test_an_outcome_that_comes_before_the_evidence_waits_for_it() -> None:
    _, effects = audited()
    outcome = outcome_of(effects)
    voice = opened(OTHER)
    assert published(voice.hear(LEADER, outcome)) == []
    for name in (A, B, C):
        voice.hear(name, ResultVote(AT, digest(SEAT), RESULTS))
        voice.hear(name, StepNotice(AT, NEXT))
    audits = [e for name in (A, B, C) for e in voice.hear(name, commitment(name))]
    assert kinds(audits) == [Audit]  # with the last commitment, not before it could succeed
    assert published(voice.tell(Audited(AT, NEXT))) == [OutcomeVote(AT, digest(outcome.record))]


def test_who_did_not_commit_vote_or_step_is_not_credited() -> None:
    voice = opened()
    for name in (A, B, C):
        voice.hear(name, commitment(name))
    for name in (A, B):
        voice.hear(name, ResultVote(AT, digest(SEAT), RESULTS))
    voice.tell(Audited(AT, NEXT))
    for name in (A, C):  # B voted and did not step, C stepped and did not vote
        assert published(voice.hear(name, StepNotice(AT, NEXT))) == []
    effects = voice.tell(TimerFired("notices", AT))
    assert [c.account for c in outcome_of(effects).record.trainers] == [A]


def test_who_holds_another_checkpoint_by_its_own_word_is_not_waited_for() -> None:
    voice = opened()
    for name in (A, B, C):
        voice.hear(name, commitment(name))
        voice.hear(name, ResultVote(AT, digest(SEAT), RESULTS))
    voice.tell(Audited(AT, NEXT))
    assert published(voice.hear(A, StepNotice(AT, NEXT))) == []
    assert published(voice.hear(B, StepNotice(AT, Cid(RUN.genesis)))) == []
    effects = voice.hear(C, StepNotice(AT, NEXT))
    assert [c.account for c in outcome_of(effects).record.trainers] == [A, C]


def test_a_failed_audit_proposes_nothing_and_gives_the_attempt_up_at_once() -> None:
    voice = opened()
    for name in (A, B, C):
        voice.hear(name, commitment(name))
        voice.hear(name, ResultVote(AT, digest(SEAT), RESULTS))
        voice.hear(name, StepNotice(AT, NEXT))
    effects = voice.tell(Audited(AT, Cid(""), (), "part 0 does not follow"))
    assert isinstance(effects[0], Note)
    assert effects[0].event == "audit failed"
    assert published(effects) == [Timeout(AT, ())]
    assert published(voice.tell(TimerFired("notices", AT))) == []


def test_an_attempt_that_can_have_no_majority_any_more_is_given_up_at_once() -> None:
    voice = opened()
    assert "attempt timed out" not in events(voice.tell(PeerDown(C)))
    [(_, vote)] = result_votes(A)
    assert "attempt timed out" not in events(voice.hear(A, vote))
    other = replace(vote, results=RESULTS[::-1])
    assert "attempt timed out" in events(voice.hear(B, other))
    assert voice.hear(C, vote) == [], "given up once"


def test_a_leader_seats_who_comes_where_there_were_too_few() -> None:
    voice = committee(LEADER)
    voice.tell(MembershipChanged((A, B), (0, 0)))
    voice.tell(PeerDown(B))
    voice.tell(TimerFired("attempt", AT))
    number = next(n for n in (1, 2) if leader(SEED, n, RUN.validators) == LEADER)
    effects: list[Any] = []
    for validator in VALIDATORS:
        effects += voice.hear(validator, Timeout(replace(AT, number=number - 1), ()))
    assert "too few trainers" in events(effects)
    voice.machine._down.discard(B)
    [seat] = [
        m
        for m in published(voice.tell(MembershipChanged((A, B), (0, 0))))
        if isinstance(m, SeatProposal)
    ]
    assert [m.trainer for m in seat.members] == [A, B]


def events(effects: list[Any]) -> list[str]:
    return [e.event for e in effects if isinstance(e, Note)]


def test_only_the_attempts_own_timer_ends_it() -> None:
    voice = opened()
    for name in ("repair", "commit", "owner", "inputs", "something"):
        assert voice.tell(TimerFired(name, AT)) == []
    assert Timeout(AT, ()) in published(voice.tell(TimerFired("attempt", AT)))


def test_a_quorum_of_time_outs_opens_the_next_attempt() -> None:
    voice = opened()
    assert published(voice.tell(TimerFired("attempt", AT))) == [Timeout(AT, ())]
    assert voice.machine.number == 0
    voice.hear(OTHER, Timeout(AT, ()))
    assert voice.machine.number == 1
    late = voice.hear(LEADER, SEAT)
    assert published(late) == []  # attempt 0 is given up for good


def test_what_was_prepared_is_carried_on_and_nothing_else_is_voted_for() -> None:
    voice, effects = audited()
    outcome = outcome_of(effects)
    voice.hear(OTHER, OutcomeVote(AT, digest(outcome.record)))
    [told] = published(voice.tell(TimerFired("attempt", AT)))
    assert told == Timeout(AT, (outcome,))
    following = leader(SEED, 1, RUN.validators)
    effects = voice.hear(OTHER, Timeout(AT, ()))
    second = replace(AT, number=1)
    if following == LEADER:
        assert Outcome(second, outcome.record) in published(effects)
    else:
        greedy = replace(outcome.record, trainers=())
        assert published(voice.hear(following, Outcome(second, greedy))) == []


def test_a_vote_is_repeated_after_a_restart_without_the_evidence() -> None:
    """Memory is gone, the promise is not: what we voted for once we can vote for again."""
    voice, _ = audited(OTHER)
    outcome = outcome_of(audited()[1])
    kept = [e for e in voice.hear(LEADER, outcome) if isinstance(e, Persist)][-1]
    again = committee(OTHER, decode(kept.value, Promises))
    again.tell(Started())
    again.tell(TimerFired("attempt", AT))
    effects = again.hear(LEADER, Timeout(AT, (outcome,)))
    second = replace(AT, number=1)
    if leader(SEED, 1, RUN.validators) != OTHER:
        again.hear(LEADER, Timeout(AT, (outcome,)))
        effects = again.hear(LEADER, Outcome(second, outcome.record))
    assert OutcomeVote(second, digest(outcome.record)) in published(effects)


def test_a_prepared_record_is_attested_again_after_a_restart_and_may_still_time_out() -> None:
    voice, effects = audited()
    outcome = outcome_of(effects)
    [kept, attest] = voice.hear(OTHER, OutcomeVote(AT, digest(outcome.record)))
    again = committee(LEADER, decode(kept.value, Promises))
    assert again.tell(Started())[0] == attest
    assert Timeout(AT, (outcome,)) in published(again.tell(TimerFired("attempt", AT)))


def test_who_was_not_paid_for_a_round_says_that_it_holds_its_checkpoint() -> None:
    voice = Voice(TrainerMachine(RUN, A, HeadMachine(RUN)))
    told = record(1, trainers=(Credit(B, 100, 1),))
    assert published(voice.tell(Adopted(told))) == [StepNotice(told.attempt, Cid(told.checkpoint))]
    assert published(voice.tell(Adopted(record(2, trainers=(Credit(A, 100, 1),))))) == []


def test_a_leader_waits_for_nobody_who_does_not_hold_the_checkpoint() -> None:
    """Seated are those whom the last round paid, and who has said that it holds the checkpoint."""
    first = record(1, trainers=(Credit(A, 100, 1), Credit(B, 100, 1)))
    at = replace(AT, round=2)
    head = HeadMachine(RUN, first)
    seed = round_seed(RUN.seed, 2, digest(first))
    me = leader(seed, 0, RUN.validators)
    notice = StepNotice(first.attempt, Cid(first.checkpoint))
    for said, expected in (
        (notice, [A, B, C]),
        (replace(notice, checkpoint=NEXT), [A, B]),
        (replace(notice, attempt=at), [A, B]),
    ):
        voice = Voice(CommitteeMachine(RUN, me, head))
        voice.machine._trainers = dict.fromkeys((A, B, C), 0)
        voice.hear(C, said)
        [seat] = [
            m
            for m in published(voice.tell(MembershipChanged((A, B, C), (0, 0, 0))))
            if isinstance(m, SeatProposal)
        ]
        assert [m.trainer for m in seat.members] == expected
    voice = Voice(CommitteeMachine(RUN, me, head))
    [seat, *_] = [
        m
        for m in published(voice.tell(MembershipChanged((B, C), (0, 0))))
        if isinstance(m, SeatProposal)
    ]
    assert [m.trainer for m in seat.members] == [B, C], "too few would be left"


@pytest.mark.parametrize(("behind", "seated"), [(0, True), (2, True), (3, False)])
def test_who_takes_longer_than_a_round_to_fetch_a_checkpoint_is_seated_all_the_same(
    behind: int, seated: bool
) -> None:
    heads = [record(n, trainers=(Credit(A, 100, 1), Credit(B, 100, 1))) for n in range(1, 5)]
    head = HeadMachine(RUN, heads[0])
    seed = round_seed(RUN.seed, 5, digest(heads[-1]))
    voice = Voice(CommitteeMachine(RUN, leader(seed, 0, RUN.validators), head))
    for told in heads[1:]:
        head.handle(Adopted(told), 0.0)
        voice.tell(Adopted(told))
    fetched = heads[-1 - behind]
    voice.machine._trainers = dict.fromkeys((A, B, C), 0)
    voice.hear(C, StepNotice(fetched.attempt, Cid(fetched.checkpoint)))
    told = published(voice.tell(MembershipChanged((A, B, C), (0, 0, 0))))
    [seat] = [message for message in told if isinstance(message, SeatProposal)]
    assert [m.trainer for m in seat.members] == [A, B, *([C] if seated else [])]


def test_what_only_validators_may_say_is_blamed_on_others() -> None:
    voice = opened()
    for message in (SEAT, VOTE, Timeout(AT, ()), OutcomeVote(AT, Digest(bytes(32)))):
        [reason] = reasons(voice.hear(A, message))
        assert reason.endswith("from somebody who is no validator")


def test_an_outcome_or_time_out_that_shows_another_round_is_blamed() -> None:
    voice = opened(OTHER)
    assert reasons(voice.hear(LEADER, Outcome(AT, record(2)))) == ["an outcome of another round"]
    told = Timeout(AT, (Outcome(AT, record(2)),))
    assert reasons(voice.hear(LEADER, told)) == ["a time-out tells another round"]


def test_promises_of_a_thousand_attempts_still_fit_on_disk() -> None:
    """Each attempt is voted in and given up; only what may still be voted on must be kept."""
    voice = committee(OTHER)
    voice.tell(MembershipChanged((A, B, C), (0, 0, 0)))
    kept = b""
    for number in range(1_001):
        at = replace(AT, number=number)
        if leader(SEED, number, RUN.validators) == LEADER:
            voice.hear(LEADER, replace(SEAT, attempt=at))
        effects = voice.tell(TimerFired("attempt", at)) + voice.hear(LEADER, Timeout(at, ()))
        kept = next((e.value for e in reversed(effects) if isinstance(e, Persist)), kept)
    assert voice.machine.number == 1_000
    assert decode(kept, Promises).seat_votes == ()
    assert "too many attempts" in [e.event for e in effects if isinstance(e, Note)]
