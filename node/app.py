"""The daemon's composition root: what a node is made of and how the pieces meet, on one page."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from random import Random, SystemRandom
from typing import TYPE_CHECKING

import structlog
import trio

from eigen.chain.evm import EvmChain
from eigen.chain.outbox import OutboxSettings
from eigen.chain.port import (
    ChainUnreachable,
    EndpointRefused,
    Proposed,
    RunChanged,
    RunOpened,
    ServedChain,
)
from eigen.chain.provider import TrioHTTPProvider
from eigen.config.network import NetworkFile
from eigen.config.paths import Paths
from eigen.config.schema import NodeConfig
from eigen.crypto.identity import Identity
from eigen.crypto.sealing_key import SealingKeyPair
from eigen.node.blobs import DirectoryBlobs
from eigen.node.calibrations import tolerance
from eigen.node.canary import Canary
from eigen.node.cipher_worker import EnterpriseWorker, EvaluationWorker
from eigen.node.control import ControlServer, Method
from eigen.node.datasets import Datasets
from eigen.node.driver import RunDriver
from eigen.node.evaluation import Evaluations
from eigen.node.fetch import BlockExchange
from eigen.node.gossip import Gossip
from eigen.node.governance import GovernanceService
from eigen.node.job_methods import JobMethods
from eigen.node.job_ports import JobPorts
from eigen.node.libp2p.config import Libp2pConfig, Limits
from eigen.node.libp2p.network import Libp2pNetwork
from eigen.node.libp2p.surroundings import Surroundings
from eigen.node.member_methods import member_methods
from eigen.node.members import Members
from eigen.node.methods import Methods
from eigen.node.networks import contracts_of
from eigen.node.ports import Trainer
from eigen.node.private_jobs import PrivateJobs
from eigen.node.records import SqliteRecords
from eigen.node.retention import Retention
from eigen.node.rounds import Rounds
from eigen.node.run_ports import RunPorts, Watch, unwatched
from eigen.node.settlement import Settlement
from eigen.node.spec_book import SpecBook
from eigen.node.states import StateFiles
from eigen.node.upload import UploadMeter
from eigen.node.worker import TrainingWorker
from eigen.protocol.governance import Governance
from eigen.protocol.membership import RELAYER, TRAINER, VALIDATOR, Membership
from eigen.protocol.messages import Heartbeat, RoundRecord
from eigen.protocol.requests import HeadReply
from eigen.protocol.run import RunSpec
from eigen.protocol.types import RunId

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = structlog.get_logger()

CHAIN_RETRY_S_MAX = 30.0
"""Longest pause between two tries to reach the chain at start."""


@dataclass(frozen=True, slots=True)
class Home:
    """Everything that one node starts from; all of it was read and checked before."""

    paths: Paths
    config: NodeConfig
    network: NetworkFile
    identity: Identity
    sealing: SealingKeyPair


@dataclass(frozen=True, slots=True)
class Node:
    """A node that runs, as far as whoever started it deals with it."""

    network: Libp2pNetwork
    members: Members
    datasets: Datasets
    governance: GovernanceService
    rounds: Rounds
    evaluations: Evaluations


async def run_node(
    home: Home,
    world: "World | None" = None,
    *,
    task_status: "TaskStatus[Node]" = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a node until cancelled; `started` once peers and commands can reach it.

    `world` is what it meets outside its home, this machine's and the chain's if it is left out.
    Raises `ListenError` for a taken port and `WrongChain` for a chain that is not the network's.
    A cancel closes connections and stores; what was acknowledged is on disk already.
    """
    world = world or World()
    config, network_file, me = home.config, home.network, home.identity.address
    times, poll_s, upload = network_file.parameters, config.chain.poll_s, UploadMeter()
    software = f"eigen/{version('eigen')}"

    async with AsyncExitStack() as stack:
        records = stack.enter_context(closing(SqliteRecords(home.paths.database)))
        blobs = DirectoryBlobs(home.paths.blobs)
        blobs.clear_partial()
        worker = await stack.enter_async_context(world.trainer(home))
        chain = await stack.enter_async_context(world.chain(home))
        network = Libp2pNetwork(
            Libp2pConfig(
                network_file.network_id,
                config.p2p.listen,
                (*config.p2p.bootstrap, *network_file.bootstrap),
                config.p2p.announce,
                software=software,
                mdns=config.p2p.mdns,
                upnp=config.p2p.upnp,
                peerstore=home.paths.peerstore,
                allow=frozenset(config.p2p.allow),
                deny=frozenset(config.p2p.deny),
                limits=Limits(connections=config.p2p.connections_max),
            ),
            home.identity.secret,
            world.around,
        )
        gossip = Gossip(home.identity, network, network_file.network_id)
        blocks = BlockExchange(network, blobs, network)
        retention = Retention(records, blobs, blocks, config.storage.keep_checkpoints)
        membership = Membership(me, times.heartbeat_ttl_s)
        offers = {
            TRAINER: config.training.enabled and not config.validator.enabled,
            VALIDATOR: config.validator.enabled,
            RELAYER: config.relay.enabled,
        }
        template = Heartbeat(
            incarnation=int(world.around.unix_s() * 1000),
            sequence=0,
            roles=tuple(role for role, offered in offers.items() if offered),
            payout=config.payout.address or me,
            sealing_key=home.sealing.public_bytes,
            addrs=(),
            software=software,
        )
        members = Members(membership, network, gossip, template, times.heartbeat_s, upload)
        datasets = Datasets(
            me,
            network_file.network_id,
            home.sealing,
            network,
            gossip,
            members,
            records,
            blobs,
            blocks,
            retention,
            world.around.unix_s,
        )
        settlement = Settlement(me, chain, records, blocks, times.relay_delay_s, poll_s)
        ports = RunPorts(
            home.identity,
            network,
            gossip,
            records,
            blobs,
            blocks,
            datasets,
            worker,
            chain,
            retention,
            open_states(home, records),
            upload,
            world.random,
            world.watch,
            partial(tolerance, home.paths.calibration_file),
            settlement.accuse,
        )
        evaluations = Evaluations(ports, enabled=config.validator.enabled)

        def adopted(driver: RunDriver, record: RoundRecord, reply: HeadReply) -> None:
            settlement.adopted(driver, record, reply)
            evaluations.adopted(driver, record)

        specs = SpecBook(network, gossip, poll_s)
        rounds = Rounds(
            ports,
            members,
            times,
            trains=offers[TRAINER],
            on_adopted=adopted,
            find_spec=specs.find,
        )

        async def open_run(event: RunOpened, spec: RunSpec) -> None:
            await rounds.open(event, spec)
            driver = rounds.drivers.get(event.run)
            if driver is None:
                return
            evaluations.opened(driver)
            await settlement.resume(driver)

        machine = Governance(me, config.relay.enabled, times.relay_delay_s, times.relay_delay_s)
        governance = GovernanceService(
            home.identity,
            specs,
            gossip,
            members,
            records,
            chain,
            machine,
            poll_s,
            on_run=open_run,
            on_passed=rounds.prepare,
        )
        jobs = PrivateJobs(
            JobPorts(
                home.identity,
                network_file.network_id,
                network,
                gossip,
                members,
                records,
                blobs,
                blocks,
                await stack.enter_async_context(start_evaluations(home)),
                await stack.enter_async_context(EnterpriseWorker(memory_bytes=memory_bytes(home))),
                home.paths.jobs,
            ),
            trains=offers[TRAINER] and find_spec("tenseal") is not None,
            validates=offers[VALIDATOR] and find_spec("tenseal") is not None,
            chain=chain,
            poll_s=poll_s,
            turn_s=times.relay_delay_s,
        )
        canary = Canary()
        control = ControlServer(
            home.paths.control_socket,
            Methods(
                home, network, members, datasets, rounds, governance, settlement, chain, ports
            ).table(evaluations=evaluations, canary=canary)
            | JobMethods(jobs).table()
            | by_hand(chain, rounds),
        )

        gossip.join()
        await governance.restore()
        async with trio.open_nursery() as nursery:
            for first in (network, rounds, jobs):
                await nursery.start(first.run)
            for service in (members, settlement, evaluations, canary):
                nursery.start_soon(service.run)
            nursery.start_soon(follow_chain, chain, governance, rounds.changed)
            await nursery.start(control.run)
            log.info("node up", address=me.hex(), addrs=list(network.listen_addrs()))
            task_status.started(Node(network, members, datasets, governance, rounds, evaluations))


