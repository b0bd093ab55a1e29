"""Counting votes: one vote a voter and slot; a second, different one is equivocation."""

from collections.abc import Hashable
from typing import Generic, TypeVar

from eigen.protocol.types import Address

S = TypeVar("S", bound=Hashable)
V = TypeVar("V", bound=Hashable)


class Tally(Generic[S, V]):
    """Votes for values in slots. Bounded by who may vote and by `forget_below`."""

    def __init__(self) -> None:
        self._votes: dict[S, dict[Address, V]] = {}

    def add(self, slot: S, voter: Address, value: V) -> bool:
        """Count a vote. False where this voter has already voted differently in this slot."""
        votes = self._votes.setdefault(slot, {})
        return votes.setdefault(voter, value) == value

    def voters(self, slot: S, value: V) -> frozenset[Address]:
        """Who voted for this value."""
        return frozenset(a for a, v in self._votes.get(slot, {}).items() if v == value)

    def votes(self, slot: S) -> dict[Address, V]:
        """All votes of a slot."""
        return dict(self._votes.get(slot, {}))

    def leading(self, slot: S, needed: int) -> V | None:
        """The value that at least `needed` voters chose; at most one if needed is a majority."""
        votes = self._votes.get(slot, {})
        for value in votes.values():
            if sum(v == value for v in votes.values()) >= needed:
                return value
        return None

    def forget(self, keep: frozenset[S]) -> None:
        """Drop all slots but these."""
        self._votes = {slot: votes for slot, votes in self._votes.items() if slot in keep}
