"""Nodes in one process, with real hosts over loopback, real files and a database each."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

import trio

from eigen.crypto.identity import Identity
from eigen.crypto.sealing_key import SealingKeyPair
from eigen.node.blobs import DirectoryBlobs
from eigen.node.datasets import Datasets
from eigen.node.fetch import BlockExchange
from eigen.node.gossip import Gossip
from eigen.node.libp2p.config import Libp2pConfig
from eigen.node.libp2p.network import Libp2pNetwork
from eigen.node.members import Members
from eigen.node.records import SqliteRecords
from eigen.node.retention import Retention
from eigen.protocol.membership import Membership
from eigen.protocol.messages import Heartbeat
from eigen.protocol.types import Address

NETWORK_ID = "testnet"
HEARTBEAT_S = 0.5
TTL_S = 3.0
KEEP_CHECKPOINTS = 3


@dataclass(frozen=True)
class Peer:
    identity: Identity
    network: Libp2pNetwork
    records: SqliteRecords
    blobs: DirectoryBlobs
    blocks: BlockExchange
    gossip: Gossip
    members: Members
    datasets: Datasets
    retention: Retention
    nursery: trio.Nursery

    @property
    def address(self) -> Address:
        return self.identity.address

    def stop(self) -> None:
        """The host goes, as when its process ends."""
        self.nursery.cancel_scope.cancel()

    async def meet(self, *others: "Peer") -> None:
        for other in others:
            await self.network.connect(other.network.listen_addrs()[0], timeout_s=10)
            await until(lambda other=other: self.address in other.network.peers())


def host(identity: Identity, network_id: str = NETWORK_ID) -> Libp2pNetwork:
    config = Libp2pConfig(network_id, ("/ip4/127.0.0.1/tcp/0",), mdns=False, exchange=False)
    return Libp2pNetwork(config, identity.secret)


@asynccontextmanager
async def peer(
    folder: Path, *, identity: Identity | None = None, roles: tuple[str, ...] = ("trainer",)
) -> AsyncIterator[Peer]:
    """One node's services, wired as the daemon wires them, without chain, runs and worker."""
    identity = identity or Identity.generate()
    home = folder / identity.address.hex()
    home.mkdir(exist_ok=True)
    sealing = SealingKeyPair.generate()
    me = identity.address
    async with AsyncExitStack() as stack:
        records = stack.enter_context(closing(SqliteRecords(home / "node.sqlite3")))
        blobs = DirectoryBlobs(home / "blobs", in_use_s=0.0)
        network = host(identity)
        gossip = Gossip(identity, network, NETWORK_ID)
        blocks = BlockExchange(network, blobs, network)
        template = Heartbeat(
            time.time_ns() // 1_000_000, 0, roles, me, sealing.public_bytes, (), "test"
        )
        members = Members(Membership(me, TTL_S), network, gossip, template, HEARTBEAT_S)
        retention = Retention(records, blobs, blocks, KEEP_CHECKPOINTS)
        datasets = Datasets(
            me, NETWORK_ID, sealing, network, gossip, members, records, blobs, blocks, retention
        )
        gossip.join()
        async with trio.open_nursery() as nursery:
            await nursery.start(network.run)
            nursery.start_soon(members.run)
            yield Peer(
                identity,
                network,
                records,
                blobs,
                blocks,
                gossip,
                members,
                datasets,
                retention,
                nursery,
            )
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def peers(folder: Path, count: int) -> AsyncIterator[list[Peer]]:
    """So many nodes, each connected with each."""
    async with AsyncExitStack() as stack:
        made = [await stack.enter_async_context(peer(folder)) for _ in range(count)]
        for index, one in enumerate(made):
            await one.meet(*made[:index])
        yield made


async def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Wait for a condition; fails the test when it does not come true."""
    with trio.fail_after(timeout_s):
        while not condition():  # noqa: ASYNC110 (a test may watch anything)
            await trio.sleep(0.01)
