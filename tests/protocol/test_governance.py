"""Proposals and ballots on their way to the chain: who acts when, and what no flood may stop."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eigen.protocol import limits
from eigen.protocol.governance import (
    ExecuteProposal,
    Governance,
    QueueProposal,
    RelayBallots,
    Stage,
)
from eigen.protocol.messages import Proposal, ProposedCall, SignedBallot
from eigen.protocol.types import Address

RELAYERS = [Address(bytes([i + 1]) * 20) for i in range(3)]
BATCH_S, TURN_S = 5.0, 10.0


def proposal(seed: int) -> Proposal:
    call = ProposedCall(RELAYERS[0], 0, seed.to_bytes(4, "big"))
    return Proposal((call,), "do it")


def ballot(chain_id: int, voter: int) -> SignedBallot:
    name = Address(voter.to_bytes(20, "big"))
    return SignedBallot(chain_id.to_bytes(32, "big"), 1, name, 0, bytes(65))


def machine(me: Address = RELAYERS[0], *, relays: bool = True) -> Governance:
    return Weighed(me, relays, BATCH_S, TURN_S)


class Weighed(Governance):
    """Everybody has votes in everything."""

    def add_ballot(self, ballot: SignedBallot, now: float) -> bool:
        held = super().add_ballot(ballot, now)
        self.weigh(int.from_bytes(ballot.proposal, "big"), ballot.voter, 1)
        return held


def with_proposal(me: Address = RELAYERS[0]) -> tuple[Governance, int]:
    known = machine(me)
    assert known.add_proposal(proposal(1), RELAYERS[1], 77)
    return known, 77


def test_a_ballot_counts_once_and_only_for_what_is_known() -> None:
    known, run = with_proposal()
    assert not known.add_proposal(proposal(1), RELAYERS[2], 77)
    assert known.add_ballot(ballot(77, 1), 0.0)
    assert not known.add_ballot(replace(ballot(77, 1), support=0), 1.0)
    assert not known.add_ballot(ballot(78, 1), 0.0)
    assert len(known.proposals[run].ballots) == 1


def test_ballots_wait_for_company_and_for_the_vote_to_open() -> None:
    known, run = with_proposal()
    known.add_ballot(ballot(77, 1), 0.0)
    assert known.due([], 1_000.0) == []  # not on chain
    assert known.saw_stage(run, Stage.PENDING, 1_000.0)
    assert known.due([], 2_000.0) == []
    assert known.saw_stage(run, Stage.ACTIVE, 2_000.0)
    assert not known.saw_stage(run, Stage.ACTIVE, 2_001.0)
    assert known.due([], 2_000.0 + BATCH_S - 0.1) == []
    assert known.due([], 2_000.0 + BATCH_S) == [RelayBallots(run, (ballot(77, 1),))]
    known.saw_counted(run, [ballot(77, 1).voter])
    assert known.due([], 9_000.0) == []


def test_ballots_without_votes_are_not_paid_for() -> None:
    """Anybody can sign thousands of them with fresh keys."""
    known = Governance(RELAYERS[0], True, BATCH_S, TURN_S)
    known.add_proposal(proposal(1), RELAYERS[1], 77)
    known.saw_stage(77, Stage.ACTIVE, 0.0)
    for voter in range(1, 4):
        assert known.add_ballot(ballot(77, voter), 0.0)
    assert known.due([], 100.0) == []  # nothing is known of them yet
    names = known.unweighed(77)
    assert len(names) == 3
    for voter, votes in zip(names, (0, 5, 0), strict=True):
        known.weigh(77, voter, votes)
    assert known.unweighed(77) == []
    assert known.due([], 100.0) == [RelayBallots(77, (ballot(77, 2),))]
    assert not known.add_ballot(replace(ballot(77, 1), nonce=9), 1.0)
    assert len(known.proposals[77].ballots) == 1


def test_a_ballot_with_a_later_nonce_takes_the_place_of_one_that_is_not_counted() -> None:
    known, proposal_id = with_proposal()
    known.saw_stage(proposal_id, Stage.ACTIVE, 0.0)
    assert known.add_ballot(ballot(77, 1), 0.0)
    later = replace(ballot(77, 1), nonce=1)
    assert known.add_ballot(later, 1.0)
    assert not known.add_ballot(ballot(77, 1), 2.0)
    assert known.due([], 100.0) == [RelayBallots(77, (later,))]
    known.saw_counted(77, [later.voter])
    assert not known.add_ballot(replace(later, nonce=2), 3.0)


@pytest.mark.parametrize(
    ("stage", "kind"), [(Stage.SUCCEEDED, QueueProposal), (Stage.READY, ExecuteProposal)]
)
def test_relayers_take_turns(stage: Stage, kind: type) -> None:
    first_s = {}
    for me in RELAYERS:
        known, run = with_proposal(me)
        known.saw_stage(run, stage, 0.0)
        times = [t for t in range(60) if known.due(RELAYERS, float(t)) == [kind(run)]]
        first_s[me] = times[0]
        assert times == list(range(times[0], 60))  # and go on until the chain has moved
    assert sorted(first_s.values()) == [0, 10, 20]


def test_who_does_not_relay_does_nothing() -> None:
    idle = machine(relays=False)
    idle.add_proposal(proposal(1), RELAYERS[1], 77)
    idle.saw_stage(77, Stage.SUCCEEDED, 0.0)
    assert idle.due(RELAYERS, 1_000.0) == []


def test_ballots_that_never_count_do_not_hold_the_others_back() -> None:
    """The first 64 voters' ballots are worthless; everybody else's still reaches the chain."""
    known, run = with_proposal()
    known.saw_stage(run, Stage.ACTIVE, 0.0)
    count = 3 * limits.BALLOTS_PER_RELAY_MAX
    for voter in range(count):
        known.add_ballot(ballot(77, voter), 0.0)
    handed: set[Address] = set()
    for tick in range(3):
        [action] = known.due([], 100.0 + tick)
        assert isinstance(action, RelayBallots)
        assert len(action.ballots) == limits.BALLOTS_PER_RELAY_MAX
        voters = {b.voter for b in action.ballots}
        handed |= voters
        good = [v for v in voters if int.from_bytes(v, "big") >= limits.BALLOTS_PER_RELAY_MAX]
        known.saw_counted(run, good)
    assert len(handed) == count
    [action] = known.due([], 200.0)
    assert {int.from_bytes(b.voter, "big") for b in action.ballots} == set(range(64))


def test_ballots_of_a_proposal_are_bounded() -> None:
    known, run = with_proposal()
    taken = [known.add_ballot(ballot(77, v), 0.0) for v in range(4_100)]
    assert taken == [True] * limits.BALLOTS_PER_PROPOSAL_MAX + [False] * 4
    assert len(known.proposals[run].ballots) == limits.BALLOTS_PER_PROPOSAL_MAX


def test_a_flood_of_proposals_keeps_no_honest_one_out() -> None:
    """One name floods; its own oldest go. What is on chain, and what is ours, stays."""
    known = machine()
    flooder, honest = RELAYERS[2], RELAYERS[1]
    known.add_proposal(proposal(1), RELAYERS[0], 1)  # ours, not on chain yet
    known.add_proposal(proposal(2), honest, 2)
    known.saw_stage(2, Stage.ACTIVE, 0.0)
    for seed in range(10, 10 + 2 * limits.PROPOSALS_MAX):
        assert known.add_proposal(proposal(seed), flooder, seed)
    assert known.add_proposal(proposal(3), honest, 3)
    assert len(known.proposals) == limits.PROPOSALS_MAX
    assert all(id_ in known.proposals for id_ in (1, 2, 3))
    gone = 10
    assert gone not in known.proposals
    assert not known.saw_stage(gone, Stage.ACTIVE, 1.0)  # word of a forgotten one is no error
    known.saw_counted(gone, [flooder])


def test_what_has_ended_makes_room_and_what_is_open_does_not() -> None:
    known = machine()
    for seed in range(limits.PROPOSALS_MAX):
        known.add_proposal(proposal(seed), RELAYERS[1], seed + 1)
        known.saw_stage(seed + 1, Stage.ACTIVE, 0.0)
    assert not known.add_proposal(proposal(1_000), RELAYERS[1], 1_001)
    known.saw_stage(6, Stage.EXECUTED, 1.0)
    assert known.add_proposal(proposal(1_000), RELAYERS[1], 1_001)
    assert 6 not in known.proposals


events = st.lists(
    st.one_of(
        st.tuples(st.just("ballot"), st.integers(1, 3), st.integers(0, 5)),
        st.tuples(st.just("stage"), st.integers(1, 3), st.sampled_from(list(Stage))),
        st.tuples(st.just("counted"), st.integers(1, 3), st.integers(0, 5)),
        st.tuples(st.just("wait"), st.integers(0, 20), st.none()),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(events)
def test_actions_always_fit_the_stage(story: list[tuple[str, int, object]]) -> None:
    known = machine()
    for seed in (1, 2, 3):
        known.add_proposal(proposal(seed), RELAYERS[1], seed)
    now = 0.0
    for what, which, detail in story:
        run = which if what != "wait" else None
        if what == "ballot" and isinstance(detail, int):
            known.add_ballot(ballot(which, detail), now)
        elif what == "stage" and isinstance(detail, Stage) and run:
            known.saw_stage(run, detail, now)
        elif what == "counted" and isinstance(detail, int) and run:
            known.saw_counted(run, [ballot(which, detail).voter])
        else:
            now += which
        for action in known.due(RELAYERS, now):
            of = known.proposals[action.proposal]
            match action:
                case RelayBallots(ballots=ballots):
                    assert of.stage is Stage.ACTIVE
                    assert ballots
                    assert not {b.voter for b in ballots} & of.counted
                case QueueProposal():
                    assert of.stage is Stage.SUCCEEDED
                case ExecuteProposal():
                    assert of.stage is Stage.READY
