"""Counting votes: one vote a voter and slot; a second, different one is equivocation."""

from collections import Counter
from collections.abc import Hashable
from typing import Generic, TypeVar

from eigen.protocol.types import Address

S = TypeVar("S", bound=Hashable)
V = TypeVar("V", bound=Hashable)


class Tally(Generic[S, V]):
    """Votes for values in slots. Bounded by who may vote and by `forget_below`."""

    def __init__(self) -> None:
        self._votes: dict[S, dict[Address, V]] = {}
        self._counts: dict[S, Counter[V]] = {}

    def add(self, slot: S, voter: Address, value: V) -> bool:
        """Count a vote. False where this voter has already voted differently in this slot."""
        votes = self._votes.setdefault(slot, {})
        if voter in votes:
            return votes[voter] == value
        votes[voter] = value
        self._counts.setdefault(slot, Counter())[value] += 1
        return True

    def voters(self, slot: S, value: V) -> frozenset[Address]:
        """Who voted for this value."""
        return frozenset(a for a, v in self._votes.get(slot, {}).items() if v == value)

    def votes(self, slot: S) -> dict[Address, V]:
        """All votes of a slot."""
        return dict(self._votes.get(slot, {}))

    def leading(self, slot: S, needed: int) -> V | None:
        """The value that at least `needed` voters chose; at most one if needed is a majority."""
        counts: dict[V, int] = self._counts.get(slot, Counter())
        return next((value for value, count in counts.items() if count >= needed), None)

    def most(self, slot: S) -> int:
        """How many voters the value with the most has."""
        return max(self._counts.get(slot, {}).values(), default=0)

    def forget(self, keep: frozenset[S]) -> None:
        """Drop all slots but these."""
        self._votes = {slot: votes for slot, votes in self._votes.items() if slot in keep}
        self._counts = {slot: counts for slot, counts in self._counts.items() if slot in keep}
