"""The trainer machine: one round from an open seat to a durable next checkpoint.

    WAITING --seat quorum--> TRAINING --Trained--> COMMITTED --all in, or deadline--> EXCHANGING
    EXCHANGING --all results--> AGREED --majority for the same results--> STEPPING --Stepped-->
    STEPPED --Adopted--> WAITING

A new attempt of the same round re-uses the update that was trained: local training is a function of
public state and data. Where rounds overlap, a trainer that has its update begins that of the next
round at once, from the same checkpoint and its own update, and commits to it when that round opens.
What is handed to whom in an attempt is kept in `exchange`. Nothing here trains, sends or looks at a
clock; see `effects`.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import Enum
from typing import Any

from eigen.protocol import limits
from eigen.protocol.context import RunContext
from eigen.protocol.effects import (
    Adopted,
    Aggregated,
    Collected,
    Effect,
    Event,
    GroupArrived,
    MembershipChanged,
    Note,
    PartArrived,
    PeerDown,
    PeerUp,
    Penalize,
    Persist,
    Publish,
    Received,
    ResultArrived,
    SeatOpened,
    SetTimer,
    SpecChanged,
    Step,
    StepFailed,
    Stepped,
    TimerFired,
    Train,
    TrainAhead,
    Trained,
    TrainFailed,
)
from eigen.protocol.exchange import Exchange
from eigen.protocol.head import HeadMachine
from eigen.protocol.messages import (
    Attempt,
    Commitment,
    LocalWork,
    PartResult,
    ResultVote,
    SeatProposal,
    SeatVote,
    StepNotice,
    Topic,
    digest,
)
from eigen.protocol.pending import Early, ProposedSeats, Unreachable
from eigen.protocol.seat import ahead_seed, draw_after, leader, order_seed, round_seed
from eigen.protocol.tally import Tally
from eigen.protocol.types import Address, Cid, Digest
from eigen.protocol.wire import encode

EARLY_PARTS_MAX = limits.GROUP_MAX * limits.PARTS_MAX
"""Parts announced before the exchange begins here: every part of every member who hands us any."""


class Phase(Enum):
    """Where a trainer is in its round."""

    WAITING = "waiting"
    TRAINING = "training"
    COMMITTED = "committed"
    EXCHANGING = "exchanging"
    AGREED = "agreed"
    STEPPING = "stepping"
    STEPPED = "stepped"


class TrainerMachine:
    """A trainer's part in one run. `head` is shared with the node's other machines of the run."""

    __slots__ = (
        "_ahead",
        "_begun",
        "_down",
        "_early",
        "_early_parts",
        "_exchange",
        "_seat_votes",
        "_seats",
        "_trained",
        "_trainers",
        "_training",
        "_voted",
        "context",
        "head",
        "me",
        "phase",
    )

    def __init__(
        self,
        context: RunContext,
        me: Address,
        head: HeadMachine,
        voted: frozenset[bytes] = frozenset(),
        begun: Mapping[int, LocalWork] | None = None,
    ) -> None:
        """What was persisted, so that a restart never votes twice or commits to something else.

        `voted` are keys of result votes; `begun` is what was trained ahead, by round.
        """
        self.context = context
        self.me = me
        self.head = head
        self._voted = set(voted)
        self.phase = Phase.WAITING
        self._seats = ProposedSeats()
        self._seat_votes: Tally[int, Digest] = Tally()
        self._early_parts: list[PartArrived | GroupArrived] = []
        self._early = Early()
        self._down = Unreachable()
        self._exchange: Exchange | None = None
        self._training: dict[Attempt, LocalWork] = {}  # of each attempt under way
        self._trained: tuple[LocalWork, Commitment] | None = None
        self._begun = dict(begun or {})
        self._ahead = Early()
        self._trainers = 0  # that are there

    TRANSITIONS: dict[type, Callable[["TrainerMachine", Any, float], list[Effect]]]
    MESSAGES: dict[type, Callable[["TrainerMachine", Address, Any, float], list[Effect]]]

    # what the node may ask ----------------------------------------------------------------------
    @property
    def attempt(self) -> Attempt | None:
        """The attempt in which this node takes part now."""
        return self._exchange.attempt if self._exchange else None

    @property
    def members(self) -> tuple[Address, ...]:
        """Trainers of the current seat, in mask order."""
        return self._exchange.members if self._exchange else ()

    def commitment_of(self, trainer: Address) -> Commitment | None:
        """What a trainer committed to in the attempt in progress."""
        return self._exchange.commitments.get(trainer) if self._exchange else None

    def handle(self, event: Event, now: float) -> list[Effect]:
        """One event in, effects out. Events that do not fit the state change nothing."""
        if self.head.finished and not isinstance(event, Adopted):
            return []
        transition = self.TRANSITIONS.get(type(event))
        return transition(self, event, now) if transition else []

    # gossip ---------------------------------------------------------------------------------------
    def _received(self, event: Received, now: float) -> list[Effect]:
        accept = self.MESSAGES.get(type(event.message))
        if accept is None:
            return []
        message: Any = event.message
        at = message.attempt
        if at.run != self.context.run:
            return []
        ahead = at.round - self.head.round
        if ahead == 1:
            return accept(self, event.sender, message, now)
        if ahead == 2:
            self._ahead.add(event.sender, message)  # gossip overtook this round's attestations
        return []

    def _on_seat(self, sender: Address, seat: SeatProposal, now: float) -> list[Effect]:
        if sender != self._leader(seat.attempt):
            return []
        if seat.base != self.head.checkpoint or seat.previous != self.head.previous:
            return []
        trainers = [member.trainer for member in seat.members]
        named_once = len(set(trainers)) == len(trainers) == len(seat.uploads)
        if not trainers or not named_once:
            return [Penalize(sender, limits.PENALTY_BAD_DATA, "a seat that nobody can take")]
        effects: list[Effect] = []
        if not self._seats.add(sender, seat):
            reason = "two seats in one attempt"
            effects.append(Penalize(sender, limits.PENALTY_BAD_DATA, reason))
        return [*effects, *self._open_if_seated(seat.attempt, now)]

    def _on_change(self, event: SpecChanged, now: float) -> list[Effect]:
        """A seat may be waiting for this: its validators knew of the change before."""
        self.context.course.learn(event.change)
        effects: list[Effect] = []
        for seat in self._seats.all():
            effects += self._open_if_seated(seat.attempt, now)
        return effects

    def _on_seat_vote(self, sender: Address, vote: SeatVote, now: float) -> list[Effect]:
        if sender not in self.context.validators:
            return []
        self._seat_votes.add(vote.attempt.number, sender, vote.seat)
        return self._open_if_seated(vote.attempt, now)

    def _leader(self, attempt: Attempt) -> Address:
        seed = round_seed(self.context.seed, attempt.round, self.head.previous)
        return leader(seed, attempt.number, self.context.validators)

    def _open_if_seated(self, attempt: Attempt, now: float) -> list[Effect]:
        chosen = self._seat_votes.leading(attempt.number, self.context.quorum)
        seat = self._seats.get(chosen) if chosen else None
        if seat is None or seat.attempt != attempt:
            return []
        if self.attempt is not None and attempt.number <= self.attempt.number:
            return []
        terms = self.context.course.named(seat.spec)
        if terms is None:
            return [Note("a spec that is not known here yet", attempt, seat.spec.hex())]
        self.context.course.seat(attempt, terms)
        carried = self.head.carried_into(attempt)
        exchange = Exchange(self.context, self.me, seat, carried, self._down, self._silent())
        self._exchange = exchange
        self._early_parts = [early for early in self._early_parts if early.attempt == attempt]
        effects: list[Effect] = [SeatOpened(seat)]
        for sender, said in self._early.take(attempt):
            if sender in exchange.seated and isinstance(said, Commitment):
                exchange.commitments.setdefault(sender, said)
            elif sender in exchange.seated:
                exchange.votes.add(attempt.number, sender, said.results)
        if exchange.shards is None:
            self.phase = Phase.WAITING
            return effects
        effects.append(SetTimer("commit", attempt, now + self.context.deadlines.commit_s))
        self.phase = Phase.TRAINING
        work = self._work(exchange)
        if self._trained and self._trained[0] == work:
            return effects + self._commit(exchange, self._trained[1], now)
        self._training[attempt] = work
        return [*effects, Train(attempt, work)]

    def _work(self, exchange: Exchange) -> LocalWork:
        """What our update of a seat follows from: what was begun ahead, or what the seat deals."""
        begun = self._begun.get(exchange.attempt.round)
        if begun is not None and begun.base in self.context.bases(self.head.head):
            return begun
        return self._dealt(exchange)

    def _dealt(self, exchange: Exchange, *, ahead: bool = False) -> LocalWork:
        seed = round_seed(self.context.seed, exchange.attempt.round, self.head.previous)
        order = ahead_seed(seed, self.me) if ahead else order_seed(seed, self.me)
        seat = exchange.seat
        return LocalWork(Cid(seat.base), exchange.shards or (), order, ahead, seat.spec)

    def _silent(self) -> frozenset[Address]:
        """Members that did not vote in an attempt in which this node and a majority did."""
        before = self._exchange
        cast = before.votes.votes(before.attempt.number) if before else {}
        if before is None or self.me not in cast or 2 * len(cast) <= len(before.members):
            return frozenset()
        return frozenset(m for m in before.members if m not in cast)

    # train and commit -----------------------------------------------------------------------------
    def _on_trained(self, event: Trained, now: float) -> list[Effect]:
        exchange = self._exchange
        if exchange is None or event.attempt.round != exchange.attempt.round:
            return []
        work = self._training.get(event.attempt)
        if work is None:
            return []
        self._trained = (work, event.commitment)
        current = exchange.shards is not None and work == self._work(exchange)
        if self.phase is not Phase.TRAINING or not current:
            return [Note("too late to commit", event.attempt)]
        return self._commit(exchange, event.commitment, now)

    def _commit(self, exchange: Exchange, update: Commitment, now: float) -> list[Effect]:
        self.phase = Phase.COMMITTED
        commitment = replace(update, attempt=exchange.attempt)
        exchange.commitments[self.me] = commitment
        effects: list[Effect] = [Publish(Topic.ROUNDS, commitment)]
        effects += self._begin_if_all_committed(exchange, now)
        return effects + self._train_ahead(exchange)

    def _train_ahead(self, exchange: Exchange) -> list[Effect]:
        """Begin the next round's update, once a round, restarts included."""
        run, following = self.context.run, exchange.attempt.round + 1
        if not self.context.spec.overlap or following > self.context.spec.rounds:
            return []
        work = self._begun.setdefault(following, self._dealt(exchange, ahead=True))
        key = run + following.to_bytes(8, "big")
        begin = TrainAhead(Attempt(run, following, 0), work)
        return [Persist("ahead", key, encode(work)), begin]

    def _on_train_failed(self, event: TrainFailed, _now: float) -> list[Effect]:
        """Where it was begun ahead, train as everybody does who has nothing."""
        effects: list[Effect] = [Note("training failed", event.attempt, event.reason)]
        exchange, failed = self._exchange, self._training.pop(event.attempt, None)
        if exchange is None or exchange.attempt != event.attempt or failed is None:
            return effects
        if self.phase is not Phase.TRAINING or not failed.ahead:
            return effects
        effects.append(self._forget_begun(event.attempt.round))
        work = self._training[event.attempt] = self._work(exchange)
        return [*effects, Train(event.attempt, work)]

    def _forget_begun(self, round_: int) -> Persist:
        self._begun.pop(round_, None)
        return Persist("ahead", self.context.run + round_.to_bytes(8, "big"), None)

    def _on_commitment(self, sender: Address, made: Commitment, now: float) -> list[Effect]:
        if made.base not in self.context.bases(self.head.head):
            return [Penalize(sender, limits.PENALTY_BAD_DATA, "a commitment from another base")]
        exchange = self._counting(sender, made)
        if exchange is None:
            return []
        new = sender not in exchange.commitments
        first = exchange.commitments.setdefault(sender, made)
        if first is not made and first != made:
            return [Penalize(sender, limits.PENALTY_BAD_DATA, "two commitments in one attempt")]
        effects = self._begin_if_all_committed(exchange, now)
        if new and exchange.offered:
            effects += exchange.take_offers()
            effects += self._vote_if_complete(exchange, now)
        return effects

    def _counting(self, sender: Address, said: Commitment | ResultVote) -> Exchange | None:
        """Where to count a statement now: of a member, in the open attempt. A later is held."""
        exchange = self._exchange
        if exchange is None or said.attempt.number > exchange.attempt.number:
            self._early.add(sender, said)
            return None
        counts = said.attempt.number == exchange.attempt.number and sender in exchange.seated
        return exchange if counts else None

    def _begin_if_all_committed(self, exchange: Exchange, now: float) -> list[Effect]:
        if self.phase is not Phase.COMMITTED or not exchange.all_committed():
            return []
        return self._begin(exchange, now)

    # exchange -------------------------------------------------------------------------------------
    def _begin(self, exchange: Exchange, now: float) -> list[Effect]:
        self.phase = Phase.EXCHANGING
        effects = exchange.begin(now) + self._vote_if_complete(exchange, now)
        early, self._early_parts = self._early_parts, []
        for event in early:
            effects += self._on_part(event, now)
        return effects

    def _on_part(self, event: PartArrived | GroupArrived, now: float) -> list[Effect]:
        exchange = self._exchange
        if exchange is not None and event.attempt.number < exchange.attempt.number:
            return []
        begun = self.phase not in (Phase.TRAINING, Phase.COMMITTED)
        if exchange is None or event.attempt != exchange.attempt or not begun:
            # The sender saw the seat's quorum, or the last commitment, before we did.
            if len(self._early_parts) < EARLY_PARTS_MAX:
                self._early_parts.append(event)
            return []
        if self.phase is not Phase.EXCHANGING and self.phase is not Phase.AGREED:
            return []
        if isinstance(event, GroupArrived):
            return exchange.on_group(event, now)
        return exchange.on_part(event, now)

    def _on_collected(self, event: Collected, now: float) -> list[Effect]:
        exchange = self._exchange
        if exchange is None or event.attempt != exchange.attempt:
            return []
        return exchange.on_collected(event, now)

    def _on_aggregated(self, event: Aggregated, now: float) -> list[Effect]:
        exchange = self._exchange
        if exchange is None or event.attempt != exchange.attempt:
            return []
        return exchange.on_aggregated(event) + self._vote_if_complete(exchange, now)

    def _on_result(self, event: ResultArrived, now: float) -> list[Effect]:
        exchange = self._exchange
        if exchange is None or event.attempt != exchange.attempt:
            return []
        return exchange.on_result(event) + self._vote_if_complete(exchange, now)

    def _vote_if_complete(self, exchange: Exchange, now: float) -> list[Effect]:
        if self.phase not in (Phase.TRAINING, Phase.COMMITTED, Phase.EXCHANGING):
            return []
        results = exchange.results
        if results is None:
            return []
        self.phase = Phase.AGREED
        return self._vote(exchange, results, now)

    def _vote(
        self, exchange: Exchange, results: tuple[PartResult, ...], now: float
    ) -> list[Effect]:
        """Say once in an attempt, restarts included, that these results are held here."""
        attempt = exchange.attempt
        vote = ResultVote(attempt, exchange.name, results)
        key = attempt.run + attempt.round.to_bytes(8, "big") + attempt.number.to_bytes(4, "big")
        if key in self._voted:
            return [Note("already voted before a restart", attempt)]
        self._voted.add(key)
        effects: list[Effect] = [
            Persist("result-vote", key, digest(vote)),
            Publish(Topic.ROUNDS, vote),
        ]
        return effects + self._on_result_vote(self.me, vote, now)

    # agree and step -------------------------------------------------------------------------------
    def _on_result_vote(self, sender: Address, vote: ResultVote, _now: float) -> list[Effect]:
        exchange = self._counting(sender, vote)
        if exchange is None:
            return []
        if not exchange.votes.add(vote.attempt.number, sender, vote.results):
            return [Penalize(sender, limits.PENALTY_BAD_DATA, "two result votes in one attempt")]
        if vote.seat != exchange.name or self.me not in exchange.seated:
            return []
        if self.phase in (Phase.STEPPING, Phase.STEPPED, Phase.WAITING):
            return []
        agreed = exchange.majority()
        if agreed is None:
            return []
        self.phase = Phase.STEPPING
        exchange.agreed = agreed
        voters = exchange.votes.voters(vote.attempt.number, agreed)
        sources = tuple(m for m in exchange.members if m in voters and m != self.me)
        return [Step(vote.attempt, Cid(exchange.seat.base), agreed, sources)]

    def _on_stepped(self, event: Stepped, now: float) -> list[Effect]:
        exchange = self._exchange
        if exchange is None or exchange.attempt != event.attempt:
            return []
        if self.phase is not Phase.STEPPING:
            return []
        self.phase = Phase.STEPPED
        votes: list[Effect] = []
        if self.me not in exchange.votes.votes(event.attempt.number):
            # The majority was there before our last part.
            votes = self._vote(exchange, exchange.agreed, now)
        return [*votes, Publish(Topic.ROUNDS, StepNotice(event.attempt, event.checkpoint))]

    def _on_step_failed(self, event: StepFailed, _now: float) -> list[Effect]:
        return [Note("step failed", event.attempt, event.reason)]

    def _on_adopted(self, event: Adopted, now: float) -> list[Effect]:
        """The round is over: forget it, and take what gossip brought ahead of time.

        Who is not paid for it was not there to say that it holds the checkpoint, and says so now,
        if one of the next seats may come to it.
        """
        self.phase = Phase.WAITING
        self._exchange = self._trained = None
        self._seats.clear()
        self._training.clear()
        self._early_parts.clear()
        self._early.clear()
        self._seat_votes.forget()
        effects: list[Effect] = [Persist("result-vote", key, None) for key in sorted(self._voted)]
        self._voted.clear()  # a round that is over takes no votes
        record = event.record
        if not self.head.finished and draw_after(self.context, record).may_seat(
            self.me, self._trainers
        ):
            notice = StepNotice(record.attempt, Cid(record.checkpoint))
            effects.append(Publish(Topic.ROUNDS, notice))
        over = sorted(r for r in self._begun if r <= self.head.round)
        effects += [self._forget_begun(round_) for round_ in over]
        for sender, said in self._ahead.take_all():
            effects += self._received(Received(sender, said), now)
        return effects

    def _on_membership(self, event: MembershipChanged, _now: float) -> list[Effect]:
        self._trainers = len(event.trainers)
        return []

    # time and links -------------------------------------------------------------------------------
    def _on_timer(self, event: TimerFired, now: float) -> list[Effect]:
        exchange = self._exchange
        if exchange is None or event.attempt != exchange.attempt:
            return []
        if event.name == "commit" and self.phase in (Phase.TRAINING, Phase.COMMITTED):
            return self._begin(exchange, now)
        if event.name == "inputs" and self.phase is Phase.EXCHANGING:
            return exchange.inputs_due(event.part)
        if event.name == "groups" and self.phase is Phase.EXCHANGING:
            return exchange.groups_due(event.part)
        if event.name == "owner" and self.phase in (Phase.EXCHANGING, Phase.AGREED):
            return exchange.next_owners(now) + self._vote_if_complete(exchange, now)
        return []

    def _on_down(self, event: PeerDown, now: float) -> list[Effect]:
        self._down.add(event.peer)
        exchange = self._exchange
        if exchange is None or event.peer not in exchange.seated:
            return []
        if self.phase is Phase.COMMITTED:
            return self._begin_if_all_committed(exchange, now)
        if self.phase in (Phase.EXCHANGING, Phase.AGREED):
            return exchange.on_down(event.peer, now) + self._vote_if_complete(exchange, now)
        return []

    def _on_up(self, event: PeerUp, _now: float) -> list[Effect]:
        self._down.discard(event.peer)
        return []


TrainerMachine.TRANSITIONS = {
    Received: TrainerMachine._received,
    Trained: TrainerMachine._on_trained,
    TrainFailed: TrainerMachine._on_train_failed,
    PartArrived: TrainerMachine._on_part,
    GroupArrived: TrainerMachine._on_part,
    Collected: TrainerMachine._on_collected,
    Aggregated: TrainerMachine._on_aggregated,
    ResultArrived: TrainerMachine._on_result,
    Stepped: TrainerMachine._on_stepped,
    StepFailed: TrainerMachine._on_step_failed,
    Adopted: TrainerMachine._on_adopted,
    SpecChanged: TrainerMachine._on_change,
    TimerFired: TrainerMachine._on_timer,
    PeerDown: TrainerMachine._on_down,
    PeerUp: TrainerMachine._on_up,
    MembershipChanged: TrainerMachine._on_membership,
}
TrainerMachine.MESSAGES = {
    SeatProposal: TrainerMachine._on_seat,
    SeatVote: TrainerMachine._on_seat_vote,
    Commitment: TrainerMachine._on_commitment,
    ResultVote: TrainerMachine._on_result_vote,
}
