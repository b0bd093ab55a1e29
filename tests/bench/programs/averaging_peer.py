"""One peer of the averaging bench, as a process: the daemon's services without chain and commands.

`python averaging_peer.py HOME JSON`. It says what happens on stdout, one JSON object a line, with
times of the clock that all processes of a machine share. The chain is asked for nothing but its
digests and the committee, which the arguments name.
"""

import json
import os
import sys
import time
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import structlog
import trio

from eigen.chain.evm import EvmChain
from eigen.chain.port import Contracts, RunOpened
from eigen.chain.provider import TrioHTTPProvider
from eigen.config.network import Parameters
from eigen.crypto.identity import Identity
from eigen.crypto.sealing_key import SealingKeyPair
from eigen.node.blobs import DirectoryBlobs
from eigen.node.datasets import Dataset, Datasets
from eigen.node.driver import RunDriver
from eigen.node.fetch import BlockExchange
from eigen.node.gossip import Gossip
from eigen.node.libp2p.config import Libp2pConfig
from eigen.node.libp2p.network import Libp2pNetwork
from eigen.node.members import Members
from eigen.node.records import SqliteRecords
from eigen.node.retention import Retention
from eigen.node.rounds import Rounds
from eigen.node.run_changes import no_spec
from eigen.node.run_ports import RunPorts
from eigen.node.states import StateFiles
from eigen.node.worker import TrainingWorker
from eigen.protocol.effects import Adopted, Event, Trained
from eigen.protocol.membership import Membership
from eigen.protocol.messages import Heartbeat
from eigen.protocol.run import (
    AggregationSpec,
    InnerSpec,
    ModelSpec,
    OuterSpec,
    RunSpec,
    run_id,
    spec_digest,
)
from eigen.protocol.trainer import Phase
from eigen.protocol.types import Address, Cid, Digest
from eigen.training.datasets import digits, split, write_shard

NETWORK_ID = "bench"


class Committee(EvmChain):
    """A chain whose validators are known without asking an endpoint."""

    known: frozenset[Address] = frozenset()

    async def validators(self) -> tuple[frozenset[Address], int]:
        return self.known, len(self.known) // 2 + 1


def say(**fields: Any) -> None:
    print(json.dumps({"at": time.monotonic(), **fields}), flush=True)


def rss_bytes() -> dict[str, int]:
    """Memory of this process now, and the most that it had.

    Not `ru_maxrss`: it begins with what the parent had when it started this process.
    """
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    sizes = {words[0]: int(words[1]) * 1024 for words in lines if words[0] in ("VmRSS:", "VmHWM:")}
    return {"now": sizes["VmRSS:"], "peak": sizes["VmHWM:"]}


def run_spec(dataset: Cid, wanted: dict[str, Any]) -> RunSpec:
    hidden = wanted.get("hidden", 64)
    options = (("classes", 10), ("depth", 2), ("hidden", hidden), ("inputs", 64))
    codec = wanted.get("codec", "int8")
    return RunSpec(
        name="bench",
        model=ModelSpec("mlp", options),
        dataset=dataset,
        rounds=100_000,
        inner=InnerSpec(wanted.get("steps", 1), 16, 0.001, 0.0),
        outer=OuterSpec("sgd", 1.0, 0.0),
        codec=codec,
        result_codec=codec,
        aggregation=AggregationSpec("mean"),
        part_values=wanted.get("part_values", 131_072),
        trainers_min=wanted.get("trainers_min", 2),
        trainers_max=64,
        reward_per_round=100,
        validator_share_bps=1000,
        seed=7,
    )


def watch(driver: RunDriver) -> None:
    """Say when an update is ready, when the phase changes, and what a round ends with."""
    handle = driver._handle

    async def handle_and_say(event: Event) -> None:
        before = driver.phase
        if isinstance(event, Trained):
            say(trained=event.attempt.round)
        if isinstance(event, Adopted) and event.record.attempt.round > driver.head.round:
            record = event.record
            say(
                adopted=record.attempt.round,
                attempt=record.attempt.number,
                checkpoint=record.checkpoint,
                credited=sorted(c.account.hex() for c in record.trainers),
            )
        await handle(event)
        if driver.phase != before:
            say(phase=driver.phase, round=driver.head.round + 1)
        if driver.phase != before and driver.phase in (Phase.AGREED.value, Phase.STEPPING.value):
            say(rss=rss_bytes())

    driver._handle = handle_and_say  # type: ignore[method-assign]


