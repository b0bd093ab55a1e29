"""What the DAO changed about open runs: made known to each run in the order of the chain, and kept.

A change that nobody may make, or that cannot be trained, is left out by every node alike.
"""

from collections.abc import Awaitable, Callable

import structlog
import trio

from eigen.chain.port import RunChanged
from eigen.node.datasets import Datasets
from eigen.node.fetch import ContentUnavailable
from eigen.node.ports import RecordStore
from eigen.protocol.changes import SpecChange, check_change
from eigen.protocol.context import RunContext
from eigen.protocol.run import RunSpec
from eigen.protocol.types import Digest, RunId
from eigen.protocol.wire import WireError, decode, encode
from eigen.training.errors import SpecError
from eigen.training.spec import check

log = structlog.get_logger()

TOLD_AGAIN_S = 1.0
"""Machines take a change in at once; after so long they have not heard of it."""
RETRY_S_MAX = 60.0
"""Longest pause between two tries to get the manifest of a dataset that nobody has now."""

FindSpec = Callable[[Digest], Awaitable[RunSpec]]


async def no_spec(digest: Digest) -> RunSpec:
    """For a run that nobody changes."""
    raise LookupError(digest.hex())


class RunChanges:
    """Changes of one run. `told` is called with each that holds, in order."""

    def __init__(
        self,
        context: RunContext,
        records: RecordStore,
        datasets: Datasets,
        find: FindSpec,
        told: Callable[[SpecChange], None],
    ) -> None:
        self._context = context
        self._records = records
        self._datasets = datasets
        self._find = find
        self._told = told

    async def restore(self) -> None:
        """Those that an earlier daemon of this home knew, before the run goes on."""
        for _, row in await self._records.scan("run-change", self._context.run):
            self._context.course.learn(decode(row, SpecChange))

    async def run(self, events: trio.MemoryReceiveChannel[RunChanged]) -> None:
        """Take in what the chain tells, until cancelled."""
        async for event in events:
            change = await self._checked(event)
            if change is None or change in self._context.course.changes:
                continue
            number = len(self._context.course.changes)
            key = self._context.run + number.to_bytes(8, "big")
            await self._records.commit([("run-change", key, encode(change))])
            log.info("run changed", run=event.run.hex()[:8], from_round=event.from_round)
            while change not in self._context.course.changes:  # again, if the run's queue was full
                self._told(change)
                await trio.sleep(TOLD_AGAIN_S)

    async def _checked(self, event: RunChanged) -> SpecChange | None:
        spec = await self._find(event.spec)
        try:
            check_change(self._context.spec, spec)
            check(spec)
        except (ValueError, SpecError) as error:
            log.error("a change is left out", run=event.run.hex(), why=str(error))
            return None
        pause_s = 1.0
        while True:
            try:
                manifest = await self._datasets.manifest(spec.dataset)
                break
            except (ContentUnavailable, WireError) as error:
                log.warning("a changed dataset is not to be had yet", why=str(error))
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, RETRY_S_MAX)
        shards = len(manifest.shards)
        return SpecChange(event.from_round, spec, shards, manifest.sealed, event.block)


class Announced:
    """Events of runs that may not be open here yet: each run takes its own, in order."""

    def __init__(self) -> None:
        self._channels: dict[
            RunId,
            tuple[trio.MemorySendChannel[RunChanged], trio.MemoryReceiveChannel[RunChanged]],
        ] = {}

    def add(self, event: RunChanged) -> None:
        """The DAO changed a run; a run that is closed or unknown never takes it."""
        send, _ = self._of(event.run)
        try:
            send.send_nowait(event)
        except trio.WouldBlock:
            log.error("changes of a run dropped", run=event.run.hex())

    def of(self, run: RunId) -> trio.MemoryReceiveChannel[RunChanged]:
        """Where a run reads its changes."""
        return self._of(run)[1]

    def _of(
        self, run: RunId
    ) -> tuple[trio.MemorySendChannel[RunChanged], trio.MemoryReceiveChannel[RunChanged]]:
        if run not in self._channels:
            self._channels[run] = trio.open_memory_channel[RunChanged](CHANGES_WAITING_MAX)
        return self._channels[run]


CHANGES_WAITING_MAX = 1024
"""Changes of one run that are waiting for a spec or a manifest. Each took the DAO a vote."""
