"""The exchange of one attempt: who owns each part, whose inputs are in, which results stand.

Members hand their parts to the parts' owners; an owner aggregates and hands the result to all. In a
seat of more than `limits.GROUP_MAX` a collector of each group stands between the two: it aggregates
what its group hands it, and passes the owner's result on. An owner or collector that is down or
late is passed over for the next in the part's order. Methods return effects. In which phase they
may be called, and what follows once all results are here, `trainer` knows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from eigen.protocol import limits
from eigen.protocol.context import RunContext
from eigen.protocol.effects import (
    Aggregate,
    Aggregated,
    Collect,
    Collected,
    Combine,
    Effect,
    GroupArrived,
    Note,
    PartArrived,
    Penalize,
    ResultArrived,
    SendGroup,
    SendPart,
    SendResult,
    SetTimer,
)
from eigen.protocol.messages import Attempt, Commitment, PartResult, SeatProposal, digest
from eigen.protocol.pending import Unreachable
from eigen.protocol.seat import groups, part_owners, round_seed
from eigen.protocol.tally import Tally
from eigen.protocol.types import Address, Cid

OWNER_TURNS = 3
"""Where groups hand on, an owner has so many collectors' turns: a group may have to try two."""


@dataclass(slots=True)
class Turns:
    """Who does something for a part, first choice first, and whose turn it is as we see it."""

    order: Sequence[Address]
    rank: int = 0

    @property
    def now(self) -> Address:
        """Whose turn it is."""
        return self.order[self.rank]

    @property
    def had(self) -> Sequence[Address]:
        """Whose turn it is or was."""
        return self.order[: self.rank + 1]

    def pass_on(self) -> None:
        """The next one's turn; the last keeps it."""
        self.rank = min(self.rank + 1, len(self.order) - 1)

    def skip(self, down: Unreachable) -> None:
        """Go past those who are down."""
        while self.rank < len(self.order) - 1 and self.now in down:
            self.rank += 1


