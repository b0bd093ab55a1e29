"""The exchange of one attempt: who owns each part, whose inputs are in, which results stand.

Members hand their parts to the parts' owners; an owner aggregates and hands the result to all. An
owner that is down or late is passed over for the next in the part's order. Methods return effects.
In which phase they may be called, and what follows once all results are here, `trainer` knows.
"""

from collections.abc import Iterable
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
    inputs: dict[Address, None] = field(default_factory=dict)  # ordered set of senders
    aggregating: bool = False
    timer_set: bool = False
    offered: dict[Address, PartResult] = field(default_factory=dict)  # by owner, first word counts
    result: PartResult | None = None


class Exchange:
    """All that belongs to one attempt. `down` is shared with the trainer, who keeps it up."""

    def __init__(
        self,
        context: RunContext,
        me: Address,
        seat: SeatProposal,
        carried: tuple[Cid, ...],
        down: Unreachable,
    ) -> None:
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
        return all(m in self.commitments or m in self._down for m in self.members)

    # inputs ---------------------------------------------------------------------------------------
    def begin(self, now: float) -> list[Effect]:
        """Send every part to its owner; only who has committed by now takes part."""
        self.expected = frozenset(self.commitments)
        effects: list[Effect] = [
            Note("exchange", self.attempt, f"{len(self.expected)} committed"),
            self._owner_timer(now),
        ]
        for index in range(len(self.parts)):
            effects += self._look_to_owner(index, now)
        return effects

    def _owner_timer(self, now: float) -> SetTimer:
        return SetTimer("owner", self.attempt, now + self.context.deadlines.owner_s)

    def _look_to_owner(self, index: int, now: float) -> list[Effect]:
        """Hand our input of a part to the owner whose turn it is, skipping those who are down."""
        part = self.parts[index]
        while part.rank < len(part.owners) - 1 and part.owners[part.rank] in self._down:
            part.rank += 1
        if self._take_offer(part):
            return []
        owner = part.owners[part.rank]
        contributing = self.me in self.expected
        if owner != self.me:
            return [SendPart(self.attempt, index, owner)] if contributing else []
        if contributing:
            part.inputs[self.me] = None
        return [*self._input_timer(index, now), *self._aggregate_if_complete(index)]

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
        if part.result is not None or part.aggregating:
            return []
        part.inputs[event.sender] = None
        if self.me in self.expected:
            part.inputs[self.me] = None
        return [*self._input_timer(event.part, now), *self._aggregate_if_complete(event.part)]

    def _aggregate_if_complete(self, index: int) -> list[Effect]:
        wanted = {m for m in self.expected if m not in self._down}
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
        self._take_offer(part)
        return []

    def take_offers(self) -> None:
        """Results that waited for a commitment."""
        for part in self.parts:
            if part.offered and part.result is None:
                self._take_offer(part)

    def _take_offer(self, part: Part) -> bool:
        """Whether there is a result that may stand; a part without one takes it.

        Others than the owners to whom we looked do not decide a part. Nor does a result that names
        a member whose commitment is not here: no validator could audit it.
        """
        committed = self._mask(self.commitments)
        offers = (part.offered.get(owner) for owner in part.owners[: part.rank + 1])
        best = next((o for o in offers if o is not None and not o.included & ~committed), None)
        if part.result is None:
            part.result = best
        return best is not None

    def _mask(self, senders: Iterable[Address]) -> int:
        chosen = set(senders)
        return sum(1 << i for i, m in enumerate(self.members) if m in chosen)

    # failover -------------------------------------------------------------------------------------
    def next_owners(self, now: float) -> list[Effect]:
        """The owners took too long: look to the next of every part that has no result."""
        effects: list[Effect] = [self._owner_timer(now), Note("owner failover", self.attempt)]
        for index, part in enumerate(self.parts):
            if part.result is None and not part.aggregating:
                part.rank = min(part.rank + 1, len(part.owners) - 1)
                effects += self._look_to_owner(index, now)
        return effects

    def on_down(self, peer: Address, now: float) -> list[Effect]:
        """Go round an owner that went, and do not wait for the inputs of a member that did."""
        effects: list[Effect] = []
        for index, part in enumerate(self.parts):
            if part.result is not None:
                continue
            if part.owners[part.rank] == peer:
                effects += self._look_to_owner(index, now)
            elif part.inputs:
                effects += self._aggregate_if_complete(index)
        return effects

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
