"""The exchange of one attempt: who owns each part, whose inputs are in, which results stand.

Members hand their parts to the parts' owners; an owner aggregates and hands the result to all. An
owner that is down or late is passed over for the next in the part's order, who has the owner's own
input in reserve, and takes a result that the owner left with anybody. Methods return effects. In
which phase they may be called, and what follows once all results are here, `trainer` knows.
"""

from collections.abc import Container, Iterable
from dataclasses import dataclass, field

from eigen.protocol import limits
from eigen.protocol.context import RunContext
from eigen.protocol.effects import (
    Aggregate,
    Aggregated,
    Effect,
    Note,
    PartArrived,
    Penalize,
    ResultArrived,
    SendPart,
    SendResult,
    SetTimer,
)
from eigen.protocol.messages import Attempt, Commitment, PartResult, SeatProposal, digest
from eigen.protocol.pending import Unreachable
from eigen.protocol.seat import part_owners
from eigen.protocol.tally import Tally
from eigen.protocol.types import Address, Cid


@dataclass(slots=True)
class Part:
    """One part of the vector, as seen from this node."""

    owners: list[Address]
    rank: int = 0  # which owner we look to now
    since_s: float = 0.0  # when we began to look to it
    inputs: dict[Address, None] = field(default_factory=dict)  # ordered set of senders
    aggregating: bool = False
    timer_set: bool = False
    offered: dict[Address, PartResult] = field(default_factory=dict)  # by owner, first word counts
    result: PartResult | None = None
    handed_on: bool = False  # the result, to all or to the next owner


