"""Which tier plays a scenario, and what each tier cannot play."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from eigen.simulations.adversaries import HONEST
from eigen.simulations.outcome import Answer, Record
from eigen.simulations.scenario import Scenario, ScenarioError

TIERS: Final = (1, 2, 3)
SERVICES_MAX: Final = 400
"""Nodes of tier 2: each is a whole daemon in this process."""
PROCESSES_MAX: Final = 16
"""Nodes of tier 3: each is two processes on this machine, one of them with torch."""
PROC: Final = Path("/proc/net/tcp")
_NODE_BYTES: Final = {1: 16 << 10, 2: 6 << 20, 3: 600 << 20}
"""Memory that a node takes at most, its share of messages on their way included."""
_LEARNING_BYTES: Final = {1: 1 << 30, 2: 1 << 30, 3: 0}
"""Torch, and what a small model's trainers leave in a few rounds; of tier 3 it is the nodes'."""


class Playing(Protocol):
    """A scenario that is about to be played."""

    @property
    def adversaries(self) -> dict[str, str]:
        """Names of nodes that are not honest, and what they do."""
        ...

    def run(self, progress: Callable[[float, int], None] | None = None) -> Answer:
        """Play it. `progress` gets seconds of the run, and rounds."""
        ...


def play(scenario: Scenario, tier: int, record: Record | None) -> Playing:
    """What plays a scenario on a tier. Raises `ScenarioError` where that cannot be."""
    check(scenario, tier)
    if tier == 1:
        from eigen.simulations.play import Play

        return Play(scenario, record)
    if tier == 2:
        from eigen.simulations.tier2 import ServicesPlay

        return ServicesPlay(scenario, record)
    from eigen.simulations.tier3 import ProcessesPlay

    return ProcessesPlay(scenario, record)


def check(scenario: Scenario, tier: int) -> None:
    """Raises `ScenarioError` for what a tier cannot play, before anything runs."""
    if tier == 1:
        return
    count = sum(group.count for group in scenario.nodes)
    most = SERVICES_MAX if tier == 2 else PROCESSES_MAX
    if count > most:
        raise ScenarioError(f"{count} nodes, tier {tier} plays at most {most}: take --tier 1")
    for group in scenario.nodes:
        if group.behaviour != HONEST:
            raise ScenarioError(
                f"nodes {group.name!r} are {group.behaviour!r}, and tier {tier} runs the daemon as "
                "it is, which does not lie: take --tier 1"
            )
        if group.download_mbit:
            raise ScenarioError(
                f"nodes {group.name!r} have a download_mbit, and tier {tier} shapes lines upwards "
                "alone: leave it out, or take --tier 1"
            )
    if tier == 3:
        _check_processes(scenario)


def _check_processes(scenario: Scenario) -> None:
    if scenario.run.model == "cost":
        raise ScenarioError(
            'run.model is "cost", and the processes of tier 3 really train: write "digits"'
        )
    if not PROC.exists():
        raise ScenarioError("tier 3 reads /proc/net/tcp to know who dials whom: it needs Linux")


def memory_bytes(scenario: Scenario, tier: int) -> int:
    """What playing it takes at most."""
    nodes = sum(group.count for group in scenario.nodes)
    learning = _LEARNING_BYTES[tier] if scenario.run.model != "cost" else 0
    return nodes * _NODE_BYTES[tier] + learning


def hash_alike() -> None:
    """Start this very command again, once, in a process whose hashes are not drawn at random.

    The order of sets of bytes is part of a trace on tier 2. Nothing happens where it is so already.
    """
    if os.environ.get("PYTHONHASHSEED") == "0":
        return
    sys.stdout.flush()
    python = shutil.which(sys.orig_argv[0]) or sys.executable
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    os.execve(python, sys.orig_argv, environment)  # noqa: S606 (our own command line)
