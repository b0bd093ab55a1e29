"""Nodes in one process that have to do with private jobs, wired as the daemon wires them."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from service_peers import NETWORK_ID, Peer, peer, until

from eigen.chain.evm import EvmChain
from eigen.crypto.identity import Identity
from eigen.node.cipher_worker import EnterpriseWorker, EvaluationWorker
from eigen.node.job_file import JobFile
from eigen.node.job_ports import JobPorts
from eigen.node.private_jobs import PrivateJobs
from eigen.training.homomorphic.plan import Plan

PLAN = Plan(
    data="breast_cancer",
    label="label",
    kind="logistic",
    encoder="standard",
    encoder_file="",
    features=64,
    dimension=16,
    clip=2.0,
    seed=0,
    holdout_percent=20,
    shards=2,
    encrypted_weights=True,
    lr=0.1,
    momentum=0.9,
    l2=0.03,
    patience=0,
    rounds=3,
    trainer_memory_mb=2048,
)


@dataclass
class Node:
    peer: Peer
    ports: JobPorts
    jobs: PrivateJobs


@asynccontextmanager
async def node(
    folder: Path,
    *,
    role: str = "trainer",
    identity: Identity | None = None,
    chain: EvmChain | None = None,
) -> AsyncIterator[Node]:
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(peer(folder, identity=identity, roles=(role,)))
        ports = JobPorts(
            one.identity,
            NETWORK_ID,
            one.network,
            one.gossip,
            one.members,
            one.records,
            one.blobs,
            one.blocks,
            await stack.enter_async_context(EvaluationWorker()),
            await stack.enter_async_context(EnterpriseWorker()),
            folder / one.address.hex() / "jobs",
        )
        jobs = PrivateJobs(
            ports,
            trains=role == "trainer",
            validates=role == "validator",
            keep_s=4.0,
            chain=chain,
            poll_s=0.2,
            turn_s=5.0,
            audit_wait_s=2.0,
        )
        await one.nursery.start(jobs.run)
        yield Node(one, ports, jobs)


@asynccontextmanager
async def nodes(folder: Path, *roles: str) -> AsyncIterator[list[Node]]:
    """The first one owns a job; it may train for others too."""
    async with AsyncExitStack() as stack:
        made = [await stack.enter_async_context(node(folder, role=role)) for role in roles]
        await meet(made, roles.count("trainer"))
        yield made


async def meet(made: list[Node], trainers: int) -> None:
    for index, one in enumerate(made):
        await one.peer.meet(*(other.peer for other in made[:index]))
    for one in made:
        await until(lambda one=one: len(one.peer.members.with_role("trainer")) == trainers)


def job(folder: Path, *, audit_bps: int = 0, round_s: int = 20, **changes: Any) -> JobFile:
    return JobFile(folder / "job.toml", "j", replace(PLAN, **changes), round_s, audit_bps)
