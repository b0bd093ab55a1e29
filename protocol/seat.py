"""Who sits where: seeds, leaders, part owners and shards, as pure functions of public state."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from eigen.protocol import limits
from eigen.protocol.context import RunContext
from eigen.protocol.messages import RoundRecord, SeatMember, digest
from eigen.protocol.types import Address, Digest, RunId

SEATS_CACHED = 64
"""Seats of which the owners are remembered: they stay from round to round."""
READY_SEATS = 2
READY_MORE = 32
"""Of many who wait, about so many say that they are ready: for each seat, and besides."""
RANKS = 2**256
"""All ranks are below this."""


def draw(*parts: bytes) -> bytes:
    """SHA-256 over length-prefixed parts, so that no two draws share a preimage."""
    h = hashlib.sha256()
    for part in parts:
        h.update(len(part).to_bytes(4, "big") + part)
    return h.digest()


@lru_cache(maxsize=SEATS_CACHED)
def round_seed(run_seed: Digest, round_: int, previous: Digest) -> Digest:
    """Everybody's randomness for one round; `previous` is the digest of the record before it."""
    return Digest(draw(b"eigen/round/1", run_seed, round_.to_bytes(8, "big"), previous))


def order_seed(seed: Digest, trainer: Address) -> Digest:
    """What fixes a trainer's data order in the round of `seed`."""
    return Digest(draw(b"eigen/order/1", seed, trainer))


def ahead_seed(seed: Digest, trainer: Address) -> Digest:
    """The same for what it trains ahead in the round of `seed`, as its update of the next round."""
    return Digest(draw(b"eigen/ahead/1", seed, trainer))


def ranked(seed: bytes, purpose: bytes, members: Iterable[Address]) -> list[Address]:
    """Members in an order that the seed fixes and nobody can choose (rendezvous hashing)."""
    return sorted(members, key=lambda member: draw(b"eigen/rank/1", purpose, seed, member))


def _rank(seed: bytes, purpose: bytes, member: Address) -> int:
    """Where a member stands in that order, below `RANKS`."""
    return int.from_bytes(draw(b"eigen/rank/1", purpose, seed, member), "big")


def leader(seed: Digest, attempt: int, validators: Iterable[Address]) -> Address:
    """The validator that proposes in this attempt; the next attempt has the next one."""
    order = _leaders(seed, frozenset(validators))
    return order[attempt % len(order)]


@lru_cache(maxsize=SEATS_CACHED)
def _leaders(seed: Digest, validators: frozenset[Address]) -> list[Address]:
    return ranked(seed, b"leader", validators)


def candidates(
    seed: Digest, attempt: int, trainers: tuple[Address, ...], least: int
) -> tuple[Address, ...]:
    """Whom to seat. From the third attempt on one trainer is left out, another each time:

    an owner that hands out wrong results, or different ones, would spoil every attempt. Nobody is
    left out where fewer than `least` would stay.
    """
    if attempt < limits.ATTEMPTS_OF_ALL or len(trainers) <= least:
        return trainers
    order = ranked(seed, b"left out", trainers)
    left_out = order[(attempt - limits.ATTEMPTS_OF_ALL) % len(order)]
    return tuple(t for t in trainers if t != left_out)


@lru_cache(maxsize=SEATS_CACHED)
def part_owners(
    seed: Digest, parts: int, members: tuple[Address, ...], uploads: tuple[int, ...] = ()
) -> tuple[tuple[Address, ...], ...]:
    """Owners of each part, first choice first. `seed` is the run's: an owner keeps its parts.

    What a part's result left out in one round goes into the next (error feedback), and only its
    owner holds that. First choices follow `shares` of the members' `uploads`, one after another
    through one seeded order; where no line is known everybody owns equally many. The order after
    the first differs by part, so that a lost owner's parts spread over all others.
    """
    weights = dict(zip(members, shares(uploads or (0,) * len(members)), strict=True))
    base, whole = ranked(seed, b"owner", members), sum(weights.values())
    owned = dict.fromkeys(base, 0)
    owners = []
    for part in range(parts):
        due = {m: weights[m] * (part + 1) - owned[m] * whole for m in base}
        first = max(base, key=due.__getitem__)
        owned[first] += 1
        purpose = b"owner" + part.to_bytes(4, "big")
        owners.append((first, *ranked(seed, purpose, [m for m in base if m != first])))
    return tuple(owners)


