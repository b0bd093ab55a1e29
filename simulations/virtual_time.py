"""Trio on virtual time, the same from one seed: no thread runs, and tasks take turns as drawn.

Whenever every task waits, the clock is at the next thing to come: a deadline of Trio's, or the end
of a `sleep_until` of ours, which costs a tenth of Trio's own. A thread's work is no task and would
not hold the clock. So work for threads is done in place, while the clock stands, and is charged to
it afterwards. Which tasks run first is drawn by Trio, from a generator that is seeded here. Sets of
bytes are alike in every process only where `PYTHONHASHSEED` says so.
"""

import gc
import heapq
import itertools
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar
from unittest.mock import patch

import trio
from trio._core import _run as trio_run

R = TypeVar("R")

THREAD_S: Final = 0.001
"""What a piece of work in a thread takes: about a commit on an SSD."""
COLLECTIONS: Final = (200_000, 50, 1000)
"""Thresholds of Python's garbage collector."""
TICK_S: Final = 0.001
"""`sleep_until` ends on whole ticks: what ends together is looked at together."""


class VirtualClock(trio.abc.Clock):
    """Starts at 0 and moves only when nothing can run."""

    def __init__(self) -> None:
        self._now = 0.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, list[trio.lowlevel.Task]]] = []

    def start_clock(self) -> None:
        """See `trio.abc.Clock`."""

    def current_time(self) -> float:
        """See `trio.abc.Clock`."""
        return self._now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """See `trio.abc.Clock`. Trio asks when nothing can run: that is when time passes."""
        if self._sleepers and self._sleepers[0][0] <= deadline:
            self._now = max(self._now, self._sleepers[0][0])
            while self._sleepers and self._sleepers[0][0] <= self._now:
                for task in heapq.heappop(self._sleepers)[2]:
                    trio.lowlevel.reschedule(task)
            return 0.0
        if deadline < float("inf"):
            self._now = max(self._now, deadline)
            return 0.0
        return deadline

    async def sleep_until(self, at_s: float) -> None:
        """As `trio.sleep_until`, to the nearest tick; returns at once where that is past."""
        at_s = round(at_s / TICK_S) * TICK_S
        if at_s <= self._now:
            return
        sleeper = [trio.lowlevel.current_task()]

        def abort(_: object) -> trio.lowlevel.Abort:
            sleeper.clear()
            return trio.lowlevel.Abort.SUCCEEDED

        heapq.heappush(self._sleepers, (at_s, next(self._order), sleeper))
        await trio.lowlevel.wait_task_rescheduled(abort)


def run(main: Callable[[VirtualClock], Awaitable[R]], seed: int) -> R:
    """Run `main` on a virtual clock. Raises what it does."""
    clock = VirtualClock()
    with _drawn_from(seed), _few_collections(), patch("trio.to_thread.run_sync", _in_place):
        return trio.run(main, clock, clock=clock)


def repeatable() -> bool:
    """Whether this process hashes as every other one that was started so."""
    return os.environ.get("PYTHONHASHSEED") == "0" or not sys.flags.hash_randomization


@contextmanager
def _drawn_from(seed: int) -> Iterator[None]:
    before = trio_run._r.getstate()
    trio_run._r.seed(seed)
    try:
        with patch.object(trio_run, "_ALLOW_DETERMINISTIC_SCHEDULING", new=True):
            yield
    finally:
        trio_run._r.setstate(before)


@contextmanager
def _few_collections() -> Iterator[None]:
    """Look for garbage seldom: what many nodes hold takes long to look through."""
    before = gc.get_threshold()
    gc.set_threshold(*COLLECTIONS)
    try:
        yield
    finally:
        gc.set_threshold(*before)


async def _in_place(work: Callable[..., R], *arguments: Any, **_: Any) -> R:
    """`trio.to_thread.run_sync`, without a thread. A cancel waits, as it does there."""
    await trio.lowlevel.checkpoint_if_cancelled()
    done = work(*arguments)
    with trio.CancelScope(shield=True):
        await trio.sleep(THREAD_S)
    return done
