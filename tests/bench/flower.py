"""Eigen's simulator against Flower's, on one task: 100 clients, a small CNN on digits, 5 rounds.

Both train the same model with the same optimizer, batches, steps and shards, all clients in every
round. Flower runs in a virtual environment of its own, made on first use in the cache folder.
`flower_over_eigen` is Flower's seconds over ours, from the start of the first round to the end of
the last; starting up (Ray's workers, our imports) is left out of both. `cpu_flower_over_eigen` is
the same of CPU seconds, which other work on the machine disturbs less; Flower's include its start.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from eigen.simulations.learning import BATCH, deal
from eigen.simulations.play import Play
from eigen.simulations.scenario import Scenario, parse_scenario
from eigen.training.datasets import digits

HERE = Path(__file__).parent
VENV = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "eigen-bench" / "flower"
REQUIREMENTS = ("flwr[simulation]==1.42.0", "torch==2.13.0")

TEXT = """
name = "flower"
question = "How fast is the same task elsewhere?"

[run]
rounds = {rounds}
trainers_min = {clients}
trainers_max = {clients}
shards = 64
model = "digits-cnn"
steps = 20
parts = 1
rule = "mean"

[[nodes]]
name = "validators"
role = "validator"

[[nodes]]
name = "trainers"
count = {clients}
"""


def environment() -> Path:
    """Flower's Python, installed if it is not there yet."""
    python = VENV / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *REQUIREMENTS], check=True)
    return python


def children_s() -> float:
    """CPU seconds of all processes that were started from here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def ours(scenario: Scenario) -> tuple[float, float]:
    """Seconds of the rounds, and the last accuracy."""
    playing = Play(scenario)
    begun_s = time.perf_counter()
    playing.run()
    return time.perf_counter() - begun_s, playing.outcome.accuracy[scenario.run.rounds]


def theirs(scenario: Scenario, clients: int) -> tuple[float, float]:
    """As `ours`."""
    training, held_out = digits(seed=0)
    shards = deal(training, scenario.run, scenario.seed)
    task = {
        "clients": clients,
        "rounds": scenario.run.rounds,
        "steps": scenario.run.steps,
        "batch": BATCH,
    }
    with tempfile.TemporaryDirectory() as folder:
        arrays = {f"x{i}": shard.x_NF for i, shard in enumerate(shards)}
        arrays |= {f"y{i}": shard.y_N for i, shard in enumerate(shards)}
        np.savez(Path(folder) / "shards.npz", x=held_out.x_NF, y=held_out.y_N, **arrays)
        (Path(folder) / "task.json").write_text(json.dumps(task))
        done = subprocess.run(
            [environment(), HERE / "flower_client.py", folder],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"},
        )
        if done.returncode:
            raise RuntimeError(f"Flower failed: {done.stderr[-2000:]}")
        told = json.loads((Path(folder) / "result.json").read_text())
    return told["seconds"], told["accuracy"]


def flower(quick: bool) -> dict[str, float]:
    clients, rounds = (8, 2) if quick else (100, 5)
    scenario = parse_scenario(TEXT.format(clients=clients, rounds=rounds), Path("flower.toml"))
    environment()
    begun_s = time.process_time()
    eigen_s, accuracy = ours(scenario)
    eigen_cpu_s, before_s = time.process_time() - begun_s, children_s()
    flower_s, their_accuracy = theirs(scenario, clients)
    flower_cpu_s = children_s() - before_s
    return {
        "eigen_s": round(eigen_s, 2),
        "eigen_accuracy": round(accuracy, 4),
        "flower_s": round(flower_s, 2),
        "flower_accuracy": round(their_accuracy, 4),
        "flower_over_eigen": round(flower_s / eigen_s, 2),
        "eigen_cpu_s": round(eigen_cpu_s, 1),
        "flower_cpu_s": round(flower_cpu_s, 1),
        "cpu_flower_over_eigen": round(flower_cpu_s / eigen_cpu_s, 2),
    }