def identity_in(home: Path) -> Identity:
    """The same after a restart."""
    key = home / "key"
    home.mkdir(parents=True, exist_ok=True)
    if not key.exists():
        key.write_bytes(Identity.generate().secret)
    return Identity.from_secret(key.read_bytes())


async def main(home: Path, wanted: dict[str, Any]) -> None:
    identity = identity_in(home)
    validates = wanted["role"] == "validator"
    deadlines = Parameters(**wanted["deadlines"])
    contracts = Contracts(*(Address(bytes([i]) * 20) for i in (1, 2, 3, 4)))
    provider = TrioHTTPProvider(["http://127.0.0.1:1"], chain_id=1)
    chain = Committee(provider, contracts, chain_id=1, secret=identity.secret, outbox_path=None)
    named = [Address(bytes.fromhex(v)) for v in wanted["validators"]]
    chain.known = frozenset(named or [identity.address])
    me = identity.address
    async with AsyncExitStack() as stack:
        records = stack.enter_context(closing(SqliteRecords(home / "node.sqlite3")))
        blobs = DirectoryBlobs(home / "blobs")
        worker = await stack.enter_async_context(TrainingWorker(nice=0))
        network = Libp2pNetwork(
            Libp2pConfig(
                NETWORK_ID,
                (f"/ip4/{wanted.get('ip', '127.0.0.1')}/tcp/0",),
                tuple(wanted["bootstrap"]),
                mdns=False,
                peerstore=home / "peers",
            ),
            identity.secret,
        )
        gossip = Gossip(identity, network, NETWORK_ID)
        blocks = BlockExchange(network, blobs)
        sealing = SealingKeyPair.generate()
        template = Heartbeat(
            time.time_ns() // 1_000_000, 0, (wanted["role"],), me, sealing.public_bytes, (), "bench"
        )
        membership = Membership(me, deadlines.heartbeat_ttl_s)
        members = Members(membership, network, gossip, template, deadlines.heartbeat_s)
        retention = Retention(records, blobs, blocks, wanted.get("keep_checkpoints", 8))
        datasets = Datasets(
            me, NETWORK_ID, sealing, network, gossip, members, records, blobs, blocks, retention
        )
        ports = RunPorts(
            identity,
            network,
            gossip,
            records,
            blobs,
            blocks,
            datasets,
            worker,
            chain,
            retention,
            StateFiles(home / "states", records),
        )
        rounds = Rounds(
            ports,
            members,
            deadlines,
            trains=not validates,
            on_adopted=lambda *_: None,
            find_spec=no_spec,
        )
        gossip.join()
        async with trio.open_nursery() as nursery:
            await nursery.start(network.run)
            await nursery.start(rounds.run)
            nursery.start_soon(members.run)
            manifest = Cid(wanted.get("dataset") or "")
            if validates:
                training, held_out = digits(seed=0)
                shards = [(write_shard(s), len(s)) for s in split(training, 4, seed=0)]
                manifest = await datasets.seed(
                    Dataset("digits", shards, write_shard(held_out), False)
                )
            spec = run_spec(manifest, wanted)
            say(address=me.hex(), multiaddr=network.listen_addrs()[0], dataset=manifest)
            while len(network.peers()) < wanted["peers"]:  # noqa: ASYNC110 (peers have no event)
                await trio.sleep(0.05)
            opened = RunOpened(
                run_id(spec), spec_digest(spec), spec.rounds, 100, Digest(b"\x07" * 32), 1
            )
            await rounds.open(opened, spec)
            watch(rounds.drivers[opened.run])
            say(ready=True, parts=worker.part_count(spec), rss_ready=rss_bytes(), pid=os.getpid())
            await trio.sleep_forever()


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    trio.run(main, Path(sys.argv[1]), json.loads(sys.argv[2]))
