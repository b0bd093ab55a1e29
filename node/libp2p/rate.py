"""Caps on bulk bytes a second: one for each peer, one for all together."""

from collections import OrderedDict

import trio

from eigen.node.libp2p.token_bucket import TokenBucket
from eigen.protocol.types import Address

BURST_S = 0.1
"""What may be sent at once after a pause, in seconds of the cap."""
PEERS_MAX = 1024
"""Peers whose rate is remembered; the one not seen longest goes."""


class Pacer:
    """Makes whoever sends (or takes) bytes wait until the caps allow them. 0 means no cap."""

    def __init__(self, total_bytes_per_s: float, peer_bytes_per_s: float) -> None:
        self._total_per_s = total_bytes_per_s
        self._peer_per_s = peer_bytes_per_s
        self._total: TokenBucket | None = None
        self._peers: OrderedDict[Address, TokenBucket] = OrderedDict()

    async def wait(self, peer: Address, count: int) -> None:
        """Return when `count` more bytes keep within the caps. A cancel has used them up."""
        now = trio.current_time()
        wait_s = 0.0
        if self._total_per_s:
            if self._total is None:
                self._total = TokenBucket(self._total_per_s, self._total_per_s * BURST_S, now)
            wait_s = self._total.owe(count, now)
        if self._peer_per_s:
            bucket = self._peers.pop(peer, None) or TokenBucket(
                self._peer_per_s, self._peer_per_s * BURST_S, now
            )
            self._peers[peer] = bucket
            if len(self._peers) > PEERS_MAX:
                self._peers.popitem(last=False)
            wait_s = max(wait_s, bucket.owe(count, now))
        if wait_s:
            await trio.sleep(wait_s)
