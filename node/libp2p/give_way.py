"""Keeps bulk connections' queues short, so that whatever shares their lines is not delayed.

In the spirit of LEDBAT (RFC 6817), on the kernel's own numbers: when the round trip is longer than
the shortest seen, the bytes wait somewhere, and the sending rate is capped below what gets through;
once the queue is gone the cap is just below that, and rises. A line is full while its queue
drains, so hardly any of it is lost. A queue that all connections see is on this node's own line:
they have one cap together, in equal shares, so that none starves and who is done leaves its share
to the others. A queue that only some see is on their peers' lines. Linux only; elsewhere nothing
happens.
"""

import contextlib
import struct
import sys
from collections import deque
from dataclasses import dataclass, replace
from typing import Final, Protocol

from eigen.node.libp2p.bounds import BULK_UNSENT_BYTES_MAX, BULK_UNSENT_BYTES_MIN

TCP_INFO: Final = 11
SO_MAX_PACING_RATE: Final = 47
INFO_BYTES: Final = 168
APP_LIMITED_AT, RTT_AT, MIN_RTT_AT, DELIVERY_RATE_AT = 7, 68, 148, 160
"""Offsets in Linux's `struct tcp_info`, stable since 4.9; the first is a byte whose lowest bit it
is."""
TCP_NOTSENT_LOWAT: Final = 25
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
"""An interval: about a twelfth a second, and that again for each second without a queue."""
RISE_AGAIN: Final = 20
RISES_MAX: Final = 8
THROUGH: Final = 20
"""What gets through is the most in so many intervals: where less does and a queue is seen, it is
likely not ours, but a busy machine's."""
SMOOTHED: Final = 4
"""Single figures of the kernel are as large as its bursts."""
FILLING: Final = 1.15
"""A line through which this much more gets than `SAMPLES` intervals ago is not full yet."""
HELPED: Final = 0.9
"""A queue that is not below this share of what it was, once a back-off must have shown, is not of
our making: another's, or a radio or a busy machine that takes its time."""
NOISE_FADE: Final = 0.995
"""An interval: what was taken for noise is half forgotten after seven seconds."""
RELEASE: Final = 3.0
"""A cap this far above what gets through binds nothing and is lifted."""
IDLE_S: Final = 1.0
"""After such a pause nothing is known of the line: others share it, or nobody does."""
SENDING_S: Final = 0.1
"""Who has sent within this time has a share of the line."""
UNSENT_S: Final = 0.04
"""What the kernel is given ahead, in seconds of what gets through: what is urgent need not wait for
more, and a busy machine wakes us in time for the rest."""
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
        self._rates: deque[float] = deque(maxlen=SMOOTHED)
        self._throughs: deque[float] = deque(maxlen=THROUGH)
        self._quiet = 0  # intervals without a queue

    def update(self, line: Line, now_s: float) -> bool:
        """Take new figures; true if the cap has changed."""
        self._rtts_s.append(line.rtt_s)
        self._rates.append(line.delivered_bytes_per_s)
        self._throughs.append(sum(self._rates) / len(self._rates))
        queue_s = min(self._rtts_s) - line.shortest_rtt_s
        uncertain_s = (max(self._rtts_s) - min(self._rtts_s)) / 2
        if queue_s > QUEUE_TARGET_S + self._noise_s + uncertain_s:
            self._quiet = 0
            if now_s < self._patience_until_s:
                return False
            if self._queue_before_s and queue_s > HELPED * self._queue_before_s:
                return self._take_back(queue_s)
            if line.sender_waits or self._is_filling():
                return False
            return self._back_off(line, now_s)
        self._noise_s *= NOISE_FADE
        self._queue_before_s = 0.0
        return self._rise(line)

    def _is_filling(self) -> bool:
        before = self._throughs[-SAMPLES] if len(self._throughs) >= SAMPLES else 0.0
        return self._throughs[-1] > FILLING * before

    def _back_off(self, line: Line, now_s: float) -> bool:
        """What stands in the line now may be more than what stood there in all round trips."""
        queue_s, most = line.rtt_s - line.shortest_rtt_s, max(self._throughs)
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
        self._quiet += 1
        rise = RISE ** min(1 + self._quiet // RISE_AGAIN, RISES_MAX)
        raised = max(rise * self.cap_bytes_per_s, RESUMED * self._through_bytes_per_s)
        self._through_bytes_per_s = 0.0
        self.cap_bytes_per_s = None if raised > RELEASE * line.delivered_bytes_per_s else raised
        return True


class GiveWay:
    """One connection: what the kernel knows of it, and what it is told."""

    def __init__(self, sock: Options, uplink: "Uplink") -> None:
        self._sock = sock
        self._uplink = uplink
        self._governor = Governor()
        self._sending = False
        self._since_s = self._sent_at_s = -IDLE_S

    def begin(self, now_s: float) -> None:
        """There is something to send."""
        if now_s > self._sent_at_s + IDLE_S:
            self._governor = Governor()
            self._apply(None)
            self._since_s = now_s
        self._sending, self._sent_at_s = True, now_s
        self._uplink.adjust(self, now_s)

    def end(self, now_s: float) -> None:
        """The kernel has it, or sending failed."""
        self._sending, self._sent_at_s = False, now_s

    def is_sending(self, now_s: float) -> bool:
        """Whether it has a share of the line."""
        return self._sending or now_s < self._sent_at_s + SENDING_S

    def line(self, now_s: float) -> Line | None:
        """See `read_line`; None where the figures may be from before a pause."""
        line = read_line(self._sock)
        return line if line and now_s > self._since_s + INTERVAL_S + line.rtt_s else None

    def govern(self, line: Line, common_s: float, share: float | None, now_s: float) -> None:
        """Cap it at its `share` of this node's line, and for a queue where others see none."""
        ours_s = line.rtt_s - line.shortest_rtt_s if common_s > QUEUE_TARGET_S else 0.0
        self._governor.update(replace(line, rtt_s=line.rtt_s - ours_s), now_s)
        caps = [cap for cap in (share, self._governor.cap_bytes_per_s) if cap is not None]
        self._apply(min(caps, default=None))
        ahead = int(UNSENT_S * line.delivered_bytes_per_s)
        unsent = min(max(ahead, BULK_UNSENT_BYTES_MIN), BULK_UNSENT_BYTES_MAX)
        self._set(6, TCP_NOTSENT_LOWAT, struct.pack("=I", unsent))

    def _apply(self, cap_bytes_per_s: float | None) -> None:
        cap = UNCAPPED if cap_bytes_per_s is None else int(cap_bytes_per_s)
        self._set(1, SO_MAX_PACING_RATE, struct.pack("=Q", cap))

    def _set(self, level: int, name: int, value: bytes) -> None:
        with contextlib.suppress(OSError):
            self._sock.setsockopt(level, name, value)


class Uplink:
    """The line that a node's bulk connections share, looked at at most every `INTERVAL_S`."""

    def __init__(self) -> None:
        self._governor = Governor()
        self._lanes: dict[GiveWay, None] = {}  # an ordered set
        self._next_s = 0.0

    def adjust(self, sender: GiveWay, now_s: float) -> None:
        """A connection is about to send."""
        if sys.platform != "linux":
            return
        self._lanes[sender] = None
        if now_s < self._next_s:
            return
        if now_s > self._next_s + IDLE_S:
            self._governor = Governor()
        self._next_s = now_s + INTERVAL_S
        self._lanes = {lane: None for lane in self._lanes if lane.is_sending(now_s)}
        lines = {lane: line for lane in self._lanes if (line := lane.line(now_s)) is not None}
        if len(lines) == len(self._lanes):
            self._govern(lines, now_s)

    def _govern(self, lines: dict[GiveWay, Line], now_s: float) -> None:
        common_s = min(line.rtt_s - line.shortest_rtt_s for line in lines.values())
        shortest_s = max(line.shortest_rtt_s for line in lines.values())
        through = sum(line.delivered_bytes_per_s for line in lines.values())
        waiting = all(line.sender_waits for line in lines.values())
        self._governor.update(Line(shortest_s + common_s, shortest_s, through, waiting), now_s)
        cap = self._governor.cap_bytes_per_s
        share = None if cap is None else cap / len(self._lanes)
        for lane, line in lines.items():
            lane.govern(line, common_s, share, now_s)
