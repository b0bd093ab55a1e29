"""Two network namespaces joined by a line with a rate, a delay and a queue. Needs root and TUN.

`python line.py NAME RATE_BYTES_PER_S DELAY_S QUEUE_BYTES` makes namespaces `NAME-a` (10.77.0.1) and
`NAME-b` (10.77.0.2), prints a line of JSON and forwards packets until its standard input ends. This
kernel has no netem, so the delay is made here: each packet waits in a first-in-first-out queue.
"""

import contextlib
import fcntl
import json
import os
import select
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from functools import partial

TUNSETIFF = 0x400454CA
IFF_TUN_NO_PI = 0x1001
PACKET_BYTES_MAX = 65_535


def available() -> str:
    """Empty where a line can be made, else why not."""
    if os.geteuid() != 0:
        return "needs root"
    if not os.access("/dev/net/tun", os.W_OK):
        return "needs /dev/net/tun"
    probe = subprocess.run(["ip", "netns", "list"], capture_output=True, check=False)
    return "" if probe.returncode == 0 else "needs `ip netns`"


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def open_end(namespace: str, own: str, others: str) -> int:
    """A namespace whose only way out is a TUN device; returns the device's descriptor.

    `others`, an address or a network, is what that way leads to.
    """
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    name = f"tun{namespace[-12:]}"
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN_NO_PI))
    ip("netns", "add", namespace)
    ip("link", "set", name, "netns", namespace)
    inside = ("netns", "exec", namespace, "ip")
    ip(*inside, "addr", "add", own, "dev", name)
    ip(*inside, "link", "set", name, "up")
    ip(*inside, "route", "add", others, "dev", name)
    ip(*inside, "link", "set", "lo", "up")
    return tun


class Direction:
    """A queue that drains at a rate, and then a delay."""

    def __init__(self, rate: float, delay_s: float, queue_bytes: int) -> None:
        self._rate, self._delay_s, self._queue_bytes = rate, delay_s, queue_bytes
        self._free_at = 0.0
        self._packets: deque[tuple[float, bytes]] = deque()

    def put(self, packet: bytes, now: float) -> None:
        """Queue a packet, or drop it where the queue is full."""
        start = max(now, self._free_at)
        if (start - now) * self._rate > self._queue_bytes:
            return
        self._free_at = start + len(packet) / self._rate
        self._packets.append((self._free_at + self._delay_s, packet))

    def release(self, deliver: Callable[[bytes], None], now: float) -> float:
        """Hand on what is due; returns when the next packet is."""
        while self._packets and self._packets[0][0] <= now:
            deliver(self._packets.popleft()[1])
        return self._packets[0][0] if self._packets else now + 1.0


def write(tun: int, packet: bytes) -> None:
    with contextlib.suppress(OSError):
        os.write(tun, packet)


def forward(ends: tuple[int, int], rate: float, delay_s: float, queue_bytes: int) -> None:
    """Move packets between the two devices until standard input ends."""
    directions = [Direction(rate, delay_s, queue_bytes) for _ in ends]
    ways = [partial(write, ends[1 - index]) for index in range(2)]
    stdin = sys.stdin.fileno()
    while True:
        now = time.monotonic()
        due = min(d.release(ways[i], now) for i, d in enumerate(directions))
        wait_s = max(0.0, due - time.monotonic())
        readable, _, _ = select.select([*ends, stdin], [], [], wait_s)
        if stdin in readable and not os.read(stdin, 1):
            return
        now = time.monotonic()
        for index, tun in enumerate(ends):
            if tun in readable:
                with contextlib.suppress(BlockingIOError):
                    for _ in range(64):
                        directions[index].put(os.read(tun, PACKET_BYTES_MAX), now)


def main(name: str, rate: str, delay_s: str, queue_bytes: str) -> None:
    names = f"{name}-a", f"{name}-b"
    try:
        ends = (
            open_end(names[0], "10.77.0.1", "10.77.0.2"),
            open_end(names[1], "10.77.0.2", "10.77.0.1"),
        )
        print(json.dumps({"line": names}), flush=True)
        forward(ends, float(rate), float(delay_s), int(queue_bytes))
    finally:
        for namespace in names:
            subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
