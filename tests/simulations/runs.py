"""Runs of hand-made data: liars, faults, an empty one, and one whose values are no numbers."""

import math
import random
from pathlib import Path

from eigen.simulations.record import Recorder, RunFolder

NAME = "liars"
SCENARIO = """name = "liars"
seed = {seed}

[nodes.trainers]
count = {trainers}

[aggregation]
rule = "{rule}"
"""
PHASE_S = {"seat": 1.0, "train": 20.0, "commit": 2.0, "exchange": 10.0, "vote": 2.0, "step": 1.0}


def about(seed: int = 1, name: str = NAME) -> dict[str, object]:
    return {"name": name, "question": "Does the filter keep liars out?", "seed": seed, "tier": 1}


def record_run(
    folder: Path,
    *,
    trainers: int = 12,
    liars: int = 3,
    rounds: int = 6,
    seed: int = 1,
    rule: str = "cosine-filter",
    name: str = NAME,
    held: bool = True,
) -> RunFolder:
    """A run like the engine's: each liar is caught in the round after its number."""
    draw = random.Random(seed)
    nodes = [f"t{i:03}" for i in range(trainers)]
    cheats = {node: ("sign-flip", "copycat")[i % 2] for i, node in enumerate(nodes[:liars])}
    scenario = SCENARIO.format(seed=seed, trainers=trainers, rule=rule)
    with Recorder(folder, scenario, about(seed, name)) as recorder:
        recorder.describe(adversaries=cheats)
        now = 0.0
        for round_ in range(1, rounds + 1):
            attempts = 2 if round_ == 3 else 1
            began, now = now, now + 40 * attempts + 5 * draw.random()
            for node in nodes:
                time_s = began + draw.random()
                for attempt in range(attempts):
                    for phase, phase_s in PHASE_S.items():
                        recorder.event(time_s, node, phase, round_, attempt)
                        time_s += phase_s * (0.8 + 0.4 * draw.random())
                recorder.event(time_s, node, "adopt", round_, attempts - 1)
                share = 0.02 if node in cheats and round_ < 3 else 1.0
                recorder.metric(now, "bytes_sent", 1e6 * (1 + draw.random()), node, round_)
                recorder.metric(now, "bytes_received", 2e6 * (1 + draw.random()), node, round_)
                recorder.metric(now, "credited", 0 if node in cheats else share, node, round_)
                norm = 0 if node in cheats else 3 + draw.random()
                recorder.metric(now, "contributed", norm, node, round_)
            if round_ <= len(cheats):
                why = "its update points away from the mean"
                recorder.event(now, "v0", "penalize", round_, 0, f"{nodes[round_ - 1]}: {why}")
            if round_ == 4:
                recorder.event(now, "", "fault", round_, 0, "partition: t005 apart")
                recorder.event(now, "t005", "down", round_, 0)
            for metric, value in (
                ("loss", 2.3 / round_),
                ("accuracy", 1 - 0.9 / round_),
                ("round_s", now - began),
                ("attempts", attempts),
                ("seated", trainers),
                ("alive", trainers - (round_ >= 4)),
            ):
                recorder.metric(now, metric, value, round_=round_)
        recorder.finish(
            virtual_s=now,
            events=123_456,
            trace_hash="00ff" * 16,
            assertions=[{"what": "accuracy >= 0.8", "held": held, "detail": "it is 0.85"}],
        )
    return RunFolder.open(folder)


def record_empty(folder: Path) -> RunFolder:
    with Recorder(folder, SCENARIO.format(seed=1, trainers=0, rule="mean"), about()) as recorder:
        recorder.finish()
    return RunFolder.open(folder)


def record_diverged(folder: Path) -> RunFolder:
    """Training that blew up: after the first round nothing is a number."""
    with Recorder(folder, SCENARIO.format(seed=1, trainers=2, rule="mean"), about()) as recorder:
        for round_, value in enumerate((1.0, math.nan, math.inf, -math.inf), 1):
            for name in ("loss", "accuracy", "round_s", "attempts", "alive", "seated"):
                recorder.metric(float(round_), name, value, round_=round_)
            for name in ("bytes_sent", "bytes_received", "credited", "contributed"):
                recorder.metric(float(round_), name, value, "a", round_)
                recorder.metric(float(round_), name, math.nan, "b", round_)
        recorder.finish(virtual_s=math.nan)
    return RunFolder.open(folder)
