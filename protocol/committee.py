"""The committee machine: validators agree on who is seated and on what a round came to.

Each attempt at a round has one leader, drawn by the round's seed. A quorum of validators opens its
seat; trainers train, exchange and vote; each validator audits the results; the leader proposes the
outcome; a quorum of outcome votes *prepares* it, and only what is prepared is attested, so that no
validator ever signs two roots for one round. An attempt that comes to nothing is timed out; a
quorum of time-outs opens the next one, which carries on what was prepared, if anything was. The
pattern is that of PBFT's view change (Castro and Liskov, 1999). Counting is left to `evidence`,
`outcomes` and `timeouts`; what a restart must not unsay is in `promises`.

Safety needs 2k > n + f where f validators lie; with k = ⌊n/2⌋ + 1 it holds for crashes alone.

    IDLE --enough trainers--> SEATING --seat quorum--> OPEN --majority of results--> AUDITING
    AUDITING --Audited--> CHECKED --outcome quorum--> ATTESTED --Adopted--> IDLE
"""

from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any

from eigen.protocol import limits
from eigen.protocol.checks import Checks
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
    Replayed,
    SeatOpened,
    SetTimer,
    SpecChanged,
    Started,
    Suspected,
    TimerFired,
)
from eigen.protocol.evidence import Equivocation, RoundEvidence, WrongBase
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
    Verdict,
    digest,
)
from eigen.protocol.outcomes import Outcomes, misplaced
from eigen.protocol.pending import Early, Unreachable
from eigen.protocol.promises import Promised, Promises, publish_promised
from eigen.protocol.seat import candidates, leader
from eigen.protocol.timeouts import Timeouts
from eigen.protocol.types import Address, Cid

__all__ = ["CommitteeMachine", "Promises", "Stage"]

Effects = list[Effect]


