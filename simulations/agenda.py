"""What is to come, in order of time: lists of a slice of time each, sorted when their time comes.

Sorting a short list costs less than keeping all that is on its way in one heap.
"""

import heapq
from bisect import insort
from collections.abc import Generator, Iterable
from typing import Final, Generic, TypeVar

N = TypeVar("N")
E = TypeVar("E")

SLICES_S: Final = 64
"""Slices a second: of a busy network a few hundred entries each, of a quiet one a few dozen."""


class Agenda(Generic[N, E]):
    """Entries (time, order of entry, whom it concerns, in which of its lives, what)."""

    def __init__(self) -> None:
        self._slices: dict[int, list[tuple[float, int, N, int, E]]] = {}
        self._turns: list[int] = []  # a heap of the slices' numbers
        self._current = -1  # the slice that is being gone through, and is sorted
        self._order = 0

    def add(self, at_s: float, whom: N, life: int, what: E) -> None:
        """One entry; it comes after all others of its time that are here."""
        self._order = order = self._order + 1
        number = int(at_s * SLICES_S)
        entry = (at_s, order, whom, life, what)
        if number == self._current:
            insort(self._slices[number], entry)
        elif number in self._slices:
            self._slices[number].append(entry)
        else:
            self._slices[number] = [entry]
            heapq.heappush(self._turns, number)

    def add_all(self, times_s: Iterable[float], whom: Iterable[tuple[N, int]], what: E) -> None:
        """The same for many at a time each."""
        slices, current, order = self._slices, self._current, self._order
        for at_s, (one, life) in zip(times_s, whom, strict=True):
            order += 1
            number = int(at_s * SLICES_S)
            entry = (at_s, order, one, life, what)
            if number == current:
                insort(slices[number], entry)
            elif number in slices:
                slices[number].append(entry)
            else:
                slices[number] = [entry]
                heapq.heappush(self._turns, number)
        self._order = order

    def until(self, at_s: float) -> Generator[tuple[float, int, N, int, E], None, None]:
        """Entries up to a time, each once; more may be added, and it may be closed, meanwhile."""
        slices, turns = self._slices, self._turns
        while turns and turns[0] <= at_s * SLICES_S:
            number = turns[0]
            entries = slices[number]
            entries.sort()
            self._current, taken = number, 0
            try:
                for entry in entries:  # what is added comes after the entry that added it
                    if entry[0] > at_s:
                        return
                    taken += 1
                    yield entry
            finally:
                self._current = -1
                del entries[:taken]
            heapq.heappop(turns)
            del slices[number]
