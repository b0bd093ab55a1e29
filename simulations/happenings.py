"""What a scenario has in store for nodes that really run: churn and faults, on Trio's clock.

Tiers 2 and 3 share it; whoever runs the nodes lends the hands.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import trio

from eigen.simulations.scenario import Fault, Scenario
from eigen.simulations.tier1 import Device, away_s


class Hands(Protocol):
    """What can be done to nodes, by their names. Whoever is up already is not started again."""

    def start(self, name: str) -> None:
        """Boot it from its disk."""
        ...

    def kill(self, name: str) -> None:
        """Its memory is gone, its disk stays."""
        ...

    def is_up(self, name: str) -> bool:
        """Whether it runs."""
        ...

    def freeze(self, names: Sequence[str]) -> None:
        """They stand still, and their connections stay."""
        ...

    def thaw(self, names: Sequence[str]) -> None:
        """They go on."""
        ...

    def cut_off(self, names: Sequence[str]) -> None:
        """Part these from all others; nobody, to heal it."""
        ...


class Happenings:
    """Everything that happens to nodes of one scenario, at times after `opened_s`."""

    def __init__(
        self,
        scenario: Scenario,
        devices: Mapping[str, Device],
        hands: Hands,
        opened_s: float,
        note: Callable[[str], None],
    ) -> None:
        self._scenario = scenario
        self._devices = devices
        self._hands = hands
        self._opened_s = opened_s
        self._note = note
        self._random = random.Random(scenario.seed)

    async def run(self) -> None:
        """Have it all happen, until cancelled or until there is nothing more to come."""
        async with trio.open_nursery() as nursery:
            for name, device in self._devices.items():
                if device.times_s:
                    nursery.start_soon(self._follow_trace, name, device)
                elif device.group.joins_s or device.group.session_s:
                    nursery.start_soon(self._come_and_go, name, device)
            for fault in self._scenario.faults:
                nursery.start_soon(self._fault, fault)

    async def _follow_trace(self, name: str, device: Device) -> None:
        for turn, at_s in enumerate(device.times_s):
            await trio.sleep_until(self._opened_s + at_s)
            if self._hands.is_up(name) and turn % 2:
                self._hands.kill(name)
            elif not self._hands.is_up(name) and not turn % 2:
                self._hands.start(name)

    async def _come_and_go(self, name: str, device: Device) -> None:
        group = device.group
        if group.joins_s:
            await trio.sleep_until(self._opened_s + group.joins_s)
            self._hands.start(name)
        while group.session_s:
            await trio.sleep(self._random.expovariate(1 / group.session_s))
            if not self._hands.is_up(name):
                continue  # a fault took it meanwhile
            self._hands.kill(name)
            now_s = trio.current_time() - self._opened_s
            await trio.sleep(away_s(device, now_s, self._random))
            self._hands.start(name)

    async def _fault(self, fault: Fault) -> None:
        await trio.sleep_until(self._opened_s + fault.at_s)
        hands = self._hands
        group = [n for n, device in self._devices.items() if device.group.name == fault.nodes]
        hit = self._random.sample(group, round(len(group) * fault.share))
        self._note(f"{fault.what} {len(hit)} of {fault.nodes} for {fault.for_s:g} s")
        match fault.what:
            case "partition":
                hands.cut_off(hit)
                await trio.sleep(fault.for_s)
                hands.cut_off(())
            case "freeze":
                hands.freeze(hit)
                await trio.sleep(fault.for_s)
                hands.thaw(hit)
            case _:
                for name in hit:
                    hands.kill(name)
                await trio.sleep(fault.for_s)
                for name in hit:
                    hands.start(name)
