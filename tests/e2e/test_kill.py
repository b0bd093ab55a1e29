"""`kill -9` of a trainer in every phase of a round: the others go on, identical and paid."""

import json
import os
import re
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from eigen.config.addresses import format_address
from eigen.node.blobs import DirectoryBlobs
from eigen.node.local_network import LocalNetwork, LocalNetworkConfig, LocalNode, eigen
from eigen.protocol.types import Cid

PHASES = ("seat", "train", "commit", "exchange", "agree", "step", "notice")
RUN_FILE = """
name = "digits"
rounds = {rounds}
reward_per_round = 100
trainers = [2, 16]
part_values = 2048
[model]
architecture = "mlp"
inputs = 64
hidden = 128
depth = 1
classes = 10
[dataset]
source = "digits"
shards = 4
[inner]
steps = 100
batch = 32
lr = 0.001
[outer]
lr = 1.0
"""


@asynccontextmanager
async def running(rounds: int) -> AsyncIterator[LocalNetwork]:
    """A network whose members have just voted a run of so many rounds in."""
    with tempfile.TemporaryDirectory(prefix="eigen-", ignore_cleanup_errors=True) as name:
        root = Path(name)
        async with trio.open_nursery() as nursery:
            network = LocalNetwork(LocalNetworkConfig(root))
            await nursery.start(network.run)
            await network.until(lambda: all(n.status["peers"] == 5 for n in network.nodes), 60)
            run_file = root / "run.toml"
            run_file.write_text(RUN_FILE.format(rounds=rounds))
            proposal = await network.propose(network.trainers[0], run_file)
            await network.until(lambda: all(n.status["proposals"] for n in network.nodes), 30)
            await network.vote_all(proposal["run"])
            await network.until(lambda: network.run_of(network.validators[0]) != {}, 120)
            yield network
            nursery.cancel_scope.cancel()


def history(network: LocalNetwork, node: LocalNode) -> dict[int, dict[str, Any]]:
    return {int(n): r for n, r in network.run_of(node).get("history", {}).items()}


def paid(network: LocalNetwork, watcher: LocalNode, node: LocalNode) -> list[int]:
    """Rounds for which a trainer was credited, as the watcher's records say."""
    account = format_address(node.address)
    return [n for n, r in history(network, watcher).items() if account in r["trainers"]]


def up_and_die(node: LocalNode, phase: str) -> None:
    os.environ["TEST_DIE"] = phase
    try:
        node.up([sys.executable, "-P", str(Path(__file__).with_name("dying_node.py"))])
    finally:
        del os.environ["TEST_DIE"]


async def death(node: LocalNode, phase: str) -> int:
    """Wait until the node has killed itself. Returns the round that it died in."""
    assert node.process is not None
    await trio.to_thread.run_sync(node.process.wait, 120.0)
    log = (node.home / "node.log").read_text()
    assert node.process.returncode == -9, f"the kill must have happened: {log[-2000:]}"
    said, number = re.findall(r"DYING (\w+) in round (\d+)", log)[-1]
    assert said == phase
    return int(number)


async def assert_replicas_identical(network: LocalNetwork) -> None:
    """All nodes hold the same bytes of the newest round that all of them know."""
    seen = [history(network, node) for node in network.nodes]
    for number in set.union(*(set(h) for h in seen)):
        assert len({h[number]["checkpoint"] for h in seen if number in h}) == 1, number
    last = min(max(h) for h in seen)
    stores = [DirectoryBlobs(node.home / "blobs") for node in network.nodes]
    held = {await store.get(Cid(seen[0][last]["checkpoint"])) for store in stores}
    assert None not in held
    assert len(held) == 1


@pytest.mark.timeout(600)
async def test_a_trainer_killed_in_any_phase_is_unpaid_for_that_round_and_paid_again() -> None:
    async with running(rounds=5000) as network:
        watcher, victim = network.validators[0], network.trainers[1]
        others = [n for n in network.nodes if n is not victim]
        victim.kill()
        died_before = network.run_of(watcher)["round"]
        for phase in PHASES:
            up_and_die(victim, phase)
            died = await death(victim, phase)
            await network.until(
                lambda died=died: network.run_of(watcher)["round"] > died, 60, others
            )
            rounds = paid(network, watcher, victim)
            assert died not in rounds, f"killed in {phase}, paid all the same"
            assert any(died_before < n < died for n in rounds), "it was paid again in between"
            assert len(history(network, watcher)[died]["trainers"]) == 3, phase
            died_before = died
        victim.up()
        await network.answers(victim)
        await network.until(
            lambda: any(n > died_before for n in paid(network, watcher, victim)), 60
        )
        await assert_replicas_identical(network)


@pytest.mark.timeout(300)
async def test_a_run_ends_without_a_dead_trainer_while_the_chain_is_away() -> None:
    async with running(rounds=30) as network:
        watcher, victim = network.validators[0], network.trainers[2]
        others = [n for n in network.nodes if n is not victim]
        await network.until(lambda: len(paid(network, watcher, victim)) >= 2, 60)
        victim.kill()
        assert victim.process is not None
        assert victim.process.returncode == -9, "the kill must have happened"

        assert network.chain is not None
        os.kill(network.chain.pid, signal.SIGSTOP)  # the chain answers nobody
        frozen_at = network.run_of(watcher)["round"]
        await network.until(lambda: network.run_of(watcher)["round"] >= frozen_at + 6, 60, others)
        os.kill(network.chain.pid, signal.SIGCONT)
        await network.until(
            lambda: all(network.run_of(n).get("finished") for n in others), 120, others
        )
        assert 30 not in paid(network, watcher, victim)
        for node in others:
            with trio.fail_after(120):
                claim = json.loads(await eigen(node.home, "claim", "--json"))
            assert int(claim["amount"]) > 0

        victim.up()  # it fetches the last checkpoint by hash, and may still claim its share
        await network.answers(victim)
        await network.until(lambda: bool(network.run_of(victim).get("finished")), 60)
        await assert_replicas_identical(network)
        await network.until(
            lambda: any("30" in network.run_of(v)["posted"] for v in network.validators), 120
        )
        claim = json.loads(await eigen(victim.home, "claim", "--json"))
        assert int(claim["amount"]) == int(network.run_of(victim)["earned"]) > 0
