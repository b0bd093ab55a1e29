"""Keeps a bulk connection's queue short, so that whatever shares its line is not delayed.

In the spirit of LEDBAT (RFC 6817), on the kernel's own numbers: when the round trip is longer than
the shortest seen, the bytes wait somewhere, and the sending rate is capped below what gets through;
once the queue is gone the cap is just below that, and rises. A line is full while its queue
drains, so hardly any of it is lost. Linux only; elsewhere nothing happens.
"""

import contextlib
import struct
import sys
from collections import deque
from dataclasses import dataclass
from typing import Final, Protocol

TCP_INFO: Final = 11
SO_MAX_PACING_RATE: Final = 47
INFO_BYTES: Final = 168
APP_LIMITED_AT, RTT_AT, MIN_RTT_AT, DELIVERY_RATE_AT = 7, 68, 148, 160
"""Offsets in Linux's `struct tcp_info`, stable since 4.9; the first is a byte whose lowest bit it
is."""
INTERVAL_S: Final = 0.05
SAMPLES: Final = 4
"""A queue stands in all of the last round trips; in some of them it is but a delay."""
QUEUE_TARGET_S: Final = 0.004
"""A queue above it is ours to shorten; below it is noise."""
BACK_OFF: Final = 0.9
"""Of the rate that gets through: a tenth of the line drains the queue."""
RESUMED: Final = 0.97
"""Of the rate that got through, once the queue has drained: the line is nearly full."""
RISE: Final = 1.004
"""An interval: about a twelfth a second."""
HELPED: Final = 0.9
"""A queue that is not below this share of what it was, once a back-off must have shown, is not of
our making: another's, or a radio or a busy machine that takes its time."""
NOISE_FADE: Final = 0.995
"""An interval: what was taken for noise is half forgotten after seven seconds."""
RELEASE: Final = 3.0
"""A cap this far above what gets through binds nothing and is lifted."""
IDLE_S: Final = 1.0
"""After such a pause nothing is known of the line: others share it, or nobody does."""
RATE_MIN_BYTES_PER_S: Final = 64 * 1024
UNCAPPED: Final = 2**64 - 1


class Options(Protocol):
    """The part of a socket that is needed."""

    def getsockopt(self, level: int, name: int, size: int, /) -> bytes:
        """As `socket.getsockopt`."""
        ...

    def setsockopt(self, level: int, name: int, value: bytes, /) -> None:
        """As `socket.setsockopt`."""
        ...


@dataclass(frozen=True, slots=True)
class Line:
    """What the kernel knows of a connection."""

    rtt_s: float
    shortest_rtt_s: float
    delivered_bytes_per_s: float
    sender_waits: bool
    """Whether there was less to send than the line would have taken."""


def read_line(sock: Options) -> Line | None:
    """The kernel's figures, or None where it has none."""
    try:
        info = sock.getsockopt(6, TCP_INFO, INFO_BYTES)
        (limited,) = struct.unpack_from("=B", info, APP_LIMITED_AT)
        (rtt_us,) = struct.unpack_from("=I", info, RTT_AT)
        (min_rtt_us,) = struct.unpack_from("=I", info, MIN_RTT_AT)
        (delivered,) = struct.unpack_from("=Q", info, DELIVERY_RATE_AT)
    except (OSError, struct.error):
        return None
    if not delivered or not min_rtt_us:
        return None
    return Line(rtt_us / 1e6, min_rtt_us / 1e6, float(delivered), bool(limited & 1))


class Governor:
    """Decides on the cap; knows no socket and no clock."""

    def __init__(self) -> None:
        self.cap_bytes_per_s: float | None = None
        self._patience_until_s = 0.0
        self._queue_before_s = 0.0  # at the last back-off, until it is known whether that helped
        self._noise_s = 0.0
        self._through_bytes_per_s = 0.0  # at the last back-off, until its queue has drained
        self._rtts_s: deque[float] = deque(maxlen=SAMPLES)

    def update(self, line: Line, now_s: float) -> bool:
        """Take new figures; true if the cap has changed."""
        self._rtts_s.append(line.rtt_s)
        queue_s = min(self._rtts_s) - line.shortest_rtt_s
        uncertain_s = (max(self._rtts_s) - min(self._rtts_s)) / 2
        if queue_s > QUEUE_TARGET_S + self._noise_s + uncertain_s:
            if now_s < self._patience_until_s:
                return False
            if self._queue_before_s and queue_s > HELPED * self._queue_before_s:
                return self._take_back(queue_s)
            return not line.sender_waits and self._back_off(line, queue_s, now_s)
        self._noise_s *= NOISE_FADE
        self._queue_before_s = 0.0
        return self._rise(line)

    def _back_off(self, line: Line, queue_s: float, now_s: float) -> bool:
        cap, through = self.cap_bytes_per_s, line.delivered_bytes_per_s
        most = through if cap is None else min(through, cap)
        self.cap_bytes_per_s = max(RATE_MIN_BYTES_PER_S, BACK_OFF * most)
        self._through_bytes_per_s = most
        # What was done shows after the queue has drained and a round trip has passed.
        self._patience_until_s = now_s + line.rtt_s + queue_s / (1 - BACK_OFF)
        self._queue_before_s = queue_s
        return True

    def _take_back(self, queue_s: float) -> bool:
        """Backing off did not help: that queue is not ours to shorten."""
        self._noise_s = queue_s
        self._queue_before_s = 0.0
        if self.cap_bytes_per_s is not None:
            self.cap_bytes_per_s /= BACK_OFF
        self._through_bytes_per_s = 0.0
        return True

    def _rise(self, line: Line) -> bool:
        if self.cap_bytes_per_s is None:
            return False
        raised = max(RISE * self.cap_bytes_per_s, RESUMED * self._through_bytes_per_s)
        self._through_bytes_per_s = 0.0
        self.cap_bytes_per_s = None if raised > RELEASE * line.delivered_bytes_per_s else raised
        return True


class GiveWay:
    """Applies a `Governor` to a socket, at most every `INTERVAL_S`."""

    def __init__(self, sock: Options) -> None:
        self._sock = sock
        self._governor = Governor()
        self._next_s = 0.0

    def adjust(self, now_s: float) -> None:
        """Call now and then while sending."""
        if now_s < self._next_s or sys.platform != "linux":
            return
        rested, self._next_s = now_s > self._next_s + IDLE_S, now_s + INTERVAL_S
        if rested and self._governor.cap_bytes_per_s is not None:
            self._governor = Governor()
            self._apply(None)
            return
        line = read_line(self._sock)
        if line is not None and self._governor.update(line, now_s):
            self._apply(self._governor.cap_bytes_per_s)

    def _apply(self, cap_bytes_per_s: float | None) -> None:
        value = struct.pack("=Q", UNCAPPED if cap_bytes_per_s is None else int(cap_bytes_per_s))
        with contextlib.suppress(OSError):
            self._sock.setsockopt(1, SO_MAX_PACING_RATE, value)
