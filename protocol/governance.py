"""Proposals and ballots: what is known of them, and who brings them to the chain when.

Members sign ballots; any node with the relayer role may carry them, pay the gas, and later queue
and execute the proposal. Relayers take turns in an order that the proposal's id fixes: the next one
acts only when the one before has had its time, so that a transaction is seldom sent twice and
never left undone. It does not know what a chain is; states are told as `Stage`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from eigen.protocol import limits
from eigen.protocol.messages import Proposal, SignedBallot
from eigen.protocol.seat import ranked
from eigen.protocol.types import Address, RunId


class Stage(Enum):
    """Where a proposal stands on chain, as far as relayers care."""

    UNKNOWN = "unknown"
    PENDING = "pending"
    ACTIVE = "active"
    SUCCEEDED = "succeeded"
    QUEUED = "queued"
    READY = "ready"  # queued, and its delay has passed
    EXECUTED = "executed"
    FAILED = "failed"


ENDED = (Stage.EXECUTED, Stage.FAILED)


@dataclass(frozen=True, slots=True)
class RelayBallots:
    """Cast these ballots in one transaction."""

    proposal: int
    ballots: tuple[SignedBallot, ...]


@dataclass(frozen=True, slots=True)
class QueueProposal:
    """Hand a succeeded proposal to the timelock."""

    proposal: int


@dataclass(frozen=True, slots=True)
class ExecuteProposal:
    """Execute a proposal whose delay has passed."""

    proposal: int


Action = RelayBallots | QueueProposal | ExecuteProposal


@dataclass(slots=True)
class KnownProposal:
    """One proposal: what it calls, its ballots, and its state on chain."""

    proposal: Proposal
    proposer: Address
    id: int  # the governor's
    ballots: dict[Address, SignedBallot] = field(default_factory=dict)
    counted: set[Address] = field(default_factory=set)  # voters whom the governor has counted
    weighed: set[Address] = field(default_factory=set)  # voters who have votes in it
    powerless: set[Address] = field(default_factory=set)  # those who have none
    stage: Stage = Stage.UNKNOWN
    since_s: float = 0.0  # when the stage was first seen
    relayed: dict[Address, int] = field(default_factory=dict)  # how often each ballot was handed on
    first_ballot_s: float | None = None  # when the oldest ballot that is not counted came


class Governance:
    """All proposals that this node knows of, by the governor's ids."""

    def __init__(self, me: Address, relays: bool, batch_s: float, turn_s: float) -> None:
        self.me = me
        self.relays = relays
        self.batch_s = batch_s
        self.turn_s = turn_s
        self.proposals: dict[int, KnownProposal] = {}

    def add_proposal(self, proposal: Proposal, proposer: Address, id_: int) -> bool:
        """False where it was known or there are too many open ones.

        Where there are too many, one that has ended makes room, else one that never came on chain;
        of these the proposer with the most loses its oldest, so that nobody crowds others out.
        """
        if id_ in self.proposals:
            return False
        if len(self.proposals) >= limits.PROPOSALS_MAX:
            oldest = self._dispensable()
            if oldest is None:
                return False
            del self.proposals[oldest]
        self.proposals[id_] = KnownProposal(proposal, proposer, id_)
        return True

    def _dispensable(self) -> int | None:
        for id_, known in self.proposals.items():
            if known.stage in ENDED:
                return id_
        waiting = [(id_, k) for id_, k in self.proposals.items() if k.stage is Stage.UNKNOWN]
        count = Counter(known.proposer for _, known in waiting if known.proposer != self.me)
        if not count:
            return None
        [(crowd, _)] = count.most_common(1)
        return next(id_ for id_, known in waiting if known.proposer == crowd)

    def forget(self, id_: int) -> None:
        """The chain refused a proposal before it was there."""
        self.proposals.pop(id_, None)

    def add_ballot(self, ballot: SignedBallot, now: float) -> bool:
        """Hold a ballot whose signature was verified. False for an unknown proposal or a repeat.

        A ballot with a later nonce takes the place of the voter's earlier one, unless that one is
        counted: the nonce of the earlier one went with a ballot on another proposal.
        """
        known = self.proposals.get(int.from_bytes(ballot.proposal, "big"))
        if known is None or ballot.voter in known.counted | known.powerless:
            return False
        held = known.ballots.get(ballot.voter)
        if held is None and len(known.ballots) >= limits.BALLOTS_PER_PROPOSAL_MAX:
            return False
        if held is not None and held.nonce >= ballot.nonce:
            return False
        known.ballots[ballot.voter] = ballot
        known.relayed.pop(ballot.voter, None)
        if known.first_ballot_s is None:
            known.first_ballot_s = now
        return True

    def saw_stage(self, id_: int, stage: Stage, now: float) -> bool:
        """Take in what the chain says. True where it changed; False too where it is forgotten."""
        known = self.proposals.get(id_)
        if known is None or known.stage is stage:
            return False
        known.stage, known.since_s = stage, now
        return True

    def saw_counted(self, id_: int, voters: Sequence[Address]) -> None:
        """These voters' ballots are counted."""
        known = self.proposals.get(id_)
        if known is None:
            return
        known.counted.update(voters)
        if all(voter in known.counted for voter in known.ballots):
            known.first_ballot_s = None

    def unweighed(self, id_: int) -> list[Address]:
        """Voters of whose votes in a proposal nothing is known yet: `weigh` them before `due`."""
        known = self.proposals.get(id_)
        if known is None:
            return []
        return [voter for voter in known.ballots if voter not in known.weighed | known.counted]

    def weigh(self, id_: int, voter: Address, votes: int) -> None:
        """How many votes a voter has in a proposal. A ballot without any is let go.

        It would count nothing and cost its relayer as much as any other: anybody can sign
        thousands of them.
        """
        known = self.proposals.get(id_)
        if known is None:
            return
        if votes:
            known.weighed.add(voter)
            return
        known.ballots.pop(voter, None)
        if len(known.powerless) >= limits.BALLOTS_PER_PROPOSAL_MAX:
            known.powerless.clear()
        known.powerless.add(voter)

    def due(self, relayers: Sequence[Address], now: float) -> list[Action]:
        """What this node should bring to the chain now."""
        if not self.relays:
            return []
        actions: list[Action] = []
        for id_, known in self.proposals.items():
            order = ranked(RunId(id_.to_bytes(32)), b"relay", {*relayers, self.me})
            turn_s = order.index(self.me) * self.turn_s
            if known.stage is Stage.ACTIVE and known.first_ballot_s is not None:
                open_s = max(known.first_ballot_s, known.since_s)
                uncounted = known.weighed - known.counted
                waiting = [b for v, b in known.ballots.items() if v in uncounted]
                if waiting and now >= open_s + self.batch_s + turn_s:
                    # Ballots that the governor will not count must not keep others back.
                    waiting.sort(key=lambda b: known.relayed.get(b.voter, 0))
                    batch = waiting[: limits.BALLOTS_PER_RELAY_MAX]
                    for ballot in batch:
                        known.relayed[ballot.voter] = known.relayed.get(ballot.voter, 0) + 1
                    actions.append(RelayBallots(id_, tuple(batch)))
            elif known.stage is Stage.SUCCEEDED and now >= known.since_s + turn_s:
                actions.append(QueueProposal(id_))
            elif known.stage is Stage.READY and now >= known.since_s + turn_s:
                actions.append(ExecuteProposal(id_))
        return actions
