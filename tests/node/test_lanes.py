"""Messages on their way to one peer: in order, and what is in reserve when nothing else waits."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from service_peers import until

from eigen.node.lanes import Lanes
from eigen.node.upload import UploadMeter
from eigen.protocol.types import Address

BOB = Address(b"\x0b" * 20)


class SlowLine:
    """The sending end of transfers that take a message at a time, when told to."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.turn = trio.Semaphore(0)

    async def send(self, message: bytes, *, timeout_s: float) -> None:
        with trio.fail_after(timeout_s):
            await self.turn.acquire()
        self.sent.append(message)

    async def finish(self, *, timeout_s: float) -> None:
        raise AssertionError(f"idle for {timeout_s} s in a test of less")

    @asynccontextmanager
    async def open_bulk(self, *_: Any, **__: Any) -> AsyncIterator["SlowLine"]:
        yield self


async def test_what_is_in_reserve_goes_when_nothing_else_waits() -> None:
    line = SlowLine()
    async with trio.open_nursery() as nursery:
        lanes = Lanes(line, b"run", 5.0, UploadMeter(), nursery)  # type: ignore[arg-type]
        lanes.post(BOB, lambda: b"first")
        lanes.post(BOB, lambda: b"reserve 1", reserve=True)
        lanes.post(BOB, lambda: b"reserve 2", reserve=True)
        lanes.post(BOB, lambda: None)
        lanes.post(BOB, lambda: b"second")
        for _ in range(3):
            line.turn.release()
        await until(lambda: len(line.sent) == 3)
        lanes.post(BOB, lambda: b"third")  # while a reserve is on its way
        for _ in range(2):
            line.turn.release()
        await until(lambda: len(line.sent) == 5)
        nursery.cancel_scope.cancel()
    assert line.sent == [b"first", b"second", b"reserve 1", b"reserve 2", b"third"]
