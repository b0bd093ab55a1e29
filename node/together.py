"""Several pieces of work at the same time: all of them, or whichever has an answer first.

A Trio nursery raises groups of errors; callers that catch one kind by name would miss it in there.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import trio

T = TypeVar("T")

HEDGE_SHARE = 0.25
"""After this share of a request's deadline the next peer is asked beside the one that is slow."""


async def together(works: Iterable[Callable[[], Awaitable[None]]]) -> None:
    """Run all; the first error ends the others and is raised by itself. A cancel ends all."""
    failures: list[Exception] = []

    async with trio.open_nursery() as nursery:

        async def run(work: Callable[[], Awaitable[None]]) -> None:
            try:
                await work()
            except Exception as error:
                failures.append(error)
                nursery.cancel_scope.cancel()

        for work in works:
            nursery.start_soon(run, work)
    if failures:
        raise failures[0]


async def first_of(asks: Iterable[Callable[[], Awaitable[T | None]]], next_s: float) -> T | None:
    """The first answer that is not None, or None where nobody has one. A cancel ends all.

    One is asked after another; one that takes longer than `next_s` is left to answer beside the
    next. Asks must not raise. (Hedged requests: Dean and Barroso, The Tail at Scale, 2013.)
    """
    found: list[T] = []

    async with trio.open_nursery() as nursery:

        async def run(ask: Callable[[], Awaitable[T | None]], answered: trio.Event) -> None:
            answer = await ask()
            if answer is not None:
                found.append(answer)
                nursery.cancel_scope.cancel()
            answered.set()

        for ask in asks:
            answered = trio.Event()
            nursery.start_soon(run, ask, answered)
            with trio.move_on_after(next_s):
                await answered.wait()
    return found[0] if found else None
