"""Rounds between two trainers who are both behind a NAT: over a relay, and through a hole."""

import json
import tempfile
from functools import partial
from pathlib import Path

import pytest
import trio
from namespaces import PUBLIC_IP, Internet, Nat, entered, inside, internet

from eigen.chain.devnet.anvil import find_anvil
from eigen.config.addresses import format_address
from eigen.node.control import call_daemon
from eigen.node.local_network import LocalNetwork, LocalNetworkConfig, LocalNode, Place, eigen
from eigen.protocol.types import Address

ROUNDS = 4
CHAIN_PORT = 8545
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
shards = 2
[inner]
steps = 100
batch = 32
lr = 0.001
[outer]
lr = 1.0
"""


def places(net: Internet) -> dict[str, Place]:
    """Where the nodes run: trainers at home, validators in public."""
    chain = {"chain.rpc_urls": f"http://{PUBLIC_IP}:{CHAIN_PORT}"}
    homes = {
        f"trainer-{n}": Place(home.ip, inside(home.space, []), chain)
        for n, home in enumerate(net.homes, start=1)
    }
    return homes | {"validator-1": Place(PUBLIC_IP)}


async def serve_chain(network: LocalNetwork) -> None:
    """The devnet listens on loopback alone: lend it a public address."""

    async def copy(source: trio.SocketStream, sink: trio.SocketStream) -> None:
        try:
            async for data in source:
                await sink.send_all(data)
            await sink.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await sink.aclose()

    async def serve(asker: trio.SocketStream) -> None:
        assert network.chain is not None
        port = int(network.chain.url.rpartition(":")[2])
        chain = await trio.open_tcp_stream("127.0.0.1", port)
        async with chain, asker, trio.open_nursery() as nursery:
            nursery.start_soon(copy, asker, chain)
            nursery.start_soon(copy, chain, asker)

    await trio.serve_tcp(serve, CHAIN_PORT, host=PUBLIC_IP)


async def way_to(node: LocalNode, peer: Address) -> str:
    """How a node is connected to a peer: `direct`, `relayed`, or not at all."""
    socket = node.home / "control.sock"
    for row in await trio.to_thread.run_sync(call_daemon, socket, "peers"):
        if row["address"] == format_address(peer):
            return "relayed" if row["relayed"] else "direct"
    return ""


async def find_each_other(alice: LocalNode, bob: LocalNode, way: str) -> None:
    """Wait until both trainers reach each other by this way."""
    with trio.fail_after(90):
        while {await way_to(alice, bob.address), await way_to(bob, alice.address)} != {way}:  # noqa: ASYNC110
            await trio.sleep(1.0)


async def train(root: Path, net: Internet, way: str) -> None:
    config = LocalNetworkConfig(root, trainers=2, validators=1, places=places(net))
    network = LocalNetwork(config)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_chain, network)
        await nursery.start(network.run)
        alice, bob = network.trainers
        (validator,) = network.validators
        await find_each_other(alice, bob, way)
        await network.until(lambda: all(n.status["peers"] == 2 for n in network.nodes), 10)
        assert await way_to(alice, validator.address) == "direct"
        for node in (alice, bob):
            assert node.status["dialable"] is False, "the validator has tried"
            assert validator.multiaddr in node.status["relays"][0]

        run_file = root / "run.toml"
        run_file.write_text(RUN_FILE.format(rounds=ROUNDS))
        proposal = await network.propose(alice, run_file)
        await network.until(lambda: all(n.status["proposals"] for n in network.nodes), 30)
        await network.vote_all(proposal["run"])
        await network.until(
            lambda: all(network.run_of(n).get("finished") for n in network.nodes), 240
        )
        assert {await way_to(alice, bob.address), await way_to(bob, alice.address)} == {way}

        history = network.run_of(validator)["history"]
        assert sorted(map(int, history)) == list(range(1, ROUNDS + 1))
        both = {format_address(n.address) for n in network.trainers}
        for record in history.values():
            assert set(record["trainers"]) == both, "both took part in every round"
            assert list(record["validators"]) == [format_address(validator.address)]
        checkpoints = [network.run_of(n)["checkpoint"] for n in network.nodes]
        assert len(set(checkpoints)) == 1
        await network.until(lambda: str(ROUNDS) in network.run_of(validator)["posted"], 90)
        for node in network.trainers:
            claim = json.loads(await eigen(node.home, "claim", "--json"))
            assert int(claim["amount"]) == int(network.run_of(node)["earned"]) > 0
        nursery.cancel_scope.cancel()


@pytest.mark.slow
@pytest.mark.timeout(420)
@pytest.mark.parametrize(("nat", "way"), [(Nat.SYMMETRIC, "relayed"), (Nat.KEEPS_PORT, "direct")])
def test_two_trainers_behind_nats_train_settle_and_are_paid(nat: Nat, way: str) -> None:
    trio.run(find_anvil)  # it may have to be fetched, and no namespace leads there
    with (
        internet(nat, nat) as net,
        entered(net.public),
        tempfile.TemporaryDirectory(prefix="eigen-", ignore_cleanup_errors=True) as root,
    ):
        trio.run(partial(train, Path(root), net, way))
