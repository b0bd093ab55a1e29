"""A peer with an empty disk joins a run that goes on: how long until it takes part."""

import statistics
import time
from itertools import pairwise
from typing import Any

from averaging_network import HIDDEN, PATIENT, Network, Peer

DEADLINES = PATIENT | {"heartbeat_ttl_s": 20.0}


def late_join(trainers: int, values: int, codec: str, times: int) -> dict[str, Any]:
    """Medians over `times` newcomers, one after another, from the start of each one's process.

    `connected_s`: it is connected to all and has opened the run; `late_join_s`: it holds an
    attested checkpoint and is seated; `credited_s`: a round has paid it. `usual_round_s`: the
    others' rounds before it, and `longest_round_s`: their longest one while it came.
    """
    wanted = {"codec": codec, "hidden": HIDDEN[values], "deadlines": DEADLINES}
    joins: list[dict[str, float]] = []
    with Network(trainers, **wanted) as network:
        adopted: dict[int, float] = {}

        def take() -> tuple[Peer, dict[str, Any]]:
            peer, said = network.next(300)
            if "adopted" in said and peer is network.validator:
                adopted[said["adopted"]] = said["at"]
            return peer, said

        while len(adopted) < 4:
            take()
        usual = [b - a for a, b in pairwise(adopted.values())]
        for number in range(times):
            started = time.monotonic()
            before = max(adopted)
            late = network.join(f"late-{number}")
            at: dict[str, float] = {}
            address = ""
            while "credited_s" not in at:
                peer, said = take()
                moment = said["at"] - started
                if peer is late:
                    address = said.get("address", address)
                    if "ready" in said:
                        at["connected_s"] = moment
                    if "adopted" in said:
                        at.setdefault("held_s", moment)
                    if said.get("phase") == "training" and "held_s" in at:
                        at.setdefault("late_join_s", moment)
                if peer is network.validator and address in said.get("credited", ()):
                    at["credited_s"] = moment
            ends = [adopted[n] for n in sorted(adopted) if n >= before]
            at["longest_round_s"] = max(b - a for a, b in pairwise(ends))
            joins.append(at)
            late.end()
            gone = time.monotonic()
            while not any(t > gone + 5.0 for t in adopted.values()):
                take()
    names = ("connected_s", "held_s", "late_join_s", "credited_s", "longest_round_s")
    figures = {name: statistics.median(join[name] for join in joins) for name in names}
    return {**figures, "usual_round_s": statistics.median(usual), "joins": joins}
