"""Logs of contracts, followed in order through an index, or looked up.

Knows no log's meaning.
"""

import logging
from collections import OrderedDict, deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Self

import trio

from eigen.chain.index import SPAN_MAX, LogIndex
from eigen.chain.port import ChainUnreachable, EndpointRefused
from eigen.chain.rpc import Log, Rpc
from eigen.protocol.types import Address, Digest

REMEMBERED_LOGS_MAX: Final = 4096
"""Logs already reported, so that none is reported again after going back; 1 KB each."""
BACKOFF_S_MAX: Final = 60.0
BACKOFF_DOUBLINGS_MAX: Final = 6
PAGES_BACK_MAX: Final = 32
"""Spans that `last_log` reads, newest first, where one query for all blocks is refused."""

log = logging.getLogger(__name__)


class LogWatch:
    """Logs of an index from a block on, one at each `anext`, never ending; reads the chain on.

    After a reorganisation that is deeper than the index's confirmations, logs of the new history
    are reported, except those that are equal in transaction, topics and data to one that was
    reported before; what was taken back is not told. An endpoint that does not answer, or that
    refuses, is asked again with growing pauses. Raises `WrongChain` alone.

    Holds nothing to close. A cancelled `anext` loses no log.
    """

    def __init__(self, index: LogIndex, from_block: int, *, poll_s: float) -> None:
        self.index = index
        self.from_block = from_block
        self._poll_s = poll_s
        self._seen = 0  # the last id of the index that was taken
        self._reported: OrderedDict[tuple[Digest, tuple[bytes, ...], bytes], None] = OrderedDict()
        self._ready: deque[Log] = deque()
        self._failures = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Log:
        while not self._ready:
            await self._take()
            if self._ready:
                break
            try:
                more = await self.index.advance()
                self._failures = 0
            except (EndpointRefused, ChainUnreachable) as error:
                self.index.narrow()
                self._failures += 1
                span = self.index.span_blocks
                log.warning("watch: %s; asking for %d blocks at a time", error, span)
                more = False
            await self._take()
            if not more and not self._ready:
                await trio.sleep(self._pause_s())
        await trio.lowlevel.checkpoint()
        return self._ready.popleft()

    def _pause_s(self) -> float:
        backed_off_s = self._poll_s * (1 << min(self._failures, BACKOFF_DOUBLINGS_MAX))
        return min(backed_off_s, max(BACKOFF_S_MAX, self._poll_s))

    async def _take(self) -> None:
        """What came into the index since the last look."""
        for id_, found in await self.index.after(self._seen, self.from_block):
            self._seen = id_
            self._report(found)

    def _report(self, found: Log) -> None:
        identity = (found.tx, found.topics, found.data)
        if identity in self._reported:
            return
        self._reported[identity] = None
        if len(self._reported) > REMEMBERED_LOGS_MAX:
            self._reported.popitem(last=False)
        self._ready.append(found)


async def last_log(
    rpc: Rpc,
    account: Address,
    topics: Sequence[Sequence[bytes]],
    first: int,
    *,
    span_max: int = SPAN_MAX,
) -> Log | None:
    """The newest log with these topics since block `first`, None where there is none.

    Also None where the endpoint refuses a query over all blocks, and the log is older than
    `PAGES_BACK_MAX` times `span_max` blocks.
    """
    head = await rpc.block_number()
    with suppress(EndpointRefused):
        logs = await rpc.logs([account], topics, first, head)
        return logs[-1] if logs else None
    for page in range(PAGES_BACK_MAX):
        last = head - page * span_max
        if last < first:
            break
        logs = await rpc.logs([account], topics, max(last - span_max + 1, first), last)
        if logs:
            return logs[-1]
    return None
