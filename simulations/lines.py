"""How long bytes are on their way: the lines of a scenario, as tiers 2 and 3 share them.

A host has one uplink, which carries one chunk after another; then the way between two regions takes
its time. A lost packet is sent again, so it costs a round trip and never the bytes.
"""

import random
from collections.abc import Iterable, Mapping
from typing import Final

from eigen.simulations.scenario import Scenario
from eigen.simulations.tier1 import Device

CHUNK_BYTES: Final = 16 * 1024
"""Bytes that get onto a line at a time, so that connections take turns."""
PACKET_BYTES: Final = 1448
"""Payload of a TCP segment on Ethernet."""
CELL_BYTES: Final = 128
"""A line is charged in cells: what is a byte longer, as signatures are, takes no longer."""


class Lines:
    """When what a host sends now has left it, and when it arrives. Hosts go by their names."""

    def __init__(self, scenario: Scenario, devices: Mapping[str, Device], seed: int) -> None:
        self._lines = scenario.links
        self._devices = devices
        self._random = random.Random(seed)
        self._free_s: dict[str, float] = {}
        self._cut: frozenset[str] = frozenset()
        self._frozen: frozenset[str] = frozenset()
        self.sent_bytes: dict[str, int] = {}
        self.received_bytes: dict[str, int] = {}

    def way_s(self, sender: str, to: str) -> float:
        """One way between two hosts, without jitter; over a relay twice."""
        a, b = self._devices[sender], self._devices[to]
        way_s = self._lines.latency_ms[a.region][b.region] / 1000.0
        return 2.0 * way_s if a.group.relayed or b.group.relayed else way_s

    def carry(self, now_s: float, sender: str, to: str, size: int) -> tuple[float, float]:
        """When so many bytes have left, and when they have arrived."""
        cells = -(-size // CELL_BYTES) * CELL_BYTES
        begin_s = max(now_s, self._free_s.get(sender, 0.0))
        left_s = begin_s + cells / self._devices[sender].upload_bytes_s
        self._free_s[sender] = left_s
        way_s = self.way_s(sender, to)
        arrives_s = left_s + way_s * (1.0 + self._lines.jitter * self._random.random())
        if self._lines.loss:
            packets = -(-size // PACKET_BYTES)
            if self._random.random() >= (1.0 - self._lines.loss) ** packets:
                arrives_s += 2.0 * way_s
        self.sent_bytes[sender] = self.sent_bytes.get(sender, 0) + size
        self.received_bytes[to] = self.received_bytes.get(to, 0) + size
        return left_s, arrives_s

    def bytes_s(self, sender: str) -> float:
        """What a host's uplink carries."""
        return self._devices[sender].upload_bytes_s

    # faults ---------------------------------------------------------------------------------------
    def cut_off(self, names: Iterable[str]) -> None:
        """Part these from all others; nobody, to heal it."""
        self._cut = frozenset(names)

    def hold(self, names: Iterable[str]) -> None:
        """Nothing leaves these hosts or gets to them."""
        self._frozen |= frozenset(names)

    def release(self, names: Iterable[str]) -> None:
        """Undo `hold`."""
        self._frozen -= frozenset(names)

    def apart(self, a: str, b: str) -> bool:
        """Whether no byte gets from one to the other now."""
        return (a in self._cut) != (b in self._cut) or a in self._frozen or b in self._frozen