def shares(uploads: Sequence[int]) -> list[int]:
    """How many parts each of *n* members should own, relative to the others.

    Whoever owns a share *s* of a vector sends 1 - *s* of it to other owners, and *s* to each of
    *n* - 1 members: 1 + (*n* - 2)*s* vectors in all. So that all are done at one time T, a line of
    rate *b* owns (*b*T - 1)/(*n* - 2), or nothing where that is negative; nobody owns more than
    half of the parts. A line of which nothing is known counts as the median of the known ones.
    """
    known = sorted(rate for rate in uploads if rate)
    others = len(uploads) - 2
    if not known or others < 1:
        return [1] * len(uploads)
    middle = known[len(known) // 2]
    rates = [rate or middle for rate in uploads]
    unit = 1 << 20  # one vector
    whole = others * unit

    def owned(time: int) -> list[int]:
        return [min(max((rate * time // middle >> 32) - unit, 0), whole // 2) for rate in rates]

    least, most = 0, unit << 32
    while sum(owned(most)) < whole:
        most *= 2
    while most - least > 1:
        half = (least + most) // 2
        least, most = (least, half) if sum(owned(half)) >= whole else (half, most)
    return owned(most)


def payable_of(
    trainers: Iterable[Address], head: RoundRecord | None, validators: frozenset[Address]
) -> Iterator[Address]:
    """Those of some trainers, in their order, whom the next record has room to pay.

    A record names `limits.PAYEES_MAX` accounts at most, and all that were ever paid.
    """
    named = validators.union(p.account for p in head.payouts) if head else validators
    room = limits.PAYEES_MAX - len(named)
    for trainer in trainers:
        if trainer not in named:
            if room <= 0:
                continue
            room -= 1
        yield trainer


def seats_seed(run_seed: Digest, round_: int, head: RoundRecord | None) -> Digest:
    """What fixes who gets the seats of a round, where they are too few; `head` is the one before.

    It follows from the record before that one, so that whoever will get a seat can say in time
    that it is ready.
    """
    return _seats_seed(run_seed, round_, head.previous if head else Digest(bytes(32)))


def _seats_seed(run_seed: Digest, round_: int, before: Digest) -> Digest:
    return Digest(draw(b"eigen/seats/1", run_seed, round_.to_bytes(8, "big"), before))


@dataclass(frozen=True, slots=True)
class Draw:
    """The draw for the seats of the round after next, as far as a record tells."""

    seed: Digest
    seats: int
    paid: frozenset[Address]  # they are known to hold the checkpoint
    payees: frozenset[Address] | None  # the only ones for whom there will be room in a record

    def may_seat(self, trainer: Address, among: int) -> bool:
        """Whether a trainer `among` so many may get a seat, if it says that it is ready.

        So that not all of thousands say so, only those with the lowest ranks do.
        """
        if trainer in self.paid:
            return False
        if self.payees is not None:
            if trainer not in self.payees:
                return False
            among = min(among, len(self.payees))
        enough = READY_SEATS * self.seats + READY_MORE
        return among <= enough or _rank(self.seed, b"seat", trainer) < RANKS * enough // among


def draw_after(context: RunContext, head: RoundRecord) -> Draw:
    """What the record of a round tells of the seats two rounds later."""
    name = digest(head)
    known = _draws.get((context.run, name))
    if known is None:
        if len(_draws) >= SEATS_CACHED:
            _draws.clear()
        named = context.validators.union(p.account for p in head.payouts)
        known = _draws[context.run, name] = Draw(
            _seats_seed(context.seed, head.attempt.round + 2, name),
            context.spec.trainers_max,
            frozenset(credit.account for credit in head.trainers),
            named if len(named) >= limits.PAYEES_MAX else None,
        )
    return known


_draws: dict[tuple[RunId, Digest], Draw] = {}


def groups(
    seed: Digest, attempt: int, members: Iterable[Address]
) -> tuple[tuple[Address, ...], ...]:
    """The groups of a seat, drawn anew in each attempt; the members' order within each is kept.

    As few as keep each within `limits.GROUP_MAX`, of sizes that differ by one at most.
    """
    return _groups(seed, attempt, tuple(members), limits.GROUP_MAX)


@lru_cache(maxsize=SEATS_CACHED)
def _groups(
    seed: Digest, attempt: int, members: tuple[Address, ...], most: int
) -> tuple[tuple[Address, ...], ...]:
    count = -(-len(members) // most)
    order = ranked(seed, b"group" + attempt.to_bytes(4, "big"), members)
    drawn = [set(order[first::count]) for first in range(count)]
    return tuple(tuple(member for member in members if member in group) for group in drawn)


def assign_sealed(
    holders: Sequence[SeatMember], trainers: Sequence[Address], shards: int, seed: Digest
) -> tuple[tuple[SeatMember, ...], tuple[SeatMember, ...]]:
    """Shards of a sealed dataset: who has seen a shard keeps it, so that nobody collects them all.

    `holders` are all grants so far. A trainer without a shard takes one that nobody holds, else one
    whose holder is absent. Shards that nobody holds are then dealt to those with the fewest.
    Returns the seat members (trainers for whom there is a shard, by address) and the new holders.
    """
    held = {holder.trainer: set(holder.shards) for holder in holders}
    present = sorted(trainers)
    taken = {shard for own in held.values() for shard in own}
    order = sorted(range(shards), key=lambda s: draw(b"eigen/shard/1", seed, s.to_bytes(4, "big")))
    free = [s for s in order if s not in taken]
    absent = [s for s in order if s in taken and not any(s in held.get(t, ()) for t in present)]
    for trainer in ranked(seed, b"shard", (t for t in present if not held.get(t))):
        source = free or absent
        if not source:
            continue
        shard = source.pop(0)
        for own in held.values():
            own.discard(shard)
        held.setdefault(trainer, set()).add(shard)
    seated = [t for t in present if held.get(t)]
    for shard in free:
        if seated:
            fewest = min(seated, key=lambda t: (len(held[t]), t))
            held[fewest].add(shard)
    members = tuple(SeatMember(t, tuple(sorted(held[t]))) for t in seated)
    everyone = tuple(SeatMember(t, tuple(sorted(held[t]))) for t in sorted(held) if held[t])
    return members, everyone


def assign_open(
    trainers: Sequence[Address], shards: int, seed: Digest
) -> tuple[tuple[SeatMember, ...], tuple[SeatMember, ...]]:
    """Shards of a public dataset: drawn anew each round, so that no peer can choose easy data."""
    if not trainers:
        return (), ()
    order = ranked(seed, b"shard", trainers)
    deck = sorted(range(shards), key=lambda s: draw(b"eigen/shard/1", seed, s.to_bytes(4, "big")))
    hands: dict[Address, list[int]] = {t: [] for t in order}
    for position in range(max(shards, len(order))):
        hands[order[position % len(order)]].append(deck[position % shards])
    members = tuple(SeatMember(t, tuple(sorted(set(hands[t])))) for t in sorted(order))
    return members, ()
