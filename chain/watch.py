"""Logs of one contract: followed in order, each after its confirmations, or looked up.

Knows blocks, logs and reorganisations, not what a log means.
"""

import logging
from collections import OrderedDict, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Self

import trio

from eigen.chain.port import ChainUnreachable, EndpointRefused
from eigen.chain.rpc import Log, Rpc
from eigen.protocol.types import Address, Digest

SPAN_MAX: Final = 2000
"""Blocks of one query. Public endpoints allow 500 to 10,000; refused spans are halved."""
LOGS_WANTED: Final = 200
"""In one reply: formatting that many takes 10 ms, so larger spans are halved."""
MARKS_MAX: Final = 64
"""Places to go back to after a reorganisation that is deeper than our confirmations."""
REMEMBERED_LOGS_MAX: Final = 4096
"""Logs already reported, so that none is reported again after going back; 1 KB each."""
LAGGING_LOOKS_MAX: Final = 10
"""So often a chain that is shorter than before is taken for an endpoint that lags."""
BACKOFF_S_MAX: Final = 60.0
BACKOFF_DOUBLINGS_MAX: Final = 6
PAGES_BACK_MAX: Final = 32
"""Spans that `last_log` reads, newest first, where one query for all blocks is refused."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Mark:
    """The end of a span that was read, in the history that it was read in."""

    block: int
    hash: Digest


class LogWatch:
    """Logs from a block on, one at each `anext`, never ending. `confirmations` are blocks on top.

    A reorganisation that is not deeper than that is never seen. After a deeper one, logs of the new
    history are reported, except those that are equal in transaction, topics and data to one that
    was reported before; what was taken back is not told. An endpoint that does not answer, or that
    refuses, is asked again with growing pauses. Raises `WrongChain` alone.

    Holds nothing to close. A cancelled `anext` loses no log.
    """

    def __init__(
        self,
        rpc: Rpc,
        account: Address,
        topics: Sequence[Sequence[bytes]],
        from_block: int,
        *,
        confirmations: int,
        poll_s: float,
        span_max: int = SPAN_MAX,
    ) -> None:
        self._rpc = rpc
        self._account = account
        self._topics = topics
        self._start = from_block
        self._confirmations = confirmations
        self._poll_s = poll_s
        self._next_block = from_block
        self._span_max = span_max
        self._span = span_max
        self._marks: deque[_Mark] = deque(maxlen=MARKS_MAX)  # oldest first
        self._reported: OrderedDict[tuple[Digest, tuple[bytes, ...], bytes], None] = OrderedDict()
        self._ready: deque[Log] = deque()
        self._lagging_looks = 0
        self._failures = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Log:
        while not self._ready:
            try:
                more = await self._read_span()
                self._failures = 0
            except (EndpointRefused, ChainUnreachable) as error:
                self._span = max(self._span // 2, 1)  # the range or the reply may be too large
                self._failures += 1
                log.warning("watch: %s; asking for %d blocks at a time", error, self._span)
                more = False
            if not more and not self._ready:
                await trio.sleep(self._pause_s())
        await trio.lowlevel.checkpoint()
        return self._ready.popleft()

    def _pause_s(self) -> float:
        backed_off_s = self._poll_s * (1 << min(self._failures, BACKOFF_DOUBLINGS_MAX))
        return min(backed_off_s, max(BACKOFF_S_MAX, self._poll_s))

    async def _read_span(self) -> bool:
        """Read one span and move on. Returns whether there is more to read now.

        The hash of the span's last block is read before its logs: if the two are of different
        histories, the next call finds the mark gone and reads the span again.
        """
        head = await self._rpc.block_number()
        if not await self._on_same_history():
            return True
        newest = head - self._confirmations
        last = min(newest, self._next_block + self._span - 1)
        if self._lagging_looks or last < self._next_block:
            return False
        end_hash = await self._rpc.block_hash(last)
        if end_hash is None:
            return False
        logs = await self._rpc.logs(self._account, self._topics, self._next_block, last)
        self._marks.append(_Mark(last, end_hash))
        self._next_block = last + 1
        crowded = len(logs) > LOGS_WANTED
        self._span = max(self._span // 2, 1) if crowded else min(self._span * 2, self._span_max)
        for found in logs:
            self._report(found)
        return last < newest

    async def _on_same_history(self) -> bool:
        """Whether the newest mark still stands; if not, go back to the one before it."""
        if not self._marks:
            return True
        mark = self._marks[-1]
        found = await self._rpc.block_hash(mark.block)
        if found == mark.hash:
            self._lagging_looks = 0
            return True
        if found is None and self._lagging_looks < LAGGING_LOOKS_MAX:
            self._lagging_looks += 1
            return True
        log.warning("watch: block %d was reorganised, reading again", mark.block)
        self._marks.pop()
        self._next_block = self._marks[-1].block + 1 if self._marks else self._start
        self._lagging_looks = 0
        return False

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
        logs = await rpc.logs(account, topics, first, head)
        return logs[-1] if logs else None
    for page in range(PAGES_BACK_MAX):
        last = head - page * span_max
        if last < first:
            break
        logs = await rpc.logs(account, topics, max(last - span_max + 1, first), last)
        if logs:
            return logs[-1]
    return None
