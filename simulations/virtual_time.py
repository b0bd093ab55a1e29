"""Trio on virtual time, the same from one seed: no thread runs, and tasks take turns as drawn.

Trio's clock jumps when every task waits, and a thread's work is no task. So work for threads is
done in place, while the clock stands, and is charged to it afterwards. Which tasks run first is
drawn by Trio, from a generator that is seeded here; sets and dicts of bytes are alike in every
process only where `PYTHONHASHSEED` says so.
"""

import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar
from unittest.mock import patch

import trio
import trio.testing
from trio._core import _run as trio_run

R = TypeVar("R")

THREAD_S: Final = 0.001
"""What a piece of work in a thread takes: about a commit on an SSD."""


def run(main: Callable[[], Awaitable[R]], seed: int) -> R:
    """Run `main` on a virtual clock that starts at 0. Raises what it does."""
    clock = trio.testing.MockClock(autojump_threshold=0)
    with _drawn_from(seed), patch("trio.to_thread.run_sync", _in_place):
        return trio.run(main, clock=clock)


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


async def _in_place(work: Callable[..., R], *arguments: Any, **_: Any) -> R:
    """`trio.to_thread.run_sync`, without a thread. A cancel waits, as it does there."""
    await trio.lowlevel.checkpoint_if_cancelled()
    done = work(*arguments)
    with trio.CancelScope(shield=True):
        await trio.sleep(THREAD_S)
    return done
