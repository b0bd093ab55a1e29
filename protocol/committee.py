"""The committee machine: validators agree on who is seated and on what a round came to.

Each attempt at a round has one leader, drawn by the round's seed. A quorum of validators opens its
seat; trainers train, exchange and vote; each validator audits the results; the leader proposes the
outcome; a quorum of outcome votes *prepares* it, and only what is prepared is attested, so that no
validator ever signs two roots for one round. An attempt that comes to nothing is timed out; a
quorum of time-outs opens the next one, which carries on what was prepared, if anything was. The
pattern is that of PBFT's view change (Castro and Liskov, 1999).

Safety needs 2k > n + f where f validators lie; with k = ⌊n/2⌋ + 1 it holds for crashes alone.

    IDLE --enough trainers--> SEATING --seat quorum--> OPEN --majority of results--> AUDITING
    AUDITING --Audited--> CHECKED --outcome quorum--> ATTESTED --Adopted--> IDLE
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any

from eigen.protocol import limits
from eigen.protocol.context import RunContext
from eigen.protocol.effects import (
    Adopted,
    Attest,
    Audit,
    Audited,
    Effect,
    Event,
    MembershipChanged,
    Note,
    PeerDown,
    PeerUp,
    Penalize,
    Persist,
    Publish,
    Received,
    SeatOpened,
    SetTimer,
    Started,
    TimerFired,
)
from eigen.protocol.evidence import Equivocation, RoundEvidence
from eigen.protocol.head import HeadMachine
from eigen.protocol.messages import (
    Attempt,
    Commitment,
    Outcome,
    OutcomeVote,
    ResultVote,
    SeatProposal,
    SeatVote,
    StepNotice,
    Timeout,
    Topic,
    digest,
)
from eigen.protocol.seat import leader
from eigen.protocol.tally import Tally
from eigen.protocol.types import Address, Cid, Digest
from eigen.protocol.wire import U64, Length, encode, message

Effects = list[Effect]


class Stage(Enum):
    """Where the committee is in an attempt, as this validator sees it."""

    IDLE = "idle"
    SEATING = "seating"
    OPEN = "open"
    AUDITING = "auditing"
    CHECKED = "checked"
    ATTESTED = "attested"


@message(90)
@dataclass(frozen=True, slots=True)
class Promises:
    """What a validator has said in a round and must not unsay; never sent, only stored."""

    round: U64 = 0
    attempt: U64 = 0
    given_up: U64 = 0  # attempts below this one are given up
    seat_votes: Annotated[tuple[U64, ...], Length(limits.ATTEMPTS_MAX)] = ()
    outcome_votes: Annotated[tuple[U64, ...], Length(limits.ATTEMPTS_MAX)] = ()
    prepared: Annotated[tuple[Outcome, ...], Length(1)] = ()


class CommitteeMachine:
    """A validator's part in one run. `head` is shared with the node's other machines of the run."""

    def __init__(
        self,
        context: RunContext,
        me: Address,
        head: HeadMachine,
        promises: Promises | None = None,
    ) -> None:
        self.context = context
        self.me = me
        self.head = head
        self._trainers: tuple[Address, ...] = ()
        self._down: set[Address] = set()
        self._ahead: list[Received] = []
        same_round = promises is not None and promises.round == head.round + 1
        self._reset(promises if promises is not None and same_round else Promises())

    TRANSITIONS: dict[type, Callable[["CommitteeMachine", Any, float], Effects]]
    MESSAGES: dict[type, Callable[["CommitteeMachine", Address, Any, float], Effects]]

    def _reset(self, promises: Promises) -> None:
        self.stage = Stage.IDLE
        self.number = promises.attempt
        self.evidence = RoundEvidence(self.context, self.head.head, self.head.previous)
        self._given_up = promises.given_up
        self._voted_seat = set(promises.seat_votes)
        self._voted_outcome = set(promises.outcome_votes)
        self._prepared = promises.prepared[0] if promises.prepared else None
        self._attested = False
        self._notices_due: set[int] = set()
        self._outcomes: dict[int, Outcome] = {}
        self._outcome_votes: Tally[int, Digest] = Tally()
        self._timeouts: dict[int, dict[Address, Timeout]] = {}

    # what the node may ask ----------------------------------------------------------------------
    @property
    def attempt(self) -> Attempt:
        """The attempt in progress, or the one that will be."""
        return Attempt(self.context.run, self.head.round + 1, self.number)

    def leader(self, number: int) -> Address:
        """Who proposes in an attempt of the round in progress."""
        return leader(self.evidence.seed, number, self.context.validators)

    def handle(self, event: Event, now: float) -> Effects:
        """One event in, effects out. Events that do not fit the state change nothing."""
        if self.head.finished and not isinstance(event, Adopted):
            return []
        transition = self.TRANSITIONS.get(type(event))
        return transition(self, event, now) if transition else []

    def _persist(self) -> Persist:
        promises = Promises(
            self.head.round + 1,
            self.number,
            self._given_up,
            tuple(sorted(self._voted_seat)),
            tuple(sorted(self._voted_outcome)),
            (self._prepared,) if self._prepared else (),
        )
        return Persist("promises", self.context.run, encode(promises))

    def _attempt_timer(self, now: float) -> SetTimer:
        patience = self.context.deadlines.attempt_s * min(1 + self.number, 4)
        return SetTimer("attempt", self.attempt, now + patience)

    def _on_started(self, _event: Started, _now: float) -> Effects:
        """What was prepared before a restart had its quorum: attest it again, the same bytes."""
        if self._prepared is None:
            return []
        self._attested = True
        self.stage = Stage.ATTESTED
        return [Attest(self._prepared.record)]

    # seating --------------------------------------------------------------------------------------
    def _on_membership(self, event: MembershipChanged, now: float) -> Effects:
        self._trainers = event.trainers
        effects = self._start(now)
        for seat in self.evidence.proposed(self.number):
            effects += self._vote_seat(seat, now)
        return effects

    def _start(self, now: float) -> Effects:
        """Open the attempt once there are enough trainers for a seat."""
        enough = len(self._trainers) >= self.context.spec.trainers_min
        if self.stage is not Stage.IDLE or not (enough or self._prepared):
            return []
        return self._enter(self.number, now)

    def _enter(self, number: int, now: float) -> Effects:
        self.number = number
        self.stage = Stage.SEATING
        effects: Effects = [self._attempt_timer(now)]
        if number >= self._given_up and self.leader(number) == self.me:
            effects += self._lead(now)
        for seat in self.evidence.proposed(number):
            effects += self._vote_seat(seat, now)
        return [*effects, *self._seat_progress(number, now), *self._consider_outcome(now)]

    def _lead(self, now: float) -> Effects:
        carried = self._carried()
        if carried is not None:
            return self._propose(Outcome(self.attempt, carried.record), now)
        if self.number in self._voted_seat:
            return []
        members, _ = self.evidence.assign(self._trainers)
        if len(members) < self.context.spec.trainers_min:
            return [Note("too few trainers", self.attempt, f"{len(members)} can be seated")]
        seat = SeatProposal(self.attempt, self.head.previous, Cid(self.head.checkpoint), members)
        return [Publish(Topic.ROUNDS, seat), *self._on_seat(self.me, seat, now)]

    def _carried(self) -> Outcome | None:
        """What an earlier attempt prepared, as far as time-outs tell."""
        told = [o for votes in self._timeouts.values() for t in votes.values() for o in t.prepared]
        if self._prepared is not None:
            return self._prepared
        return max(told, key=lambda o: o.attempt.number, default=None)

    def _on_seat(self, sender: Address, seat: SeatProposal, now: float) -> Effects:
        number = seat.attempt.number
        if sender != self.leader(number):
            return []
        if seat.base != self.head.checkpoint or seat.previous != self.head.previous:
            return []
        self.evidence.add_seat(seat)
        return [*self._vote_seat(seat, now), *self._seat_progress(number, now)]

    def _vote_seat(self, seat: SeatProposal, now: float) -> Effects:
        number = seat.attempt.number
        if number in self._voted_seat or number < max(self._given_up, self.number):
            return []
        trainers = tuple(m.trainer for m in seat.members)
        strangers = set(trainers) - set(self._trainers)
        if strangers or len(trainers) < self.context.spec.trainers_min:
            # Not refused for good: a heartbeat that is on its way may make it right.
            return [Note("seat not yet known", seat.attempt, f"{len(strangers)} trainers missing")]
        if self.evidence.assign(trainers)[0] != seat.members:
            leader_ = self.leader(number)
            return [Penalize(leader_, limits.PENALTY_BAD_DATA, "shards not as the seed draws them")]
        self._voted_seat.add(number)
        vote = SeatVote(seat.attempt, digest(seat))
        effects: Effects = [self._persist(), Publish(Topic.ROUNDS, vote)]
        return effects + self._on_seat_vote(self.me, vote, now)

    def _on_seat_vote(self, sender: Address, vote: SeatVote, now: float) -> Effects:
        self.evidence.add_seat_vote(sender, vote)
        return self._seat_progress(vote.attempt.number, now)

    def _seat_progress(self, number: int, now: float) -> Effects:
        if not self.evidence.open_seat(number):
            return []
        effects: Effects = [SeatOpened(self.evidence.seats[number])]
        if number >= self.number:
            self.number = number  # a quorum opened this attempt, also if we were still behind
            self.stage = Stage.OPEN
            effects.append(self._attempt_timer(now))
        return effects + self._progress(number, now)

    # evidence of the round ------------------------------------------------------------------------
    def _on_commitment(self, sender: Address, made: Commitment, _now: float) -> Effects:
        try:
            self.evidence.add_commitment(sender, made)
        except Equivocation as error:
            return [Penalize(sender, limits.PENALTY_BAD_DATA, str(error))]
        return []

    def _on_result_vote(self, sender: Address, vote: ResultVote, now: float) -> Effects:
        try:
            self.evidence.add_result_vote(sender, vote)
        except Equivocation as error:
            return [Penalize(sender, limits.PENALTY_BAD_DATA, str(error))]
        return self._progress(vote.attempt.number, now)

    def _on_notice(self, sender: Address, notice: StepNotice, now: float) -> Effects:
        self.evidence.add_notice(sender, notice)
        return self._progress(notice.attempt.number, now)

    def _progress(self, number: int, now: float) -> Effects:
        """Whatever has become possible in an attempt: audit, propose, vote."""
        evidence = self.evidence
        if evidence.agree(number):
            if number == self.number and self.stage is Stage.OPEN:
                self.stage = Stage.AUDITING
            known = ((m, evidence.commitment(number, m)) for m in evidence.members(number))
            made = tuple((m, c) for m, c in known if c is not None)
            sources = evidence.agreeing(number)
            return [Audit(evidence.seats[number], made, evidence.results[number], sources)]
        if number not in evidence.audited:
            return []
        effects: Effects = []
        if number == self.number and self.leader(number) == self.me:
            effects += self._propose_when_ready(number, now)
        return effects + self._consider_outcome(now)

    def _on_audited(self, event: Audited, now: float) -> Effects:
        number = event.attempt.number
        if event.attempt.round != self.head.round + 1 or number not in self.evidence.results:
            return []
        if event.reason:
            return [Note("audit failed", event.attempt, event.reason)]
        self.evidence.audited[number] = event.checkpoint
        if number == self.number and self.stage is Stage.AUDITING:
            self.stage = Stage.CHECKED
        due = now + self.context.deadlines.notices_s
        return [SetTimer("notices", event.attempt, due), *self._progress(number, now)]

    # outcome --------------------------------------------------------------------------------------
    def _propose_when_ready(self, number: int, now: float) -> Effects:
        credited = self.evidence.creditable(number)
        missing = set(self.evidence.members(number)) - credited - self._down
        if not credited or (missing and number not in self._notices_due):
            return []
        record = self.evidence.record(number, credited, self.evidence.seated_by(number))
        return self._propose(Outcome(self.attempt, record), now)

    def _propose(self, outcome: Outcome, now: float) -> Effects:
        if self.number in self._outcomes or self.number in self._voted_outcome:
            return []
        return [Publish(Topic.ROUNDS, outcome), *self._on_outcome(self.me, outcome, now)]

    def _on_outcome(self, sender: Address, outcome: Outcome, now: float) -> Effects:
        number = outcome.attempt.number
        shown = outcome.record.attempt
        if sender != self.leader(number) or shown.run != self.context.run:
            return []
        if shown.round != outcome.attempt.round or shown.number > number:
            return []
        if number > self.number + limits.ATTEMPTS_REMEMBERED:
            return []
        if self._outcomes.setdefault(number, outcome) != outcome:
            return [Penalize(sender, limits.PENALTY_BAD_DATA, "two outcomes in one attempt")]
        return self._consider_outcome(now)

    def _consider_outcome(self, now: float) -> Effects:
        """Vote once our own evidence bears the record out; until then it stays pending."""
        number = self.number
        outcome = self._outcomes.get(number)
        if outcome is None or number < self._given_up:
            return []
        if number in self._voted_outcome:
            return self._prepare(number)
        if self._prepared is not None and self._prepared.record != outcome.record:
            return []  # we have attested another record, and never sign two
        shown = outcome.record.attempt.number
        if shown not in self.evidence.audited:
            return []
        credited = frozenset(c.account for c in outcome.record.trainers)
        watching = frozenset(c.account for c in outcome.record.validators)
        if not credited or not credited <= self.evidence.creditable(shown):
            return []
        if not watching <= self.evidence.seated_by(shown):
            return []
        if self.evidence.record(shown, credited, watching) != outcome.record:
            return [Note("outcome refused", outcome.attempt, "differs from the evidence")]
        self._voted_outcome.add(number)
        vote = OutcomeVote(outcome.attempt, digest(outcome.record))
        effects: Effects = [self._persist(), Publish(Topic.ROUNDS, vote)]
        return effects + self._on_outcome_vote(self.me, vote, now)

    def _on_outcome_vote(self, sender: Address, vote: OutcomeVote, _now: float) -> Effects:
        self._outcome_votes.add(vote.attempt.number, sender, vote.record)
        return self._prepare(vote.attempt.number)

    def _prepare(self, number: int) -> Effects:
        """With a quorum of votes, attest; only what we have checked and voted for ourselves."""
        outcome = self._outcomes.get(number)
        chosen = self._outcome_votes.leading(number, self.context.quorum)
        if outcome is None or chosen is None or digest(outcome.record) != chosen:
            return []
        if number != self.number or number < self._given_up or self._attested:
            return []
        if number not in self._voted_outcome:
            return []
        if self._prepared is not None and self._prepared.record != outcome.record:
            return []
        self._prepared = outcome
        self._attested = True
        self.stage = Stage.ATTESTED
        return [self._persist(), Attest(outcome.record)]

    # time-outs ------------------------------------------------------------------------------------
    def _on_timer(self, event: TimerFired, now: float) -> Effects:
        if event.attempt.round != self.head.round + 1:
            return []
        if event.name == "notices":
            self._notices_due.add(event.attempt.number)
            return self._progress(event.attempt.number, now)
        if event.attempt == self.attempt and self.stage is not Stage.IDLE:
            return self._give_up(now)
        return []

    def _give_up(self, now: float) -> Effects:
        """Promise to vote no more in this attempt, and say so until a quorum does."""
        self._given_up = max(self._given_up, self.number + 1)
        timeout = Timeout(self.attempt, (self._prepared,) if self._prepared else ())
        effects: Effects = [
            self._persist(),
            Publish(Topic.ROUNDS, timeout),
            Note("attempt timed out", self.attempt, self.stage.value),
            SetTimer("attempt", self.attempt, now + self.context.deadlines.resend_s),
        ]
        return effects + self._on_timeout(self.me, timeout, now)

    def _on_timeout(self, sender: Address, timeout: Timeout, now: float) -> Effects:
        number = timeout.attempt.number
        if not self.number <= number <= self.number + limits.ATTEMPTS_REMEMBERED:
            return []
        votes = self._timeouts.setdefault(number, {})
        votes[sender] = timeout
        if len(votes) >= self.context.quorum:
            if number >= limits.ATTEMPTS_MAX:
                return [Note("too many attempts", self.attempt)]
            self._given_up = max(self._given_up, number + 1)
            self.number = number + 1
            return [self._persist(), *self._enter(number + 1, now)]
        if number > self.number or self.stage is Stage.IDLE:
            # Another validator is ahead of us, or sees trainers that we do not: give up with it.
            self.number = number
            self.stage = Stage.SEATING
            if number >= self._given_up:
                return self._give_up(now)
        return []

    # round over, links ----------------------------------------------------------------------------
    def _on_adopted(self, _event: Adopted, now: float) -> Effects:
        self._reset(Promises())
        ahead, self._ahead = self._ahead, []
        effects: Effects = [Persist("promises", self.context.run, None)]
        if self.head.finished:
            return effects
        effects += self._start(now)
        for event in ahead:
            effects += self._received(event, now)
        return effects

    def _received(self, event: Received, now: float) -> Effects:
        said: Any = event.message
        accept = self.MESSAGES.get(type(said))
        if accept is None:
            return []
        at = said.attempt
        if at.run != self.context.run:
            return []
        if isinstance(said, FROM_VALIDATORS) and event.sender not in self.context.validators:
            reason = f"{type(said).__name__} from somebody who is no validator"
            return [Penalize(event.sender, limits.PENALTY_MALFORMED, reason)]
        if at.round == self.head.round + 2 and len(self._ahead) < 8 * limits.TRAINERS_MAX:
            self._ahead.append(event)  # gossip overtook the attestations of the round in progress
            return []
        if at.round != self.head.round + 1:
            return []
        return accept(self, event.sender, said, now)

    def _on_down(self, event: PeerDown, now: float) -> Effects:
        self._down.add(event.peer)
        return self._progress(self.number, now)

    def _on_up(self, event: PeerUp, _now: float) -> Effects:
        self._down.discard(event.peer)
        return []


FROM_VALIDATORS = (SeatProposal, SeatVote, Outcome, OutcomeVote, Timeout)

CommitteeMachine.TRANSITIONS = {
    Started: CommitteeMachine._on_started,
    Received: CommitteeMachine._received,
    MembershipChanged: CommitteeMachine._on_membership,
    Audited: CommitteeMachine._on_audited,
    Adopted: CommitteeMachine._on_adopted,
    TimerFired: CommitteeMachine._on_timer,
    PeerDown: CommitteeMachine._on_down,
    PeerUp: CommitteeMachine._on_up,
}
CommitteeMachine.MESSAGES = {
    SeatProposal: CommitteeMachine._on_seat,
    SeatVote: CommitteeMachine._on_seat_vote,
    Commitment: CommitteeMachine._on_commitment,
    ResultVote: CommitteeMachine._on_result_vote,
    StepNotice: CommitteeMachine._on_notice,
    Outcome: CommitteeMachine._on_outcome,
    OutcomeVote: CommitteeMachine._on_outcome_vote,
    Timeout: CommitteeMachine._on_timeout,
}
