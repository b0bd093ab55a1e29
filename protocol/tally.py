"""Counting votes: one vote a voter and slot; a second, different one is equivocation."""

from collections.abc import Container, Hashable
from typing import Generic, TypeVar

from eigen.protocol.types import Address

S = TypeVar("S", bound=Hashable)
V = TypeVar("V")


class _Slot(Generic[V]):
    """Votes by voter, and how many each value has: there are few values, so they are compared."""

    __slots__ = ("counts", "votes")

    def __init__(self) -> None:
        self.votes: dict[Address, V] = {}
        self.counts: list[tuple[V, int]] = []


class Tally(Generic[S, V]):
    """Votes for values in slots. Bounded by who may vote and by `forget`."""

    __slots__ = ("_slots",)

    def __init__(self) -> None:
        self._slots: dict[S, _Slot[V]] = {}

    def add(self, slot: S, voter: Address, value: V) -> bool:
        """Count a vote. False where this voter has already voted differently in this slot."""
        known = self._slots.get(slot)
        if known is None:
            known = self._slots[slot] = _Slot()
        if voter in known.votes:
            return known.votes[voter] == value
        known.votes[voter] = value
        counts = known.counts
        for i, (other, count) in enumerate(counts):
            if other is value or other == value:
                counts[i] = (other, count + 1)
                return True
        counts.append((value, 1))
        return True

    def voters(self, slot: S, value: V) -> frozenset[Address]:
        """Who voted for this value."""
        return frozenset(a for a, v in self.votes(slot).items() if v is value or v == value)

    def votes(self, slot: S) -> dict[Address, V]:
        """All votes of a slot; not to be changed."""
        known = self._slots.get(slot)
        return known.votes if known else {}

    def leading(self, slot: S, needed: int) -> V | None:
        """The value that at least `needed` voters chose; at most one if needed is a majority."""
        known = self._slots.get(slot)
        for value, count in known.counts if known else ():
            if count >= needed:
                return value
        return None

    def most(self, slot: S) -> int:
        """How many voters the value with the most has."""
        known = self._slots.get(slot)
        return max((count for _, count in known.counts), default=0) if known else 0

    def forget(self, keep: Container[S] = ()) -> None:
        """Drop all slots but these."""
        self._slots = {slot: known for slot, known in self._slots.items() if slot in keep}
