"""The trainer machine: one round from an open seat to a durable next checkpoint.

    WAITING --seat quorum--> TRAINING --Trained--> COMMITTED --all in, or deadline--> EXCHANGING
    EXCHANGING --all results--> AGREED --majority for the same results--> STEPPING --Stepped-->
    STEPPED --Adopted--> WAITING

A new attempt of the same round re-uses the update that was trained: local training is a function of
public state and data. Nothing here trains, sends or looks at a clock; see `effects`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from eigen.protocol import limits
from eigen.protocol.context import RunContext
from eigen.protocol.effects import (
    Adopted,
    Aggregate,
    Aggregated,
    Effect,
    Event,
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
    SendPart,
    SendResult,
    SetTimer,
    Step,
    StepFailed,
    Stepped,
    TimerFired,
    Train,
    Trained,
    TrainFailed,
)
from eigen.protocol.head import HeadMachine
from eigen.protocol.messages import (
    Attempt,
    Commitment,
    PartResult,
    ResultVote,
    SeatProposal,
    SeatVote,
    StepNotice,
    Topic,
    digest,
)
from eigen.protocol.pending import Early, ProposedSeats, Unreachable
from eigen.protocol.seat import leader, order_seed, part_owners, round_seed
from eigen.protocol.tally import Tally
from eigen.protocol.types import Address, Cid, Digest

EARLY_PARTS_MAX = limits.TRAINERS_MAX * limits.PARTS_MAX
"""Parts announced before the exchange begins here: every part of every member, once."""


class Phase(Enum):
    """Where a trainer is in its round."""

    WAITING = "waiting"
    TRAINING = "training"
    COMMITTED = "committed"
    EXCHANGING = "exchanging"
    AGREED = "agreed"
    STEPPING = "stepping"
    STEPPED = "stepped"


@dataclass(slots=True)
class _Part:
    """One part of the vector, as seen from this node."""

    owners: list[Address]
    rank: int = 0  # which owner we look to now
    inputs: dict[Address, None] = field(default_factory=dict)  # ordered set of senders
    aggregating: bool = False
    timer_set: bool = False
    offered: dict[Address, PartResult] = field(default_factory=dict)  # by owner, first word counts
    result: PartResult | None = None


@dataclass(slots=True)
class _Exchange:
    """All that belongs to one attempt."""

    seat: SeatProposal
    name: Digest  # digest of the seat
    members: tuple[Address, ...]
    parts: list[_Part]
    expected: frozenset[Address] = frozenset()  # who had committed when the exchange began
    agreed: tuple[PartResult, ...] = ()  # what a majority voted for


class TrainerMachine:
    """A trainer's part in one run. `head` is shared with the node's other machines of the run."""

    def __init__(
        self,
        context: RunContext,
        me: Address,
        head: HeadMachine,
        voted: frozenset[bytes] = frozenset(),
    ) -> None:
        """`voted` are keys of persisted result votes, so that a restart never votes twice."""
        self.context = context
        self.me = me
        self.head = head
        self._voted = set(voted)
        self.phase = Phase.WAITING
        self._seats = ProposedSeats()
        self._seat_votes: Tally[Attempt, Digest] = Tally()
        self._result_votes: Tally[Attempt, tuple[PartResult, ...]] = Tally()
        self._commitments: dict[tuple[Attempt, Address], Commitment] = {}
        self._early_parts: list[PartArrived] = []
        self._early = Early()
        self._down = Unreachable()
        self._exchange: _Exchange | None = None
        self._training: dict[Attempt, tuple[int, ...]] = {}  # shards of each attempt under way
        self._trained: tuple[tuple[int, ...], Commitment] | None = None
        self._ahead = Early()

    TRANSITIONS: dict[type, Callable[["TrainerMachine", Any, float], list[Effect]]]
    MESSAGES: dict[type, Callable[["TrainerMachine", Address, Any, float], list[Effect]]]

    # what the node may ask ----------------------------------------------------------------------
    @property
    def attempt(self) -> Attempt | None:
        """The attempt in which this node takes part now."""
        return self._exchange.seat.attempt if self._exchange else None

    @property
    def members(self) -> tuple[Address, ...]:
        """Trainers of the current seat, in mask order."""
        return self._exchange.members if self._exchange else ()

    def commitment_of(self, trainer: Address) -> Commitment | None:
        """What a trainer committed to in the attempt in progress."""
        return self._commitments.get((self.attempt, trainer)) if self.attempt else None

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
        if at.round == self.head.round + 2:
            self._ahead.add(event.sender, message)  # gossip overtook this round's attestations
            return []
        if at.round != self.head.round + 1:
            return []
        return accept(self, event.sender, message, now)

    def _on_seat(self, sender: Address, seat: SeatProposal, now: float) -> list[Effect]:
        if sender != self._leader(seat.attempt):
            return []
        if seat.base != self.head.checkpoint or seat.previous != self.head.previous:
            return []
        trainers = [member.trainer for member in seat.members]
        if not trainers or len(set(trainers)) < len(trainers):
            return [Penalize(sender, limits.PENALTY_BAD_DATA, "a seat that nobody can take")]
        effects: list[Effect] = []
        if not self._seats.add(sender, seat):
            reason = "two seats in one attempt"
            effects.append(Penalize(sender, limits.PENALTY_BAD_DATA, reason))
        return [*effects, *self._open_if_seated(seat.attempt, now)]

    def _on_seat_vote(self, sender: Address, vote: SeatVote, now: float) -> list[Effect]:
        if sender not in self.context.validators:
            return []
        self._seat_votes.add(vote.attempt, sender, vote.seat)
        return self._open_if_seated(vote.attempt, now)

    def _leader(self, attempt: Attempt) -> Address:
        seed = round_seed(self.context.seed, attempt.round, self.head.previous)
        return leader(seed, attempt.number, self.context.validators)

    def _open_if_seated(self, attempt: Attempt, now: float) -> list[Effect]:
        chosen = self._seat_votes.leading(attempt, self.context.quorum)
        seat = self._seats.get(chosen) if chosen else None
        if seat is None or seat.attempt != attempt:
            return []
        if self.attempt is not None and attempt.number <= self.attempt.number:
            return []
        members = tuple(member.trainer for member in seat.members)
        seed = round_seed(self.context.seed, attempt.round, self.head.previous)
        parts = [_Part(part_owners(seed, i, members)) for i in range(self.context.part_count)]
        self._exchange = _Exchange(seat, digest(seat), members, parts)
        self._early_parts = [early for early in self._early_parts if early.attempt == attempt]
        self._commitments.clear()
        self._result_votes.forget(frozenset())
        effects: list[Effect] = [SeatOpened(seat)]
        for sender, said in self._early.take(attempt):
            if sender in members and isinstance(said, Commitment):
                self._commitments.setdefault((attempt, sender), said)
            elif sender in members:
                self._result_votes.add(attempt, sender, said.results)
        mine = next((m for m in seat.members if m.trainer == self.me), None)
        if mine is None:
            self.phase = Phase.WAITING
            return effects
        effects.append(self._timer("commit", now + self.context.deadlines.commit_s))
        if self._trained and self._trained[0] == mine.shards:
            self.phase = Phase.TRAINING
            return effects + self._commit(self._trained[1], now)
        self.phase = Phase.TRAINING
        order = order_seed(seed, self.me)
        self._training[attempt] = mine.shards
        return [*effects, Train(attempt, Cid(seat.base), mine.shards, order)]

    # train and commit -----------------------------------------------------------------------------
    def _on_trained(self, event: Trained, now: float) -> list[Effect]:
        exchange = self._exchange
        if exchange is None or event.attempt.round != exchange.seat.attempt.round:
            return []
        shards = self._training.get(event.attempt, ())
        self._trained = (shards, event.commitment)
        mine = next((m.shards for m in exchange.seat.members if m.trainer == self.me), None)
        if self.phase is not Phase.TRAINING or shards != mine:
            return [Note("too late to commit", event.attempt)]
        return self._commit(event.commitment, now)

    def _commit(self, update: Commitment, now: float) -> list[Effect]:
        assert self.attempt is not None
        self.phase = Phase.COMMITTED
        commitment = replace(update, attempt=self.attempt)
        self._commitments[self.attempt, self.me] = commitment
        return [Publish(Topic.ROUNDS, commitment), *self._begin_if_all_committed(now)]

    def _on_train_failed(self, event: TrainFailed, _now: float) -> list[Effect]:
        return [Note("training failed", event.attempt, event.reason)]

    def _on_commitment(self, sender: Address, made: Commitment, now: float) -> list[Effect]:
        if not self._of_this_attempt(sender, made):
            return []
        new = (made.attempt, sender) not in self._commitments
        if self._commitments.setdefault((made.attempt, sender), made) != made:
            return [Penalize(sender, limits.PENALTY_BAD_DATA, "two commitments in one attempt")]
        effects = self._begin_if_all_committed(now)
        return effects + self._take_offers(now) if new else effects

    def _of_this_attempt(self, sender: Address, said: Commitment | ResultVote) -> bool:
        """Whether to count a statement now: of a member, in the open attempt. A later is held."""
        current = self.attempt
        if current is None or said.attempt.number > current.number:
            self._early.add(sender, said)
            return False
        return said.attempt == current and sender in self.members

    def _begin_if_all_committed(self, now: float) -> list[Effect]:
        exchange = self._exchange
        if exchange is None or self.phase is not Phase.COMMITTED:
            return []
        waiting = [m for m in exchange.members if self.commitment_of(m) is None]
        if any(m not in self._down for m in waiting):
            return []
        return self._begin(now)

    # exchange -------------------------------------------------------------------------------------
    def _begin(self, now: float) -> list[Effect]:
        exchange = self._exchange
        assert exchange is not None
        self.phase = Phase.EXCHANGING
        exchange.expected = frozenset(m for m in exchange.members if self.commitment_of(m))
        effects: list[Effect] = [
            Note("exchange", exchange.seat.attempt, f"{len(exchange.expected)} committed"),
            self._timer("owner", now + self.context.deadlines.owner_s),
        ]
        for index in range(len(exchange.parts)):
            effects += self._look_to_owner(index, now)
        early, self._early_parts = self._early_parts, []
        for event in early:
            effects += self._on_part(event, now)
        return effects

    def _look_to_owner(self, index: int, now: float) -> list[Effect]:
        """Hand our input of a part to the owner whose turn it is, skipping those who are down."""
        exchange = self._exchange
        assert exchange is not None
        part = exchange.parts[index]
        while part.rank < len(part.owners) - 1 and part.owners[part.rank] in self._down:
            part.rank += 1
        if (offered := self._best_offer(part)) is not None:
            return self._take_result(index, offered, now)
        owner = part.owners[part.rank]
        contributing = self.me in exchange.expected
        if owner != self.me:
            return [SendPart(exchange.seat.attempt, index, owner)] if contributing else []
        if contributing:
            part.inputs[self.me] = None
        return [*self._input_timer(index, now), *self._aggregate_if_complete(index)]

    def _best_offer(self, part: _Part) -> PartResult | None:
        """A result that may stand: others than the owners to whom we looked do not decide a part.

        Nor does one that names a member whose commitment is not here: no validator could audit it.
        """
        committed = self._mask(m for m in self.members if self.commitment_of(m))
        offers = (part.offered.get(owner) for owner in part.owners[: part.rank + 1])
        return next((o for o in offers if o is not None and not o.included & ~committed), None)

    def _input_timer(self, index: int, now: float) -> list[Effect]:
        exchange = self._exchange
        assert exchange is not None
        part = exchange.parts[index]
        if part.timer_set:
            return []
        part.timer_set = True
        due = now + self.context.deadlines.inputs_s
        return [SetTimer("inputs", exchange.seat.attempt, due, index)]

    def _on_part(self, event: PartArrived, now: float) -> list[Effect]:
        exchange = self._exchange
        if exchange is not None and event.attempt.number < exchange.seat.attempt.number:
            return []
        begun = self.phase not in (Phase.TRAINING, Phase.COMMITTED)
        if exchange is None or event.attempt != exchange.seat.attempt or not begun:
            # The sender saw the seat's quorum, or the last commitment, before we did.
            if len(self._early_parts) < EARLY_PARTS_MAX:
                self._early_parts.append(event)
            return []
        if self.phase is not Phase.EXCHANGING and self.phase is not Phase.AGREED:
            return []
        if event.sender not in exchange.expected or event.part >= len(exchange.parts):
            return []
        if self._commitments[event.attempt, event.sender].parts_root != event.root:
            reason = f"part {event.part} does not match its commitment"
            return [
                Penalize(event.sender, limits.PENALTY_BAD_DATA, reason),
                Note("part refused", event.attempt, f"{event.sender.hex()}: {reason}"),
            ]
        part = exchange.parts[event.part]
        if part.result is not None or part.aggregating:
            return []
        part.inputs[event.sender] = None
        if self.me in exchange.expected:
            part.inputs[self.me] = None
        return [*self._input_timer(event.part, now), *self._aggregate_if_complete(event.part)]

    def _aggregate_if_complete(self, index: int) -> list[Effect]:
        exchange = self._exchange
        assert exchange is not None
        wanted = {m for m in exchange.expected if m not in self._down}
        if wanted <= set(exchange.parts[index].inputs):
            return self._aggregate(index)
        return []

    def _aggregate(self, index: int) -> list[Effect]:
        exchange = self._exchange
        assert exchange is not None
        part = exchange.parts[index]
        if part.aggregating or part.result is not None or not part.inputs:
            return []
        part.aggregating = True
        inputs = tuple(
            (m, self._commitments[exchange.seat.attempt, m].samples)
            for m in exchange.members
            if m in part.inputs
        )
        return [Aggregate(exchange.seat.attempt, index, inputs)]

    def _on_aggregated(self, event: Aggregated, now: float) -> list[Effect]:
        exchange = self._exchange
        if exchange is None or event.attempt != exchange.seat.attempt:
            return []
        part = exchange.parts[event.part]
        effects: list[Effect] = []
        for sender in event.refused:
            part.inputs.pop(sender, None)
            effects.append(Penalize(sender, limits.PENALTY_BAD_DATA, "a part that does not decode"))
        included = self._mask(part.inputs)
        others = tuple(m for m in exchange.members if m != self.me)
        result = PartResult(event.digest, included)
        effects.append(SendResult(event.attempt, event.part, result, others))
        return effects + self._take_result(event.part, result, now)

    def _mask(self, senders: Iterable[Address]) -> int:
        chosen = set(senders)
        return sum(1 << i for i, m in enumerate(self.members) if m in chosen)

    def _on_result(self, event: ResultArrived, now: float) -> list[Effect]:
        exchange = self._exchange
        if exchange is None or event.attempt != exchange.seat.attempt:
            return []
        if event.sender not in exchange.members or event.part >= len(exchange.parts):
            return []
        if not 0 < event.result.included < 1 << len(exchange.members):
            return [Penalize(event.sender, limits.PENALTY_MALFORMED, "a mask outside the seat")]
        part = exchange.parts[event.part]
        part.offered.setdefault(event.sender, event.result)
        offered = self._best_offer(part)
        return self._take_result(event.part, offered, now) if offered else []

    def _take_offers(self, now: float) -> list[Effect]:
        """Results that waited for a commitment."""
        effects: list[Effect] = []
        for index, part in enumerate(self._exchange.parts if self._exchange else ()):
            if part.offered and part.result is None and (offer := self._best_offer(part)):
                effects += self._take_result(index, offer, now)
        return effects

    def _take_result(self, index: int, result: PartResult, now: float) -> list[Effect]:
        exchange = self._exchange
        assert exchange is not None
        part = exchange.parts[index]
        if part.result is not None:
            return []
        part.result = result
        if self.phase not in (Phase.TRAINING, Phase.COMMITTED, Phase.EXCHANGING):
            return []
        results = tuple(p.result for p in exchange.parts if p.result is not None)
        if len(results) < len(exchange.parts):
            return []
        self.phase = Phase.AGREED
        return self._vote(results, now)

    def _vote(self, results: tuple[PartResult, ...], now: float) -> list[Effect]:
        """Say once in an attempt, restarts included, that these results are held here."""
        exchange = self._exchange
        assert exchange is not None
        attempt = exchange.seat.attempt
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
        if not self._of_this_attempt(sender, vote):
            return []
        if not self._result_votes.add(vote.attempt, sender, vote.results):
            return [Penalize(sender, limits.PENALTY_BAD_DATA, "two result votes in one attempt")]
        exchange = self._exchange
        if exchange is None or exchange.seat.attempt != vote.attempt:
            return []
        if vote.seat != exchange.name or self.me not in exchange.members:
            return []
        if self.phase in (Phase.STEPPING, Phase.STEPPED, Phase.WAITING):
            return []
        agreed = majority_result(self._result_votes, vote.attempt, exchange.members)
        if agreed is None or len(agreed) != len(exchange.parts):
            return []
        self.phase = Phase.STEPPING
        exchange.agreed = agreed
        voters = self._result_votes.voters(vote.attempt, agreed)
        sources = tuple(m for m in exchange.members if m in voters and m != self.me)
        return [Step(vote.attempt, Cid(exchange.seat.base), agreed, sources)]

    def _on_stepped(self, event: Stepped, now: float) -> list[Effect]:
        if self.attempt != event.attempt or self.phase is not Phase.STEPPING:
            return []
        self.phase = Phase.STEPPED
        exchange = self._exchange
        votes: list[Effect] = []
        if exchange is not None and self.me not in self._result_votes.votes(event.attempt):
            votes = self._vote(exchange.agreed, now)  # the majority was there before our last part
        return [*votes, Publish(Topic.ROUNDS, StepNotice(event.attempt, event.checkpoint))]

    def _on_step_failed(self, event: StepFailed, _now: float) -> list[Effect]:
        return [Note("step failed", event.attempt, event.reason)]

    def _on_adopted(self, _event: Adopted, now: float) -> list[Effect]:
        """The round is over: forget it, and take what gossip brought ahead of time."""
        self.phase = Phase.WAITING
        self._exchange = self._trained = None
        self._seats.clear()
        self._training.clear()
        self._commitments.clear()
        self._early_parts.clear()
        self._early = Early()
        self._seat_votes, self._result_votes = Tally(), Tally()
        effects: list[Effect] = [Persist("result-vote", key, None) for key in sorted(self._voted)]
        self._voted.clear()  # a round that is over takes no votes
        for sender, said in self._ahead.take_all():
            effects += self._received(Received(sender, said), now)
        return effects

    # time and links -------------------------------------------------------------------------------
    def _timer(self, name: str, at_s: float) -> SetTimer:
        assert self._exchange is not None
        return SetTimer(name, self._exchange.seat.attempt, at_s)

    def _on_timer(self, event: TimerFired, now: float) -> list[Effect]:
        exchange = self._exchange
        if exchange is None or event.attempt != exchange.seat.attempt:
            return []
        name, index = event.name, event.part
        if name == "commit" and self.phase in (Phase.TRAINING, Phase.COMMITTED):
            return self._begin(now)
        if name == "inputs" and self.phase is Phase.EXCHANGING and index < len(exchange.parts):
            return self._aggregate(index)
        if name == "owner" and self.phase is Phase.EXCHANGING:
            effects: list[Effect] = [
                self._timer("owner", now + self.context.deadlines.owner_s),
                Note("owner failover", exchange.seat.attempt),
            ]
            for i, part in enumerate(exchange.parts):
                if part.result is None and not part.aggregating:
                    part.rank = min(part.rank + 1, len(part.owners) - 1)
                    effects += self._look_to_owner(i, now)
            return effects
        return []

    def _on_down(self, event: PeerDown, now: float) -> list[Effect]:
        self._down.add(event.peer)
        exchange = self._exchange
        if exchange is None or event.peer not in exchange.members:
            return []
        if self.phase is Phase.COMMITTED:
            return self._begin_if_all_committed(now)
        effects: list[Effect] = []
        if self.phase is Phase.EXCHANGING:
            for index, part in enumerate(exchange.parts):
                if part.result is not None:
                    continue
                if part.owners[part.rank] == event.peer:
                    effects += self._look_to_owner(index, now)
                elif part.inputs:
                    effects += self._aggregate_if_complete(index)
        return effects

    def _on_up(self, event: PeerUp, _now: float) -> list[Effect]:
        self._down.discard(event.peer)
        return []


def majority_result(
    votes: Tally[Attempt, tuple[PartResult, ...]], attempt: Attempt, members: tuple[Address, ...]
) -> tuple[PartResult, ...] | None:
    """The results for which more than half of the seat voted, if there are any."""
    cast = votes.votes(attempt)
    counted: Tally[int, tuple[PartResult, ...]] = Tally()
    for member in members:
        if member in cast:
            counted.add(0, member, cast[member])
    return counted.leading(0, len(members) // 2 + 1)


TrainerMachine.TRANSITIONS = {
    Received: TrainerMachine._received,
    Trained: TrainerMachine._on_trained,
    TrainFailed: TrainerMachine._on_train_failed,
    PartArrived: TrainerMachine._on_part,
    Aggregated: TrainerMachine._on_aggregated,
    ResultArrived: TrainerMachine._on_result,
    Stepped: TrainerMachine._on_stepped,
    StepFailed: TrainerMachine._on_step_failed,
    Adopted: TrainerMachine._on_adopted,
    TimerFired: TrainerMachine._on_timer,
    PeerDown: TrainerMachine._on_down,
    PeerUp: TrainerMachine._on_up,
}
TrainerMachine.MESSAGES = {
    SeatProposal: TrainerMachine._on_seat,
    SeatVote: TrainerMachine._on_seat_vote,
    Commitment: TrainerMachine._on_commitment,
    ResultVote: TrainerMachine._on_result_vote,
}