def by_hand(chain: ServedChain, rounds: Rounds) -> dict[str, Method]:
    """What members do of the DAO's contracts; a simulated chain has none of them."""

    def history(run: RunId) -> dict[int, RoundRecord]:
        driver = rounds.drivers.get(run)
        return driver.history if driver else {}

    return member_methods(chain.calls, history) if isinstance(chain, EvmChain) else {}


def open_states(home: Home, records: SqliteRecords) -> StateFiles:
    """What this node keeps of its own training from round to round."""
    states = StateFiles(home.paths.states, records)
    states.clear_partial()
    return states


def open_chain(home: Home) -> EvmChain:
    """The chain that the network file names, reached as the settings say."""
    confirmations = home.config.chain.confirmations
    if confirmations is None:
        confirmations = home.network.parameters.confirmations
    urls = home.config.chain.rpc_urls or home.network.rpc_urls
    return EvmChain(
        TrioHTTPProvider(urls, chain_id=home.network.chain_id, compare_depth=confirmations),
        contracts_of(home.network),
        chain_id=home.network.chain_id,
        secret=home.identity.secret,
        outbox_path=home.paths.outbox,
        index_path=home.paths.index,
        settings=OutboxSettings(confirmations=confirmations, poll_s=home.config.chain.poll_s),
        start_block=home.network.start_block,
    )


