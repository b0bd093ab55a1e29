"""What a validator knows of the round in progress, and what record it would sign for it.

It gathers and answers; `committee` decides.
"""

from eigen.protocol import limits
from eigen.protocol.context import RunContext
from eigen.protocol.messages import (
    Attempt,
    Commitment,
    PartResult,
    ResultVote,
    RoundRecord,
    SeatMember,
    SeatProposal,
    SeatVote,
    StepNotice,
    digest,
)
from eigen.protocol.seat import assign_open, assign_sealed, credits_of, payouts_after, round_seed
from eigen.protocol.tally import Tally
from eigen.protocol.trainer import majority_result
from eigen.protocol.types import Address, Cid, Digest


class Equivocation(Exception):
    """A peer said two different things in one slot; the message names which."""


class RoundEvidence:
    """Signed statements of one round, by attempt, and what follows from them."""

    def __init__(self, context: RunContext, head: RoundRecord | None, previous: Digest) -> None:
        self.context = context
        self.head = head
        self.round = head.attempt.round + 1 if head else 1
        self.seed = round_seed(context.seed, self.round, previous)
        self._commitments: dict[tuple[int, Address], Commitment] = {}
        self.audited: dict[int, Cid] = {}  # attempt -> the checkpoint of our own audit
        self.results: dict[int, tuple[PartResult, ...]] = {}
        self.seats: dict[int, SeatProposal] = {}  # attempt -> the seat that a quorum opened
        self._proposed: dict[Digest, SeatProposal] = {}
        self._seat_votes: Tally[int, Digest] = Tally()
        self._result_votes: Tally[Attempt, tuple[PartResult, ...]] = Tally()
        self._notices: Tally[int, Cid] = Tally()

    # gathering ------------------------------------------------------------------------------------
    def add_seat(self, seat: SeatProposal) -> None:
        """A seat that its attempt's leader proposed."""
        if len(self._proposed) < limits.ATTEMPTS_REMEMBERED * len(self.context.validators):
            self._proposed[digest(seat)] = seat

    def proposed(self, number: int) -> list[SeatProposal]:
        """Seats proposed for an attempt (more than one if its leader equivocates)."""
        return [s for s in self._proposed.values() if s.attempt.number == number]

    def add_seat_vote(self, voter: Address, vote: SeatVote) -> None:
        """A validator's vote for a seat; its first in an attempt counts."""
        self._seat_votes.add(vote.attempt.number, voter, vote.seat)

    def open_seat(self, number: int) -> bool:
        """Whether a seat has just reached its quorum; it is then in `seats`."""
        if number in self.seats:
            return False
        chosen = self._seat_votes.leading(number, self.context.quorum)
        seat = self._proposed.get(chosen) if chosen else None
        if seat is None or seat.attempt.number != number:
            return False
        self.seats[number] = seat
        return True

    def add_commitment(self, trainer: Address, made: Commitment) -> None:
        """Raises `Equivocation` on a second, different one."""
        if self._commitments.setdefault((made.attempt.number, trainer), made) != made:
            raise Equivocation("two commitments in one attempt")

    def add_result_vote(self, trainer: Address, vote: ResultVote) -> None:
        """Raises `Equivocation` on a second, different one in the same attempt."""
        if not self._result_votes.add(vote.attempt, trainer, vote.results):
            raise Equivocation("two result votes in one attempt")

    def add_notice(self, trainer: Address, notice: StepNotice) -> None:
        """A trainer's word that it holds a checkpoint; its first in an attempt counts."""
        self._notices.add(notice.attempt.number, trainer, notice.checkpoint)

    def commitment(self, number: int, trainer: Address) -> Commitment | None:
        """What a trainer committed to in an attempt."""
        return self._commitments.get((number, trainer))

    # conclusions ----------------------------------------------------------------------------------
    def members(self, number: int) -> tuple[Address, ...]:
        """Trainers of an open seat, in mask order."""
        return tuple(m.trainer for m in self.seats[number].members)

    def agree(self, number: int) -> bool:
        """Whether a majority for the same results has just come about; it is then in `results`."""
        if number in self.results or number not in self.seats:
            return False
        attempt = self.seats[number].attempt
        agreed = majority_result(self._result_votes, attempt, self.members(number))
        if agreed is None or len(agreed) != self.context.part_count:
            return False
        self.results[number] = agreed
        return True

    def agreeing(self, number: int) -> tuple[Address, ...]:
        """Members who voted for the agreed results, in seat order."""
        voted = self._result_votes.voters(self.seats[number].attempt, self.results[number])
        return tuple(m for m in self.members(number) if m in voted)

    def seated_by(self, number: int) -> frozenset[Address]:
        """Validators who voted for the open seat."""
        return self._seat_votes.voters(number, digest(self.seats[number]))

    def creditable(self, number: int) -> frozenset[Address]:
        """Who committed, is in every part, voted for the results and holds the checkpoint."""
        stepped = self._notices.voters(number, self.audited[number])
        mask = ~0
        for result in self.results[number]:
            mask &= result.included
        in_all = (m for i, m in enumerate(self.members(number)) if mask >> i & 1)
        agreeing = set(self.agreeing(number))
        return frozenset(
            m for m in in_all if m in agreeing and m in stepped and self.commitment(number, m)
        )

    def assign(
        self, trainers: tuple[Address, ...]
    ) -> tuple[tuple[SeatMember, ...], tuple[SeatMember, ...]]:
        """Seat members with their shards, and who holds which shard after that."""
        chosen = sorted(trainers)[: self.context.spec.trainers_max]
        if not self.context.sealed:
            return assign_open(chosen, self.context.shard_count, self.seed)
        holders = self.head.holders if self.head else ()
        return assign_sealed(holders, chosen, self.context.shard_count, self.seed)

    def record(
        self, number: int, credited: frozenset[Address], validators: frozenset[Address]
    ) -> RoundRecord:
        """The record of an audited attempt that pays these trainers and validators."""
        seat = self.seats[number]
        samples = [(a, self._commitments[number, a].samples) for a in sorted(credited)]
        trainers, watching = credits_of(self.context.spec, samples, sorted(validators))
        _, holders = self.assign(self.members(number))
        return RoundRecord(
            seat.attempt,
            seat.previous,
            seat.base,
            self.audited[number],
            holders,
            trainers,
            watching,
            payouts_after(self.head, (*trainers, *watching)),
        )
