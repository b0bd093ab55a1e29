"""The demo: a DAO votes for a model, peers train it together, and each owns a share.

Nothing is faked: a real chain, real contracts, one process a node, real images, sealed shards. What
it shows is read from the nodes' control sockets, from their disks, and from the chain.
"""

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from eigen.chain.evm import EvmChain
from eigen.chain.outbox import OutboxSettings
from eigen.chain.port import Contracts, RoundPosted
from eigen.chain.provider import TrioHTTPProvider
from eigen.config.addresses import format_address
from eigen.node.blobs import DirectoryBlobs
from eigen.node.exit_codes import ExitCode, UserError
from eigen.node.local_network import LocalNetwork, LocalNetworkConfig, LocalNode, eigen
from eigen.node.run_file import TOKEN
from eigen.protocol.types import Cid

Tell = Callable[[str, str], None]
"""`(what, detail)`: one line of the story; with no `what`, what is going on right now."""

VOTE_TIMEOUT_S = 90.0
ROUNDS_TIMEOUT_S = 300.0
SETTLE_TIMEOUT_S = 90.0

RUN_FILE = """\
name = "digits"
description = "Handwritten digits: 1,797 images, {trainers} sealed shards"
rounds = {rounds}
reward_per_round = 100
trainers = [{fewest}, 64]
part_values = 8192
seed = {seed}

[model]
architecture = "cnn"
side = 8
planes = 1
channels = 16
hidden = 64
classes = 10

[dataset]
source = "digits"
shards = {trainers}
sealed = true

[pay]
replay_percent = 25

[inner]
steps = 30
batch = 32
lr = 0.004
weight_decay = 0.01

[outer]
rule = "nesterov"
lr = 0.7
momentum = 0.5
"""


@dataclass(frozen=True, slots=True)
class DemoConfig:
    """What the command line chooses."""

    root: Path
    trainers: int
    rounds: int
    seed: int


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What came out; `summary` is the object that `--json` prints."""

    summary: dict[str, Any]
    rows: list[dict[str, Any]]  # a node each: name, role, account, rounds credited, tokens, tx


async def run_demo(config: DemoConfig, tell: Tell) -> DemoResult:
    """Run it all; everything that was started is ended before this returns.

    Raises `UserError` where a step fails, and `TooSlowError` where one takes far too long.
    """
    began = time.monotonic()
    async with trio.open_nursery() as nursery:
        network = LocalNetwork(LocalNetworkConfig(config.root, trainers=config.trainers))
        tell("start", "a chain, a DAO, and one process a node; each with its own home and keys")
        await nursery.start(network.run)
        assert network.chain is not None
        assert network.file is not None
        label = f"anvil {network.chain.version} (embedded)"
        tell("chain", f"{label}, chain id {network.chain.chain_id}, at {network.chain.url}")
        contracts = network.file.contracts
        tell("dao", f"token {format_address(contracts.token)}")
        tell("dao", f"governor {format_address(contracts.governor)}, votes cost no gas")
        tell("dao", f"ledger {format_address(contracts.ledger)}")
        await _meet(network)
        tell("peers", f"{len(network.nodes)} nodes, all connected: libp2p, Noise, Yamux, gossipsub")
        await _vote(network, config, tell)
        await _train(network, config, tell)
        _tell_replays(network, tell)
        roots = await _settled(network, config)
        tell("ledger", f"{len(roots)} round roots on chain, each attested by the validators")
        claims = await _claim(network)
        identical = await _replicas_identical(network)
        result = _result(network, config, label, roots, claims, identical)
        result.summary["seconds"] = round(time.monotonic() - began, 1)
        nursery.cancel_scope.cancel()
    return result


async def _meet(network: LocalNetwork) -> None:
    others = len(network.nodes) - 1
    await network.until(
        lambda: all(
            node.status.get("peers") == others
            and node.status.get("trainers") == len(network.trainers)
            for node in network.nodes
        ),
        60.0,
    )


async def _vote(network: LocalNetwork, config: DemoConfig, tell: Tell) -> None:
    run_file = config.root / "run.toml"
    text = RUN_FILE.format(
        trainers=config.trainers,
        fewest=min(2, config.trainers),
        rounds=config.rounds,
        seed=config.seed,
    )
    run_file.write_text(text)
    proposer = network.trainers[0]
    proposal = await network.propose(proposer, run_file)
    tell("propose", f"{proposer.name} seals the shards and proposes run {proposal['run'][:12]}…")
    await network.until(lambda: all(n.status["proposals"] for n in network.nodes), 20.0)
    await network.vote_all(proposal["run"])
    tell("vote", f"{len(network.nodes)} members signed ballots; gossiped, relayed in one batch")
    stage = ""

    def executed() -> bool:
        nonlocal stage
        stages = [n.status["proposals"][0]["stage"] for n in network.nodes]
        if stages[-1] != stage:
            stage = stages[-1]
            counted = network.nodes[-1].status["proposals"][0]["counted"]
            tell("vote", f"{stage}, {counted} ballots counted")
        if "failed" in stages:
            raise UserError("the proposal was not accepted", ExitCode.FAILED)
        return all(s == "executed" for s in stages)

    await network.until(executed, VOTE_TIMEOUT_S)


async def _train(network: LocalNetwork, config: DemoConfig, tell: Tell) -> None:
    told: set[int] = set()
    watcher = network.validators[0]

    def finished() -> bool:
        run = network.run_of(watcher)
        for number, figures in sorted((int(n), f) for n, f in run.get("figures", {}).items()):
            if number not in told:
                told.add(number)
                tell(f"round {number}", _round_line(network, watcher, number, figures))
        phases = Counter(network.run_of(n).get("phase", "starting") for n in network.trainers)
        now = ", ".join(f"{count} {phase}" for phase, count in sorted(phases.items()))
        tell("", f"round {run.get('round', 0) + 1} of {config.rounds}: {now}")
        done = all(network.run_of(node).get("finished") for node in network.nodes)
        return done and len(told) == config.rounds + 1

    await network.until(finished, ROUNDS_TIMEOUT_S)


def _round_line(
    network: LocalNetwork, watcher: LocalNode, number: int, figures: dict[str, float]
) -> str:
    text = f"loss {figures['loss']:.4f}  accuracy {100 * figures['accuracy']:6.2f}%"
    record = network.run_of(watcher)["history"].get(str(number))
    if record is None:
        return f"{text}  before training"
    peers = watcher.status["peers"]
    credited = len(record["trainers"])
    checkpoint = record["checkpoint"][-8:]
    return f"{text}  {credited} credited  {peers} peers  checkpoint …{checkpoint}"


async def _settled(network: LocalNetwork, config: DemoConfig) -> dict[int, str]:
    """Transactions of the round roots, as the chain's own events tell."""
    assert network.file is not None
    assert network.chain is not None
    contracts = network.file.contracts
    chain = EvmChain(
        TrioHTTPProvider([network.chain.url], chain_id=network.chain.chain_id),
        Contracts(contracts.token, contracts.governor, contracts.timelock, contracts.ledger),
        chain_id=network.chain.chain_id,
        secret=network.chain.accounts[0].secret,
        outbox_path=None,
        settings=OutboxSettings(confirmations=1, poll_s=0.2),
    )
    roots: dict[int, str] = {}
    async with chain:
        with trio.fail_after(SETTLE_TIMEOUT_S):
            async for event in chain.watch(0):
                if isinstance(event, RoundPosted):
                    roots[event.root.round] = event.tx
                    if event.root.round == config.rounds:
                        break
    return roots