def start_worker(home: Home) -> TrainingWorker:
    """The processes that compute for this node, as the settings say."""
    training = home.config.training
    return TrainingWorker(
        threads=training.threads,
        device=training.device,
        processes=training.processes,
        memory_bytes=memory_bytes(home),
        nice=training.nice,
    )


def start_evaluations(home: Home) -> EvaluationWorker:
    """The process that works on ciphertexts of private jobs, as the settings say."""
    return EvaluationWorker(memory_bytes=memory_bytes(home))


def memory_bytes(home: Home) -> int:
    """What one process that computes may use."""
    return home.config.training.memory_mb * 1024 * 1024


@dataclass(frozen=True, slots=True)
class World:
    """What a node meets outside its home. The defaults are a daemon's; a simulation has others."""

    around: Surroundings = field(default_factory=Surroundings)
    chain: Callable[[Home], AbstractAsyncContextManager[ServedChain]] = open_chain
    trainer: Callable[[Home], AbstractAsyncContextManager[Trainer]] = start_worker
    random: Random = field(default_factory=SystemRandom)
    watch: Watch = unwatched


async def follow_chain(
    chain: ServedChain,
    governance: GovernanceService,
    changed: Callable[[RunChanged], None] = lambda _: None,
) -> None:
    """Check the chain, then follow proposals and runs on it, until cancelled.

    `changed` is told what the DAO changed about runs, in order.

    While it cannot be reached, this waits and says so; rounds go on without it.
    """
    pause_s = 1.0
    while True:
        try:
            info = await chain.info()
            break
        except (ChainUnreachable, EndpointRefused) as error:
            log.warning("chain unreachable; trying again", in_s=pause_s, why=str(error))
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, CHAIN_RETRY_S_MAX)
    log.info("chain", id=info.chain_id, client=info.label)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(chain.run)
        nursery.start_soon(governance.run)
        async for event in chain.watch(0):
            match event:
                case RunOpened():
                    nursery.start_soon(governance.opened, event)
                case RunChanged():
                    changed(event)
                case Proposed():
                    await governance.on_chain(event)
