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


class Lanes:
    """Sends messages of one run to its peers, in the order of posting for each peer.

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
        self._waiting: dict[Address, deque[Make]] = {}
        self._more: dict[Address, trio.Event] = {}

    def post(self, peer: Address, make: Make) -> None:
        """Send it after what was posted for the peer before."""
        queue = self._waiting.get(peer)
        if queue is None:
            queue = self._waiting[peer] = deque(maxlen=QUEUED_MAX)
            self._more[peer] = trio.Event()
            self._nursery.start_soon(self._serve, peer, queue)
        queue.append(make)
        self._more[peer].set()

    async def _serve(self, peer: Address, queue: deque[Make]) -> None:
        try:
            while queue:
                opening = self._network.open_bulk(
                    peer, EXCHANGE, self._header, timeout_s=self._timeout_s
                )
                async with opening as out:
                    await self._send_all(peer, queue, out)
                    await out.finish(timeout_s=self._timeout_s)
        except NetworkError as error:
            log.info("parts were not taken", peer=peer.hex(), dropped=len(queue), why=str(error))
        finally:
            del self._waiting[peer], self._more[peer]

    async def _send_all(self, peer: Address, queue: deque[Make], out: BulkWriter) -> None:
        while True:
            self._upload.begin(trio.current_time())
            try:
                while queue:
                    if (message := queue.popleft()()) is not None:
                        await out.send(message, timeout_s=self._timeout_s)
                        self._upload.sent(len(message))
            finally:
                self._upload.end(trio.current_time())
            self._more[peer] = trio.Event()
            with trio.move_on_after(IDLE_S):
                await self._more[peer].wait()
            if not queue:
                return
