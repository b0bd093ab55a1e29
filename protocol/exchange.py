"""The exchange of one attempt: who owns each part, whose inputs are in, which results stand.

Members hand their parts to the parts' owners; an owner aggregates and hands the result to all. In a
seat of more than `limits.GROUP_MAX` a collector of each group stands between the two: it aggregates
what its group hands it, and passes the owner's result on. An owner or collector that is down or
late is passed over for the next in the part's order. Methods return effects. In which phase they
may be called, and what follows once all results are here, `trainer` knows.
"""

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

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
from eigen.protocol.messages import Commitment, PartResult, SeatProposal, digest
from eigen.protocol.pending import Unreachable
from eigen.protocol.seat import SEATS_CACHED, groups, part_owners, round_seed
from eigen.protocol.tally import Tally
from eigen.protocol.types import Address, Cid

OWNER_TURNS = 3
"""Where groups hand on, an owner has so many collectors' turns: a group may have to try two."""


@dataclass(slots=True)
class Gone:
    """Members that are not to be reached, or were silent for too long: owners passed over, too."""

    down: Unreachable
    silent: set[Address]

    def __contains__(self, member: object) -> bool:
        return member in self.down or member in self.silent

    def __len__(self) -> int:
        """No fewer than there are."""
        return len(self.down) + len(self.silent)


