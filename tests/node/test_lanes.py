"""Messages on their way to peers: in order, and what is in reserve when nothing else waits."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing
from service_peers import until

from eigen.node.lanes import Lanes
from eigen.node.upload import UploadMeter
from eigen.protocol.types import Address

BOB, CAROL = Address(b"\x0b" * 20), Address(b"\x0c" * 20)


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


async def test_what_is_in_reserve_for_one_waits_for_what_is_urgent_for_another() -> None:
    line = SlowLine()
    async with trio.open_nursery() as nursery:
        lanes = Lanes(line, b"run", 5.0, UploadMeter(), nursery)  # type: ignore[arg-type]
        for count in range(3):
            lanes.post(CAROL, lambda count=count: b"for carol %d" % count)
        lanes.post(BOB, lambda: b"in reserve for bob", reserve=True)
        await trio.testing.wait_all_tasks_blocked()
        line.turn.release()
        await until(lambda: len(line.sent) == 1)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(3):
            line.turn.release()
        await until(lambda: len(line.sent) == 4)
        nursery.cancel_scope.cancel()
    assert line.sent[:2] == [b"for carol 0", b"for carol 1"]


async def test_what_is_in_reserve_does_not_wait_for_a_peer_that_takes_nothing() -> None:
    line, stuck = SlowLine(), SlowLine()

    @asynccontextmanager
    async def open_bulk(peer: Address, *_: Any, **__: Any) -> AsyncIterator[SlowLine]:
        yield line if peer == BOB else stuck

    network = SlowLine()
    network.open_bulk = open_bulk  # type: ignore[method-assign]
    line.turn.release()
    async with trio.open_nursery() as nursery:
        lanes = Lanes(network, b"run", 5.0, UploadMeter(), nursery)  # type: ignore[arg-type]
        for _ in range(2):
            lanes.post(CAROL, lambda: b"for carol")
        lanes.post(BOB, lambda: b"in reserve for bob", reserve=True)
        await until(lambda: bool(line.sent))
        nursery.cancel_scope.cancel()
    assert not stuck.sent