class Stage(Enum):
    """Where the committee is in an attempt, as this validator sees it."""

    IDLE = "idle"
    SEATING = "seating"
    OPEN = "open"
    AUDITING = "auditing"
    CHECKED = "checked"
    ATTESTED = "attested"


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
        self._trainers: dict[Address, int] = {}  # who may be seated, and their lines
        self._down = Unreachable()
        self._ahead = Early()
        self._announced: set[Address] = set()  # who holds a checkpoint of late
        self._checkpoints: deque[tuple[int, str]] = deque(maxlen=limits.READY_BEHIND_MAX + 1)
        self._checkpoints.append((head.round, head.checkpoint))
        self._ready = {c.account for c in head.head.trainers} if head.head else set()
        self.checks = Checks(context, me)
        same_round = promises is not None and promises.round == head.round + 1
        self._reset(promises if promises is not None and same_round else Promises())

    TRANSITIONS: dict[type, Callable[["CommitteeMachine", Any, float], Effects]]
    MESSAGES: dict[type, Callable[["CommitteeMachine", Address, Any, float], Effects]]

    def _reset(self, promises: Promises) -> None:
        self.stage = Stage.IDLE
        self.number = promises.attempt
        self.evidence = RoundEvidence(self.context, self.head.head, self.head.previous, self.checks)
        self._promised = Promised.restored(promises)
        self._outcomes = Outcomes(self.context, self.evidence, self._promised)
        self._timeouts = Timeouts(self.context, self.me)
        self._notices_due: set[int] = set()
        self._checks_due: set[int] = set()

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

    def _attempt_timer(self, now: float) -> SetTimer:
        patience = self.context.deadlines.attempt_s * min(1 + self.number, 4)
        return SetTimer("attempt", self.attempt, now + patience)

    def _on_started(self, _event: Started, now: float) -> Effects:
        """What was prepared before a restart had its quorum: attest it again, the same bytes.

        The attempt may still time out: the others need not have got as far.
        """
        effects = self._begin_checks()
        prepared = self._promised.prepared
        if prepared is None:
            return effects
        self._outcomes.attested = True
        self.stage = Stage.ATTESTED
        return [*effects, Attest(prepared.record), self._attempt_timer(now)]

    def _begin_checks(self) -> Effects:
        head = self.head.head
        return self.checks.begin_round(head, self.attempt) if head else []

    # seating --------------------------------------------------------------------------------------
    def _on_membership(self, event: MembershipChanged, now: float) -> Effects:
        self._trainers = dict(zip(event.trainers, event.uploads, strict=True))
        effects = self._start(now)
        if self.stage is Stage.SEATING and self.leader(self.number) == self.me:
            effects += self._lead(now)  # there were too few
        for seat in self.evidence.proposed(self.number):
            effects += self._vote_seat(seat, now)
        return effects

    def _on_change(self, event: SpecChanged, now: float) -> Effects:
        """Seats that went by it were not voted for; of a seat that is open already nothing changes.

        Who has voted for another seat in this attempt does so again in the next one.
        """
        self.context.course.learn(event.change)
        effects: Effects = []
        if self.stage is Stage.SEATING:
            effects += self._lead(now) if self.leader(self.number) == self.me else []
            for seat in self.evidence.proposed(self.number):
                effects += self._vote_seat(seat, now)
        for number in self.evidence.attempts_proposed():
            effects += self._seat_progress(number, now)
        return effects

    def _start(self, now: float) -> Effects:
        """Open the attempt once there are enough trainers for a seat."""
        enough = len(self._trainers) >= self.context.spec.trainers_min
        if self.stage is not Stage.IDLE or not (enough or self._promised.prepared):
            return []
        return self._enter(self.number, now)

    def _enter(self, number: int, now: float) -> Effects:
        self.number = number
        self.stage = Stage.SEATING
        effects: Effects = [self._attempt_timer(now)]
        if self.leader(number) == self.me:
            effects += self._lead(now)
        for seat in self.evidence.proposed(number):
            effects += self._vote_seat(seat, now)
        return [*effects, *self._seat_progress(number, now), *self._consider_outcome(now)]

    def _lead(self, now: float) -> Effects:
        if self.number < self._promised.given_up or self._outcomes.settled(self.number):
            return []
        carried = self._outcomes.carried(self._timeouts)
        if carried is not None:
            return self._propose(Outcome(self.attempt, carried.record), now)
        if self.number in self._promised.seat_votes:
            return []
        least = self.context.spec.trainers_min
        allowed = (t for t in self._trainers if t not in self.evidence.ejected)
        here = tuple(t for t in allowed if t not in self._down)
        trusted = tuple(t for t in here if t not in self.evidence.suspected)
        here = trusted if len(trusted) >= least else here
        ready = tuple(t for t in here if t in self._ready)
        chosen = ready if len(ready) >= least else here
        among = candidates(self.evidence.seed, self.number, chosen, least)
        terms = self.context.course.expected(self.attempt.round)
        members, _ = self.evidence.assign(among, terms)
        if len(members) < least:
            return [Note("too few trainers", self.attempt, f"{len(members)} can be seated")]
        base = Cid(self.head.checkpoint)
        uploads = tuple(self._trainers[member.trainer] for member in members)
        seat = SeatProposal(self.attempt, self.head.previous, base, members, uploads, terms.name)
        return publish_promised(seat, self._on_seat(self.me, seat, now))

    def _on_seat(self, sender: Address, seat: SeatProposal, now: float) -> Effects:
        number = seat.attempt.number
        if sender != self.leader(number):
            return []
        if seat.base != self.head.checkpoint or seat.previous != self.head.previous:
            return []
        effects: Effects = []
        try:
            self.evidence.add_seat(seat, sender)
        except Equivocation as error:
            effects.append(Penalize(sender, limits.PENALTY_BAD_DATA, str(error)))
        return [*self._vote_seat(seat, now), *effects, *self._seat_progress(number, now)]

    def _vote_seat(self, seat: SeatProposal, now: float) -> Effects:
        number = seat.attempt.number
        promised = self._promised
        if number in promised.seat_votes or number < max(promised.given_up, self.number):
            return []
        if promised.prepared is not None:
            return []  # what is prepared is carried on; a fresh seat could only compete with it
        trainers = tuple(m.trainer for m in seat.members)
        strangers = set(trainers) - self._trainers.keys()
        if strangers or len(trainers) < self.context.spec.trainers_min:
            # Not refused for good: a heartbeat that is on its way may make it right.
            return [Note("seat not yet known", seat.attempt, f"{len(strangers)} trainers missing")]
        terms = self.context.course.expected(seat.attempt.round)
        if seat.spec != terms.name:
            # One of the two has not heard of a change yet; what the DAO decided holds in the end.
            return [Note("seat by another spec", seat.attempt, seat.spec.hex())]
        named_once = len(set(trainers)) == len(trainers) == len(seat.uploads)
        thrown_out = not self.evidence.ejected.isdisjoint(trainers)
        dealt, _ = self.evidence.assign(trainers, terms)
        if not named_once or thrown_out or dealt != seat.members:
            leader_ = self.leader(number)
            return [Penalize(leader_, limits.PENALTY_BAD_DATA, "shards not as the seed draws them")]
        promised.seat_votes.add(number)
        vote = SeatVote(seat.attempt, digest(seat))
        effects: Effects = [self._promised.persist(self.attempt), Publish(Topic.ROUNDS, vote)]
        return effects + self._on_seat_vote(self.me, vote, now)

    def _on_seat_vote(self, sender: Address, vote: SeatVote, now: float) -> Effects:
        self.evidence.add_seat_vote(sender, vote)
        return self._seat_progress(vote.attempt.number, now)

    def _seat_progress(self, number: int, now: float) -> Effects:
        if not self.evidence.open_seat(number):
            return []
        seat = self.evidence.seats[number]
        effects: Effects = [SeatOpened(seat)]
        if number >= self.number:
            self.number = number  # a quorum opened this attempt, also if we were still behind
            if self.stage is not Stage.ATTESTED:
                self.stage = Stage.OPEN
            effects.append(self._attempt_timer(now))
        return effects + self._progress(number, now)

    # evidence of the round ------------------------------------------------------------------------
    def _on_statement(
        self, sender: Address, said: Commitment | ResultVote | StepNotice, now: float
    ) -> Effects:
        """What a trainer says of an attempt."""
        try:
            self.evidence.add(sender, said)
        except (Equivocation, WrongBase) as error:
            return [Penalize(sender, limits.PENALTY_BAD_DATA, str(error))]
        return self._progress(said.attempt.number, now) or self._give_up_in_vain(now)

    def _progress(self, number: int, now: float) -> Effects:
        """Whatever has become possible in an attempt: audit, propose, vote."""
        evidence = self.evidence
        if evidence.agree(number):
            if number == self.number and self.stage is Stage.OPEN:
                self.stage = Stage.AUDITING
            made, sources = evidence.commitments(number), evidence.agreeing(number)
            seat = evidence.seats[number]
            carried = self.head.carried_into(seat.attempt)
            return [Audit(seat, made, evidence.results[number], sources, carried)]
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
            self.evidence.suspected |= set(event.suspects)
            note = Note("audit failed", event.attempt, event.reason)
            hopeless = number == self.number and self.stage is Stage.AUDITING
            return [note, *(self._give_up(now) if hopeless else [])]
        self.evidence.audited[number] = event
        if number == self.number and self.stage is Stage.AUDITING:
            self.stage = Stage.CHECKED
        effects: Effects = [
            SetTimer("notices", event.attempt, now + self.context.deadlines.notices_s)
        ]
        if self._is_last:
            patience = min(self.context.deadlines.commit_s, self.context.deadlines.attempt_s / 2)
            effects.append(SetTimer("checks", event.attempt, now + patience))
        return effects + self._progress(number, now)

    # replays --------------------------------------------------------------------------------------
    @property
    def _is_last(self) -> bool:
        """Whether what is not concluded in this round never will be."""
        return self.head.round + 1 >= self.context.spec.rounds

    def _on_replayed(self, event: Replayed, now: float) -> Effects:
        return self.checks.replayed(event, self.attempt) + self._progress(self.number, now)

    def _on_suspected(self, event: Suspected, _now: float) -> Effects:
        self.checks.suspect(event.trainers)
        return []

    def _on_verdict(self, sender: Address, verdict: Verdict, now: float) -> Effects:
        return self.checks.add(sender, verdict) + self._progress(self.number, now)

    # outcome --------------------------------------------------------------------------------------
    def _propose_when_ready(self, number: int, now: float) -> Effects:
        contributing, due = self.evidence.contributing(number), number in self._notices_due
        if not due and self.evidence.noticed(number) + len(self._down) < len(contributing):
            return []
        credited = self.evidence.creditable(number)
        awaited = contributing - credited - self.evidence.elsewhere(number)
        missing = any(m not in self._down for m in awaited)
        if not credited or (missing and not due):
            return []
        round_ = self.evidence.round
        if self._is_last and self.checks.open(round_) and number not in self._checks_due:
            return []
        watching = self.evidence.seated_by(number)
        sound, false = self.checks.sound(round_), self.checks.false()
        suspects = self.checks.suspects(round_, credited)
        record = self.evidence.record(number, credited, watching, sound, false, suspects)
        return self._propose(Outcome(self.attempt, record), now)

    def _propose(self, outcome: Outcome, now: float) -> Effects:
        if self._outcomes.settled(self.number):
            return []
        return publish_promised(outcome, self._on_outcome(self.me, outcome, now))

    def _on_outcome(self, sender: Address, outcome: Outcome, now: float) -> Effects:
        number = outcome.attempt.number
        if sender != self.leader(number):
            return []
        if misplaced(outcome):
            return [Penalize(sender, limits.PENALTY_MALFORMED, "an outcome of another round")]
        if not self.number <= number <= self.number + limits.ATTEMPTS_REMEMBERED:
            return []
        if not self._outcomes.add(outcome, self.number):
            return [Penalize(sender, limits.PENALTY_BAD_DATA, "two outcomes in one attempt")]
        return self._consider_outcome(now)

    def _consider_outcome(self, now: float) -> Effects:
        vote = self._outcomes.vote(self.number)
        if vote is None:
            return self._prepare(self.number)
        effects: Effects = [self._promised.persist(self.attempt), Publish(Topic.ROUNDS, vote)]
        return effects + self._on_outcome_vote(self.me, vote, now)

    def _on_outcome_vote(self, sender: Address, vote: OutcomeVote, _now: float) -> Effects:
        self._outcomes.add_vote(sender, vote)
        return self._prepare(vote.attempt.number)

    def _prepare(self, number: int) -> Effects:
        prepared = self._outcomes.prepare(number) if number == self.number else None
        if prepared is None:
            return []
        self.stage = Stage.ATTESTED
        return [self._promised.persist(self.attempt), Attest(prepared.record)]

    # time-outs ------------------------------------------------------------------------------------
    def _on_timer(self, event: TimerFired, now: float) -> Effects:
        if event.attempt.round != self.head.round + 1:
            return []
        if event.name == "notices":
            self._notices_due.add(event.attempt.number)
            return self._progress(event.attempt.number, now)
        if event.name == "checks":
            self._checks_due.add(event.attempt.number)
            return self._progress(event.attempt.number, now)
        due = event.name == "attempt" and event.attempt == self.attempt
        return self._give_up(now) if due and self.stage is not Stage.IDLE else []

    def _give_up_in_vain(self, now: float) -> Effects:
        """Do not wait out an attempt that can have no majority without who is lost."""
        fresh = self.stage is Stage.OPEN and self._promised.given_up <= self.number
        return (
            self._give_up(now) if fresh and self.evidence.hopeless(self.number, self._down) else []
        )

    def _give_up(self, now: float) -> Effects:
        """Promise to vote no more in this attempt, and say so until a quorum does."""
        self._promised.given_up = max(self._promised.given_up, self.number + 1)
        told = self._promised.told
        timeout = Timeout(self.attempt, (told,) if told else ())
        effects: Effects = [
            self._promised.persist(self.attempt),
            Publish(Topic.ROUNDS, timeout),
            Note("attempt timed out", self.attempt, self.stage.value),
            SetTimer("attempt", self.attempt, now + self.context.deadlines.resend_s),
        ]
        return effects + self._on_timeout(self.me, timeout, now)

    def _on_timeout(self, sender: Address, timeout: Timeout, now: float) -> Effects:
        number = timeout.attempt.number
        if any(misplaced(o) or o.attempt.number > number for o in timeout.prepared):
            return [Penalize(sender, limits.PENALTY_MALFORMED, "a time-out tells another round")]
        self._timeouts.add(sender, timeout)
        passed = self._timeouts.passed()
        if passed is not None and passed >= limits.ATTEMPTS_MAX:
            return [Note("too many attempts", self.attempt)]
        if passed is not None and passed >= self.number:
            self._promised.given_up = max(self._promised.given_up, passed + 1)
            self.number = passed + 1
            return [self._promised.persist(self.attempt), *self._enter(self.number, now)]
        return self._join_timeout(now)

    def _join_timeout(self, now: float) -> Effects:
        """Give up with others who are ahead, or who see trainers that we do not."""
        number = self._timeouts.joined()
        if number is None or number < self.number:
            return []
        if number == self.number and self.stage is not Stage.IDLE:
            return []
        self.number = number
        self.stage = Stage.SEATING
        return self._give_up(now)  # said again where it was given up before a restart

    # round over, links ----------------------------------------------------------------------------
    def _on_adopted(self, event: Adopted, now: float) -> Effects:
        self._ready = self._announced | self.evidence.holding(event.record.checkpoint)
        self._ready |= {credit.account for credit in event.record.trainers}
        self._announced = set()
        self._checkpoints.append((self.head.round, self.head.checkpoint))
        self._reset(Promises())
        ahead = self._ahead.take_all()
        effects: Effects = [Persist("promises", self.context.run, None)]
        if self.head.finished:
            return effects
        effects += self._begin_checks() + self._start(now)
        for sender, said in ahead:
            effects += self._received(Received(sender, said), now)
        return effects

    def _received(self, event: Received, now: float) -> Effects:
        said: Any = event.message
        accept = self.MESSAGES.get(type(said))
        if accept is None or said.attempt.run != self.context.run:
            return []
        if type(said) in FROM_VALIDATORS and event.sender not in self.context.validators:
            reason = f"{type(said).__name__} from somebody who is no validator"
            return [Penalize(event.sender, limits.PENALTY_MALFORMED, reason)]
        round_ = said.attempt.round
        if round_ == self.head.round + 2:
            self._ahead.add(event.sender, said)  # gossip overtook this round's attestations
            return []
        if round_ <= self.head.round and isinstance(said, StepNotice):
            self._on_ready(event.sender, said)
            return []
        if round_ != self.head.round + 1:
            return []
        return accept(self, event.sender, said, now)

    def _on_ready(self, trainer: Address, said: StepNotice) -> None:
        """A trainer that came late to a round holds its checkpoint by now.

        Where fetching takes longer than a round, it will be as far behind when it is seated, and
        that round waits for it; the next ones do not.
        """
        held = (said.attempt.round, said.checkpoint)
        if held in self._checkpoints and trainer in self._trainers:
            self._announced.add(trainer)
            self._ready.add(trainer)

    def _on_down(self, event: PeerDown, now: float) -> Effects:
        self._down.add(event.peer)
        return self._progress(self.number, now) or self._give_up_in_vain(now)

    def _on_up(self, event: PeerUp, _now: float) -> Effects:
        self._down.discard(event.peer)
        return []


