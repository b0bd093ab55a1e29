"""Play runs under faults from many seeds: `soak.py FIRST COUNT` prints what it saw as JSON.

Four kinds of run take turns: plain, in groups, overlapping, and both.
"""

import json
import sys
from collections import Counter
from typing import Any

from scenes import play, state

from eigen.protocol import limits

GROUP_MAX = limits.GROUP_MAX


def survive(seed: int, seen: Counter[str], *, groups: bool, overlap: bool) -> None:
    """Play one seed and check it. Raises `AssertionError`."""
    limits.GROUP_MAX = 2 if groups else GROUP_MAX  # so that a seat of three has groups
    try:
        watch, plan, done = play(seed, overlap=overlap)
        assert done, f"seed {seed} stands still: {state(watch.network)}"
        watch.check(seed)
    finally:
        limits.GROUP_MAX = GROUP_MAX
    network = watch.network
    records = [r for n in network.nodes.values() for r in n.records.values()]
    seen["kills"] += len(plan.fired)
    seen["power cuts"] += plan.power_cut
    seen["partitions"] += plan.cut
    seen["freezes"] += plan.frozen
    seen["wrong clocks"] += sum(node.clock is not None for node in network.nodes.values())
    seen["lost messages"] += network.lost
    seen["doubled messages"] += network.doubled
    seen["overtaken messages"] += network.delayed
    seen["sealed"] += network.context.sealed
    seen["later attempts"] += any(record.attempt.number for record in records)
    seen[f"{len(network.context.validators)} validators"] += 1


def soak(first: int, count: int) -> dict[str, Any]:
    """All seeds, and which of them failed why."""
    seen: Counter[str] = Counter()
    failed: dict[int, str] = {}
    for seed in range(first, first + count):
        try:
            survive(seed, seen, groups=seed % 4 in (1, 3), overlap=seed % 4 in (2, 3))
        except Exception as error:
            failed[seed] = f"{type(error).__name__}: {error!s:.600}"
    return {"seeds": count, "seen": seen, "failed": failed}


if __name__ == "__main__":
    json.dump(soak(int(sys.argv[1]), int(sys.argv[2])), sys.stdout)
