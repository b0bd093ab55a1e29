"""Parts and results on their way to other members: one bulk transfer for each peer.

A lane opens when something is to be sent and closes when nothing was for a while. Knows no round:
what to send is made when its turn comes, so that what waits takes no memory.
"""

from collections import deque
from collections.abc import Callable

import structlog
import trio

from eigen.node.ports import BulkNetwork, BulkWriter, NetworkError
from eigen.node.upload import UploadMeter
from eigen.protocol.requests import EXCHANGE
from eigen.protocol.types import Address

log = structlog.get_logger()

Make = Callable[[], bytes | None]
"""The message when its turn comes; None where it is not wanted any more."""

IDLE_S = 30.0
"""A lane without work is closed after this. Opening one takes four round trips: short rounds keep
theirs, and long ones do not notice."""
STALLED_S = 1.0
"""A peer that took nothing for so long is not waited for: with each message it may stall anew."""
QUEUED_MAX = 4096
"""Messages waiting for one peer: every part and every result of the largest vector, twice."""


class _Queue:
    """What waits for one peer: the urgent, and what is in reserve."""

    def __init__(self) -> None:
        self.urgent: deque[Make] = deque(maxlen=QUEUED_MAX)
        self.reserve: deque[Make] = deque(maxlen=QUEUED_MAX)
        self.taken_s = trio.current_time()  # a message, or since when there is one to take

    def __len__(self) -> int:
        return len(self.urgent) + len(self.reserve)


class Lanes:
    """Sends messages of one run to its peers, in the order of posting for each peer.

    What is in reserve goes while nothing urgent waits for any peer: all share this node's line.

    Error handling: when a peer cannot be reached, or takes longer than `timeout_s` over a message,
    what waits for it is dropped. The machines' deadlines see to the rest.
    """

    def __init__(
        self,
        network: BulkNetwork,
        header: bytes,
        timeout_s: float,
        upload: UploadMeter,
        nursery: trio.Nursery,
    ) -> None:
        """`header` tells the peers' handlers what comes: the run. `nursery` holds the senders."""
        self._upload = upload
        self._network = network
        self._header = header
        self._timeout_s = timeout_s
        self._nursery = nursery
        self._waiting: dict[Address, _Queue] = {}
        self._changed = trio.Event()  # something was posted, or something urgent is gone

    def post(self, peer: Address, make: Make, *, reserve: bool = False) -> None:
        """Send it after what was posted for the peer before; in `reserve`, once nobody waits."""
        queue = self._waiting.get(peer)
        if queue is None:
            queue = self._waiting[peer] = _Queue()
            self._nursery.start_soon(self._serve, peer, queue)
        if not queue.urgent:
            queue.taken_s = trio.current_time()
        (queue.reserve if reserve else queue.urgent).append(make)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _serve(self, peer: Address, queue: _Queue) -> None:
        try:
            while queue:
                opening = self._network.open_bulk(
                    peer, EXCHANGE, self._header, timeout_s=self._timeout_s
                )
                async with opening as out:
                    await self._send_all(queue, out)
                    await out.finish(timeout_s=self._timeout_s)
        except NetworkError as error:
            log.info("parts were not taken", peer=peer.hex(), dropped=len(queue), why=str(error))
        finally:
            del self._waiting[peer]
            self._wake()

    async def _send_all(self, queue: _Queue, out: BulkWriter) -> None:
        while queue:
            self._upload.begin(trio.current_time())
            try:
                while queue:
                    if (message := (await self._take(queue))()) is not None:
                        await out.send(message, timeout_s=self._timeout_s)
                        self._upload.sent(len(message))
            finally:
                self._upload.end(trio.current_time())
            with trio.move_on_after(IDLE_S):
                while not queue:
                    await self._changed.wait()

    async def _take(self, queue: _Queue) -> Make:
        """The next message for a peer, of which there are some."""
        while not queue.urgent and self._is_urgent_elsewhere():
            with trio.move_on_after(STALLED_S):
                await self._changed.wait()
        queue.taken_s = trio.current_time()
        make = (queue.urgent or queue.reserve).popleft()
        if not queue.urgent:
            self._wake()
        return make

    def _is_urgent_elsewhere(self) -> bool:
        """Whether something urgent waits for a peer that takes what it is sent."""
        stalled_s = trio.current_time() - STALLED_S
        return any(queue.urgent and queue.taken_s > stalled_s for queue in self._waiting.values())
