"""Several pieces of work at the same time, whose first error is raised as it is.

A Trio nursery raises groups of errors; callers that catch one kind by name would miss it in there.
"""

from collections.abc import Awaitable, Callable, Iterable

import trio


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
