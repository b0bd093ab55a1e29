"""One iterative lookup of the DHT: whom to ask next, and when it is done. Does no I/O.

The k nearest known peers are asked, a few at a time; each names others that may be nearer. It ends
when the k nearest that are not silent have all answered (Maymounkov and Mazières 2002, 2.3).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from eigen.node.libp2p.bounds import (
    KAD_ALPHA,
    KAD_CANDIDATES_MAX,
    KAD_K,
    KAD_QUERIES_PER_LOOKUP_MAX,
)
from eigen.node.libp2p.kad_contact import Contact
from eigen.protocol.types import Address

MISLED_MAX: Final = 4
"""Peers named by one answer that may turn out silent, none answering, before the rest of what it
named is passed over: half of an honest answer may be out of date, all of it seldom is."""


class _State(Enum):
    NEW = "new"
    ASKED = "asked"
    ANSWERED = "answered"
    FAILED = "failed"


@dataclass(slots=True)
class _Candidate:
    contact: Contact
    hops: int
    named_by: set[Address] = field(default_factory=set)
    state: _State = _State.NEW


class Lookup:
    """The nearest peers to a place. Call `next`, ask whom it says, then `answered` or `failed`."""

    def __init__(self, place: int, local: Address, seeds: Iterable[Contact]) -> None:
        self._place = place
        self._local = local
        self._candidates: dict[Address, _Candidate] = {}
        self._answered: set[Address] = set()
        self._misled: dict[Address, int] = {}
        self._led: set[Address] = set()
        self.queries = 0
        self.hops = 0
        """Longest chain of answers that led to a peer which answered; a seed is one hop away."""
        for seed in seeds:
            self._consider(seed, 1, None)

    def next(self) -> Sequence[Contact]:
        """Whom to ask now, nearest first; they count as asked from here on."""
        asked = sum(c.state is _State.ASKED for c in self._candidates.values())
        free = min(KAD_ALPHA - asked, KAD_QUERIES_PER_LOOKUP_MAX - self.queries)
        chosen = [c for c in self._nearest() if c.state is _State.NEW][: max(free, 0)]
        for candidate in chosen:
            candidate.state = _State.ASKED
        self.queries += len(chosen)
        return [candidate.contact for candidate in chosen]

    @property
    def done(self) -> bool:
        """Whether nothing is left to wait for."""
        left = {c.state for c in self._nearest()}
        if _State.ASKED in left:
            return False
        return _State.NEW not in left or self.queries >= KAD_QUERIES_PER_LOOKUP_MAX

    def answered(self, who: Contact, closer: Sequence[Contact]) -> None:
        """A peer answered and named others; the first k of them are considered."""
        candidate = self._candidates[who.address]
        candidate.state = _State.ANSWERED
        self._led |= candidate.named_by
        self.hops = max(self.hops, candidate.hops)
        for named in closer[:KAD_K]:
            if named.address not in (self._local, who.address):
                self._consider(named, candidate.hops + 1, who.address)
        self._trim()

    def failed(self, who: Contact) -> None:
        """A peer did not answer, or not as it should."""
        candidate = self._candidates[who.address]
        candidate.state = _State.FAILED
        for source in candidate.named_by:
            self._misled[source] = self._misled.get(source, 0) + 1

    def closest(self) -> list[Contact]:
        """The k nearest peers that answered, nearest first."""
        answered = [c.contact for c in self._candidates.values() if c.state is _State.ANSWERED]
        return sorted(answered, key=self._distance)[:KAD_K]

    def _consider(self, named: Contact, hops: int, source: Address | None) -> None:
        known = self._candidates.get(named.address)
        if known is None:
            if not named.endpoints and source is not None:
                return
            known = self._candidates[named.address] = _Candidate(named, hops)
        if source is not None:
            known.named_by.add(source)

    def _trim(self) -> None:
        spare = [c.contact for c in self._candidates.values() if c.state is _State.NEW]
        spare.sort(key=self._distance)
        for named in spare[max(KAD_CANDIDATES_MAX - len(self._candidates) + len(spare), 0) :]:
            del self._candidates[named.address]

    def _nearest(self) -> list[_Candidate]:
        """The k nearest candidates that count."""
        counting = [c for c in self._candidates.values() if self._counts(c)]
        return sorted(counting, key=lambda c: self._distance(c.contact))[:KAD_K]

    def _counts(self, candidate: _Candidate) -> bool:
        if candidate.state is _State.NEW and candidate.hops > 1:
            return any(
                source in self._led or self._misled.get(source, 0) < MISLED_MAX
                for source in candidate.named_by
            )
        return candidate.state is not _State.FAILED

    def _distance(self, named: Contact) -> int:
        return named.place ^ self._place