@dataclass(slots=True)
class Turns:
    """Who gathers a part, first choice first, and whose turn it is as we see it."""

    order: Sequence[Address]
    rank: int = 0
    since_s: float = 0.0  # when we began to look to whose turn it is

    @property
    def now(self) -> Address:
        """Whose turn it is."""
        return self.order[self.rank]

    @property
    def had(self) -> Sequence[Address]:
        """Whose turn it is or was."""
        return self.order[: self.rank + 1]

    def after(self, rank: int, gone: Container[Address]) -> int:
        """The first from `rank` on who is not gone, or the last."""
        last = len(self.order) - 1
        return next((r for r in range(rank, last) if self.order[r] not in gone), last)


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
    handed_on: bool = False  # the result, to all or to the next owner

    @property
    def gatherers(self) -> Turns:
        """To whom members hand their inputs."""
        return self.collectors or self.owners


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
        self._bits = _bits(self.members)
        self.seated = self._bits.keys()
        self.shards = next((m.shards for m in seat.members if m.trainer == me), None)
        """What this node is to train on; None where it is not seated."""
        self.offered = False  # whether any result or group came, maybe to wait for a commitment
        self.groups = seat_groups(context, seat)
        self._group = next((i for i, group in enumerate(self.groups) if me in group), 0)
        self.parts = self._parts()
        self.commitments: dict[Address, Commitment] = {}
        self._committed_before = (0, 0)
        self.expected: frozenset[Address] = frozenset()  # who had committed when it began
        self.votes: Tally[int, tuple[PartResult, ...]] = Tally()  # by attempt
        self.agreed: tuple[PartResult, ...] = ()  # what a majority voted for
        self._gone = Gone(down, set(silent))

    def _parts(self) -> list[Part]:
        owners = gatherers(self.context, self.seat, self.members)
        if not self._grouped:
            return [Part(Turns(order), None) for order in owners]
        collectors = gatherers(self.context, self.seat, self._mine)
        both = zip(owners, collectors, strict=True)
        return [Part(Turns(order), Turns(inner)) for order, inner in both]

    @property
    def _grouped(self) -> bool:
        return len(self.groups) > 1

    @property
    def _mine(self) -> tuple[Address, ...]:
        """Those who hand their parts to each other: our group, or the whole seat."""
        return self.groups[self._group]

    @property
    def results(self) -> tuple[PartResult, ...] | None:
        """The result of every part, once all are here."""
        here = tuple(part.result for part in self.parts if part.result is not None)
        return here if len(here) == len(self.parts) else None

    def all_committed(self) -> bool:
        """Whether nobody's commitment is worth waiting for."""
        if len(self.commitments) + len(self._gone) < len(self.members):
            return False
        return all(m in self.commitments or m in self._gone for m in self.members)

    # inputs ---------------------------------------------------------------------------------------
    def begin(self, now: float) -> list[Effect]:
        """Send every part on its way; only who has committed by now takes part."""
        self.expected = frozenset(self.commitments)
        self._gone.silent = set(self.members) - self.expected
        effects: list[Effect] = [Note("exchange", self.attempt, f"{len(self.expected)} committed")]
        for index, part in enumerate(self.parts):
            part.owners.rank, part.owners.since_s = part.owners.after(0, self._gone), now
            effects += self._hand_in(index, now)
        return [*effects, self._owner_timer(now)]

    def _owner_timer(self, now: float) -> SetTimer:
        """For the first owner or collector that may be passed over, if any is awaited."""
        awaited = (due for part in self.parts for _, due in self._awaited(part))
        return SetTimer(
            "owner", self.attempt, min(awaited, default=now + self.context.deadlines.owner_s)
        )

    def _awaited(self, part: Part) -> Iterator[tuple[Turns, float]]:
        """To whom we look for a part, and until when: it may wait for inputs itself.

        The time is the same for all owners, whoever was heard by whom: members must go round one
        together.
        """
        times = self.context.deadlines
        patience_s = times.inputs_s + times.owner_s
        if part.result is not None or part.aggregating:
            return
        if part.collectors is not None and not (part.collecting or part.collected):
            yield part.collectors, part.collectors.since_s + patience_s
        turns = OWNER_TURNS if self._grouped else 1
        yield part.owners, part.owners.since_s + turns * patience_s

    def _hand_in(self, index: int, now: float) -> list[Effect]:
        """Our input of a part to whose turn it is to gather it, skipping those who are gone."""
        part = self.parts[index]
        turns = part.gatherers
        turns.rank, turns.since_s = turns.after(turns.rank, self._gone), now
        effects = self._take(index)
        if part.result is not None:
            return [*effects, *self._answer(index)]
        contributing = self.me in self.expected
        if turns.now != self.me:
            return [SendPart(self.attempt, index, turns.now)] if contributing else []
        if contributing:
            part.inputs[self.me] = None
            following = turns.order[turns.after(turns.rank + 1, self._gone)]
            if following != self.me:
                effects.append(SendPart(self.attempt, index, following, reserve=True))
        return [*effects, *self._input_timer(index, now), *self._gather_if_complete(index)]

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
        if part.aggregating or part.collecting or event.sender in part.inputs:
            return []
        if part.collected is None:
            part.inputs[event.sender] = None
        if part.result is not None:
            return self._answer(event.part, event.sender)
        if part.gatherers.now != self.me:
            return []  # in reserve: it may become our turn
        return [*self._input_timer(event.part, now), *self._gather_if_complete(event.part)]

    def _gather_if_complete(self, index: int) -> list[Effect]:
        wanted = {m for m in self._mine if m in self.expected and m not in self._gone}
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
        inputs = tuple((m, self.commitments[m].samples) for m in self._mine if m in part.inputs)
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
        return [*effects, *self._hand_over(event.part, now)]

    def _refuse(self, senders: Iterable[Address]) -> list[Effect]:
        reason = "a part that does not decode"
        return [Penalize(sender, limits.PENALTY_BAD_DATA, reason) for sender in senders]

    def _hand_over(self, index: int, now: float) -> list[Effect]:
        """Our group's aggregate of a part to the owner whose turn it is."""
        part = self.parts[index]
        if part.collected is None or part.result is not None:
            return []
        if part.owners.now != self.me:
            return [SendGroup(self.attempt, index, part.collected, part.owners.now)]
        return self.on_group(GroupArrived(self.me, self.attempt, index, part.collected), now)

    def on_group(self, event: GroupArrived, now: float) -> list[Effect]:
        """A collector's aggregate of its group; the first word for each group counts."""
        sender, given = event.sender, event.group
        if sender not in self.seated or event.part >= len(self.parts) or not self._grouped:
            return []
        number = next(i for i, group in enumerate(self.groups) if sender in group)
        if not given.included or given.included & ~self._mask(self.groups[number]):
            return [Penalize(sender, limits.PENALTY_MALFORMED, "a mask outside the group")]
        part = self.parts[event.part]
        if part.aggregating:
            return []
        part.groups.setdefault(number, (sender, given))
        self.offered = True
        if part.result is not None:
            return self._answer(event.part, sender)
        if part.owners.now != self.me:
            return []  # in reserve: it may become our turn
        return [*self._group_timer(event.part, now), *self._combine_if_complete(event.part)]

    def _group_timer(self, index: int, now: float) -> list[Effect]:
        times = self.context.deadlines
        return self._timer("groups", index, now + times.owner_s + 2 * times.inputs_s)

    def _combine_if_complete(self, index: int) -> list[Effect]:
        """Once every group that has somebody is in, and all whose data is in them are known."""
        part = self.parts[index]
        there = self._mask(m for m in self.expected if m not in self._gone)
        for number, group in enumerate(self.groups):
            if number not in part.groups and there & self._mask(group):
                return []
        committed = self._committed()
        known = all(not given.included & ~committed for _, given in part.groups.values())
        return self.groups_due(index) if known else []

    def groups_due(self, index: int) -> list[Effect]:
        """Aggregate a part from the groups that are here, once."""
        part = self.parts[index]
        if part.aggregating or part.result is not None:
            return []
        committed = self._committed()
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
        part.handed_on = True
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
        if event.sender not in self.seated or event.part >= len(self.parts):
            return []
        if not 0 < event.result.included < 1 << len(self.members):
            return [Penalize(event.sender, limits.PENALTY_MALFORMED, "a mask outside the seat")]
        part = self.parts[event.part]
        part.offered.setdefault(event.sender, event.result)
        self.offered = True
        if part.result is not None:
            return []
        effects = self._take(event.part)
        return [*effects, *self._answer(event.part)] if part.result is not None else []

    def _answer(self, index: int, *senders: Address) -> list[Effect]:
        """Another owner's result of a part, to `senders`, or all who look to us for the part."""
        part = self.parts[index]
        looking = (*part.inputs, *(sender for sender, _ in part.groups.values()))
        waiting = tuple(m for m in senders or looking if m not in (self.me, *part.offered))
        if part.result is None or part.handed_on or not waiting:
            return []
        return [SendResult(self.attempt, index, part.result, waiting)]

    def take_offers(self) -> list[Effect]:
        """Results and groups that waited for a commitment."""
        effects: list[Effect] = []
        for index, part in enumerate(self.parts):
            if part.offered:
                effects += self._take(index)
            if part.groups and part.owners.now == self.me:
                effects += self._combine_if_complete(index)
        return effects

    def _take(self, index: int) -> list[Effect]:
        """Take an offered result of a part, and pass it on in our group if we collect for it.

        Others than the owners to whom we looked, and than our group's collectors who pass theirs
        on, do not decide a part, but who takes a part over takes what its owner left with anybody:
        they may have voted for it. Nor does a result decide that names a member whose commitment is
        not here: no validator could audit it.
        """
        part = self.parts[index]
        if part.result is not None:
            return []
        committed = self._committed()
        heeded = (*part.owners.had, *(part.collectors.had if part.collectors else ()))
        before = part.owners.had[:-1]
        if part.owners.now == self.me and not self.expected.isdisjoint(before):
            heeded = tuple(part.owners.order)  # we take over
        offers = (part.offered.get(sender) for sender in heeded)
        part.result = next((o for o in offers if o and not o.included & ~committed), None)
        if part.result is None or part.collected is None:
            return []
        others = tuple(m for m in self._mine if m not in (self.me, *part.offered))
        return [SendResult(self.attempt, index, part.result, others)] if others else []

    def _committed(self) -> int:
        """Whose commitments are here; they only become more."""
        count, mask = self._committed_before
        if count != len(self.commitments):
            mask = self._mask(self.commitments)
            self._committed_before = len(self.commitments), mask
        return mask

    def _mask(self, senders: Iterable[Address]) -> int:
        mask = 0
        for sender in senders:
            mask |= self._bits.get(sender, 0)
        return mask

    # failover -------------------------------------------------------------------------------------
    def next_owners(self, now: float) -> list[Effect]:
        """Go round the owners that took too long, and wait for them no more."""
        late: set[Address] = set()
        effects: list[Effect] = []
        for index, part in enumerate(self.parts):
            for turns, due in list(self._awaited(part)):
                if now < due:
                    continue
                if turns is part.owners:
                    late.add(turns.now)
                else:  # whose fault it is that no result came, nobody can tell
                    turns.rank = min(turns.rank + 1, len(turns.order) - 1)
                    effects += self._hand_in(index, now)
        self._gone.silent |= late
        if late or effects:
            effects.insert(0, Note("owner failover", self.attempt))
        effects += self._without(late | self._voteless(), now)
        return [*effects, self._owner_timer(now)]

    def _voteless(self) -> frozenset[Address]:
        """Members that do not seem to have all results, where we do."""
        cast = self.votes.votes(self.attempt.number)
        return frozenset(m for m in self.members if m not in cast) if self.results else frozenset()

    def on_down(self, peer: Address, now: float) -> list[Effect]:
        """Go round an owner that went, and do not wait for the inputs of a member that did."""
        return self._without({peer}, now)

    def _without(self, gone: Container[Address], now: float) -> list[Effect]:
        effects: list[Effect] = []
        for index, part in enumerate(self.parts):
            if part.result is not None:
                effects += self._hand_on(index, gone)
                continue
            if part.aggregating:
                continue
            turns = part.gatherers
            if part.collectors is not None:
                effects += self._owner_without(index, gone, now)
            if turns.now in gone and turns.now in self._gone:
                effects += self._hand_in(index, now)
            elif part.inputs and turns.now == self.me:
                effects += self._gather_if_complete(index)
        return effects

    def _owner_without(self, index: int, gone: Container[Address], now: float) -> list[Effect]:
        """In groups: hand over to the next owner, and as an owner do not wait for who is gone."""
        part = self.parts[index]
        owners = part.owners
        if owners.now in gone and owners.now in self._gone:
            owners.rank, owners.since_s = owners.after(owners.rank, self._gone), now
            effects = self._take(index)
            if part.result is not None:
                return [*effects, *self._answer(index)]
            effects += self._hand_over(index, now)
            if owners.now != self.me or not part.groups:
                return effects
            return [*effects, *self._group_timer(index, now), *self._combine_if_complete(index)]
        if part.groups and owners.now == self.me:
            return self._combine_if_complete(index)
        return []

    def _hand_on(self, index: int, gone: Container[Address]) -> list[Effect]:
        """What an owner that went left here, to the next: others may not have got it."""
        part = self.parts[index]
        owners = part.owners
        left = (o for o in owners.order if o in gone and part.offered.get(o) == part.result)
        owner = next(left, None)
        if owner is None or part.handed_on or part.result is None:
            return []
        following = owners.order[owners.after(owners.order.index(owner) + 1, self._gone)]
        if following in (self.me, owner):
            return []
        part.handed_on = True
        return [SendResult(self.attempt, index, part.result, (following,))]

    # agreement ------------------------------------------------------------------------------------
    def majority(self) -> tuple[PartResult, ...] | None:
        """Results of all parts for which more than half of the seat voted, if there are any."""
        chosen = self.votes.leading(self.attempt.number, len(self.members) // 2 + 1)
        return chosen if chosen is not None and len(chosen) == len(self.parts) else None


@lru_cache(maxsize=SEATS_CACHED)
def _bits(members: tuple[Address, ...]) -> dict[Address, int]:
    """Each member's bit in masks."""
    return {member: 1 << i for i, member in enumerate(members)}


def seat_groups(context: RunContext, seat: SeatProposal) -> tuple[tuple[Address, ...], ...]:
    """Who hands parts to whom in an attempt: one group, or several whose collectors hand on."""
    seed = round_seed(context.seed, seat.attempt.round, seat.previous)
    return groups(seed, seat.attempt.number, (member.trainer for member in seat.members))


def makers(context: RunContext, seat: SeatProposal, part: int) -> tuple[Address, ...]:
    """Who makes a part's result where nobody is passed over: its owner, and groups' collectors."""
    groups = seat_groups(context, seat)
    owner = gatherers(context, seat, (m.trainer for m in seat.members))[part][0]
    if len(groups) == 1:
        return (owner,)
    return (owner, *(gatherers(context, seat, group)[part][0] for group in groups))


def gatherers(
    context: RunContext, seat: SeatProposal, members: Iterable[Address]
) -> tuple[tuple[Address, ...], ...]:
    """Who gathers each part among some members of a seat, first choice first.

    They may hold what the others hand in: those of the seat without groups, else those of a group.
    """
    named = (member.trainer for member in seat.members)
    uploads = dict(zip(named, seat.uploads, strict=True))
    among = tuple(members)
    lines = tuple(uploads[member] for member in among)
    return part_owners(context.seed, context.part_count, among, lines)


def masked(members: Iterable[Address], mask: int) -> list[Address]:
    """The members whose bits are set."""
    return [member for i, member in enumerate(members) if mask >> i & 1]
