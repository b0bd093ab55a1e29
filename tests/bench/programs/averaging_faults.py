"""Kills and freezes of averaging peers, one after another, and what the others made of it."""

import contextlib
import random
import signal
import statistics
import sys
import time
from collections import Counter
from typing import Any

from averaging_network import HASTY, HIDDEN, Network, Peer


class Faults:
    """Kills or freezes one trainer at a random time, again and again, and watches the others."""

    def __init__(self, network: Network, seed: int) -> None:
        self.network = network
        self.random = random.Random(seed)
        self.adopted: dict[int, dict[Peer, dict[str, Any]]] = {}
        self.commit_s: dict[str, list[float]] = {"kill": [], "freeze": []}
        self.back_s: list[float] = []
        self.phases: Counter[str] = Counter()
        self.attempts: Counter[int] = Counter()

    def take(self, timeout_s: float) -> tuple[Peer, dict[str, Any]]:
        peer, said = self.network.next(timeout_s)
        if "adopted" in said:
            others = self.adopted.setdefault(said["adopted"], {})
            others[peer] = said
            assert len({o["checkpoint"] for o in others.values()}) == 1, "replicas differ"
        return peer, said

    def settle(self, rounds: int) -> None:
        """Until everybody is credited, so many rounds long."""
        good = 0
        while good < rounds:
            peer, said = self.take(120)
            if "adopted" in said and peer is self.network.validator:
                good = good + 1 if len(said["credited"]) == len(self.network.trainers) else 0

    def strike(self, kind: str) -> None:
        """One fault, from a whole network to a whole network."""
        self.settle(2)
        victim = self.random.choice(self.network.trainers)
        pause_s = self.random.uniform(0.0, 1.0)
        end = time.monotonic() + pause_s
        while (left := end - time.monotonic()) > 0:
            with contextlib.suppress(SystemExit):
                self.take(left)
        before = max(self.adopted)
        self.phases[victim.phase] += 1
        struck = time.monotonic()
        victim.signal(signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
        if kind == "kill":
            assert victim.process.wait(10) == -signal.SIGKILL
        survivors = [t for t in self.network.trainers if t is not victim]
        took_s = self._committed(survivors, before, struck) - struck
        self.commit_s[kind].append(took_s)
        print(f"{kind} in {victim.phase}: {took_s:.2f} s", file=sys.stderr, flush=True)
        if kind == "kill":
            victim.start()
        else:
            victim.signal(signal.SIGCONT)
        begun = time.monotonic()
        name = next(a for a, p in self.network.address.items() if p is victim)
        while True:
            peer, said = self.take(120)
            credited = "adopted" in said and peer is self.network.validator and said["credited"]
            if credited and said["at"] > begun and name in said["credited"]:
                break
        self.back_s.append(time.monotonic() - begun)

    def _committed(self, survivors: list[Peer], before: int, struck: float) -> float:
        """When all survivors had made a round that was not over when the fault struck."""
        while True:
            for number in sorted(n for n in self.adopted if n > before):
                at = [self.adopted[number][s]["at"] for s in survivors if s in self.adopted[number]]
                if len(at) == len(survivors) and min(at) > struck:
                    self.attempts[self.adopted[number][survivors[0]]["attempt"]] += 1
                    return max(at)
            self.take(60)


def faults(count: int, seed: int) -> dict[str, Any]:
    with Network(4, codec="int8", hidden=HIDDEN[85_000], part_values=8192, deadlines=HASTY) as net:
        struck = Faults(net, seed)
        for number in range(count):
            struck.strike("kill" if number % 2 else "freeze")
        differing = sum(
            len({o["checkpoint"] for o in each.values()}) - 1 for each in struck.adopted.values()
        )
    return {
        "faults": count,
        "killed_commit_s": max(struck.commit_s["kill"], default=0.0),
        "frozen_commit_s": max(struck.commit_s["freeze"], default=0.0),
        "killed_commit_s_median": statistics.median(struck.commit_s["kill"] or [0.0]),
        "frozen_commit_s_median": statistics.median(struck.commit_s["freeze"] or [0.0]),
        "back_s_median": statistics.median(struck.back_s),
        "struck_in": dict(struck.phases),
        "attempts": {str(k): v for k, v in sorted(struck.attempts.items())},
        "differing_checkpoints": differing,
        "rounds": len(struck.adopted),
    }
