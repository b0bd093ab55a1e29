"""Network namespaces around a hub, each behind a line of its own. Needs root and TUN.

`python hub.py NAME DELAY_S QUEUE_BYTES RATE…` makes a namespace for each rate (upload, bytes a
second; 0 is no limit): `NAME-0` with 10.79.0.1, `NAME-1` with 10.79.0.2 … It prints a line of JSON
and forwards packets until its standard input ends. A packet waits for its sender's line, then for
the delay, so that a round trip takes twice the delay.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import time

from line import PACKET_BYTES_MAX, Direction, open_end

UNLIMITED = 1e12
DESTINATION = slice(16, 20)
"""The destination's bytes in an IPv4 header."""


def address(index: int) -> str:
    """Of the namespace with this index."""
    return f"10.79.0.{index + 1}"


def forward(ends: list[int], lines: list[Direction]) -> None:
    """Move packets from each end to the one that its header names, until standard input ends."""
    stdin = sys.stdin.fileno()
    known = {bytes(map(int, address(i).split("."))): end for i, end in enumerate(ends)}

    def deliver(packet: bytes) -> None:
        end = known.get(packet[DESTINATION])
        if end is not None and packet[0] >> 4 == 4:
            with contextlib.suppress(OSError):
                os.write(end, packet)

    while True:
        now = time.monotonic()
        due = min(line.release(deliver, now) for line in lines)
        readable, _, _ = select.select([*ends, stdin], [], [], max(0.0, due - time.monotonic()))
        if stdin in readable and not os.read(stdin, 1):
            return
        now = time.monotonic()
        for end, line in zip(ends, lines, strict=True):
            if end in readable:
                with contextlib.suppress(BlockingIOError):
                    for _ in range(64):
                        line.put(os.read(end, PACKET_BYTES_MAX), now)


def main(name: str, delay_s: str, queue_bytes: str, *rates: str) -> None:
    names = [f"{name}-{index}" for index in range(len(rates))]
    lines = [Direction(float(r) or UNLIMITED, float(delay_s), int(queue_bytes)) for r in rates]
    try:
        ends = []
        for index, namespace in enumerate(names):
            ends.append(open_end(namespace, address(index), "10.79.0.0/24"))
        print(json.dumps({"hub": names}), flush=True)
        forward(ends, lines)
    finally:
        for namespace in names:
            subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
