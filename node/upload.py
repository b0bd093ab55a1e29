"""What this node's line carries upwards, as its own bulk transfers show. Knows no socket."""

from collections import deque
from math import log2

SAMPLE_BYTES_MIN = 1024 * 1024
"""Less may have gone no further than the kernel's buffers."""
SAMPLES = 8
"""Exchanges that are remembered: the fastest counts, since others may have waited for a peer."""
HOLD = 1.5
"""What is said stays until what is measured differs by more than this factor."""


class UploadMeter:
    """Counts the bytes of busy times; those of all transfers together are what the line carries."""

    def __init__(self) -> None:
        self.kib_s = 0
        self._busy = 0
        self._since_s = 0.0
        self._bytes = 0
        self._samples: deque[float] = deque(maxlen=SAMPLES)

    def begin(self, now_s: float) -> None:
        """A transfer has something to send."""
        if not self._busy:
            self._since_s, self._bytes = now_s, 0
        self._busy += 1

    def sent(self, count: int) -> None:
        """Bytes that a transfer has handed to the line."""
        self._bytes += count

    def end(self, now_s: float) -> None:
        """A transfer has nothing more to send for now."""
        self._busy -= 1
        took_s = now_s - self._since_s
        if self._busy or self._bytes < SAMPLE_BYTES_MIN or took_s <= 0.0:
            return
        self._samples.append(self._bytes / 1024 / took_s)
        fastest = max(self._samples)
        if not self.kib_s / HOLD <= fastest <= self.kib_s * HOLD:
            self.kib_s = 1 << max(0, round(log2(fastest)))