FROM_VALIDATORS = frozenset({SeatProposal, SeatVote, Outcome, OutcomeVote, Timeout, Verdict})

CommitteeMachine.TRANSITIONS = {
    Started: CommitteeMachine._on_started,
    Received: CommitteeMachine._received,
    MembershipChanged: CommitteeMachine._on_membership,
    Audited: CommitteeMachine._on_audited,
    Replayed: CommitteeMachine._on_replayed,
    Suspected: CommitteeMachine._on_suspected,
    Adopted: CommitteeMachine._on_adopted,
    SpecChanged: CommitteeMachine._on_change,
    TimerFired: CommitteeMachine._on_timer,
    PeerDown: CommitteeMachine._on_down,
    PeerUp: CommitteeMachine._on_up,
}
CommitteeMachine.MESSAGES = {
    SeatProposal: CommitteeMachine._on_seat,
    SeatVote: CommitteeMachine._on_seat_vote,
    Commitment: CommitteeMachine._on_statement,
    ResultVote: CommitteeMachine._on_statement,
    StepNotice: CommitteeMachine._on_statement,
    Outcome: CommitteeMachine._on_outcome,
    OutcomeVote: CommitteeMachine._on_outcome_vote,
    Timeout: CommitteeMachine._on_timeout,
    Verdict: CommitteeMachine._on_verdict,
}
