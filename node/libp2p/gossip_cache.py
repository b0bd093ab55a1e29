"""What gossipsub remembers of messages: recent ones to answer IWANT, ids to drop duplicates."""

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final

from eigen.node.libp2p.bounds import SEEN_MAX, SEEN_TTL_S
from eigen.protocol.types import Address

WINDOWS: Final = 5
"""Heartbeats that a message is kept (`mcache_len`)."""
GOSSIP_WINDOWS: Final = 3
"""Heartbeats that it is advertised (`mcache_gossip`)."""
CACHE_BYTES_MAX: Final = 16 * 1024 * 1024
"""Messages kept for IWANT: 256 of the largest."""
RETRANSMISSIONS_MAX: Final = 3
"""How often one peer is sent one message on request."""


@dataclass(slots=True)
class Cached:
    """A message as it goes out, and how often each peer was sent it on request."""

    topic: str
    frame: bytes
    sent: dict[Address, int] = field(default_factory=dict)


class MessageCache:
    """Messages of the last few heartbeats."""

    def __init__(self) -> None:
        self._messages: dict[bytes, Cached] = {}
        self._windows: deque[list[bytes]] = deque([[]])
        self._bytes = 0

    def put(self, message_id: bytes, topic: str, frame: bytes) -> None:
        """Keep a message; the oldest go where there is no room."""
        if message_id in self._messages:
            return
        self._messages[message_id] = Cached(topic, frame)
        self._windows[0].append(message_id)
        self._bytes += len(frame)
        while self._bytes > CACHE_BYTES_MAX:
            oldest = next(iter(self._messages))
            self._bytes -= len(self._messages.pop(oldest).frame)

    def get_for(self, peer: Address, message_id: bytes) -> Cached | None:
        """What to send a peer that asks, or None if unknown or sent too often."""
        cached = self._messages.get(message_id)
        if cached is None or cached.sent.get(peer, 0) >= RETRANSMISSIONS_MAX:
            return None
        return cached

    def to_advertise(self, topic: str) -> list[bytes]:
        """Ids of a topic in the windows that are gossiped about."""
        return [
            message_id
            for window in list(self._windows)[:GOSSIP_WINDOWS]
            for message_id in window
            if message_id in self._messages and self._messages[message_id].topic == topic
        ]

    def shift(self) -> None:
        """A heartbeat has passed."""
        self._windows.appendleft([])
        while len(self._windows) > WINDOWS:
            for message_id in self._windows.pop():
                cached = self._messages.pop(message_id, None)
                if cached is not None:
                    self._bytes -= len(cached.frame)


class Seen:
    """Ids of messages that need not be looked at again."""

    def __init__(self, most: int = SEEN_MAX, ttl_s: float = SEEN_TTL_S) -> None:
        self._most = most
        self._ttl_s = ttl_s
        self._at: OrderedDict[bytes, float] = OrderedDict()

    def __contains__(self, message_id: bytes) -> bool:
        return message_id in self._at

    def add(self, message_id: bytes, now_s: float) -> bool:
        """Remember an id; false if it was known."""
        if message_id in self._at:
            return False
        self._at[message_id] = now_s
        if len(self._at) > self._most:
            self._at.popitem(last=False)
        return True

    def expire(self, now_s: float) -> None:
        """Forget what is older than the time to live."""
        while self._at:
            message_id, at_s = next(iter(self._at.items()))
            if now_s - at_s < self._ttl_s:
                return
            del self._at[message_id]
