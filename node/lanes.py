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
QUEUED_MAX = 4096
"""Messages waiting for one peer: every part and every result of the largest vector, twice."""


class _Queue:
    """What waits for one peer: the urgent first, what is in reserve when nothing else waits."""

    def __init__(self) -> None:
        self._urgent: deque[Make] = deque(maxlen=QUEUED_MAX)
        self._reserve: deque[Make] = deque(maxlen=QUEUED_MAX)
        self.more = trio.Event()

    def __len__(self) -> int:
        return len(self._urgent) + len(self._reserve)

    def put(self, make: Make, *, reserve: bool) -> None:
        (self._reserve if reserve else self._urgent).append(make)
        self.more.set()

    def take(self) -> Make:
        return (self._urgent or self._reserve).popleft()


class Lanes:
    """Sends messages of one run to its peers, in the order of posting for each peer, reserves last.

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

    def post(self, peer: Address, make: Make, *, reserve: bool = False) -> None:
        """Send it after what was posted for the peer before; in `reserve`, once nothing waits."""
        queue = self._waiting.get(peer)
        if queue is None:
            queue = self._waiting[peer] = _Queue()
            self._nursery.start_soon(self._serve, peer, queue)
        queue.put(make, reserve=reserve)

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

    async def _send_all(self, queue: _Queue, out: BulkWriter) -> None:
        while True:
            self._upload.begin(trio.current_time())
            try:
                while queue:
                    if (message := queue.take()()) is not None:
                        await out.send(message, timeout_s=self._timeout_s)
                        self._upload.sent(len(message))
            finally:
                self._upload.end(trio.current_time())
            queue.more = trio.Event()
            with trio.move_on_after(IDLE_S):
                await queue.more.wait()
            if not queue:
                return
