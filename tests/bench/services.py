"""Tier 2's figures: 100 daemons on virtual time. `simulator.py` prints them.

`tier2_realtime_ratio`: virtual seconds of rounds for each second of CPU time, from the end of the
first round to the end of the last one; booting, which everybody does at once, is told apart.
`tier2_mb_per_node`: growth of the process by each node, its disk (in memory) included.
"""

import logging
import time
from pathlib import Path

import structlog

from eigen.simulations.scenario import Scenario, parse_scenario
from eigen.simulations.tier2 import ServicesPlay

PAGE_BYTES = 4096
HEARTBEAT_S = 60
"""Gossip of heartbeats grows with the square of the nodes; at 100 nodes, 10 s is for a few."""

TEXT = """
name = "services"
question = "How fast do so many daemons run?"
until_s = 7200

[run]
rounds = {rounds}
trainers_min = 2
trainers_max = 32
shards = 32
model = "cost"
values = 100_000
parts = 8
steps = 600

[deadlines]
heartbeat_s = {heartbeat_s}
commit_s = 120
attempt_s = 600

[[nodes]]
name = "validators"
role = "validator"
count = 4

[[nodes]]
name = "trainers"
count = {trainers}
"""


def scenario(nodes: int, rounds: int, heartbeat_s: int = HEARTBEAT_S) -> Scenario:
    text = TEXT.format(rounds=rounds, trainers=nodes - 4, heartbeat_s=heartbeat_s)
    return parse_scenario(text, Path("services.toml"))


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def services(quick: bool) -> dict[str, float]:
    nodes, rounds = (12, 3) if quick else (100, 3)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    ServicesPlay(scenario(7, 1)).run()  # imports
    before, begun_s = resident_bytes(), time.process_time()
    marks: list[tuple[float, float]] = []
    held = 0

    def ended(now_s: float, round_: int) -> None:
        nonlocal held
        marks.append((now_s, time.process_time()))
        held = max(held, resident_bytes() + disk_bytes(playing))

    playing = ServicesPlay(scenario(nodes, rounds))
    playing.run(ended)
    (first_s, first_cpu_s), (last_s, last_cpu_s) = marks[0], marks[-1]
    return {
        "tier2_nodes": nodes,
        "tier2_realtime_ratio": round((last_s - first_s) / (last_cpu_s - first_cpu_s), 2),
        "tier2_boot_s": round(first_cpu_s - begun_s, 1),
        "tier2_mb_per_node": round((held - before) / nodes / 2**20, 2),
    }


def disk_bytes(playing: ServicesPlay) -> int:
    homes = [node.home.paths.home for node in playing.nodes.values()]
    return sum(f.stat().st_size for home in homes for f in home.rglob("*") if f.is_file())
