"""Logs of one contract: followed in order, each after its confirmations, or looked up.

Knows blocks, logs and reorganisations, not what a log means.
"""

import logging
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import trio

from eigen.chain.port import ChainUnreachable, EndpointRefused
from eigen.chain.rpc import Log, Rpc
from eigen.protocol.types import Address, Digest

SPAN_MAX: Final = 2000
"""Blocks of one query. Public endpoints allow 500 to 10,000; refused spans are halved."""
MARKS_MAX: Final = 64
"""Places to go back to after a reorganisation that is deeper than our confirmations."""
REMEMBERED_LOGS_MAX: Final = 4096
"""Logs already reported, so that none is reported again after going back; 200 bytes each."""
LAGGING_LOOKS_MAX: Final = 10
"""So often a chain that is shorter than before is taken for an endpoint that lags."""
BACKOFF_S_MAX: Final = 60.0
PAGES_BACK_MAX: Final = 32
"""Spans that `last_log` reads, newest first, where one query for all blocks is refused."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Mark:
    block: int
    hash: Digest


@dataclass(slots=True)
class _Place:
    """How far a watcher has read. `marks` are ends of read ranges, oldest first."""

    start: int
    cursor: int
    span: int = SPAN_MAX
    marks: deque[_Mark] = field(default_factory=lambda: deque(maxlen=MARKS_MAX))
    lagging_looks: int = 0

    def go_back(self) -> None:
        """Forget the newest mark, and read again what came after the one before."""
        self.marks.pop()
        self.cursor = self.marks[-1].block + 1 if self.marks else self.start
        self.lagging_looks = 0


async def watch_logs(
    rpc: Rpc,
    account: Address,
    topics: Sequence[Sequence[bytes]],
    from_block: int,
    *,
    confirmations: int,
    poll_s: float,
) -> AsyncIterator[Log]:
    """Logs from a block on, never ending. `confirmations` are blocks on top of the log's own.

    A reorganisation that is not deeper than that is never seen. After a deeper one, logs of the new
    history are reported, except those that are equal in transaction, topics and data to one that
    was reported before; what was taken back is not told. An endpoint that does not answer, or that
    refuses, is asked again with growing pauses. Raises `WrongChain` alone.
    """
    place = _Place(start=from_block, cursor=from_block)
    reported: OrderedDict[tuple[Digest, tuple[bytes, ...], bytes], None] = OrderedDict()
    failures = 0
    while True:
        try:
            logs, at_end = await _next_logs(rpc, account, topics, place, confirmations)
            failures = 0
        except (EndpointRefused, ChainUnreachable) as error:
            place.span = max(place.span // 2, 1)  # the range, or the reply, may be too large
            failures += 1
            log.warning("watch: %s; asking for %d blocks at a time", error, place.span)
            logs, at_end = [], True
        for found in logs:
            identity = (found.tx, found.topics, found.data)
            if identity not in reported:
                reported[identity] = None
                if len(reported) > REMEMBERED_LOGS_MAX:
                    reported.popitem(last=False)
                yield found
        if at_end:
            await trio.sleep(min(poll_s * 2 ** min(failures, 6), max(BACKOFF_S_MAX, poll_s)))


async def _next_logs(
    rpc: Rpc,
    account: Address,
    topics: Sequence[Sequence[bytes]],
    place: _Place,
    confirmations: int,
) -> tuple[list[Log], bool]:
    """Read one span and move on. Returns its logs, and whether there is nothing more to read now.

    The hash of the span's last block is read before its logs: if both are of different histories,
    the next look finds the mark gone and reads the span again.
    """
    head = await rpc.block_number()
    if place.marks:
        mark = place.marks[-1]
        found = await rpc.block_hash(mark.block)
        if found is None and place.lagging_looks < LAGGING_LOOKS_MAX:
            place.lagging_looks += 1
            return [], True
        if found != mark.hash:
            log.warning("watch: block %d was reorganised, reading again", mark.block)
            place.go_back()
            return [], False
        place.lagging_looks = 0
    last = min(head - confirmations, place.cursor + place.span - 1)
    if last < place.cursor:
        return [], True
    end_hash = await rpc.block_hash(last)
    if end_hash is None:
        return [], True
    logs = await rpc.logs(account, topics, place.cursor, last)
    place.marks.append(_Mark(last, end_hash))
    place.cursor = last + 1
    place.span = min(place.span * 2, SPAN_MAX)
    return logs, last == head - confirmations


async def last_log(
    rpc: Rpc, account: Address, topics: Sequence[Sequence[bytes]], first: int
) -> Log | None:
    """The newest log with these topics since block `first`, None where there is none.

    Also None where the endpoint refuses wide queries and the log is older than `PAGES_BACK_MAX`
    times `SPAN_MAX` blocks.
    """
    head = await rpc.block_number()
    with suppress(EndpointRefused):
        logs = await rpc.logs(account, topics, first, head)
        return logs[-1] if logs else None
    for page in range(PAGES_BACK_MAX):
        last = head - page * SPAN_MAX
        if last < first:
            break
        logs = await rpc.logs(account, topics, max(last - SPAN_MAX + 1, first), last)
        if logs:
            return logs[-1]
    return None
