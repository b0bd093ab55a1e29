"""Connections coming and going, for whoever wants to follow them. Knows no connection."""

import logging
from collections import deque

import trio

from eigen.node.libp2p.bounds import EVENT_QUEUE_MAX
from eigen.node.ports import PeerEvent

log = logging.getLogger(__name__)


class EventQueue:
    """One listener's events, in order. Ends when the network stops."""

    def __init__(self, bus: "EventBus") -> None:
        self._bus = bus
        self._queue: deque[PeerEvent] = deque()
        self._arrived = trio.Event()
        self._ended = False

    def __aiter__(self) -> "EventQueue":
        return self

    async def __anext__(self) -> PeerEvent:
        """The next event. A cancel takes none."""
        while not self._queue:
            if self._ended:
                raise StopAsyncIteration
            self._arrived = trio.Event()
            await self._arrived.wait()
        await trio.lowlevel.checkpoint_if_cancelled()
        return self._queue.popleft()

    async def aclose(self) -> None:
        """Stop following."""
        self._bus.remove(self)
        self.end()
        await trio.lowlevel.checkpoint()

    def put(self, event: PeerEvent) -> None:
        """Add an event, dropping the oldest where the listener is far behind."""
        if len(self._queue) >= EVENT_QUEUE_MAX:
            log.warning("a listener for peer events is %d behind: dropping", EVENT_QUEUE_MAX)
            self._queue.popleft()
        self._queue.append(event)
        self._arrived.set()

    def end(self) -> None:
        """No more will come."""
        self._ended = True
        self._arrived.set()


class EventBus:
    """Copies each event to all listeners."""

    def __init__(self) -> None:
        self._queues: list[EventQueue] = []

    def listen(self) -> EventQueue:
        """Follow events from now on."""
        queue = EventQueue(self)
        self._queues.append(queue)
        return queue

    def remove(self, queue: EventQueue) -> None:
        """A listener has gone."""
        if queue in self._queues:
            self._queues.remove(queue)

    def emit(self, event: PeerEvent) -> None:
        """Tell all listeners."""
        for queue in self._queues:
            queue.put(event)

    def end(self) -> None:
        """The network stops: all listeners' loops end."""
        for queue in self._queues:
            queue.end()
        self._queues.clear()