@dataclass(slots=True)
class Part:
    """One part of the vector, as seen from this node. Without groups there are no collectors."""

    owners: Turns
    collectors: Turns | None
    inputs: dict[Address, None] = field(default_factory=dict)  # ordered set of senders
    collecting: bool = False
    collected: PartResult | None = None  # what our group comes to, if we are its collector
    groups: dict[int, tuple[Address, PartResult]] = field(default_factory=dict)
    aggregating: bool = False
    timers: set[str] = field(default_factory=set)
    offered: dict[Address, PartResult] = field(default_factory=dict)  # first word of each counts
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
        self.groups = seat_groups(context, seat)
        self._group = next((i for i, group in enumerate(self.groups) if me in group), 0)
        self.parts = self._parts()
        self.commitments: dict[Address, Commitment] = {}
        self.expected: frozenset[Address] = frozenset()  # who had committed when it began
        self.votes: Tally[Attempt, tuple[PartResult, ...]] = Tally()
        self.agreed: tuple[PartResult, ...] = ()  # what a majority voted for
        self._down = down
        self._turn = 0

    def _parts(self) -> list[Part]:
        count, seat = self.context.part_count, self.seat
        owners = part_owners(self.context.seed, count, self.members, seat.uploads)
        if not self._grouped:
            return [Part(Turns(order), None) for order in owners]
        uploads = dict(zip(self.members, seat.uploads, strict=True))
        lines = tuple(uploads[member] for member in self._mine)
        collectors = part_owners(self.context.seed, count, tuple(self._mine), lines)
        both = zip(owners, collectors, strict=True)
        return [Part(Turns(order), Turns(inner)) for order, inner in both]

    @property
    def _grouped(self) -> bool:
        return len(self.groups) > 1

    @property
    def _mine(self) -> list[Address]:
        """Those who hand their parts to each other: our group, or the whole seat."""
        return self.groups[self._group]

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
        """Send every part on its way; only who has committed by now takes part."""
        self.expected = frozenset(self.commitments)
        effects: list[Effect] = [
            Note("exchange", self.attempt, f"{len(self.expected)} committed"),
            self._owner_timer(now),
        ]
        for index in range(len(self.parts)):
            effects += self._hand_in(index, now)
        return effects

    def _owner_timer(self, now: float) -> SetTimer:
        return SetTimer("owner", self.attempt, now + self.context.deadlines.owner_s)

    def _hand_in(self, index: int, now: float) -> list[Effect]:
        """Our input of a part to whose turn it is to gather it, skipping those who are down."""
        part = self.parts[index]
        gatherers = part.collectors or part.owners
        gatherers.skip(self._down)
        effects = self._take(index)
        if part.result is not None:
            return effects
        contributing = self.me in self.expected
        if gatherers.now != self.me:
            return [SendPart(self.attempt, index, gatherers.now)] if contributing else []
        if contributing:
            part.inputs[self.me] = None
        return [*self._input_timer(index, now), *self._gather_if_complete(index)]

    def _timer(self, name: str, index: int, at_s: float) -> list[Effect]:
        """Set once for a part."""
        part = self.parts[index]
        if name in part.timers:
            return []
        part.timers.add(name)
        return [SetTimer(name, self.attempt, at_s, index)]

    def _input_timer(self, index: int, now: float) -> list[Effect]:
        return self._timer("inputs", index, now + self.context.deadlines.inputs_s)

    def on_part(self, event: PartArrived, now: float) -> list[Effect]:
        """A member's input. One that is not what the member committed to costs it."""
        if event.sender not in self.expected or event.part >= len(self.parts):
            return []
        if event.sender not in self._mine:
            return []
        if self.commitments[event.sender].parts_root != event.root:
            reason = f"part {event.part} does not match its commitment"
            return [
                Penalize(event.sender, limits.PENALTY_BAD_DATA, reason),
                Note("part refused", event.attempt, f"{event.sender.hex()}: {reason}"),
            ]
        part = self.parts[event.part]
        if part.result is not None:
            return self._pass_on(event.part, part.result, (event.sender,))
        if part.aggregating or part.collecting or part.collected:
            return []
        part.inputs[event.sender] = None
        if self.me in self.expected:
            part.inputs[self.me] = None
        return [*self._input_timer(event.part, now), *self._gather_if_complete(event.part)]

    def _pass_on(
        self, index: int, result: PartResult, members: tuple[Address, ...]
    ) -> list[Effect]:
        """A result to members who have to get it through us; without groups there are none."""
        wanted = self._grouped and members
        return [SendResult(self.attempt, index, result, members)] if wanted else []

    def _gather_if_complete(self, index: int) -> list[Effect]:
        wanted = {m for m in self._mine if m in self.expected and m not in self._down}
        return self.inputs_due(index) if wanted <= set(self.parts[index].inputs) else []

    def inputs_due(self, index: int) -> list[Effect]:
        """Aggregate a part, or what our group has of it, from the inputs that are here; once."""
        if index >= len(self.parts):
            return []
        part = self.parts[index]
        if part.aggregating or part.collecting or part.collected or part.result is not None:
            return []
        if not part.inputs:
            return []
        given = ((m, self.commitments[m].samples) for m in self._mine if m in part.inputs)
        inputs = tuple(given)
        if self._grouped:
            part.collecting = True
            return [Collect(self.attempt, index, inputs)]
        part.aggregating = True
        return [Aggregate(self.attempt, index, inputs, self.carried)]

    # groups ---------------------------------------------------------------------------------------
    def on_collected(self, event: Collected, now: float) -> list[Effect]:
        """What our group comes to: on to the part's owner."""
        part = self.parts[event.part]
        effects = self._refuse(event.refused)
        for sender in event.refused:
            part.inputs.pop(sender, None)
        part.collecting = False
        part.collected = PartResult(event.digest, self._mask(part.inputs))
        return [*effects, *self._hand_on(event.part, now)]

    def _refuse(self, senders: Iterable[Address]) -> list[Effect]:
        reason = "a part that does not decode"
        return [Penalize(sender, limits.PENALTY_BAD_DATA, reason) for sender in senders]

    def _hand_on(self, index: int, now: float) -> list[Effect]:
        """Our group's aggregate of a part to the owner whose turn it is."""
        part = self.parts[index]
        part.owners.skip(self._down)
        if part.collected is None or part.result is not None:
            return []
        if part.owners.now != self.me:
            return [SendGroup(self.attempt, index, part.collected, part.owners.now)]
        return self.on_group(GroupArrived(self.me, self.attempt, index, part.collected), now)

    def on_group(self, event: GroupArrived, now: float) -> list[Effect]:
        """A collector's aggregate of its group; the first word for each group counts."""
        sender, given = event.sender, event.group
        if sender not in self.members or event.part >= len(self.parts) or not self._grouped:
            return []
        index = next(i for i, group in enumerate(self.groups) if sender in group)
        if not given.included or given.included & ~self._mask(self.groups[index]):
            return [Penalize(sender, limits.PENALTY_MALFORMED, "a mask outside the group")]
        part = self.parts[event.part]
        if part.result is not None:
            return self._pass_on(event.part, part.result, (sender,))
        if not part.aggregating:
            part.groups.setdefault(index, (sender, given))
        times = self.context.deadlines
        patience = self._timer("groups", event.part, now + times.owner_s + times.inputs_s)
        return [*patience, *self._combine_if_complete(event.part)]

    def _combine_if_complete(self, index: int) -> list[Effect]:
        """Once every group that has somebody is in, and all whose data is in them are known."""
        part = self.parts[index]
        present = (m for m in self.expected if m not in self._down)
        there = self._mask(present)
        committed = self._mask(self.commitments)
        for number, group in enumerate(self.groups):
            if number not in part.groups and there & self._mask(group):
                return []
        known = all(not given.included & ~committed for _, given in part.groups.values())
        return self.groups_due(index) if known else []

    def groups_due(self, index: int) -> list[Effect]:
        """Aggregate a part from the groups that are here, once."""
        part = self.parts[index]
        if part.aggregating or part.result is not None:
            return []
        committed = self._mask(self.commitments)
        part.groups = {i: g for i, g in part.groups.items() if not g[1].included & ~committed}
        if not part.groups:
            return []
        part.aggregating = True
        given = tuple(
            (sender, group, self._samples(group.included))
            for _, (sender, group) in sorted(part.groups.items())
        )
        return [Combine(self.attempt, index, given, self.carried)]

    def _samples(self, mask: int) -> int:
        return sum(self.commitments[m].samples for m in masked(self.members, mask))

    # results --------------------------------------------------------------------------------------
    def on_aggregated(self, event: Aggregated) -> list[Effect]:
        """Our aggregate of a part: to all members, and for ourselves."""
        part = self.parts[event.part]
        effects = self._refuse(event.refused)
        for sender in event.refused:
            part.inputs.pop(sender, None)
        part.groups = {i: g for i, g in part.groups.items() if g[0] not in event.refused}
        included = self._mask(part.inputs)
        if self._grouped:
            included = sum(group.included for _, group in part.groups.values())
        result = PartResult(event.digest, included)
        if part.result is None:
            part.result = result
        members = self._receivers(part)
        return [*effects, SendResult(event.attempt, event.part, result, members)]

    def _receivers(self, part: Part) -> tuple[Address, ...]:
        """Whom an owner hands its result: its group, and of others whoever collected for them."""
        if not self._grouped:
            return tuple(m for m in self.members if m != self.me)
        own = [m for m in self._mine if m != self.me]
        return (*own, *(s for i, (s, _) in sorted(part.groups.items()) if i != self._group))

    def on_result(self, event: ResultArrived) -> list[Effect]:
        """A member's result of a part; the first word of each member counts."""
        if event.sender not in self.members or event.part >= len(self.parts):
            return []
        if not 0 < event.result.included < 1 << len(self.members):
            return [Penalize(event.sender, limits.PENALTY_MALFORMED, "a mask outside the seat")]
        part = self.parts[event.part]
        part.offered.setdefault(event.sender, event.result)
        return self._take(event.part)

    def take_offers(self) -> list[Effect]:
        """Results and groups that waited for a commitment."""
        effects: list[Effect] = []
        for index, part in enumerate(self.parts):
            if part.offered:
                effects += self._take(index)
            if part.groups and part.result is None:
                effects += self._combine_if_complete(index)
        return effects

    def _take(self, index: int) -> list[Effect]:
        """Take an offered result of a part, and pass it on in our group if we collect for it.

        Others than the owners to whom we looked, and than our group's collectors who pass theirs
        on, do not decide a part. Nor does a result that names a member whose commitment is not
        here: no validator could audit it.
        """
        part = self.parts[index]
        if part.result is not None:
            return []
        committed = self._mask(self.commitments)
        heeded = (*part.owners.had, *(part.collectors.had if part.collectors else ()))
        offers = (part.offered.get(sender) for sender in heeded)
        part.result = next((o for o in offers if o and not o.included & ~committed), None)
        if part.result is None or part.collected is None:
            return []
        return self._pass_on(index, part.result, tuple(m for m in self._mine if m != self.me))

    def _mask(self, senders: Iterable[Address]) -> int:
        chosen = set(senders)
        return sum(1 << i for i, m in enumerate(self.members) if m in chosen)

    # failover -------------------------------------------------------------------------------------
    def next_owners(self, now: float) -> list[Effect]:
        """It took too long: look to the next owner or collector of every part without a result."""
        effects: list[Effect] = [self._owner_timer(now), Note("owner failover", self.attempt)]
        self._turn += 1
        for index, part in enumerate(self.parts):
            if part.result is not None or part.aggregating:
                continue
            if part.collectors is None or self._turn % OWNER_TURNS == 0:
                part.owners.pass_on()
                effects += self._hand_on(index, now)
            if part.collected or part.collecting:
                continue
            if part.collectors is not None:
                part.collectors.pass_on()
            effects += self._hand_in(index, now)
        return effects

    def on_down(self, peer: Address, now: float) -> list[Effect]:
        """Go round a peer that went, and do not wait for what it would have handed in."""
        effects: list[Effect] = []
        for index, part in enumerate(self.parts):
            if part.result is not None:
                continue
            gatherer = (part.collectors or part.owners).now
            if part.collectors is not None and part.owners.now == peer:
                effects += self._hand_on(index, now)
            if gatherer == peer:
                effects += self._hand_in(index, now)
            elif part.inputs:
                effects += self._gather_if_complete(index)
            if part.groups:
                effects += self._combine_if_complete(index)
        return effects

    # agreement ------------------------------------------------------------------------------------
    def majority(self) -> tuple[PartResult, ...] | None:
        """Results of all parts for which more than half of the seat voted, if there are any."""
        chosen = majority_result(self.votes, self.attempt, self.members)
        return chosen if chosen is not None and len(chosen) == len(self.parts) else None


def seat_groups(context: RunContext, seat: SeatProposal) -> list[list[Address]]:
    """Who hands parts to whom in an attempt: one group, or several whose collectors hand on."""
    seed = round_seed(context.seed, seat.attempt.round, seat.previous)
    return groups(seed, seat.attempt.number, [member.trainer for member in seat.members])


def masked(members: Iterable[Address], mask: int) -> list[Address]:
    """The members whose bits are set."""
    return [member for i, member in enumerate(members) if mask >> i & 1]


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