class Exchange:
    """All that belongs to one attempt. `down` is shared with the trainer, who keeps it up."""

    def __init__(
        self,
        context: RunContext,
        me: Address,
        seat: SeatProposal,
        carried: tuple[Cid, ...],
        down: Unreachable,
        silent: Iterable[Address] = (),
    ) -> None:
        """`silent` are members that nobody need wait for: they were in the attempt before."""
        self.context = context
        self.me = me
        self.seat = seat
        self.attempt = seat.attempt
        self.name = digest(seat)
        self.carried = carried
        self.members = tuple(member.trainer for member in seat.members)
        self.parts = [
            Part(part_owners(context.seed, i, self.members)) for i in range(context.part_count)
        ]
        self.commitments: dict[Address, Commitment] = {}
        self.expected: frozenset[Address] = frozenset()  # who had committed when it began
        self.votes: Tally[Attempt, tuple[PartResult, ...]] = Tally()
        self.agreed: tuple[PartResult, ...] = ()  # what a majority voted for
        self._down = down
        self._silent = set(silent)  # and owners that were passed over

    @property
    def shards(self) -> tuple[int, ...] | None:
        """What this node is to train on; None where it is not seated."""
        return next((m.shards for m in self.seat.members if m.trainer == self.me), None)

    @property
    def results(self) -> tuple[PartResult, ...] | None:
        """The result of every part, once all are here."""
        here = tuple(part.result for part in self.parts if part.result is not None)
        return here if len(here) == len(self.parts) else None

    def all_committed(self) -> bool:
        """Whether nobody's commitment is worth waiting for."""
        return all(m in self.commitments or self._gone(m) for m in self.members)

    def _gone(self, member: Address) -> bool:
        return member in self._down or member in self._silent

    # inputs ---------------------------------------------------------------------------------------
    def begin(self, now: float) -> list[Effect]:
        """Send every part to its owner; only who has committed by now takes part."""
        self.expected = frozenset(self.commitments)
        self._silent = set(self.members) - self.expected
        effects: list[Effect] = [Note("exchange", self.attempt, f"{len(self.expected)} committed")]
        for index in range(len(self.parts)):
            effects += self._look_to_owner(index, now)
        return [*effects, self._owner_timer(now)]

    def _owner_timer(self, now: float) -> SetTimer:
        """For the first owner that may be passed over, if any is awaited."""
        due = min(map(self._due, self._awaited()), default=now + self.context.deadlines.owner_s)
        return SetTimer("owner", self.attempt, due)

    def _awaited(self) -> list[Part]:
        return [part for part in self.parts if part.result is None and not part.aggregating]

    def _due(self, part: Part) -> float:
        """Until when we look to a part's owner: it may wait for inputs itself.

        The same for all owners, whoever was heard by whom: members must go round one together.
        """
        return part.since_s + self.context.deadlines.inputs_s + self.context.deadlines.owner_s

    def _look_to_owner(self, index: int, now: float) -> list[Effect]:
        """Hand our input of a part to the owner whose turn it is, skipping those who are gone."""
        part = self.parts[index]
        part.rank = self._next_rank(part, part.rank)
        part.since_s = now
        if self._take_offer(part):
            return self._answer(index)
        owner = part.owners[part.rank]
        contributing = self.me in self.expected
        if owner != self.me:
            return [SendPart(self.attempt, index, owner)] if contributing else []
        effects: list[Effect] = []
        if contributing:
            part.inputs[self.me] = None
            following = part.owners[self._next_rank(part, part.rank + 1)]
            if following != self.me:
                effects.append(SendPart(self.attempt, index, following, reserve=True))
        return [*effects, *self._input_timer(index, now), *self._aggregate_if_complete(index)]

    def _next_rank(self, part: Part, rank: int) -> int:
        """The first owner from `rank` on that is not gone, or the last owner."""
        last = len(part.owners) - 1
        return next((r for r in range(rank, last) if not self._gone(part.owners[r])), last)

    def _input_timer(self, index: int, now: float) -> list[Effect]:
        part = self.parts[index]
        if part.timer_set:
            return []
        part.timer_set = True
        return [SetTimer("inputs", self.attempt, now + self.context.deadlines.inputs_s, index)]

    def on_part(self, event: PartArrived, now: float) -> list[Effect]:
        """A member's input. One that is not what the member committed to costs it."""
        if event.sender not in self.expected or event.part >= len(self.parts):
            return []
        if self.commitments[event.sender].parts_root != event.root:
            reason = f"part {event.part} does not match its commitment"
            return [
                Penalize(event.sender, limits.PENALTY_BAD_DATA, reason),
                Note("part refused", event.attempt, f"{event.sender.hex()}: {reason}"),
            ]
        part = self.parts[event.part]
        if part.aggregating or event.sender in part.inputs:
            return []
        part.inputs[event.sender] = None
        if part.result is not None:
            return self._answer(event.part, event.sender)
        if part.owners[part.rank] != self.me:
            return []  # in reserve: it may become our turn
        return [*self._input_timer(event.part, now), *self._aggregate_if_complete(event.part)]

    def _aggregate_if_complete(self, index: int) -> list[Effect]:
        wanted = {m for m in self.expected if not self._gone(m)}
        return self.aggregate(index) if wanted <= set(self.parts[index].inputs) else []

    def aggregate(self, index: int) -> list[Effect]:
        """Aggregate a part from the inputs that are here, once."""
        if index >= len(self.parts):
            return []
        part = self.parts[index]
        if part.aggregating or part.result is not None or not part.inputs:
            return []
        part.aggregating = True
        inputs = ((m, self.commitments[m].samples) for m in self.members if m in part.inputs)
        return [Aggregate(self.attempt, index, tuple(inputs), self.carried)]

    def on_aggregated(self, event: Aggregated) -> list[Effect]:
        """Our aggregate of a part: to all members, and for ourselves."""
        part = self.parts[event.part]
        effects: list[Effect] = []
        for sender in event.refused:
            part.inputs.pop(sender, None)
            effects.append(Penalize(sender, limits.PENALTY_BAD_DATA, "a part that does not decode"))
        result = PartResult(event.digest, self._mask(part.inputs))
        others = tuple(m for m in self.members if m != self.me)
        if part.result is None:
            part.result = result
        part.handed_on = True
        return [*effects, SendResult(event.attempt, event.part, result, others)]

    # results --------------------------------------------------------------------------------------
    def on_result(self, event: ResultArrived) -> list[Effect]:
        """A member's result of a part; the first word of each member counts."""
        if event.sender not in self.members or event.part >= len(self.parts):
            return []
        if not 0 < event.result.included < 1 << len(self.members):
            return [Penalize(event.sender, limits.PENALTY_MALFORMED, "a mask outside the seat")]
        part = self.parts[event.part]
        part.offered.setdefault(event.sender, event.result)
        before = part.result
        self._take_offer(part)
        return self._answer(event.part) if before is None and part.result else []

    def _answer(self, index: int, *senders: Address) -> list[Effect]:
        """Another owner's result of a part, to `senders`, or all who look to us for the part."""
        part = self.parts[index]
        waiting = tuple(m for m in senders or part.inputs if m not in (self.me, *part.offered))
        if part.result is None or part.handed_on or not waiting:
            return []
        return [SendResult(self.attempt, index, part.result, waiting)]

    def take_offers(self) -> None:
        """Results that waited for a commitment."""
        for part in self.parts:
            if part.offered and part.result is None:
                self._take_offer(part)

    def _take_offer(self, part: Part) -> bool:
        """Whether there is a result that may stand; a part without one takes it.

        Others than the owners to whom we looked do not decide a part, but who takes a part over
        takes what its owner left with anybody: they may have voted for it. Nor does a result decide
        that names a member whose commitment is not here: no validator could audit it.
        """
        committed = self._mask(self.commitments)
        turn = part.owners[: part.rank + 1]
        taken_over = turn[-1] == self.me and not self.expected.isdisjoint(turn[:-1])
        offers = (part.offered.get(member) for member in (part.owners if taken_over else turn))
        best = next((o for o in offers if o is not None and not o.included & ~committed), None)
        if part.result is None:
            part.result = best
        return best is not None

    def _mask(self, senders: Iterable[Address]) -> int:
        chosen = set(senders)
        return sum(1 << i for i, m in enumerate(self.members) if m in chosen)

    # failover -------------------------------------------------------------------------------------
    def next_owners(self, now: float) -> list[Effect]:
        """Go round the owners that took too long, and wait for them no more."""
        late = {part.owners[part.rank] for part in self._awaited() if now >= self._due(part)}
        self._silent |= late
        effects: list[Effect] = [Note("owner failover", self.attempt)] if late else []
        effects += self._without(late | self._voteless(), now)
        return [*effects, self._owner_timer(now)]

    def _voteless(self) -> frozenset[Address]:
        """Members that do not seem to have all results, where we do."""
        cast = self.votes.votes(self.attempt)
        return frozenset(m for m in self.members if m not in cast) if self.results else frozenset()

    def on_down(self, peer: Address, now: float) -> list[Effect]:
        """Go round an owner that went, and do not wait for the inputs of a member that did."""
        return self._without({peer}, now)

    def _without(self, gone: Container[Address], now: float) -> list[Effect]:
        effects: list[Effect] = []
        for index, part in enumerate(self.parts):
            if part.result is not None:
                effects += self._hand_on(index, gone)
            elif part.aggregating:
                continue
            elif part.owners[part.rank] in gone and self._gone(part.owners[part.rank]):
                effects += self._look_to_owner(index, now)
            elif part.inputs and part.owners[part.rank] == self.me:
                effects += self._aggregate_if_complete(index)
        return effects

    def _hand_on(self, index: int, gone: Container[Address]) -> list[Effect]:
        """What an owner that went left here, to the next: others may not have got it."""
        part = self.parts[index]
        left = (o for o in part.owners if o in gone and part.offered.get(o) == part.result)
        owner = next(left, None)
        if owner is None or part.handed_on or part.result is None:
            return []
        following = part.owners[self._next_rank(part, part.owners.index(owner) + 1)]
        if following in (self.me, owner):
            return []
        part.handed_on = True
        return [SendResult(self.attempt, index, part.result, (following,))]

    # agreement ------------------------------------------------------------------------------------
    def majority(self) -> tuple[PartResult, ...] | None:
        """Results of all parts for which more than half of the seat voted, if there are any."""
        chosen = majority_result(self.votes, self.attempt, self.members)
        return chosen if chosen is not None and len(chosen) == len(self.parts) else None


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
