"""The routing table of the DHT: buckets of peers by the length of the prefix shared with this one.

Does no I/O and knows no clock. Only peers that have answered and can be dialled belong in here.
"""

import heapq
import random
from dataclasses import dataclass
from typing import Final

from eigen.node.libp2p.bounds import KAD_K
from eigen.node.libp2p.identity import ID, ID_PREFIX, KEY_PREFIX
from eigen.node.libp2p.kad_contact import BITS, Contact, place_of
from eigen.protocol.types import Address

FAILURES_MAX: Final = 2
"""Failed queries in a row after which a peer is forgotten: one may be a moment's trouble."""
CHECK_AFTER_S: Final = 600.0
"""A peer silent for so long must answer again when a newcomer wants its place."""
REFRESH_DEPTH_MAX: Final = 12
"""Buckets that are refreshed: in deeper ones every peer of a million is a neighbour anyway, and a
key for them takes long to find."""


@dataclass(slots=True)
class _Entry:
    contact: Contact
    seen_s: float
    failures: int = 0


class RoutingTable:
    """At most k peers a bucket, those that have stayed longest first. `now_s` is of any clock."""

    def __init__(self, local: ID, rng: random.Random, *, size: int = KAD_K) -> None:
        self._local = place_of(local.to_bytes())
        self._rng = rng
        self._size = size
        self._buckets: dict[int, dict[Address, _Entry]] = {}
        self._refreshed_s: dict[int, float] = {}

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def __contains__(self, named: Contact) -> bool:
        return named.address in self._buckets.get(self.bucket_of(named.place), ())

    def is_fresh(self, named: Contact, now_s: float) -> bool:
        """Whether a peer is in the table and has answered not long ago."""
        entry = self._buckets.get(self.bucket_of(named.place), {}).get(named.address)
        return entry is not None and now_s - entry.seen_s < CHECK_AFTER_S

    def bucket_of(self, place: int) -> int:
        """Bits that a place shares with this node's, from the front; 256 is this node itself."""
        return BITS - (self._local ^ place).bit_length()

    def add(self, named: Contact, now_s: float) -> Contact | None:
        """A peer has answered. Where its bucket is full, it stays out.

        Returns the peer that it might replace, if that one has been silent for long: ask it, and
        call `failed` where it does not answer.
        """
        index = self.bucket_of(named.place)
        if index == BITS:
            return None
        bucket = self._buckets.setdefault(index, {})
        known = bucket.pop(named.address, None)
        if known is not None and not named.endpoints:
            named = known.contact
        if known is None and len(bucket) >= self._size:
            oldest = next(iter(bucket.values()))
            if not oldest.failures:
                return oldest.contact if now_s - oldest.seen_s >= CHECK_AFTER_S else None
            del bucket[oldest.contact.address]
        bucket[named.address] = _Entry(named, now_s)
        return None

    def failed(self, named: Contact) -> None:
        """A peer did not answer: forgotten at the second time."""
        entry = self._buckets.get(self.bucket_of(named.place), {}).get(named.address)
        if entry is not None:
            entry.failures += 1
            if entry.failures >= FAILURES_MAX:
                self.remove(named)

    def remove(self, named: Contact) -> None:
        """A peer is no server of the DHT, or no peer of ours."""
        index = self.bucket_of(named.place)
        bucket = self._buckets.get(index, {})
        bucket.pop(named.address, None)
        if not bucket:
            self._buckets.pop(index, None)

    def closest(self, place: int, count: int = KAD_K) -> list[Contact]:
        """The peers nearest to a place, nearest first."""
        entries = (entry.contact for bucket in self._buckets.values() for entry in bucket.values())
        return heapq.nsmallest(count, entries, key=lambda named: named.place ^ place)

    # Refreshing ---------------------------------------------------------------------------------

    def touch(self, place: int, now_s: float) -> None:
        """A lookup for this place is done: its bucket is fresh."""
        self._refreshed_s[min(self.bucket_of(place), REFRESH_DEPTH_MAX)] = now_s

    def due(self, now_s: float, every_s: float) -> int | None:
        """The bucket that most needs a lookup, or None where all are fresh."""
        deepest = max(self._buckets, default=0)
        indices = range(min(deepest + 1, REFRESH_DEPTH_MAX))
        stale = [i for i in indices if now_s - self._refreshed_s.get(i, -every_s) >= every_s]
        return min(stale, key=lambda i: self._refreshed_s.get(i, -every_s), default=None)

    def key_in(self, index: int) -> bytes:
        """Bytes shaped like a peer id whose place falls into a bucket below the refreshed depth.

        About `2 ** (index + 1)` hashes of a microsecond each.
        """
        while True:
            key = ID_PREFIX + KEY_PREFIX + self._rng.randbytes(33)
            if self.bucket_of(place_of(key)) == index:
                return key
