"""What a validator knows of the round in progress, and what record it would sign for it.

It gathers and answers; `committee` decides.
"""

from contextlib import suppress
from itertools import islice

from eigen.protocol import limits
from eigen.protocol.changes import Terms
from eigen.protocol.checks import Checks
from eigen.protocol.context import RunContext
from eigen.protocol.effects import Audited
from eigen.protocol.messages import (
    Check,
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
from eigen.protocol.pay import Work, credits_of, payouts_after
from eigen.protocol.pending import Early, ProposedSeats, Unreachable
from eigen.protocol.seat import (
    assign_open,
    assign_sealed,
    payable_of,
    ranked,
    round_seed,
    seats_seed,
)
from eigen.protocol.tally import Tally
from eigen.protocol.types import Address, Cid, Digest


class Equivocation(Exception):
    """A peer said two different things in one slot; the message names which."""


class WrongBase(Exception):
    """A trainer commits to an update from a checkpoint that this round does not go on from."""


class RoundEvidence:
    """Signed statements of one round, by attempt, and what follows from them."""

    def __init__(
        self, context: RunContext, head: RoundRecord | None, previous: Digest, checks: Checks
    ) -> None:
        self.context = context
        self.checks = checks
        self.head = head
        self.round = head.attempt.round + 1 if head else 1
        self.seed = round_seed(context.seed, self.round, previous)
        self._commitments: dict[tuple[int, Address], Commitment] = {}
        self.audited: dict[int, Audited] = {}  # attempt -> what our own audit came to
        self.results: dict[int, tuple[PartResult, ...]] = {}
        self.seats: dict[int, SeatProposal] = {}  # attempt -> the seat that a quorum opened
        self._members: dict[int, tuple[Address, ...]] = {}  # of open seats, in mask order
        self._seated: dict[int, frozenset[Address]] = {}
        self._contributing: dict[int, frozenset[Address]] = {}
        self.suspected: set[Address] = set()  # who said two things in one slot, or spoiled a part
        self._floor = 0  # attempts below this one are forgotten
        self._proposed = ProposedSeats()
        self._early = Early()
        self._seat_votes: Tally[int, Digest] = Tally()
        self._result_votes: Tally[int, tuple[PartResult, ...]] = Tally()
        self._notices: Tally[int, Cid] = Tally()

    # gathering ------------------------------------------------------------------------------------
    def add_seat(self, seat: SeatProposal, leader: Address) -> None:
        """A seat that its attempt's leader proposed. Raises `Equivocation` on a second one."""
        if not self._proposed.add(leader, seat):
            raise Equivocation("two seats in one attempt")

    def proposed(self, number: int) -> list[SeatProposal]:
        """Seats proposed for an attempt (more than one if its leader equivocates)."""
        return self._proposed.of(number)

    def attempts_proposed(self) -> list[int]:
        """Attempts for which a seat was proposed, in order."""
        return sorted({seat.attempt.number for seat in self._proposed.all()})

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
        terms = self.context.course.named(seat.spec)
        if terms is None:
            return False  # a quorum knows of a change that this node has not heard of yet
        self.context.course.seat(seat.attempt, terms)
        if number < self._floor:
            return False
        self.seats[number] = seat
        members = tuple(member.trainer for member in seat.members)
        self._members[number], self._seated[number] = members, frozenset(members)
        self._forget_old()
        for sender, said in self._early.take(seat.attempt):
            with suppress(Equivocation):
                self.add(sender, said)
        return number in self.seats

    def _forget_old(self) -> None:
        """A round that needs many attempts must not need ever more memory."""
        kept = sorted(self.seats)[-limits.ATTEMPTS_REMEMBERED :]
        if len(kept) < limits.ATTEMPTS_REMEMBERED:
            return
        self._floor = kept[0]
        for by_attempt in (
            self.seats,
            self._members,
            self._seated,
            self._contributing,
            self.results,
            self.audited,
        ):
            for old in [n for n in by_attempt if n < self._floor]:
                del by_attempt[old]
        self._commitments = {k: c for k, c in self._commitments.items() if k[0] >= self._floor}
        self._result_votes.forget(self.seats)
        self._notices.forget(self.seats)

    def add(self, trainer: Address, said: Commitment | ResultVote | StepNotice) -> None:
        """A trainer's statement: counted if it is seated, held back while no seat is open.

        Raises `Equivocation` on a second commitment or result vote that differs from the first,
        and `WrongBase` where an update comes from another checkpoint than it may.
        """
        if isinstance(said, Commitment) and said.base not in self.context.bases(self.head):
            raise WrongBase("a commitment from another base")
        number = said.attempt.number
        if number not in self.seats:
            if number >= self._floor:
                self._early.add(trainer, said)
            return
        if trainer not in self._seated[number]:
            return
        if isinstance(said, Commitment):
            first = self._commitments.setdefault((number, trainer), said)
            if first is not said and first != said:
                self.suspected.add(trainer)
                raise Equivocation("two commitments in one attempt")
        elif isinstance(said, ResultVote):
            if not self._result_votes.add(number, trainer, said.results):
                self.suspected.add(trainer)
                raise Equivocation("two result votes in one attempt")
        else:
            self._notices.add(number, trainer, said.checkpoint)

    def commitment(self, number: int, trainer: Address) -> Commitment | None:
        """What a trainer committed to in an attempt."""
        return self._commitments.get((number, trainer))

    def commitments(self, number: int) -> tuple[tuple[Address, Commitment], ...]:
        """What the members of an open seat committed to, in seat order."""
        made = ((m, self.commitment(number, m)) for m in self.members(number))
        return tuple((member, said) for member, said in made if said is not None)

    # conclusions ----------------------------------------------------------------------------------
    def members(self, number: int) -> tuple[Address, ...]:
        """Trainers of an open seat, in mask order."""
        return self._members[number]

    def agree(self, number: int) -> bool:
        """Whether a majority for the same results has just come about; it is then in `results`.

        Only once the commitments of all whose data is in them are here.
        """
        if number in self.results or number not in self.seats:
            return False
        agreed = self._result_votes.leading(number, len(self.members(number)) // 2 + 1)
        if agreed is None or len(agreed) != self.context.part_count:
            return False
        included = 0
        for result in agreed:
            included |= result.included
        members = self.members(number)
        if included >> len(members):
            return False
        authors = (m for i, m in enumerate(members) if included >> i & 1)
        if not all((number, author) in self._commitments for author in authors):
            return False  # it may be on its way; without it the audit could only fail
        self.results[number] = agreed
        return True

    def hopeless(self, number: int, lost: Unreachable) -> bool:
        """Whether an open attempt can have no majority any more, without those who are lost."""
        if number in self.results or number not in self.seats:
            return False
        members = self.members(number)
        cast, most = self._result_votes.votes(number), self._result_votes.most(number)
        if most + len(members) - len(cast) - len(lost) > len(members) // 2:
            return False
        open_ = sum(m not in cast and m not in lost for m in members)
        return most + open_ <= len(members) // 2

    def agreeing(self, number: int) -> tuple[Address, ...]:
        """Members who voted for the agreed results, in seat order."""
        voted = self._result_votes.voters(number, self.results[number])
        return tuple(m for m in self.members(number) if m in voted)

    def seated_by(self, number: int) -> frozenset[Address]:
        """Validators who voted for the open seat."""
        return self._seat_votes.voters(number, digest(self.seats[number]))

    def spoke(self, number: int) -> frozenset[Address]:
        """Validators who voted for any seat of an attempt.

        One that votes for two reaches some of us with the one vote first and some with the other:
        who pays it for having seated must not decide whether the round goes on.
        """
        return frozenset(self._seat_votes.votes(number))

    def contributing(self, number: int) -> frozenset[Address]:
        """Who committed and is in every part of the agreed results."""
        known = self._contributing.get(number)
        if known is None:  # all whose data is in the results have committed, or none were agreed
            known = self._contributing[number] = self._in_every_part(number)
        return known

    def _in_every_part(self, number: int) -> frozenset[Address]:
        mask = ~0
        for result in self.results[number]:
            mask &= result.included
        in_all = (m for i, m in enumerate(self.members(number)) if mask >> i & 1)
        return frozenset(m for m in in_all if self.commitment(number, m))

    def holding(self, checkpoint: str) -> frozenset[Address]:
        """Who said in any attempt that it holds this checkpoint."""
        return frozenset().union(*(self._notices.voters(n, Cid(checkpoint)) for n in self.seats))

    def noticed(self, number: int) -> int:
        """How many said that they hold what they stepped to."""
        return len(self._notices.votes(number))

    def elsewhere(self, number: int) -> frozenset[Address]:
        """Who holds another checkpoint by its own first word, and cannot be credited any more."""
        ours = self.audited[number].checkpoint
        return frozenset(m for m, c in self._notices.votes(number).items() if c != ours)

    def creditable(self, number: int) -> frozenset[Address]:
        """Who contributed, voted for the results and holds the checkpoint."""
        stepped = self._notices.voters(number, self.audited[number].checkpoint)
        return self.contributing(number) & stepped & frozenset(self.agreeing(number))

    def assign(
        self, trainers: tuple[Address, ...], terms: Terms
    ) -> tuple[tuple[SeatMember, ...], tuple[SeatMember, ...]]:
        """Seat members with their shards, and who holds which shard after that.

        Of another dataset than the last round's nobody holds anything yet.
        """
        before = self.context.course.named(self.head.spec) if self.head else None
        goes_on = before is not None and before.spec.dataset == terms.spec.dataset
        holders = self.head.holders if self.head and goes_on and terms.sealed else ()
        holding = {holder.trainer for holder in holders}
        seed = seats_seed(self.context.seed, self.round, self.head)
        fair = ranked(seed, b"seat", trainers)  # each gets its turn where seats are too few
        preferred = sorted(fair, key=lambda t: t not in holding)
        payable = payable_of(preferred, self.head, self.context.validators)
        chosen = list(islice(payable, self.context.spec.trainers_max))
        if not terms.sealed:
            return assign_open(chosen, terms.shard_count, self.seed)
        return assign_sealed(holders, chosen, terms.shard_count, self.seed)

    def record(
        self,
        number: int,
        credited: frozenset[Address],
        validators: frozenset[Address],
        closed: frozenset[Check],
        ejected: frozenset[Address],
        suspects: frozenset[Address],
    ) -> RoundRecord:
        """The record of an audited attempt that pays these trainers and validators.

        `closed` are checks found sound, `ejected` are trainers found false since the last round,
        `suspects` those whose work of this round is to be replayed.
        """
        seat, spec = self.seats[number], self.context.spec
        work = [self._work(number, trainer) for trainer in sorted(credited)]
        trainers, watching = credits_of(spec, work, sorted(validators))
        _, holders = self.assign(self.members(number), self.context.course.of(seat.attempt))
        gone = tuple(sorted(ejected | self.ejected))
        suspected = (Check(trainer, self.round) for trainer in sorted(suspects))
        checks = (*self.checks.after(closed, gone), *suspected)[: limits.CHECKS_MAX]
        payouts = payouts_after(
            spec,
            self.round,
            self.head,
            (*trainers, *watching),
            awaited={check.trainer for check in checks},
            ejected=gone,
        )
        return RoundRecord(
            seat.attempt,
            seat.previous,
            seat.base,
            self.audited[number].checkpoint,
            self.audited[number].left,
            holders,
            trainers,
            watching,
            payouts,
            digest(seat),
            checks,
            gone,
            seat.spec,
        )

    @property
    def ejected(self) -> frozenset[Address]:
        """Trainers whom the run's validators threw out before this round."""
        return frozenset(self.head.ejected) if self.head else frozenset()

    def _work(self, number: int, trainer: Address) -> Work:
        made = self._commitments[number, trainer]
        worth = dict(self.audited[number].contributions)
        return Work(trainer, made.samples, worth.get(trainer, 0), digest(made))