async def _claim(network: LocalNetwork) -> dict[str, dict[str, Any]]:
    """`eigen claim` in every home."""
    claims: dict[str, dict[str, Any]] = {}

    async def claim(node: LocalNode) -> None:
        claims[node.name] = json.loads(await eigen(node.home, "claim", "--json"))

    async with trio.open_nursery() as nursery:
        for node in network.nodes:
            nursery.start_soon(claim, node)
    return claims


def _tell_replays(network: LocalNetwork, tell: Tell) -> None:
    """What validators did again, and what that showed."""
    shown = [one for node in network.validators for one in network.run_of(node)["replayed"]]
    sound = sum(one["finding"] == "sound" for one in shown)
    furthest = max((one["deviation"] for one in shown), default=0.0)
    tell(
        "proofs",
        f"validators replayed {len(shown)} drawn rounds, {sound} sound (off {furthest:.0e})",
    )


async def _replicas_identical(network: LocalNetwork) -> bool:
    """Whether all had the same checkpoint after every round, and hold the last one's bytes."""
    stores = [DirectoryBlobs(node.home / "blobs") for node in network.nodes]
    histories = [network.run_of(node)["history"] for node in network.nodes]
    for number in histories[0]:
        if len({history[number]["checkpoint"] for history in histories}) != 1:
            return False
    last = Cid(histories[0][max(histories[0], key=int)]["checkpoint"])
    held = {await store.get(last) for store in stores}
    return len(held) == 1 and None not in held


def _result(
    network: LocalNetwork,
    config: DemoConfig,
    label: str,
    roots: dict[int, str],
    claims: dict[str, dict[str, Any]],
    identical: bool,
) -> DemoResult:
    run = network.run_of(network.validators[0])
    figures = {int(n): f for n, f in run["figures"].items()}
    history = run["history"].values()
    rows = []
    for node in network.nodes:
        account = format_address(node.address)
        role = "validators" if node.validator else "trainers"
        claim = claims[node.name]
        rows.append(
            {
                "name": node.name,
                "role": role[:-1],
                "account": account,
                "rounds": sum(account in record[role] for record in history),
                "tokens": int(claim["amount"]) / TOKEN,
                "tx": claim["tx"],
            }
        )
    summary = {
        "accuracy_before": figures[0]["accuracy"],
        "accuracy_after": figures[config.rounds]["accuracy"],
        "rounds": run["round"],
        "trainers": len(network.trainers),
        "replicas_identical": identical,
        "checkpoint_cid": run["checkpoint"],
        "round_roots_on_chain": len(roots),
        "claims": [
            {"account": claim["account"], "amount": claim["amount"], "tx": claim["tx"]}
            for _, claim in sorted(claims.items())
        ],
        "chain": label,
    }
    return DemoResult(summary, rows)
