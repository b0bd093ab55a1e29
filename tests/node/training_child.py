"""A trainer and a validator make a run in one process, until it is done or the process killed.

Says of each update which it is, and what its optimizer's state says.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import structlog
import trio
from service_peers import Peer, peer
from test_rounds_service import run_spec

from eigen.chain.evm import EvmChain
from eigen.chain.port import Contracts, RunOpened
from eigen.chain.provider import TrioHTTPProvider
from eigen.config.network import Parameters
from eigen.crypto.identity import Identity
from eigen.node.datasets import Dataset
from eigen.node.driver import RunDriver
from eigen.node.rounds import Rounds
from eigen.node.run_changes import no_spec
from eigen.node.run_ports import RunPorts
from eigen.node.states import OPTIMIZER, StateFiles
from eigen.node.worker import TrainingWorker
from eigen.protocol.effects import Train
from eigen.protocol.messages import Commitment
from eigen.protocol.run import run_id, spec_digest
from eigen.protocol.types import Address, Digest
from eigen.training import tensorfile
from eigen.training.datasets import digits, split, write_shard

ROUNDS = 12
TRAINER, VALIDATOR = (Identity.from_secret(bytes([i]) * 32) for i in (1, 2))


class Chain(EvmChain):
    """Its digests are the chain's; the validators are known without asking an endpoint."""

    async def validators(self) -> tuple[frozenset[Address], int]:
        return frozenset([VALIDATOR.address]), 1


def services(one: Peer, folder: Path, worker: TrainingWorker) -> Rounds:
    contracts = Contracts(*(Address(bytes([i]) * 20) for i in (1, 2, 3, 4)))
    provider = TrioHTTPProvider(["http://127.0.0.1:1"], chain_id=1)
    secret = one.identity.secret
    ports = RunPorts(
        one.identity,
        one.network,
        one.gossip,
        one.records,
        one.blobs,
        one.blocks,
        one.datasets,
        worker,
        Chain(provider, contracts, chain_id=1, secret=secret, outbox_path=None),
        one.retention,
        StateFiles(folder / "states", one.records),
    )
    quick = Parameters(commit_s=10.0, attempt_s=10.0, resend_s=0.2, notices_s=0.5)
    trains = one.address == TRAINER.address
    return Rounds(
        ports, one.members, quick, trains=trains, on_adopted=lambda *_: None, find_spec=no_spec
    )


async def main(folder: Path, overlap: bool) -> None:
    async with (
        peer(folder, identity=TRAINER) as trainer,
        peer(folder, identity=VALIDATOR, roles=("validator",)) as validator,
        TrainingWorker(nice=0) as worker,
        trio.open_nursery() as nursery,
    ):
        await validator.meet(trainer)
        training, held_out = digits(seed=0)
        shards = [(write_shard(s), len(s)) for s in split(training, 4, seed=0)[:1]]
        cid = await trainer.datasets.seed(Dataset("digits", shards, write_shard(held_out), False))
        spec = run_spec(cid, rounds=ROUNDS, trainers_min=1, codec="2bit", result_codec="2bit")
        spec = replace(spec, inner=replace(spec.inner, moments="kept"), overlap=overlap)
        opened = RunOpened(run_id(spec), spec_digest(spec), ROUNDS, 100, Digest(b"\7" * 32), 1)
        if overlap:  # both of the worker's processes are up before the first deadline counts
            theta = await worker.initial_checkpoint(spec)
            await worker.local_steps(spec, theta, [data for data, _ in shards], bytes(32))
        drivers = []
        for one in (trainer, validator):
            rounds = services(one, folder, worker)
            await nursery.start(rounds.run)
            await rounds.open(opened, spec)
            drivers.append(rounds.drivers[opened.run])
        tell(drivers[0])
        while not drivers[0].head.finished:  # noqa: ASYNC110 (a run has no event for it)
            await trio.sleep(0.02)
        say(done=True, files=sorted(path.name for path in (folder / "states").iterdir()))
        nursery.cancel_scope.cancel()


def tell(driver: RunDriver) -> None:
    """Say of each update what it is, once its state is on disk."""
    make, states = driver.updates.make, driver.ports.states

    async def told(effect: Train) -> Commitment:
        made = await make(effect)
        number = effect.attempt.round
        place, _ = tensorfile.read(await states.get(OPTIMIZER, effect.attempt.run, number))
        say(
            round=number,
            base=made.base,
            parts=made.parts_root.hex(),
            residual=made.residual_root.hex(),
            steps=int(place["steps"]),
            position=int(place["position"]),
        )
        return made

    driver.updates.make = told  # type: ignore[method-assign]


def say(**words: object) -> None:
    os.write(1, (json.dumps(words) + "\n").encode())


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    trio.run(main, Path(sys.argv[1]), sys.argv[2] == "overlap")
