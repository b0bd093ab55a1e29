"""Measures the simulator: `python tests/bench/simulator.py --json [--quick] [--only events,day]`.

`tier1_events_s`: events a second of CPU time on one core, 1,000 trainers of whom 64 are seated.
`tier1_bytes_per_node`: what a node takes beside its model, from the growth between two sizes.
`day10k_s`: CPU seconds for a day of 10,000 nodes, half of which come and go.
`identical_runs`: runs of one seed, training included, that had the same trace; of how many.
`tier2_realtime_ratio`, `tier2_mb_per_node`: see `services.py`.
`flower_over_eigen`: see `flower.py`.

With `--quick` everything is smaller: 200 nodes, an hour of 1,000 nodes, three runs, 12 daemons.
"""

import argparse
import json
import sys
import time
import tracemalloc
from pathlib import Path

from flower import flower
from services import services

from eigen.simulations.play import Play
from eigen.simulations.scenario import Scenario, parse_scenario

PARTS = ("events", "memory", "day", "identical", "services", "flower")

COMMON = """
name = "bench"
question = "How fast?"
until_s = {until_s}

[run]
rounds = {rounds}
trainers_max = 64
model = "{model}"
steps = {steps}
parts = 4

[deadlines]
commit_s = 300
attempt_s = 600
resend_s = {resend_s}

[[nodes]]
name = "validators"
role = "validator"
count = 4

[[nodes]]
name = "trainers"
count = {trainers}

[[nodes]]
name = "guests"
count = {guests}
session_s = 14400
away_s = 14400
diurnal = 1.0
"""


def scenario(
    trainers: int,
    rounds: int,
    *,
    guests: int = 1,
    steps: int = 20,
    until_s: float = 86_400.0,
    resend_s: float = 5.0,
    model: str = "cost",
) -> Scenario:
    text = COMMON.format(
        trainers=trainers,
        rounds=rounds,
        guests=guests,
        steps=steps,
        until_s=until_s,
        resend_s=resend_s,
        model=model,
    )
    return parse_scenario(text, Path("bench.toml"))


def events(quick: bool) -> dict[str, float]:
    play = Play(scenario(200 if quick else 1_000, 3 if quick else 6))
    began = time.process_time()
    answer = play.run()
    took = time.process_time() - began
    return {"tier1_events": answer.events, "tier1_events_s": round(answer.events / took)}


def memory(quick: bool) -> dict[str, float]:
    """Between two sizes that differ in trainers who wait: of the seated there are as many."""
    held = []
    sizes = (200, 400) if quick else (1_000, 3_000)
    for size in sizes:
        tracemalloc.start()
        play = Play(scenario(size, 2))
        play.run()
        held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    return {"tier1_bytes_per_node": round((held[1] - held[0]) / (sizes[1] - sizes[0]))}


def day(quick: bool) -> dict[str, float]:
    nodes, until_s = (1_000, 3_600.0) if quick else (10_000, 86_400.0)
    half = nodes // 2
    made = scenario(
        half, 1_000_000, guests=half, steps=1_000, until_s=until_s, resend_s=30.0
    )  # rounds of 100 s and more, so nobody need ask every 5 s why nothing happens
    play = Play(made)
    began = time.process_time()
    answer = play.run()
    took = round(time.process_time() - began, 1)
    name = "hour1k" if quick else "day10k"
    return {f"{name}_s": took, f"{name}_rounds": answer.rounds, f"{name}_events": answer.events}


def identical(quick: bool) -> dict[str, float]:
    count = 3 if quick else 100
    traces = [Play(scenario(6, 3, model="digits")).run().trace for _ in range(count)]
    return {"identical_runs": traces.count(traces[0]), "identical_of": count}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--quick", action="store_true", help="smaller, and only to see that it runs"
    )
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    options = parser.parse_args()
    parts = options.only.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--only: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    measure = {
        "events": events,
        "memory": memory,
        "day": day,
        "identical": identical,
        "services": services,
        "flower": flower,
    }
    figures: dict[str, float] = {}
    for part in parts:
        figures |= measure[part](options.quick)
        print(part, figures, file=sys.stderr)
    if options.json:
        print(json.dumps(figures))
        return
    for name, figure in figures.items():
        print(f"{name:<24} {figure:,}")


if __name__ == "__main__":
    main()
